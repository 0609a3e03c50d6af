"""What makes a run this run: which changes of its config a checkpoint survives."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

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

MOST_NAMED = 4  # keys that a refusal names one by one
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
        SsodError: code 4 with all that differs, and what to pass to accept all of it.
    """
    _check_classes(path, saved.get("classes"), now.get("classes"), allow)
    refused = [one for one in _other_data(saved, now) if one.field not in allow]
    if "pixels" not in allow:
        refused += _other_pixels(path, saved.get("pixels"), now.get("pixels"))
    old, new = flat(saved.get("config") or {}), flat(now.get("config") or {})
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    changed = [key for key in changed if not any(key == a or key.startswith(f"{a}.") for a in allow)]
    lines = {key: f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in changed}
    keys = [key for key in changed if kind(key) == "identity" or key in now.get("fixed", ())]
    keys.sort(key=lambda key: not key.endswith(".name"))  # another detector has other keys, which say less
    if keys:
        problem = f"{', '.join(lines[key] for key in keys[:3])}{' ...' if len(keys) > 3 else ''} changes the run"
        refused.append(_Refused(keys[0], _to_allow(keys), problem))
    if refused:
        all_of_it = " ".join(f"--allow-change {key}" for one in refused for key in one.keys)
        fix = ", or ".join([*(one.mend for one in refused if one.mend), f"pass {all_of_it}", "start a new run"])
        raise _error(path, refused[0].field, "; ".join(one.problem for one in refused), fix)
    softer = [lines[key] for key in changed if kind(key) == "schedule"]
    if softer:
        logging.getLogger("ssod").warning(f"{path}: going on with another schedule: {', '.join(softer)}")


class _Refused(NamedTuple):
    """One thing that makes another run.

    Attributes:
        field: what messages name.
        keys: what ``--allow-change`` calls it.
        problem: what differs.
        mend: how it is undone; empty = by giving the former value.
    """

    field: str
    keys: list[str]
    problem: str
    mend: str = ""


def _to_allow(keys: list[str]) -> list[str]:
    """Return what to pass to accept changes of all of ``keys``: themselves, or of many the sections."""
    return keys if len(keys) <= MOST_NAMED else list(dict.fromkeys(key.partition(".")[0] for key in keys))


def _other_data(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[_Refused]:
    if saved.get("data") != now.get("data"):
        before, after = (str(part.get("data"))[:12] for part in (saved, now))
        yield _Refused("data", ["data"], f"the data set changed since step 0 ({before} -> {after})", "restore it")
    if saved.get("world_size") != now.get("world_size"):
        problem = f"saved with {saved.get('world_size')} processes, now {now.get('world_size')}"
        yield _Refused("world_size", ["world_size"], problem, f"run with {saved.get('world_size')}")


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


def _other_pixels(path: Path, saved: Mapping[str, str] | None, now: Mapping[str, str] | None) -> Iterator[_Refused]:
    if now is None or saved == now:
        return
    if saved is None:
        problem = "its pixels were made by Pillow, one move at a time; from here on those of a view are made at once"
        logging.getLogger("ssod").warning(f"{path}: {problem}, by {now['resampler']}")
        return
    changed = [f"{use} {saved.get(use)} -> {now.get(use)}" for use in now if saved.get(use) != now.get(use)]
    yield _Refused(
        "pixels", ["pixels"], f"pixels are made by another library: {', '.join(changed)}", "install the former"
    )


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
