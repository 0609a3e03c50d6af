"""``ssod init`` as one call: a config for data of one's own, or for a data set of ``configs/data``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssod.commands.init.write import write_config, write_recipe
from ssod.commands.pace import Pace


@dataclass(frozen=True)
class NewConfig:
    """A config that was written; ``ssod.load_config(new.file)`` reads it.

    Attributes:
        file: it.
        text: lines for people: what was found in the data, and what to do next.
    """

    file: Path
    text: str


def init(
    out: Path | str,
    *,
    labeled: str | None = None,
    val: str | None = None,
    unlabeled: str | None = None,
    percent: float | None = None,
    detector: str | None = None,
    method: str = "mean_teacher",
    data: str | None = None,
    fold: int | None = None,
    images: str | None = None,
    val_images: str | None = None,
    weights: str | None = None,
    budget: str | None = None,
    group: str | None = None,
    epochs: float | None = None,
    batch: int | None = None,
    overrides: Sequence[str] = (),
) -> NewConfig:
    """Write a starting config; nothing is printed but findings in the data.

    Args:
        out: the file to write; never overwritten.
        labeled: COCO JSON, VOC folder or YOLO folder, or another export of a labelling tool.
        val: like ``labeled``, for measuring; a share such as ``20%``, None = that one, cuts it from ``labeled``.
        unlabeled: folder, glob or .txt list of images; ``rest`` = the images of ``labeled`` that nobody labelled; None
            = with ``percent``, the labelled set's other images.
        percent: share of the labelled images that keep their labels.
        detector: a file of ``configs/detectors``; None = that of ``weights``, or ``retinanet_r50_fpn``.
        method: a file of ``configs/methods``.
        data: in place of ``labeled`` and ``val``: a file of ``configs/data``, such as ``coco``.
        fold: number of the draw, where ``percent`` is given; None = 1.
        images: image folder of ``labeled``, a COCO JSON; None = one of the usual folders.
        val_images: image folder of ``val``, likewise.
        weights: a run folder or its model file, whose teacher the training begins with.
        budget: what training may cost, ``30m`` or ``8GB``; None = what the machine has.
        group: images that the cut of ``val`` leaves together: of one ``folder``, or of one ``prefix`` of names.
        epochs: passes over the labelled images, which make ``train.steps``; None = as the recipe and the budget say.
        batch: images of a step, labelled and unlabelled together; None = the recipe's.
        overrides: ``key.path=value`` for keys of the config.

    Returns:
        The file, and what to say of it.

    Raises:
        SsodError: what was not recognised, a file that is there, options that say nothing together, an unknown name; or
            the first error in the data, of which all findings are printed.
    """
    own = {"labeled": labeled, "val": val, "unlabeled": unlabeled, "images": images, "val_images": val_images}
    own |= {"weights": weights, "budget": budget, "group": group}
    given = {name: value for name, value in own.items() if value is not None}
    common = {"percent": percent, "detector": detector, "method": method, "fold": fold, "overrides": overrides}
    common["pace"] = Pace(epochs, batch)
    text = write_config(out, **given, **common) if data is None else write_recipe(out, data, given, **common)
    return NewConfig(Path(out), text)
