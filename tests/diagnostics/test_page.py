"""The page of a diagnosis holds what the report holds, and needs nothing else."""

import base64
import io
import re
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from blob_pyro import BLOB, BanditPriors
from blob_pyro.diagnostics import diagnose, diagnosis_page
from blob_pyro.diagnostics.page import _groups
from tests.browser import console_of, needs_chromium


class Reader(HTMLParser):
    """Cells of tables (figures as they are, not as they are shown), images, and whatever names an address."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.images, self.addresses, self.tags = [], [], [], []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.addresses += [attrs[name] for name in ("src", "href", "action", "srcset") if name in attrs]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True
        elif tag == "data":
            self.tables[-1][-1][-1] = float(attrs["value"])
            self.inside = False
        elif tag == "img":
            self.images.append(attrs)

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def report(blo, log):
    blob = BLOB(blo, "laplace", BanditPriors(kappa_scale=0.3))
    blob.fit(log, progress=False, device="cpu")
    return diagnose(blob, log, num_draws=100, max_events=500)


@pytest.fixture(scope="module")
def page(report):
    return diagnosis_page(report, "Monday's <model>", {"version": "1&2"})


@pytest.fixture(scope="module")
def read(page):
    return Reader(page)


def values(table, index=True):
    """What a page should show of a frame, without its head."""
    return [[*([str(name)] if index else []), *row] for name, row in zip(table.index, table.itertuples(index=False))]


def test_values_are_the_reports(report, read):
    words = {True: "flagged", False: "fine", None: "not judged"}
    value = {check.name: "" if np.isnan(check.value) else check.value for check in report.checks}
    checks, scores, bins, *groups, sensitivities = [table[1:] for table in read.tables]
    assert checks == [[words[check.flagged], check.name, value[check.name], check.says] for check in report.checks]
    assert scores == values(report.calibration.scores)
    assert bins == values(report.calibration.bins, index=False)
    assert groups == [values(check.table) for check in report.predictive.values()]
    assert sensitivities == values(report.sensitivities)


def test_it_says_what_it_is_of(report, page):
    assert "<title>Monday&#x27;s &lt;model&gt;</title>" in page
    assert "guide laplace; events 3,825 (500 of them checked, evenly spaced); version 1&amp;2; blob-pyro " in page
    assert f"{len(report.flagged)} of 8 checks flagged." in page


def test_pictures_are_inside(report, read):
    assert len(read.images) == 1 + len(report.predictive)
    for image in read.images:
        kind, content = image["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(content, validate=True)))
        assert pixels.std() > 0.02
        assert image["alt"]


def test_it_needs_nothing_from_elsewhere(page, read):
    assert all(address.startswith("data:") for address in read.addresses)
    assert not {"script", "iframe", "object", "embed"} & set(read.tags)
    assert not re.search(r"https?:|url\(|@import", page)


def test_of_many_groups_the_furthest_are_listed():
    z = np.random.default_rng(0).normal(size=100)
    table = pd.DataFrame({"events": 5, "z": z}, index=pd.Index(range(100), name="item"))
    text = _groups(table)
    rows = Reader(text).tables[0][1:]
    assert "The 40 groups furthest off, of 100." in text
    assert [row[2] for row in rows] == sorted(z, key=abs, reverse=True)[:40]


@needs_chromium
def test_a_browser_has_no_complaint(page, tmp_path):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert console_of(tmp_path / "page.html", tmp_path / "profile") == []
    (tmp_path / "bad.html").write_text(page.replace("</body>", '<script>console.log("!")</script></body>'))
    assert len(console_of(tmp_path / "bad.html", tmp_path / "profile")) == 1
