"""Which images of a set somebody labelled: an image without labels may show no object, or nobody looked at it.

Where each image has a file of labels of its own, one without such a file is unlabelled, and an empty file says that
there is no object. Where all images have a file, or one file has the labels of all, nothing tells the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ssod.data.formats.findings import Context
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.records import Images, Labeled

Which = Literal["all", "labeled", "bare"]


def keep_labeled(data: Labeled, files: Sequence[bool] | None, which: Which | None, file: str, ctx: Context) -> Labeled:
    """Return the images that are learnt from or measured on, and record how many are left out.

    Args:
        data: all images.
        files: [N] whether an image has labels of its own, be it none; None = the format cannot tell.
        which: ``all``: an image without labels shows no object; ``labeled``: those of ``bare`` are left out; None =
            those without a file are.
        file: what messages name.
        ctx: section and findings.

    Raises:
        SsodError: ``which`` is ``bare``, and these have no labels.
    """
    if which == "bare":
        fix = "name them as data.unlabeled; `labeled` and `all` have labels"
        raise ctx.findings.fatal("D35", file, f"{ctx.section}.which", "bare: images without labels", fix)
    there = np.ones(len(data), dtype=bool) if files is None else np.array(files, dtype=bool)
    if which == "labeled":
        there = _marked(files, (np.diff(data.starts) > 0).tolist())
    if which == "all" or there.all() or not there.any():  # that there is no label at all is said elsewhere
        return data
    left = [data.images.paths[row] for row in np.flatnonzero(~there)]
    if files is not None and not all(files):
        report_left_out("L06", left, file, ctx, f"of {len(data)}")
    else:
        report_left_out("L19", left, file, ctx, f"of {len(data)}")
    return data.subset(np.flatnonzero(there))


def keep_marked(
    images: Images, files: Sequence[bool] | None, boxes: Sequence[bool], which: Which | None, file: str, ctx: Context
) -> Images:
    """Return the images that ``which`` names of an unlabelled set: all, the labelled ones, or the others.

    Args:
        images: all images.
        files: as of ``keep_labeled``.
        boxes: [N] whether an image has a box.
        which: ``bare``: images without a file of labels, or, where none lacks one, without a box. None = all.
        file: what messages name.
        ctx: section and findings.
    """
    if which in (None, "all"):
        return images
    marked = _marked(files, boxes)
    kept = images.subset(np.flatnonzero(marked if which == "labeled" else ~marked))
    if not len(kept):
        problem = f"0 images: none of {len(images)} is {'labelled' if which == 'labeled' else 'without labels'}"
        fix = "name other images; with data.split, or --percent, none: those that lose their labels are taken"
        raise ctx.findings.fatal("D39", file, f"{ctx.section}.which", problem, fix)
    return kept


def _marked(files: Sequence[bool] | None, boxes: Sequence[bool]) -> np.ndarray:
    return np.array(boxes if files is None or all(files) else files, dtype=bool)
