"""The pages in Chromium alone, without a driver: how many sheets of paper, and what fits on a phone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ssod.commands.compare import compare
from ssod.report.run_page import report
from tests.experiments.fake import fake_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH (apt-get install chromium)")
PHONE = 390  # pixels
MOST_SHEETS = 6  # of A4
DESK = 1280  # pixels

# A window may not be as narrow as a phone, a frame may. Its page says how far it reaches, where gains end, how large
# the text of its charts is, and how many keys of its tables are broken within a word.
FRAME = """<!doctype html><iframe id="f" width="{width}" height="800" src="{page}" style="border:0"></iframe><script>
addEventListener("load", () => {{
  const page = document.querySelector("#f").contentDocument, root = page.documentElement;
  const cells = [...page.querySelectorAll("td.pin + td")].map((cell) => cell.getBoundingClientRect().right);
  const wide = root.scrollWidth - root.clientWidth, gain = Math.max(0, ...cells);
  const sizes = [...page.querySelectorAll(".chart svg")].map((svg) => 11 * svg.getBoundingClientRect().width / 360);
  const range = page.createRange();
  const split = (node) => {{ range.selectNodeContents(node); return range.getClientRects().length > 1; }};
  const pieces = [...page.querySelectorAll("table.wrap td:first-child")].flatMap((cell) => [...cell.childNodes]);
  const cut = pieces.filter((node) => node.nodeType === 3 && !/\\s/.test(node.data) && split(node)).length;
  const text = Math.max(0, ...sizes);
  document.title = `wide=${{wide}} frame=${{root.clientWidth}} gain=${{gain}} text=${{text}} cut=${{cut}}`;
}});
</script>"""


def chromium(folder: Path, *options: str) -> str:
    """Run it and return what it prints."""
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", "--allow-file-access-from-files", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env={**os.environ, "TZ": "UTC"})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def looked_at(folder: Path, page: Path, width: int) -> dict[str, float]:
    """Return what the frame of a page says of it, in pixels but for ``cut``, a count."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width, page=page.as_uri()), "utf-8")
    printed = chromium(folder, "--dump-dom", frame.as_uri())
    (found,) = re.findall(r"<title>(.*?)</title>", printed)
    return {key: float(value) for key, value in (part.split("=") for part in found.split())}


def test_a_report_takes_few_sheets_and_fits_a_phone(trained: Path, tmp_path: Path) -> None:
    page = report(trained / "mean_teacher", out=tmp_path / "r.html")
    chromium(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'r.pdf'}", page.as_uri())
    sheets = len(re.findall(rb"/Type\s*/Page\b(?!s)", (tmp_path / "r.pdf").read_bytes()))
    assert 1 <= sheets <= MOST_SHEETS
    found = looked_at(tmp_path, page, PHONE)
    assert found["frame"] == PHONE
    assert found["wide"] <= 0
    assert found["cut"] == 0, "keys are broken between their parts"
    assert 9.5 <= looked_at(tmp_path, page, DESK)["text"] <= 15, "charts have text of one size"


def test_the_gain_is_seen_on_a_phone(tmp_path: Path) -> None:
    runs = [
        fake_run(tmp_path / f"{name}-{fold}", name, fold, ap=ap)
        for name, ap in (("unbiased_teacher", 0.7), ("mean_teacher", 0.6), ("supervised", 0.3))
        for fold in (1, 2)
    ]
    compare(runs, out=[tmp_path / "c.html"], resamples=20)
    found = looked_at(tmp_path, tmp_path / "c.html", PHONE)
    assert found["frame"] == PHONE
    assert found["wide"] <= 0
    assert 0 < found["gain"] <= PHONE
