"""The files of a run folder, which may be another program's, another version's or half written: what each must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ssod.utils import untrusted
from ssod.utils.errors import SsodError
from ssod.utils.untrusted import Kinds, Source
from ssod.utils.yaml_io import read_yaml

METRICS = ("AP", "AP50", "AP75")
_FIX = "name a folder that this version of `ssod train` wrote, or leave it out"

Count = Annotated[int, Field(ge=0, lt=1 << 53)]  # a float holds it exactly
Number = Annotated[float, Field(ge=-1e300, le=1e300)]
Share = Annotated[float, Field(ge=0, le=1)]

CONFIG: Kinds = {
    **{"data.labeled": dict[str, Any], "data.val": dict[str, Any] | None, "data.split": dict[str, Any] | None},
    **{"detector.name": str, "detector.decode": dict[str, Any] | None, "detector.decode.score": Share | None},
    **{"method.name": str, "method.burn_in": Count | None, "method.start": Count | None, "eval.metric": str},
    **{"train.steps": Count, "train.seed": Count, "train.batch.labeled": Count, "train.batch.unlabeled": Count},
}
SPLIT: Kinds = {
    **{"hash": str, "boxes": dict[str, Count], "labeled": Count | None, "unlabeled": Count | None},
    **{"percent": Annotated[float, Field(gt=0, le=100)] | None, "fold": int | str | None},
}
ENV: Kinds = {"gpus": list[str] | None, "cpus": Count | None, "world_size": Count | None, "command": list[str] | None}
EXIT: Kinds = {"code": int | None, "time": str | None}
BEGUN: Kinds = {"from": Annotated[str, Field(pattern=r"^[^\x00]+$")], "step": Count}
LINES: dict[str, Kinds] = {
    "train": {"step": Count, "time/step": Annotated[float, Field(ge=0, le=1e9)], "phase": str | None},
    # Earlier versions wrote -1 where there was nothing to find.
    "eval": {"step": Count, **{f"teacher/{name}": Annotated[float, Field(ge=-1, le=1)] | None for name in METRICS}},
    "alarm": {"step": Count, "text": str},
}
_VALUES = dict[str, Number | str | list[Number | None] | None]  # of any other key of a line


def config(path: Path) -> dict[str, Any]:
    """Return ``config.yaml``; raises as ``json_object`` does, and as ``read_yaml``."""
    return untrusted.checked(Source(path, _FIX), "", read_yaml(path), CONFIG)


def json_object(path: Path, kinds: Kinds) -> dict[str, Any]:
    """Return what a file says, {} where there is none and nothing in it is needed.

    Raises:
        SsodError: code 3, it is damaged, or lacks what is read of it.
    """
    found = {} if not path.exists() else untrusted.read_json(Source(path, "mend or remove it, or leave the run out"))
    return untrusted.checked(Source(path, _FIX), "", found, kinds)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl``; a last line that is cut off is being written, and left out.

    Raises:
        SsodError: code 3, naming the line.
    """
    if not path.exists():
        return []
    source = Source(path, _FIX)
    rows: list[dict[str, Any]] = []
    texts = untrusted.read_bytes(source).decode("utf-8", errors="replace").splitlines()
    for number, text in enumerate(texts, 1):
        where = f"line {number}"
        try:
            row = untrusted.parse_json(Source(path, "remove the line"), where, text)
        except SsodError:
            if number < len(texts):
                raise
            break
        kind = row.get("kind") if isinstance(row, dict) else None
        kinds = LINES.get(kind, {"kind": str}) if isinstance(kind, str) else {"kind": str}
        untrusted.of_kind(source, where, untrusted.checked(source, where, row, kinds), _VALUES)
        rows.append(row)
    return rows


def defined(row: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation in which what is undefined is None: earlier versions wrote -1 there."""
    measured = ("teacher/", "student/")
    return {key: None if value == -1 and key.startswith(measured) else value for key, value in row.items()}
