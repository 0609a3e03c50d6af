"""A checkpoint of a stranger has a good hash, and goes on or is one line: whatever it lacks or says."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from ssod.engine.checkpointing import checkpoint
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.utils.errors import Exit
from tests.engine import toy
from tests.strange import ended, memory, spoilt

TENSORS = (torch.zeros(3), torch.zeros(1).expand(10**10), torch.zeros(2, dtype=torch.int64), torch.tensor(1.0))


def write(path: Path, state: Any) -> None:
    """Write a state with the hash that it should have."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    trailer = checkpoint._TRAILER.pack(checkpoint._MAGIC, len(content), hashlib.sha256(content).digest())
    path.write_bytes(content + trailer)


def go_on(path: Path) -> None:
    """Take up a checkpoint and write the next line of the log."""
    with RunFolder(path) as folder:
        trainer = toy.trainer(folder, steps=6)
        trainer.resume()
        trainer.tally.window.read()
        trainer.watch.look({"loss/sup": 1.0}, 1)
        trainer.record.results()


def test_a_state_that_is_spoilt_anywhere_goes_on_or_is_one_line(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", steps=4)
    folder = tmp_path / "run" / "checkpoints"
    (folder / checkpoint.PREVIOUS).unlink(missing_ok=True)
    good = {"schema": checkpoint.SCHEMA, **checkpoint.load(folder / checkpoint.LAST)}
    window = good["ranks"][0]["window"]
    window |= {"sums": {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, "counts": {"a": 1, "b": 2}}
    changed = list(spoilt(good, 2, seed=3))
    for name, part in (("method", good["method"]), ("ranks", good["ranks"][0]["window"]["sums"])):
        for i, key in enumerate(part):
            tensors = {**part, key: TENSORS[i % len(TENSORS)]}
            ranks = [{**good["ranks"][0], "window": {**good["ranks"][0]["window"], "sums": tensors}}]
            changed.append((f"{key} {i}", {**good, name: tensors if name == "method" else ranks}))
    for name, values in good["optimizer"].items():
        other = {key: torch.zeros(5) for key in values}
        changed.append((name, {**good, "optimizer": {**good["optimizer"], name: other}}))
    found = Counter()
    with memory():
        for said, state in changed:
            write(folder / checkpoint.LAST, state)
            codes = (Exit.CHECKPOINT, Exit.UNSAFE)
            found[ended(lambda: go_on(tmp_path / "run"), said, codes, "last.pt")] += 1
    assert min(found["good"], found["refused"]) > 10, found


def test_last_that_is_a_folder_gives_way_to_the_one_before(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", steps=8)
    folder = tmp_path / "run" / "checkpoints"
    (folder / checkpoint.LAST).rename(tmp_path / "aside")
    (folder / checkpoint.LAST).mkdir()
    assert checkpoint.find(folder) == folder / checkpoint.PREVIOUS
    assert (folder / checkpoint.BAD).is_dir()
