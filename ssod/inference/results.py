"""COCO results: what was found in images, as a list of boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch

from ssod.data.formats.records import Classes
from ssod.inference.model import Detected

Row = dict[str, Any]


class Results(Sequence[Row]):
    """The rows of a results file, which is read when somebody asks for one: nobody may want them all in memory.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _rows(self) -> list[Row]:
        return json.loads(self.path.read_bytes())

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Row: ...

    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...

    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        return self._rows[at]

    def __eq__(self, other: object) -> bool:
        return self._rows == (other._rows if isinstance(other, Results) else other)

    __hash__ = None  # type: ignore  # as of a list

    def __repr__(self) -> str:
        return f"Results({str(self.path)!r})"


def rows_of(found: Detected, image: int | str, path: str, classes: Classes) -> Iterator[Row]:
    """Yield COCO results of one image.

    Args:
        found: its detections.
        image: its id.
        path: its file, below the folder of the images.
        classes: whose ids the rows carry.
    """
    sides = torch.cat([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], 1)
    for box, label, score in zip(sides.tolist(), found.labels.tolist(), found.scores.tolist()):
        yield {
            "image_id": image,
            "category_id": classes.ids[label],
            "bbox": [round(value, 3) for value in box],
            "score": round(score, 6),
            "file_name": path,
        }
