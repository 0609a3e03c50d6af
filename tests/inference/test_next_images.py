"""The next images to label: unsure boxes of rare classes, and no scene twice."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ssod.inference.next_images import choose, look, rarity, value, write

NEAR = np.array([0.5, 0.5], np.float32)
EVEN = np.ones(2)


def worth(scores: list[float], labels: list[int] | None = None, rare: np.ndarray = EVEN) -> float:
    return value(np.array(labels or [0] * len(scores), int), np.array(scores, np.float32), NEAR, rare)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 48, 3), dtype=np.uint8))


def test_value_by_hand() -> None:
    assert worth([0.5]) == pytest.approx(1 / 2)
    assert worth([0.5, 0.75]) == pytest.approx((1 + 0.5) / 3)
    assert worth([]) == 0
    assert worth([0.1, 0.2]) == 0
    assert worth([0.5, 0.2]) == worth([0.5]), "what scores below half of the threshold is no box"
    assert rarity([3, 0, 99]) == pytest.approx([0.5, 1, 0.1])
    assert worth([0.5], [1], rarity([0, 3])) == pytest.approx(0.25)


def test_a_crowd_of_sure_boxes_does_not_win() -> None:
    assert worth([0.55] * 3) > worth([0.9] * 100)
    assert worth([0.5] * 20) > worth([0.5])


def test_a_scene_is_chosen_once_while_there_are_others() -> None:
    looks = [look(picture(seed)) for seed in (0, 0, 1)]
    chosen = choose([0.9, 0.8, 0.3], looks, 3)
    assert [one.place for one in chosen] == [0, 2, 1]
    assert [one.value for one in chosen] == [0.9, 0.3, 0.8]
    assert chosen[0].gain == 0.9
    assert chosen[2].gain == pytest.approx(0, abs=1e-6)
    assert [one.place for one in choose([0.2] * 3, [look(picture(s)) for s in range(3)], 1)] == [0]
    assert choose([], [], 5) == []
    assert len(choose([0.0] * 3, looks, 9)) == 3


def test_likeness_is_of_what_is_seen_and_not_of_its_light() -> None:
    one, brighter = picture(0), picture(0).point(lambda v: min(v // 2 + 90, 255))
    assert float(look(one) @ look(brighter)) > 0.98
    assert abs(float(look(one) @ look(picture(1)))) < 0.5
    assert not look(Image.new("RGB", (9, 9), (7, 7, 7))).any()


def test_the_table(tmp_path) -> None:
    write(tmp_path / "next.csv", choose([0.1, 0.4], [look(picture(s)) for s in range(2)], 2), ["a", "=b"])
    rank, first, _ = (tmp_path / "next.csv").read_text().splitlines()
    assert rank == "rank,image,value,gain"
    assert first == "1,'=b,0.400,0.400"
