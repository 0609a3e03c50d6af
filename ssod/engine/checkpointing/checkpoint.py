"""The state of a run on disk: whole or absent, verified before it is parsed, and never more than tensors and numbers.

``last.pt`` is torch's own zip format followed by a trailer of 48 bytes: a magic word, the length and the SHA-256 of
what precedes. ``previous.pt`` is the checkpoint before it, ``best.pt`` that of the best teacher where a run may go back
to it, ``burn_in.pt`` that of the end of burn-in where other runs may begin with it. There is no state of random
generators in it: the loop seeds every generator anew at each step, from the run's seed, the step and the rank
(``seeding.seed_step``), so that none has anything to remember. Failpoints (``ssod.utils.atomic``) here are
``ckpt.before_trailer`` and ``ckpt.after_trailer``.
"""

import hashlib
import logging
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ssod.utils import atomic, torch_file
from ssod.utils.errors import Exit, SsodError

SCHEMA = 2  # 2: the optimiser's state is by the parameters' names; in 1 it was by their place in its groups
LAST, PREVIOUS, BEST, BURN_IN, BAD = "last.pt", "previous.pt", "best.pt", "burn_in.pt", "damaged.pt"
OTHER = "go on with the detector and the method that wrote it, or start a new run"
_MAGIC = b"SSODCKPT"
_TRAILER = struct.Struct("<8sQ32s")

State = dict[str, Any]


class _Hashing:
    """The part of a file that ``torch.save`` needs; hashes what passes, and remembers why a write failed.

    torch's writer hides the ``OSError`` of a full disk behind a ``RuntimeError`` of its own.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def save(folder: Path, state: State, name: str = LAST) -> None:
    """Write ``state`` under ``name``; of ``last.pt`` the one before is kept as ``previous.pt``.

    Raises:
        SsodError: code 6 when the disk refuses, code 5 when a weight is not finite; what was there before is intact.
    """
    bad = first_nonfinite(_weights(state["method"]))
    if bad is not None:
        problem = f"{bad[1]} non-finite values; not written"
        raise SsodError(folder / name, bad[0], problem, "go back to the checkpoint that is there", code=Exit.DIVERGED)

    def fill(file: BinaryIO) -> None:
        hashing = _Hashing(file)
        try:
            # type: ignore because torch's hint says a whole file; it calls write and flush alone.
            torch.save({"schema": SCHEMA, **state}, hashing)  # type: ignore
        except RuntimeError as error:
            raise hashing.error or error from error
        atomic.failpoint("ckpt.before_trailer")
        file.write(_TRAILER.pack(_MAGIC, hashing.size, hashing.digest.digest()))
        atomic.failpoint("ckpt.after_trailer")

    atomic.write(folder / name, fill, previous=folder / PREVIOUS if name == LAST else None, label="ckpt")


def exists(folder: Path) -> bool:
    """Return whether ``folder`` holds a checkpoint, good or damaged."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS))


