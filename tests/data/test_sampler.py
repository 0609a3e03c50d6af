"""The streams: every image once an epoch, groups apart, and no state."""

from collections import Counter

import numpy as np
import pytest

from ssod.data.loading.sampler import Grouped, Shuffled


def test_an_epoch_holds_every_image_once():
    stream = Shuffled(7, 3, "labeled")
    epochs = [[stream(e * 7 + i) for i in range(7)] for e in range(20)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 15


def test_streams_and_seeds_are_independent():
    n = 50
    orders = {
        tuple(Shuffled(n, seed, name).batch(0, n)) for seed, name in [(0, "labeled"), (0, "unlabeled"), (1, "labeled")]
    }
    assert len(orders) == 3
    assert Shuffled(n, 0, "labeled").batch(0, n) == Shuffled(n, 0, "labeled").batch(0, n)


@pytest.mark.parametrize(("n", "size"), [(1, 1), (1, 5), (3, 8), (10, 3), (8, 8)])
def test_any_size_of_set_and_batch(n, size):
    stream = Shuffled(n, 0, "s")
    flat = [i for b in range(3 * n) for i in stream.batch(b, size)]
    assert all(count == 3 * size for count in Counter(flat).values())
    assert len(set(flat)) == n


def sizes(wide, tall):
    return np.array([[50, 100]] * wide + [[100, 50]] * tall, np.int32)


@pytest.mark.parametrize(("wide", "tall"), [(9, 3), (1, 30), (5, 0), (0, 4), (6, 6)])
def test_groups_stay_apart_and_no_image_is_neglected(wide, tall):
    n, size = wide + tall, 4
    stream = Grouped.from_sizes(sizes(wide, tall), 0, "s")
    counts = Counter()
    for b in range(5 * n):
        batch = stream.batch(b, size)
        assert len(batch) == size
        assert len({i < wide for i in batch}) == 1
        counts.update(batch)
    assert len(counts) == n
    assert max(counts.values()) - min(counts.values()) <= 1  # 5 n batches hold each group in exact proportion
    assert stream.batch(7, size) == Grouped.from_sizes(sizes(wide, tall), 0, "s").batch(7, size)


def test_square_images_count_as_not_wide():
    stream = Grouped.from_sizes(np.array([[10, 10], [10, 20], [20, 10]]), 0, "s")
    assert stream.wide.tolist() == [1]
    assert stream.others.tolist() == [0, 2]
