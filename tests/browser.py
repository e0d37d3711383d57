"""A page as a browser sees it: headless Chromium, where one is installed."""

import re
import shutil
import subprocess

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to open the page in")
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]


def console_of(path, profile):
    """What a browser that opens a file writes to its console: errors, warnings, what it could not load or decode."""
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    opened = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "<body" in opened.stdout
    return re.findall(r":CONSOLE[:(]\d+\)?\] (.*)", opened.stderr)
