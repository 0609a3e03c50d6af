"""Names are drawn in letters that can be told apart, in every script, on pictures and in charts."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from ssod.diagnostics import plots
from ssod.evaluation.matching import Matches
from ssod.inference.draw_boxes import draw
from ssod.structures import Targets
from ssod.utils import lettering as module
from ssod.utils.lettering import lettering

SCRIPTS = {
    "german": ("Größe", "Prüfung"),
    "polish": ("Żółć", "Łódź"),
    "cyrillic": ("трещина", "царапина"),
    "greek": ("ρωγμή", "γδάρσιμο"),
    "chinese": ("划痕", "气泡"),
    "japanese": ("きず", "へこみ"),
    "korean": ("균열", "기포"),
    "mixed": ("crack 划痕", "crack 气泡"),
}
NOWHERE = "\ue000\ue001"  # two letters that no font has


def drawn(name: str) -> np.ndarray:
    box = Targets(torch.tensor([[40.0, 60.0, 180.0, 110.0]]), torch.tensor([0]), torch.tensor([0.9]))
    return np.asarray(draw(Image.new("RGB", (240, 140), (90, 90, 90)), box, [name]))


@pytest.fixture(autouse=True)
def anew() -> None:
    module._lettering.cache_clear()
    module._told.clear()


@pytest.mark.parametrize("names", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("machine", ["as it is", "without fonts"])
def test_two_names_never_look_the_same(names: tuple, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if machine == "without fonts":
        monkeypatch.setattr(module, "_installed", lambda: ())
    first, second = map(drawn, names)
    assert not np.array_equal(first, second)
    for name in names:
        assert not np.array_equal(drawn(name), drawn(NOWHERE))
        shown = lettering([name])
        text = shown.text(name)
        assert set(text) <= (module._has(shown.path) if shown.path else set(map(chr, range(128))))


def test_what_matplotlib_brings_draws_european_scripts_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_installed", lambda: ())
    for script in ("german", "polish", "cyrillic", "greek"):
        shown = lettering(SCRIPTS[script])
        assert [shown.text(name) for name in SCRIPTS[script]] == list(SCRIPTS[script])


def test_codes_are_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "_installed", lambda: ())
    with caplog.at_level(logging.WARNING, "ssod"):
        shown = lettering(["划痕"])
        drawn("划痕")
        drawn("划痕")
    assert shown.text("划痕 a") == "<5212><75D5> a"
    assert len(caplog.records) == 1
    assert "fonts-noto-cjk" in caplog.text


def test_an_installed_font_that_has_the_letters_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    has = {"dejavu": frozenset("a"), "latin": frozenset("ab"), "cjk": frozenset("ab划痕")}
    monkeypatch.setattr(module, "_dejavu", lambda: "dejavu")
    monkeypatch.setattr(module, "_installed", lambda: ("latin", "cjk"))
    monkeypatch.setattr(module, "_has", has.__getitem__)
    assert lettering(["划痕"]).path == "cjk"
    assert lettering(["划痕"]).lacking == {}
    assert lettering(["crack"]).path is None


@pytest.mark.parametrize("names", [*SCRIPTS.values(), ("$a$", "_hidden")], ids=[*SCRIPTS, "signs"])
def test_a_legend_has_every_name(
    names: tuple, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    empty = np.zeros(0)
    none = np.zeros((0, 10), bool)
    table = Matches([1], names, empty.astype(int), empty.astype(int), empty, empty, none, none, np.ones((1, 2), int))
    figure = plots.precision_recall(table, [0, 1], "t")
    pixels = plots.render(figure)
    legend = figure.axes[0].get_legend()
    assert len(legend.get_texts()) == 2
    assert not [w for w in recwarn if "missing from" in str(w.message) or "Glyph" in str(w.message)]
    other = plots.precision_recall(table, [1, 0], "t")
    assert not np.array_equal(pixels, plots.render(other))
