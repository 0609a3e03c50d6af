"""``ssod split`` as one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ssod.data.splits import Family, WrittenSplit, write_splits


def split(
    ann: str | os.PathLike,
    out: str | os.PathLike,
    *,
    percent: Sequence[float] = (),
    shots: Sequence[int] = (),
    folds: int = 5,
    family: Family = "without_replacement",
    file: str | os.PathLike | None = None,
) -> tuple[WrittenSplit, ...]:
    """Write labelled and unlabelled parts of a COCO JSON, bit-identical to the published procedures; print nothing.

    Args:
        ann: a COCO JSON, e.g. ``instances_train2017.json``.
        out: folder for the pairs of files, made if need be; files of the same name are replaced.
        percent: shares of the images that keep their labels, in per cent.
        shots: boxes of each class, beside or in place of ``percent``.
        folds: how many draws: 1 to ``folds``.
        family: of ``percent``: ``without_replacement``, ``with_replacement`` (STAC) or ``index_file``.
        file: the published index file, of family ``index_file``.

    Returns:
        Each pair of files, and what its draw holds; as text, a line.

    Raises:
        SsodError: neither ``percent`` nor ``shots``, a file that is unsound, an empty part, a disk that refuses.
    """
    index = None if file is None else Path(file)
    draws = range(1, folds + 1)
    return tuple(write_splits(Path(ann), percent, draws, Path(out), family=family, file=index, shots=shots))
