"""Reading in a mirror image's dense maps what they say about the image itself."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssod.structures import Predictions


def read_mirrored(p: Predictions, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Take maps of mirrored images (``View.flipped``) back to the rows of the images.

    Column ``c`` of a level has its priors at ``x = x0 + c * pitch``; in the mirror image they are at ``width - x``,
    ``width`` without the padding. Where the pitch divides ``width - 2 * x0`` that is the place of a column, and the
    answer is that column's. Elsewhere, as on most odd widths and nearly always on coarse levels, it lies between two
    columns and the answer is interpolated between them. For encoded boxes that is exact wherever both columns mean the
    same box, since deltas are linear in the place of the prior; for probabilities it is a blur of half a cell at most.
    Columns without a partner (the first, where the canvas ends with the image, and those in the padding) are not known.

    Args:
        p: predictions for the images; their ``grids``, ``priors`` and ``sizes`` are read.
        maps: tensors [R, ...] of the mirrored images, same rows; boxes already passed through ``Coder.mirror``.

    Returns:
        The maps read at the rows of ``p``, and [R] bool: which rows are known. The others hold some neighbour's value.
    """
    n = p.num_images
    parts: list[list[Tensor]] = [[] for _ in maps]
    known = []
    starts = [sum(p.levels[:i]) for i in range(len(p.levels))]
    for (h, w), start, rows in zip(p.grids, starts, p.levels):
        low, high, share, inside = _columns(p, h, w, start, rows)
        known.append(inside[:, None, :, None].expand(n, h, w, rows // (h * w)).flatten(1))
        for part, values in zip(parts, maps):
            level = values.reshape(n, sum(p.levels), -1)[:, start : start + rows].reshape(n, h, w, -1)
            index = [c[:, None, :, None].expand_as(level) for c in (low, high)]
            read = torch.lerp(level.gather(2, index[0]), level.gather(2, index[1]), share[:, None, :, None].to(level))
            part.append(read.reshape(n, rows, -1))
    return [torch.cat(part, 1).view_as(m) for part, m in zip(parts, maps)], torch.cat(known, 1).flatten()


def _columns(p: Predictions, h: int, w: int, start: int, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return [N, w] each: the two columns to read, the share of the second, and whether both exist."""
    cell = p.priors[start : start + rows].view(h, w, -1, 4)[0, :, 0]
    x = (cell[:, 0] + cell[:, 2]) / 2
    pitch = x[1] - x[0] if w > 1 else torch.ones_like(x[0])
    column = (p.sizes[:, 1:] - x - x[0]) / pitch
    low = column.floor().clamp(0, w - 1)
    share = (column - low).clamp(0, 1)
    return low.long(), (low + 1).clamp(max=w - 1).long(), share, (column >= 0) & (column <= w - 1)
