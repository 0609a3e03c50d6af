"""Colours of the pages: they stand out from the background, and from each other for colour-blind readers, too."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import ssod
from ssod.report.axes import COLORS
from ssod.report.health import RIGHT, WRONG

CSS = (Path(ssod.__file__).parent / "report" / "style.css").read_text()
THEMES = ["light", "dark"]

# What a reader without long-wave or medium-wave cones sees, on linear RGB: Machado, Oliveira and Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE TVCG 15(6), 2009, severity 1.0.
SIGHTS = {
    "normal": np.eye(3),
    "protanope": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranope": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
TO_XYZ = np.array(  # IEC 61966-2-1, white D65
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def palette(theme: str) -> dict[str, str]:
    """Return the colours of a theme by name."""
    light, dark = re.findall(r"^:root[^{]*\{(.*?)\}", CSS, re.S | re.M)[:2]
    return dict(re.findall(r"--(\w+): (#\w{6})", light if theme == "light" else dark))


def linear(color: str) -> np.ndarray:
    """Return [3] linear RGB of ``#rrggbb``."""
    parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """Return the contrast of WCAG 2."""
    high, low = sorted((TO_XYZ[1] @ linear(color) for color in (a, b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Return CIE L*a*b* of linear RGB."""
    t = TO_XYZ @ rgb.clip(0, 1) / TO_XYZ.sum(1)
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def delta_e(first: np.ndarray, second: np.ndarray) -> float:
    """Return CIEDE2000 of two L*a*b*; 1 is just seen (Sharma, Wu and Dalal, Color Research & Application 30, 2005)."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25.0**7))
    c1, c2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180
    light, chroma, hue = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    m, c, h = (l1 + l2) / 2, (c1 + c2) / 2, (h1 + turn / 2) % 360
    waves = zip((-0.17, 0.24, 0.32, -0.2), (1, 2, 3, 4), (-30, 0, 6, -63))
    t = 1 + sum(size * np.cos(np.radians(times * h + shift)) for size, times, shift in waves)
    light /= 1 + 0.015 * (m - 50) ** 2 / np.sqrt(20 + (m - 50) ** 2)
    chroma /= 1 + 0.045 * c
    hue /= 1 + 0.015 * c * t
    bend = -2 * np.sqrt(c**7 / (c**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    return float(np.sqrt(light**2 + chroma**2 + hue**2 + bend * chroma * hue))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ],
)
def test_the_distance_is_that_of_the_published_pairs(first: tuple, second: tuple, expected: float) -> None:
    assert delta_e(first, second) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("theme", THEMES)
def test_contrast_is_enough(theme: str) -> None:
    colors = palette(theme)
    for text in ("ink", "dim", "link"):
        assert contrast(colors[text], colors["bg"]) >= 4.5  # WCAG AA, text
        assert contrast(colors["ink"], colors["badbg"]) >= 4.5
    for line in range(COLORS):
        assert contrast(colors[f"c{line}"], colors["bg"]) >= 3  # WCAG AA, graphics


def test_both_dark_themes_are_one() -> None:
    inside = re.search(r"@media screen and \(prefers-color-scheme: dark\) \{\s*:root[^{]*\{(.*?)\}", CSS, re.S)[1]
    assert dict(re.findall(r"--(\w+): (#\w{6})", inside)) == palette("dark")


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("sight", SIGHTS)
def test_lines_of_a_chart_are_reported_apart(theme: str, sight: str) -> None:
    colors = palette(theme)
    seen = [lab(SIGHTS[sight] @ linear(colors[f"c{line}"])) for line in range(COLORS)]
    near = {(i, j): delta_e(seen[i], seen[j]) for i, j in combinations(range(COLORS), 2)}
    assert min(near.values()) >= 15, near
    assert min(near[pair] for pair in combinations(range(3), 2)) >= 30  # most charts have no more lines
    assert near[RIGHT, WRONG] >= 50


def box_styles() -> dict[str, tuple[str, str]]:
    """Return colour and dashes of each kind of box in a picture."""
    colors = dict(re.findall(r"--(kept|truth|rejected|unsure): (#\w{6})", CSS))
    rules = {kind: re.search(rf"^\.shot \.{kind} \{{(.*?)\}}", CSS, re.M)[1] for kind in colors}
    dashes = {kind: re.search(r"stroke-dasharray: ([\d ]+)", rule) for kind, rule in rules.items()}
    return {kind: (colors[kind], found[1] if found else "") for kind, found in dashes.items()}


@pytest.mark.parametrize("sight", SIGHTS)
def test_boxes_of_a_picture_are_told_apart(sight: str) -> None:
    """By their colours and by their dashes; each stands out from the line below."""
    styles = box_styles()
    assert len(styles) == 4
    assert len({dash for _, dash in styles.values()}) == 4
    seen = {kind: lab(SIGHTS[sight] @ linear(color)) for kind, (color, _) in styles.items()}
    assert delta_e(seen["truth"], seen["kept"]) >= 50
    assert min(delta_e(*pair) for pair in combinations(seen.values(), 2)) >= 20
    for color, _ in styles.values():
        assert contrast(color, "#000000") >= 5  # the line below


def test_paper_is_light() -> None:
    """What the button sets, and what the system says, hold on the screen alone."""
    screens = re.findall(r"@media screen[^{]*\{.*?\n\}\n\}|@media screen[^{]*\{.*?\n  \}\n\}", CSS, re.S)
    outside = CSS
    for block in screens:
        outside = outside.replace(block, "")
    assert len(screens) == 2
    assert "color-scheme: dark" not in outside
    assert outside.count("--bg: ") == 1
    rules = CSS[CSS.index("@media print {") :]
    for rule in ("button, nav,", "break-inside: avoid", "page-break-inside: avoid", "repeat(3, minmax(0, 1fr))"):
        assert rule in rules
