import torch

from ssod.assign.sample import balanced, mask
from ssod.utils.seeding import uniform


def test_counts_and_order() -> None:
    torch.manual_seed(0)
    positive = torch.zeros(3, 40, dtype=torch.bool)
    positive[0, :20], positive[1, :2] = True, True
    negative = ~positive
    negative[2, 5:] = False
    index, valid = balanced(positive, negative, torch.rand(3, 40), 16, 0.25)
    assert index.shape == (3, 16)
    chosen = mask(index, valid, 40)
    assert (chosen & positive).sum(1).tolist() == [4, 2, 0]
    assert (chosen & negative).sum(1).tolist() == [12, 14, 5]
    assert (chosen & ~positive & ~negative).sum() == 0
    assert valid.sum(1).tolist() == [16, 16, 5]
    assert valid[2].tolist() == [True] * 5 + [False] * 11


def test_fewer_rows_than_wanted() -> None:
    positive = torch.tensor([[True, False, False]])
    index, valid = balanced(positive, ~positive, torch.rand(1, 3), 256, 0.5)
    assert mask(index, valid, 3).all()
    index, valid = balanced(positive[:, :0], positive[:, :0], torch.rand(1, 0), 256, 0.5)
    assert index.shape == (1, 0)
    assert mask(index, valid, 0).shape == (1, 0)


def test_an_images_rows_do_not_depend_on_its_batch() -> None:
    keys, rows = torch.tensor([5, 6, 7]), torch.arange(100)
    draw = uniform(keys[:, None], rows)
    positive = draw < 0.3
    all_three = mask(*balanced(positive, ~positive, draw, 16, 0.5), 100)
    alone = mask(*balanced(positive[1:2], ~positive[1:2], uniform(keys[1:2, None], rows), 16, 0.5), 100)
    assert torch.equal(all_three[1:2], alone)


def test_every_row_is_as_likely() -> None:
    draw = uniform(torch.arange(4000)[:, None], torch.arange(10))
    none = torch.zeros(4000, 10, dtype=torch.bool)
    share = mask(*balanced(none, ~none, draw, 3, 0.5), 10).float().mean(0)
    assert (share - 0.3).abs().max() < 0.03
