"""The state in which a run leaves burn-in, kept as ``checkpoints/burn_in.pt`` for runs that begin with it.

Before the first pseudo-label a method learns what ``supervised`` learns, so runs that differ in nothing else make the
same steps. One of them makes these and keeps its state (``train.keep_burn_in``); the others go on from there (``ssod
train --from-burn-in``) with its student, teacher and optimiser, and with what it told of these steps. Whether a state
fits is decided by ``ssod.methods.burn_in``, which says what decides these steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssod.engine.checkpointing import checkpoint, contents, lines
from ssod.engine.checkpointing.checkpoint import State
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.utils import atomic, untrusted
from ssod.utils.errors import Exit, SsodError
from ssod.utils.plateau import Plateau

MOVED = ("student", "teacher", "criterion")  # parts of a method that burn-in moves; all else is as it was built
MEASURED = ("teacher/", "student/")  # what an evaluation says of the models, and not of a method's pseudo-labels
_MISSING = object()


@dataclass(frozen=True)
class BurnIn:
    """What a run says about its burn-in.

    Attributes:
        ends: the first step with pseudo-labels, at which ``train.keep_burn_in`` keeps the state; 0 = there is none.
        deciding: returns what decides the first so many steps, by dotted key: of the config (``methods.burn_in``), and
            of the data and the processes.
        source: folder of the run whose state this one begins with; None = it begins at step 0.
        plateau: says by evaluations of the teacher whether burn-in ends sooner; None = nobody does.
    """

    ends: int
    deciding: Callable[[int], dict[str, Any]]
    source: Path | None = None
    plateau: Plateau | None = None


def path_of(run: Path) -> Path:
    """Return where a run keeps the state."""
    return run / "checkpoints" / checkpoint.BURN_IN


def read(source: Path, deciding: Callable[[int], Mapping[str, Any]], own: Mapping[str, Any]) -> State:
    """Return the state that a run kept, with all that another run's checkpoint has.

    Args:
        source: folder of the run that kept it.
        deciding: as in ``BurnIn``, of the run that begins with it.
        own: ``state_dict`` of that run's method as it was built: what it remembers besides its models stays.

    Raises:
        SsodError: code 4, there is none, it is damaged, or it is that of another burn-in.
    """
    path = path_of(source)
    if not path.is_file():
        fix = "train it with train.keep_burn_in=true"
        raise SsodError(source, "", f"keeps no {path.relative_to(source)}", fix, code=Exit.CHECKPOINT)
    saved = contents.load(path)
    there, here = saved.get("deciding") or {}, deciding(saved["step"])
    key = different(there, here)
    if key is not None:
        made, wanted = (repr(part[key])[:60] if key in part else "none" for part in (there, here))
        problem = f"{made} in the state, {wanted} here: that is another burn-in"
        fix = "begin with the state of an equal one, or drop --from-burn-in"
        raise SsodError(path, key, problem, fix, code=Exit.CHECKPOINT)
    ranks = [{**rank, "buffers": moved(rank["buffers"])} for rank in saved["ranks"]]
    contents.check_fit(path, {**saved, "method": moved(saved["method"]), "ranks": ranks}, moved(own))
    return {**saved, "method": {**own, **moved(saved["method"])}, "ranks": ranks, "best": None}


def said(run: Path) -> dict[str, Any] | None:
    """Return what decided the state that a run kept; None where there is none that can be read. Weights are not."""
    try:
        found = torch.load(path_of(run), map_location="cpu", mmap=True, weights_only=True)["deciding"]
    except Exception:  # torch raises nearly anything of a damaged file
        return None
    return found if isinstance(found, dict) else None


def different(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return the first key in which two runs differ, None where they make the same steps."""
    keys = (key for key in sorted(saved.keys() | now.keys()) if saved.get(key, _MISSING) != now.get(key, _MISSING))
    return next(keys, None)


def moved(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a method's tensors that burn-in moves."""
    return {name: value for name, value in state.items() if name.split(".")[0] in MOVED}


# ---- what was told of these steps --------------------------------------------------------------------------------


def take_over(source: Path, folder: RunFolder, step: int) -> None:
    """Write what a run told of its first ``step`` steps into the folder of another that begins with them.

    Lines and evaluations, so that learning curves are whole and hours count; of an evaluation what it says of student
    and teacher, and of the last step none: whether it has one is the other's own affair. ``burn_in.json`` says whose
    they are.
    """
    if source.resolve() == folder.path.resolve():
        return
    told = source / "metrics.jsonl"
    text = told.read_text("utf-8", errors="replace") if told.is_file() else ""
    rows = [shared(json.loads(line)) for line in lines.up_to(text.splitlines(), step, pending=True)]
    atomic.write_text(folder.metrics, "".join(f"{json.dumps(row)}\n" for row in rows))
    for number in (row["step"] for row in rows if row.get("kind") == "eval"):
        _copy(source / "eval" / f"step_{number}.npz", folder.eval, lambda file, content: content)
        _copy(source / "eval" / f"step_{number}.json", folder.eval, _measured_json)
    folder.write_json(folder.burn_in, {"from": str(source), "step": step})


def shared(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of ``metrics.jsonl`` without what is its run's own: pseudo-labels, and the memory it takes."""
    if row.get("kind") == "eval":
        return {key: value for key, value in row.items() if key.startswith(("kind", "step", *MEASURED))}
    return {key: value for key, value in row.items() if not key.startswith("memory/")}


def _measured_json(path: Path, content: bytes) -> bytes:
    source = untrusted.Source(path, "remove it")
    found = untrusted.parse_json(source, "", content)
    untrusted.of_kind(source, "", found, dict[str, Any])
    values = {key: value for key, value in found.items() if key.startswith(MEASURED)}
    return (json.dumps(values, indent=1) + "\n").encode()


def _copy(file: Path, folder: Path, change: Callable[[Path, bytes], bytes]) -> None:
    if file.is_file():
        content = change(file, file.read_bytes())
        atomic.write(folder / file.name, lambda target: target.write(content))
