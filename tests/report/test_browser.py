"""The pages in a real browser: no error, no request, nothing wider than the window, usable from the keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssod.commands.compare import compare
from ssod.config import load
from ssod.report.run_page import report
from ssod.run import check
from tests.experiments.fake import fake_run

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs a Chromium on the PATH", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tool:
        program = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield program
        program.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> dict[str, Path]:
    """A comparison with a refused group, reports of a trained run and of one without its data, and a sheet of check."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [
        fake_run(folder / "runs" / f"{method}-{fold}", method, fold, ap=ap)
        for method, ap in (("supervised", 0.3), ("mean_teacher", 0.6), ("unbiased_teacher", 0.5))
        for fold in (1, 2, 3)
    ]
    runs.append(fake_run(folder / "runs" / "other", fold=9, about={"score": 0.5}))
    compare(runs, out=[folder / "compare.html"], resamples=50)
    real = report(trained / "mean_teacher", out=folder / "trained.html")
    check(load(trained.parent / "small.yaml"), out=folder / "sheet.html", weights=trained / "mean_teacher")
    return {
        "compare": folder / "compare.html", "report": report(runs[3]), "trained": real, "sheet": folder / "sheet.html"
    }  # fmt: skip


# Text of a drawing that leaves it, or that lies on another text of the same drawing.
OVERLAPS = """() => {
  const bad = [];
  for (const svg of document.querySelectorAll("figure svg")) {
    const all = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
    const frame = svg.getBoundingClientRect();
    all.forEach(([a, r], i) => {
      if (r.left < frame.left - 0.5 || r.right > frame.right + 0.5) bad.push("outside: " + a);
      all.slice(i + 1).forEach(([b, s]) => {
        const wide = Math.min(r.right, s.right) - Math.max(r.left, s.left);
        const high = Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top);
        if (wide > 1 && high > 3) bad.push(a + " | " + b);
      });
    });
  }
  return bad;
}"""
SMALLEST = """() => Math.min(...[...document.querySelectorAll("figure svg text")].map((t) =>
  parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getBoundingClientRect().width
  / t.ownerSVGElement.viewBox.baseVal.width))"""


@pytest.mark.parametrize("name", ["compare", "report", "trained", "sheet"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_whole_at_any_width(browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda r: messages.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto(f"file://{pages[name]}")
    assert messages == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate(OVERLAPS) == []
    assert name == "sheet" or page.evaluate(SMALLEST) >= 9.5  # pixels; a sheet has no text in drawings
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    page.close()


def test_the_keyboard_is_enough(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page.goto(f"file://{pages['report']}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "theme"
    page.keyboard.press("Enter")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    chart = page.locator("svg[data-chart]").first
    chart.focus()
    readout = page.locator("figure:has(svg[data-chart]) .readout").first
    last = readout.text_content()
    page.keyboard.press("Home")
    first = readout.text_content()
    page.keyboard.press("ArrowRight")
    assert len({first, last, readout.text_content()}) >= 2
    assert first.startswith("step 12: teacher ")
    page.close()
