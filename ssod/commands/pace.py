"""``--batch`` and ``--epochs``: how many images a step sees and how many steps there are, said by totals.

``--batch`` is the sum of ``train.batch.labeled`` and ``train.batch.unlabeled``, which keep their ratio. ``--epochs``
counts passes over the **labelled** images: every step of every method sees some of them, and so a method and its
supervised baseline make as many steps. ``ssod plan`` prints the passes over both sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssod.utils.config_errors import Source, read_section
from ssod.utils.errors import SsodError
from ssod.utils.merging import override

if TYPE_CHECKING:
    from ssod.engine.train_config import TrainConfig


@dataclass(frozen=True)
class Pace:
    """What the two options say; None = nothing.

    Attributes:
        epochs: passes over the labelled images.
        batch: images of a step, of both kinds.
    """

    epochs: float | None = None
    batch: int | None = None

    def settle(self, tree: dict[str, Any], origins: dict[str, str]) -> list[str]:
        """Set ``train.batch`` and ``train.steps`` of a config's merged sections; return lines that say to what.

        Raises:
            SsodError: code 2, a batch that cannot be shared in this ratio, or no passes; with ``epochs`` also what is
                wrong with the labelled images, which are read.
        """
        lines = []
        sizes = _batch(tree, origins) if self.epochs is not None or self.batch is not None else (0, 0)
        if self.batch is not None:
            sizes = shared(self.batch, *sizes)
            for name, size in zip(("labeled", "unlabeled"), sizes):
                override(tree, origins, f"train.batch.{name}={size}")
            lines.append(f"--batch {self.batch}: {_seen(tree, sizes)}; train.lr is not scaled")
        if self.epochs is not None:
            images = labelled_images(tree, origins)
            steps = steps_of(self.epochs, images, sizes[0])
            override(tree, origins, f"train.steps={steps}")
            lines.append(told(self.epochs, images, sizes[0], steps))
        return lines

    def told(self, labeled: int, steps: int, images: int) -> list[str]:
        """Return the line that says what ``--epochs`` came to; none where it was not given."""
        return [] if self.epochs is None else [told(self.epochs, images, labeled, steps)]

    def words(self, train: TrainConfig) -> list[str]:
        """Return what the options set of a config that was made with them, as ``KEY=VALUE``."""
        batch = {"train.batch.labeled": train.batch.labeled, "train.batch.unlabeled": train.batch.unlabeled}
        found = (batch if self.batch is not None else {}) | ({"train.steps": train.steps} if self.epochs else {})
        return [f"{key}={value}" for key, value in found.items()]


NO_PACE = Pace()  # the config's own


def shared(total: int, labeled: int, unlabeled: int) -> tuple[int, int]:
    """Return how many of ``total`` images are labelled and unlabelled, in the ratio of ``labeled`` to ``unlabeled``.

    Raises:
        SsodError: code 2, it cannot be shared so.
    """
    common = math.gcd(labeled, unlabeled)
    parts = (labeled + unlabeled) // common
    if total % parts:
        ratio = f"{labeled // common} labelled to {unlabeled // common} unlabelled"
        fix = f"give a multiple of {parts}, or train.batch.labeled=... and train.batch.unlabeled=..."
        raise SsodError("command line", "--batch", f"{total} images cannot be shared {ratio}", fix)
    return total * labeled // (labeled + unlabeled), total * unlabeled // (labeled + unlabeled)


def steps_of(epochs: float, images: int, batch: int) -> int:
    """Return the steps after which ``images`` were seen ``epochs`` times, ``batch`` of them a step; at least one.

    Raises:
        SsodError: code 2, no number of passes.
    """
    if not (math.isfinite(epochs) and epochs > 0):
        raise SsodError("command line", "--epochs", f"{epochs:g} is no number of passes", "give one above 0")
    return max(1, math.ceil(round(epochs * images / batch, 6)))  # 1.1 x 100 is a little more than 110


def told(epochs: float, images: int, batch: int, steps: int) -> str:
    """Return the line that says what ``--epochs`` comes to."""
    return f"--epochs {epochs:g}: train.steps={steps}, {epochs:g} passes over {images} labelled images, {batch} a step"


def labelled_images(tree: Mapping[str, Any], origins: Mapping[str, str]) -> int:
    """Return how many images keep their labels, by a config's merged sections.

    Raises:
        SsodError: the ``data`` section, or what it names, is wrong.
    """
    from ssod.data import datasets
    from ssod.data.data_config import DataConfig

    cfg = read_section(DataConfig, tree.get("data") or {}, "data", Source("command line", origins), {})
    return len(datasets.kept(cfg))


def _seen(tree: Mapping[str, Any], sizes: tuple[int, int]) -> str:
    """Return what a step sees, in words; a method without unlabelled images leaves its share of them out."""
    from ssod.methods.registry import find

    name = (tree.get("method") or {}).get("name")
    try:
        uses = not isinstance(name, str) or find(name).uses_unlabeled
    except SsodError:  # the name is refused where the config is validated
        uses = True
    if uses:
        return f"{sizes[0]} labelled and {sizes[1]} unlabelled images a step"
    return f"{sizes[0]} labelled images a step" + (f"; '{name}' leaves out {sizes[1]} unlabelled" if sizes[1] else "")


def _batch(tree: Mapping[str, Any], origins: Mapping[str, str]) -> tuple[int, int]:
    """Return the labelled and the unlabelled images of a step."""
    from ssod.engine.train_config import BatchSize

    section = (tree.get("train") or {}).get("batch") or {}
    batch = read_section(BatchSize, section, "train.batch", Source("command line", origins), {})
    return batch.labeled, batch.unlabeled
