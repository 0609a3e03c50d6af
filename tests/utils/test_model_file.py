"""A model file comes back as it was written; one that lies, lacks or threatens is refused."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError

CARD = {
    "detector": {"name": "retinanet"},
    "classes": {"names": ["cat", "van"], "ids": [1, 90]},
    "val_view": [{"resize": {"short": 800}}],
    "metrics": {"AP": 0.25},
    "step": 12,
}
STATE = {"a.weight": torch.randn(4, 3), "n": torch.tensor(7), "empty": torch.zeros(0, 4), "half": torch.ones(2).half()}


def test_a_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    model_file.save(path, STATE, CARD)
    state, card = model_file.read(path)
    assert card == {"format": 1, **CARD}
    assert model_file.read_card(path) == card
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[k], v) and state[k].dtype == v.dtype for k, v in STATE.items())
    assert [p.name for p in tmp_path.iterdir()] == ["best.safetensors"]


def test_shared_and_transposed_tensors_are_written(tmp_path: Path) -> None:
    w = torch.randn(3, 4)
    model_file.save(tmp_path / "m", {"a": w, "b": w, "c": w.t()}, CARD)
    state, _ = model_file.read(tmp_path / "m")
    assert torch.equal(state["b"], w)
    assert torch.equal(state["c"], w.t())


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    """640 bytes are 80 02 in the file, as a pickle of protocol 2 begins."""
    lengths = set()
    for padding in range(0, 400, 4):
        model_file.save(tmp_path / "m", {"a": torch.ones(1)}, {**CARD, "note": "x" * padding})
        model_file.read(tmp_path / "m")
        lengths.add((tmp_path / "m").read_bytes()[:2])
    assert b"\x80\x02" in lengths


def header(path: Path, text: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(text)) + text)


CASES: dict[str, tuple[Callable[[Path], object], Exit, str]] = {
    "absent": (lambda p: None, Exit.CHECKPOINT, "No such file"),
    "empty": (lambda p: p.write_bytes(b""), Exit.CHECKPOINT, "cut off after 0 bytes"),
    "short": (lambda p: p.write_bytes(b"\x10\0\0"), Exit.CHECKPOINT, "cut off"),
    "cut": (lambda p: (model_file.save(p, STATE, CARD), p.write_bytes(p.read_bytes()[:-20])), Exit.CHECKPOINT, "dam"),
    "cut header": (lambda p: (model_file.save(p, STATE, CARD), p.write_bytes(p.read_bytes()[:40])), Exit.CHECKPOINT,
                   "cut off after 40 bytes"),
    "huge header": (lambda p: p.write_bytes(struct.pack("<Q", 2**62) + b"{}" * 9), Exit.UNSAFE, "4.6e+18 bytes > 100"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), Exit.UNSAFE, "pickle"),
    "pt": (lambda p: torch.save(STATE, p), Exit.UNSAFE, "only .safetensors"),
    "json": (lambda p: header(p, b"[1, 2]"), Exit.CHECKPOINT, "damaged"),
    "deep": (lambda p: header(p, b"[" * 100000), Exit.CHECKPOINT, "damaged"),
    "foreign": (lambda p: save_file(STATE, p), Exit.CHECKPOINT, "has no readable card"),
    "list card": (lambda p: save_file(STATE, p, {"ssod": "[]"}), Exit.CHECKPOINT, "format: None"),
    "bad card": (lambda p: save_file(STATE, p, {"ssod": "{"}), Exit.CHECKPOINT, "card: damaged"),
    "deep card": (lambda p: save_file(STATE, p, {"ssod": "[" * 10**5}), Exit.CHECKPOINT, "card: damaged: nested"),
    "newer": (lambda p: model_file.save(p, STATE, {**CARD, "format": 9}), Exit.CHECKPOINT, "upgrade ssod"),
    "no classes": (lambda p: model_file.save(p, STATE, {k: v for k, v in CARD.items() if k != "classes"}),
                   Exit.CHECKPOINT, "card.classes: missing"),
    "folder": (lambda p: p.mkdir(), Exit.CHECKPOINT, "cannot be read: it is a folder"),
    "nan": (lambda p: save_file({"fpn.w": torch.tensor([1.0, float("nan")])}, p,
                                {"ssod": json.dumps({"format": 1, **CARD})}), Exit.CHECKPOINT, "fpn.w: 1 non-finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_is_one_line(tmp_path: Path, case: str) -> None:
    make, code, words = CASES[case]
    path = tmp_path / "m.safetensors"
    make(path)
    with pytest.raises(SsodError) as caught:
        model_file.read(path)
    assert caught.value.code == code
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_non_finite_weights_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "m"
    model_file.save(path, STATE, CARD)
    before = path.read_bytes()
    with pytest.raises(SsodError, match=r"a\.weight: 2 non-finite") as caught:
        model_file.save(path, {"a.weight": torch.tensor([1.0, float("inf"), float("nan")])}, CARD)
    assert caught.value.code == Exit.DIVERGED
    assert path.read_bytes() == before
