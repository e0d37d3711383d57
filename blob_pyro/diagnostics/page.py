"""A diagnosis as one HTML page that needs nothing else: pictures inside, no script, nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from blob_pyro._version import __version__
from blob_pyro.diagnostics.diagnose import Check, Diagnosis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["diagnosis_page"]

_MOST_ROWS = 40  # of a table of groups: those furthest from what the model draws
_SIGNS = {True: ("flagged", "flagged"), False: ("fine", "fine"), None: ("open", "not judged")}
_ASKS = {
    "guide against model": "Do the guide's draws, weighted, stand for the model's posterior?",
    "convergence": "Has the fit arrived, or was it stopped on its way?",
    "click probabilities": "Are click probabilities right on events that were left out, and better than a constant "
    "rate or each item's own?",
    "prior sensitivity": "Does the prior decide what the data should?",
    "known widths": "Which of this guide's marginals are known to be too narrow?",
}
_STYLE = """
:root { color-scheme: light; --line: #d8dbe0; --soft: #f5f6f8; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2128; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead th { background: var(--soft); } .asks { color: #57606a; }
.sign { border-radius: 1rem; padding: .05rem .6rem; font-size: .8rem; font-weight: 600; white-space: nowrap; }
.flagged { background: #ffe3e0; color: #8f1d14; } .fine { background: #dff3e4; color: #14532d; }
.open { background: #eceef1; color: #424a53; }
img { max-width: 100%; height: auto; } footer { margin-top: 3rem; color: #57606a; font-size: .85rem; }
"""


def diagnosis_page(report: Diagnosis, title: str, facts: Mapping[str, Any] | None = None) -> str:
    """Write a diagnosis as an HTML page: verdicts in words, their figures, a picture for each group of events.

    A figure is shown rounded; as it is it stands in the ``value`` of its ``data`` element. Of more than 40 groups those
    furthest from what the model draws are listed.

    Args:
        report: what `diagnose` returned.
        title: of the page; plain text.
        facts: what else to say about the model, by name.

    Returns:
        The page; write it as UTF-8.
    """
    flagged = len(report.flagged)
    verdict = f"{flagged} of {len(report.checks)} checks flagged" if flagged else "Nothing flagged"
    told = {
        "guide": report.guide,
        "events": f"{report.num_events:,}{report.part}",
        **(facts or {}),
        "blob-pyro": __version__,
    }
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="asks">{escape("; ".join(f"{name} {value}" for name, value in told.items()))}</p>',
        f'<p><strong class="verdict">{verdict}.</strong></p>',
        _checks(report.checks),
        _section("click probabilities", report["click probabilities"]),
        _picture(
            report.calibration.plot, (5.5, 4.2), "Observed click rates against predicted ones, in tenths of events"
        ),
        "<p>Scores of the model, and of two who know less; lower is better, and a gain above 0 is the model's.</p>",
        _table(report.calibration.scores),
        "<p>Tenths of the events by predicted probability; the band holds 95 % of the rates that such probabilities "
        "give.</p>",
        _table(report.calibration.bins, index=False),
    ]
    for by, check in report.predictive.items():
        name = f"clicks by {by}"
        parts += [
            _section(name, report[name]),
            _picture(check.plot, (9, 3.8), f"Observed and predicted click rates by {by}"),
            _groups(check.table),
        ]
    parts += [
        _section("prior sensitivity", report["prior sensitivity"]),
        "<p>How far a parameter's posterior moves, in units of its own, if the prior or the likelihood is raised to a "
        "power: below 0.05 is little.</p>",
        _table(report.sensitivities),
    ]
    return _document(title, "\n".join(parts))


def _document(title: str, body: str) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
<footer>Written by <code>blob_pyro.diagnostics.diagnose</code>, whose documentation says what each figure is.</footer>
</body>
</html>
"""


def _checks(checks: tuple[Check, ...]) -> str:
    rows = [
        f'<tr id="{_anchor(check.name)}"><td>{_sign(check)}</td><td>{escape(check.name)}</td>{_cell(check.value)}'
        f"<td>{escape(check.says)}</td></tr>"
        for check in checks
    ]
    head = '<tr><th>verdict</th><th>check</th><th class="number">value</th><th>in words</th></tr>'
    return f'<table class="checks"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def _section(name: str, check: Check) -> str:
    asks = _ASKS.get(name, "Does the model draw clicks such as those observed?")
    return (
        f"<h2>{escape(name.capitalize())} {_sign(check)}</h2>"
        f'<p><span class="asks">{asks}</span><br>{escape(check.says)}</p>'
    )


def _sign(check: Check) -> str:
    style, word = _SIGNS[check.flagged]
    return f'<span class="sign {style}">{word}</span>'


def _anchor(name: str) -> str:
    return escape(name.replace(" ", "-"))


def _picture(draw: Callable[[Axes], Any], size: tuple[float, float], words: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure.subplots())
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    width = round(100 * size[0])
    encoded = base64.b64encode(file.getvalue()).decode()
    return f'<p><img width="{width}" alt="{escape(words)}" src="data:image/png;base64,{encoded}"></p>'


def _groups(table: pd.DataFrame) -> str:
    if len(table) <= _MOST_ROWS:
        return _table(table)
    furthest = np.argsort(-np.abs(table.z.to_numpy()), kind="stable")[:_MOST_ROWS]
    return f"<p>The {_MOST_ROWS} groups furthest off, of {len(table):,}.</p>{_table(table.iloc[furthest])}"


def _table(table: pd.DataFrame, index: bool = True) -> str:
    first = [f"<th>{escape(str(table.index.name or ''))}</th>"] if index else []
    numeric = {name: pd.api.types.is_numeric_dtype(table[name]) for name in table}
    head = [f"<th{' class=number' * numeric[name]}>{escape(str(name).replace('_', ' '))}</th>" for name in table]
    rows = []
    for name, row in zip(table.index, table.itertuples(index=False)):
        cells = [f"<th>{escape(str(name))}</th>"] if index else []
        cells += [
            _cell(value) if numeric[column] else f"<td>{escape(str(value))}</td>" for column, value in zip(table, row)
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{''.join([*first, *head])}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(value: Any) -> str:
    number = float(value)
    if math.isnan(number):
        return '<td class="number"></td>'
    shown = f"{number:,.0f}" if number == round(number) and abs(number) < 1e15 else f"{number:.4g}"
    return f'<td class="number"><data value="{number!r}">{shown}</data></td>'
