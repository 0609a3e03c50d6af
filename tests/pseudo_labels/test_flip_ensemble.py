"""Maps of a mirror image, read at the rows of the image: exact where the grid allows, linear between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssod.detectors.anchors import Anchors
from ssod.pseudo_labels.flip_ensemble import read_mirrored
from ssod.structures import Predictions
from ssod.structures.boxes import DeltaCoder, LtrbCoder, mirror

STRIDES, CANVAS, PER_CELL = (8, 16), (32, 64), 3


def grid(widths: list[int]) -> Predictions:
    """Two levels of three anchors per cell, logits and deltas still empty."""
    anchors = Anchors([(4.0 * s,) for s in STRIDES], (0.5, 1.0, 2.0))
    grids = tuple((CANVAS[0] // s, CANVAS[1] // s) for s in STRIDES)
    n, priors = len(widths), anchors(CANVAS, list(grids))
    rows = n * len(priors)
    return Predictions(
        logits=torch.zeros(rows, 2),
        deltas=torch.zeros(rows, 1, 4),
        priors=priors.repeat(n, 1),
        image=torch.arange(n).repeat_interleave(len(priors)),
        sizes=torch.tensor([[32, w] for w in widths]),
        coder=DeltaCoder(),
        levels=tuple(h * w * PER_CELL for h, w in grids),
        strides=STRIDES,
        grids=grids,
    )


def places(p: Predictions) -> tuple[Tensor, Tensor]:
    """The x of each row's prior, and where that is in the mirror image."""
    x = (p.priors[:, 0] + p.priors[:, 2]) / 2
    return x, p.sizes[p.image, 1] - x


def test_whole_strides_permute_the_rows() -> None:
    """Every known row holds the value of the row whose prior is the mirror image of its own."""
    p = grid([48, 32])
    values = torch.arange(len(p.priors)).float()[:, None]
    (read,), known = read_mirrored(p, [values])
    there = mirror(p.priors, p.sizes[p.image, 1, None])
    assert known.sum() > 0.4 * len(known)
    for row in known.nonzero().squeeze(1).tolist():
        source = int(read[row])
        assert float(source) == read[row]
        assert p.image[source] == p.image[row]
        torch.testing.assert_close(p.priors[source], there[row], rtol=0, atol=0)
    assert (known == ((places(p)[1] >= 0) & known)).all()
    assert known[places(p)[0] == 0].all()  # the padding holds the first column's partner


def test_the_first_column_has_no_partner_where_the_canvas_ends_with_the_image() -> None:
    p = grid([64])
    _, known = read_mirrored(p, [p.logits])
    assert torch.equal(known, places(p)[0] > 0)


@pytest.mark.parametrize("width", [35, 41, 47, 63])
def test_what_is_linear_in_x_is_exact_at_any_width(width: int) -> None:
    p = grid([width])
    x, there = places(p)
    (read,), known = read_mirrored(p, [torch.stack([2 * x + 1, p.priors[:, 1], -x], 1)])
    expected = torch.stack([2 * there + 1, p.priors[:, 1], -there], 1)
    assert known.any()
    torch.testing.assert_close(read[known], expected[known])


@pytest.mark.parametrize("coder", [DeltaCoder(10, 5), LtrbCoder()])
@pytest.mark.parametrize("width", [48, 43])
def test_boxes_come_back_exactly(coder: DeltaCoder | LtrbCoder, width: int) -> None:
    """Every row of the mirror image points at the mirror image of one box; read back, every row points at the box."""
    p = grid([width])
    box = torch.tensor([[11.0, 3, 30, 29]]).expand(len(p.priors), -1)
    mirrored = coder.encode(mirror(box, torch.tensor(float(width))), p.priors)[:, None]
    (read,), known = read_mirrored(p, [coder.mirror(mirrored, p.sizes[p.image, 1])])
    torch.testing.assert_close(coder.decode(read[:, 0], p.priors)[known], box[known], rtol=1e-5, atol=1e-4)


def test_padding_is_not_known() -> None:
    p = grid([40])
    _, known = read_mirrored(p, [p.logits])
    assert not known[places(p)[0] > 40].any()


def test_one_column() -> None:
    p = grid([64])
    small = Predictions(
        torch.zeros(3, 1), torch.zeros(3, 1, 4), p.priors[:3], torch.zeros(3, dtype=torch.long), torch.tensor([[8, 8]]),
        DeltaCoder(), levels=(3,), strides=(8,), grids=((1, 1),),
    )  # fmt: skip
    (read,), known = read_mirrored(small, [torch.arange(3.0)])
    assert not known.any()
    assert read.isfinite().all()