def find(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint, or None where there never was one; leftovers are swept.

    A damaged ``last.pt`` is renamed, with one warning: left under its name, the next save would put it in the place
    of the good one.

    Raises:
        SsodError: code 4 when there are checkpoints and all are damaged.
    """
    if folder.is_dir():
        atomic.sweep(folder)
    last, previous = folder / LAST, folder / PREVIOUS
    if not exists(folder):
        return None
    fault = damage(last) if last.exists() else "missing"
    if fault is None:
        return last
    if not previous.exists() or damage(previous) is not None:
        raise SsodError(last, "", f"{fault}, and there is no good {PREVIOUS}", "start a new run", code=Exit.CHECKPOINT)
    if last.exists():
        try:
            last.replace(folder / BAD)
        except OSError as error:  # the one is a folder, and the other there already
            raise atomic.refused(folder / BAD, error) from None
    logging.getLogger("ssod").warning(f"{last}: {fault}; going on from {PREVIOUS}")
    return previous


def damage(path: Path) -> str | None:
    """Return what is wrong with the bytes of ``path``, None if they are what was written. Nothing is parsed."""
    if not path.is_file():
        return "is no file"
    size = path.stat().st_size
    if size < _TRAILER.size:
        return "cut off" if size else "empty file"
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        left = size - _TRAILER.size
        while left and (chunk := file.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
        magic, length, expected = _TRAILER.unpack(file.read(_TRAILER.size))
    if magic != _MAGIC or length != size - _TRAILER.size:
        return "cut off, or no checkpoint"
    return None if digest.digest() == expected else "sha256 mismatch"


def load(path: Path) -> State:
    """Return the state in ``path``, on the CPU.

    Raises:
        SsodError: code 4 when the file is damaged, of another schema, lacks a part or holds non-finite weights;
            code 7 when it holds anything but tensors and plain values.
    """
    fault = damage(path)
    if fault is not None:
        raise SsodError(path, "", fault, "use another checkpoint", code=Exit.CHECKPOINT)
    state = torch_file.read(path, "refused; go on from a checkpoint that ssod wrote")
    schema = state.get("schema") if isinstance(state, dict) else None
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        fix = "upgrade ssod" if newer else "go on with the ssod that wrote it, or start a new run"
        raise SsodError(path, "schema", f"{schema}, this version reads {SCHEMA}", fix, code=Exit.CHECKPOINT)
    return state


def check_model(path: Path, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Test that the saved weights fit the model that was built, and are finite.

    Raises:
        SsodError: code 4; names the first key that is missing, unknown, of another shape or not finite.
    """

    def error(field: str, problem: str, fix: str = OTHER) -> SsodError:
        return SsodError(path, field, problem, fix, code=Exit.CHECKPOINT)

    if not any(key.startswith("teacher.") for key in saved) and any(key.startswith("teacher.") for key in own):
        raise error("teacher", "missing", "a run goes on only from a run's own checkpoint")
    missing, unknown = [k for k in own if k not in saved], [k for k in saved if k not in own]
    if missing:
        raise error(missing[0], f"{len(missing)} keys missing")
    if unknown:
        raise error(unknown[0], f"{len(unknown)} keys too many")
    for key, value in saved.items():
        if isinstance(value, Tensor) != isinstance(own[key], Tensor):
            raise error(key, f"is a {type(value).__name__}, the model has a {type(own[key]).__name__}")
        if isinstance(value, Tensor) and value.shape != own[key].shape:
            raise error(key, f"shape {list(value.shape)}, the model has {list(own[key].shape)}")
    bad = first_nonfinite(_weights(saved))
    if bad is not None:
        raise error(bad[0], f"{bad[1]} non-finite values", "refusing; go back to an older checkpoint")


def _weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return students and teachers; a method's own thresholds may be infinite."""
    return {name: value for name, value in state.items() if {"student", "teacher"} & set(name.split("."))}


def first_nonfinite(tensors: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the name of the first floating-point tensor with NaN or infinity, and how many such values it has."""
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            count = int((~value.isfinite()).sum())
            if count:
                return name, count
    return None


def check_space(folder: Path, size: int, *more: str) -> None:
    """Test that the disk has room for all checkpoints of ``size`` bytes, and for the one that is being written.

    ``more`` are names of checkpoints besides the last two.

    Raises:
        SsodError: code 6, before the first step instead of at the first save.
    """
    names = (LAST, PREVIOUS, *more)
    there = sum((folder / name).stat().st_size for name in names if (folder / name).exists())
    needed, free = (len(names) + 1) * size - there, shutil.disk_usage(folder).free
    if free < needed:
        problem = f"{len(names) + 1} checkpoints need {needed / 1e6:.0f} MB more, {free / 1e6:.0f} MB are free"
        raise SsodError(folder, "", problem, "make room, or set another run folder", code=Exit.IO)
