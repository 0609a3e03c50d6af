"""The cases of ``sa_autoaug.npz``, which is not part of the repository: where it is not at hand, tests are skipped."""

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from ssod.structures import Targets
from ssod.transforms.transform import Seen
from tests.paths import golden_path


class Cases:
    """Read when a test asks for the first case, so that collecting tests needs no file."""

    @cached_property
    def file(self) -> Any:
        return np.load(golden_path("sa_autoaug.npz"), allow_pickle=False)

    def of(self, kind: str) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
        """Yield (case, its arrays) of one kind; there is at least one."""
        found = [case for case in json.loads(str(self.file["cases_json"])) if case["kind"] == kind]
        assert found, kind
        for case in found:
            start = f"{case['id']}."
            yield case, {key.removeprefix(start): self.file[key] for key in self.file.files if key.startswith(start)}


CASES = Cases()


def rows_first(pixels: np.ndarray) -> np.ndarray:
    """[3, H, W] -> [H, W, 3]."""
    return np.moveaxis(pixels, 0, -1)


def as_picture(pixels: np.ndarray) -> Image.Image:
    """Return [3, H, W] values, all odd multiples of 1/512, as a picture: 256 values, a grey level each."""
    levels = rows_first(pixels) * 256
    assert (levels % 1 == 0.5).all()
    return Image.fromarray(np.ascontiguousarray(levels.astype(np.uint8)))


def targets_of(boxes: np.ndarray, labels: np.ndarray, weight: list[float] | None = None) -> Targets:
    """Return boxes as they are on their way through a view."""
    given = None if weight is None else torch.tensor(weight)
    return Targets(torch.from_numpy(boxes).double().reshape(-1, 4), torch.from_numpy(labels), weight=given)


def seen_of(pixels: np.ndarray, boxes: np.ndarray, labels: np.ndarray, weight: list[float] | None = None) -> Seen:
    """Return a picture and its boxes at the start of a view."""
    return Seen(as_picture(pixels), np.eye(3), targets_of(boxes, labels, weight))
