"""What makes a run this run: which changes of its config a checkpoint survives."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ssod.utils import collective
from ssod.utils.errors import Exit, SsodError

Kind = Literal["identity", "schedule", "cosmetic"]

# Dotted keys of the config; the longest entry that a key equals or lies under decides. What is in no entry is identity.
KINDS: dict[str, Kind] = {
    "data.root": "cosmetic",  # the same files in another place: their fingerprint tells
    "data.strict": "cosmetic",
    "data.allow_symlinks": "cosmetic",
    "data.cache": "cosmetic",
    "data.held_out": "cosmetic",  # as the next
    "data.val": "cosmetic",  # its images and boxes are in the fingerprint, too
    "detector.decode": "schedule",
    "detector.loss": "schedule",
    "method": "schedule",
    "method.name": "identity",
    "method.teacher": "identity",
    "method.teacher.until": "schedule",
    "views": "schedule",
    "views.val": "cosmetic",
    "train": "schedule",
    "train.batch": "identity",
    "train.accumulate": "identity",
    "train.seed": "identity",
    "train.optimizer.name": "identity",
    "train.optimizer.backbone_lr": "identity",
    "train.optimizer.decay_norm_and_bias": "identity",
    "train.device": "cosmetic",
    "train.workers": "cosmetic",
    "train.log_every": "cosmetic",
    "train.eval_every": "cosmetic",
    "train.save_every": "cosmetic",
    "train.keep_burn_in": "cosmetic",
    "train.eval_student": "cosmetic",
    "train.best": "cosmetic",
    "train.warn_after": "cosmetic",
    "train.on_collapse": "cosmetic",
    "train.tensorboard": "cosmetic",
    "train.wandb": "cosmetic",
    "train.mlflow": "cosmetic",
    "eval": "schedule",
    "eval.batch": "cosmetic",
    "eval.diagnose": "cosmetic",
}

UNLABELED = ("views.unlabeled", "data.unlabeled", "train.batch.unlabeled")  # no supervised step reads it


def kind(key: str) -> Kind:
    """Return whether a change of the config key ``key`` makes another run, another schedule, or no difference."""
    parts = key.split(".")
    for n in range(len(parts), 0, -1):
        found = KINDS.get(".".join(parts[:n]))
        if found is not None:
            return found
    return "identity"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested mapping by dotted key; lists are leaves."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return leaves


def check(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any], allow: Collection[str] = ()) -> None:
    """Compare who wrote a checkpoint with who reads it.

    Args:
        path: the checkpoint, for messages.
        saved, now: ``config`` (nested, plain values), ``classes`` (``names``, ``ids``), ``data`` (a fingerprint),
            ``world_size``, ``pixels`` (use -> library and version); a part that both lack is not compared. ``now`` may
            name further keys that make another run, ``fixed``. A checkpoint that lacks ``pixels`` is of a time when
            Pillow made each move and color for itself: it is taken up with a warning, as no library of today makes
            the same bits.
        allow: keys whose change the user accepts: dotted config keys (or a section), ``classes``, ``data``,
            ``world_size``, ``pixels``.

    Raises:
        SsodError: code 4 with the difference.
    """
    _check_classes(path, saved.get("classes"), now.get("classes"), allow)
    if saved.get("data") != now.get("data") and "data" not in allow:
        problem = f"the data set changed since step 0 ({str(saved.get('data'))[:12]} -> {str(now.get('data'))[:12]})"
        raise _error(path, "data", problem, "restore it, start a new run, or pass --allow-change data")
    if saved.get("world_size") != now.get("world_size") and "world_size" not in allow:
        problem = f"saved with {saved.get('world_size')} processes, now {now.get('world_size')}"
        raise _error(
            path, "world_size", problem, f"run with {saved.get('world_size')} or pass --allow-change world_size"
        )
    _check_pixels(path, saved.get("pixels"), now.get("pixels"), allow)
    old, new = flat(saved.get("config") or {}), flat(now.get("config") or {})
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    changed = [key for key in changed if not any(key == a or key.startswith(f"{a}.") for a in allow)]
    lines = {key: f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in changed}
    refused = [key for key in changed if kind(key) == "identity" or key in now.get("fixed", ())]
    refused.sort(key=lambda key: not key.endswith(".name"))  # another detector has other keys, which say less
    if refused:
        problem = f"{', '.join(lines[key] for key in refused[:3])}{' ...' if len(refused) > 3 else ''} changes the run"
        raise _error(path, refused[0], problem, f"pass --allow-change {refused[0]}, or start a new run")
    softer = [lines[key] for key in changed if kind(key) == "schedule"]
    if softer:
        logging.getLogger("ssod").warning(f"{path}: going on with another schedule: {', '.join(softer)}")


def own_share(path: Path, shares: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a checkpoint kept for this process.

    Where as many processes wrote it as go on, that is its own; else each takes over that of one of them, and one line
    names the buffers that are handed over so, if they differ: score banks of each process's own.

    Args:
        path: the checkpoint, for the line.
        shares: of each process that wrote it, ``buffers`` among other things.
    """
    world, rank, wrote = collective.world_size(), collective.rank(), len(shares)
    first = shares[0]["buffers"]
    others = [share["buffers"] for share in shares[1:]]
    differ = [name for name, value in first.items() if any(not torch.equal(value, other[name]) for other in others)]
    if world != wrote and differ and rank == 0:
        names = f"{', '.join(differ[:2])}{' ...' if len(differ) > 2 else ''}"
        problem = f"each of {wrote} processes kept its own {names}; of {world} now, number n takes over those of n mod"
        logging.getLogger("ssod").warning(f"{path}: {problem} {wrote}")
    return shares[rank % wrote]


def _check_pixels(
    path: Path, saved: Mapping[str, str] | None, now: Mapping[str, str] | None, allow: Collection[str]
) -> None:
    if now is None or saved == now or "pixels" in allow:
        return
    if saved is None:
        problem = "its pixels were made by Pillow, one move at a time; from here on those of a view are made at once"
        logging.getLogger("ssod").warning(f"{path}: {problem}, by {now['resampler']}")
        return
    changed = [f"{use} {saved.get(use)} -> {now.get(use)}" for use in now if saved.get(use) != now.get(use)]
    problem = f"pixels are made by another library: {', '.join(changed)}"
    raise _error(path, "pixels", problem, "install the former, pass --allow-change pixels, or start a new run")


def _check_classes(path: Path, saved: Mapping | None, now: Mapping | None, allow: Collection[str]) -> None:
    if "classes" in allow or saved == now:
        return
    old, new = list((saved or {}).get("names") or []), list((now or {}).get("names") or [])
    fix = "start a new run, or initialise from the model file"
    if len(old) != len(new):
        raise _error(path, "classes", f"{len(old)} classes saved, the data has {len(new)}", fix)
    for i, (a, b) in enumerate(zip(old, new)):
        if a != b:
            raise _error(path, "classes", f"differ at {i}: {a!r} saved, {b!r} in the data", fix)
    raise _error(path, "classes", "the file's category ids differ", fix)


def _error(path: Path, field: str, problem: str, fix: str) -> SsodError:
    return SsodError(path, field, problem, fix, code=Exit.CHECKPOINT)
