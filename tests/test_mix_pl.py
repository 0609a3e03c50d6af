"""MixPL: each step of it in a run of several batches, what counts, what is remembered, and its views' operations."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssod import build, config
from ssod.commands.plan_facts import amounts, facts, half_life
from ssod.engine.checkpointing import checkpoint
from ssod.engine.guard import Guard
from ssod.methods.base import Task
from ssod.methods.mix_pl import Config, MixPL, needed
from ssod.report.pictures import trained_method
from ssod.structures import Batch, Pseudo, Targets, View
from ssod.transforms.augmentations import parse_list
from ssod.transforms.mix import GREY
from ssod.transforms.one_op import STRENGTH_OPS
from ssod.utils.errors import SsodError
from tests import test_ranks as ranks
from tests.parts import together
from tests.small import small_config, train_command
from tests.test_methods import SIDE, batch, bits, detector, method, optimizer_of, step
from tests.test_ranks import PLAIN as PLAIN_TRAIN
from tests.waits import Waits

PLAIN = {"erase": {"patches": [0, 0]}}


def mixpl(net: str = "fcos", **changes: object) -> MixPL:
    found = method("mix_pl", detector(net), **changes)
    assert isinstance(found, MixPL)
    return found


def view(n: int, seed: int) -> View:
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, SIDE, SIDE), dtype=torch.uint8, generator=g)
    sizes = torch.tensor([[SIDE, SIDE], [SIDE - 7, SIDE - 13], [40, 60], [64, 32]]).repeat(-(-n // 4), 1)[:n]
    inside = torch.arange(SIDE) < sizes[:, :1], torch.arange(SIDE) < sizes[:, 1:]
    images = images * (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
    return View(
        images, sizes, torch.eye(3).repeat(n, 1, 1), torch.arange(n) + 1000 * seed, [1000 * seed + i for i in range(n)]
    )


def unlabeled(n: int, seed: int) -> Batch:
    """The strong view is the weak one, so that boxes stay where they are."""
    seen = view(n, seed)
    return Batch(batch().labeled, {"weak": seen, "strong": seen})


def labels(n: int, empty: tuple[int, ...] = ()) -> Pseudo:
    box = torch.tensor([[4.0, 6, 24, 26], [2.0, 20, 30, 36]])
    full = Targets(box, torch.tensor([1, 2]), torch.tensor([0.9, 0.6]))
    return Pseudo([full[:0] if i in empty else full for i in range(n)])


def run(m: MixPL, steps: int, n: int = 4, empty: tuple[int, ...] = ()) -> list[Task]:
    """Make the pictures of some steps and return those of the last one."""
    made = []
    for number in range(steps):
        made = m.tasks(unlabeled(n, number), number, labels(n, empty))
    return made


# ---- the cache, and when it is full ---------------------------------------------------------------------------------


def test_until_the_cache_is_full_images_are_alone_and_there_is_no_mosaic() -> None:
    m = mixpl(**PLAIN)
    for number in range(2):
        (seen, mine, weight), (_, boxes, other) = m.tasks(unlabeled(4, number), number, labels(4))
        strong = view(4, number)
        assert torch.equal(seen.images, strong.images / 255)
        assert torch.equal(seen.sizes, strong.sizes)
        assert [len(t) for t in mine.cls] == [2] * 4
        assert (float(weight), float(other)) == (2, 0)
        assert not any(map(len, boxes.cls))
    (seen, mine, weight), (mosaic, boxes, other) = m.tasks(unlabeled(4, 2), 2, labels(4))
    assert [len(t) for t in mine.cls] == [4] * 4
    assert [len(t) for t in boxes.cls] == [8]
    assert (float(weight), float(other)) == (2, 1)
    assert len(mosaic) == 1


def test_a_mixup_meets_the_batch_before_the_last_and_a_mosaic_has_the_last() -> None:
    """Images of one colour each say where a picture comes from."""
    m = mixpl(**PLAIN)
    levels = {}
    for number in range(4):
        data = unlabeled(4, number)
        for i in range(4):
            levels[number, i] = 10 + 50 * number + 10 * i
            data.strong.images[i] = levels[number, i]
        made = m.tasks(data, number, labels(4))
    (mixed, *_), (mosaic, *_) = made
    partners = []
    for i, image in enumerate(mixed.images[:, 0] * 255):
        both = {round(float((levels[3, i] + levels[1, j]) / 2), 1): j for j in range(4)}
        found = {both[v] for v in (round(v, 1) for v in image.unique().tolist()) if v in both}
        assert len(found) == 1
        partners += found
    assert sorted(partners) == [0, 1, 2, 3]  # each once
    height, width = mosaic.sizes[0].tolist()
    around = [(mosaic.images[0, 0, height // 2 + y, width // 2 + x] * 255).round() for y in (-1, 0) for x in (-1, 0)]
    assert sorted(float(v) for v in around) == [levels[2, i] for i in range(4)]


def test_boxes_lie_where_their_pixels_are_in_both_pictures() -> None:
    """A white box in grey images, of which every view in a picture shows one."""
    m = mixpl(**PLAIN, interpolation="bilinear", mosaic_size=(70, 80))
    box = Pseudo([Targets(torch.tensor([[6.0, 8, 26, 28]]), torch.tensor([1]), torch.tensor([0.9]))] * 4)
    for number in range(3):
        data = unlabeled(4, number)
        data.strong.images.fill_(60)
        data.strong.images[:, :, 8:28, 6:26] = 255
        (mixed, mine, _), (mosaic, boxes, _) = m.tasks(data, number, box)
    for image, t in zip(mixed.images[:, 0], mine.cls):
        for x1, y1, x2, y2 in t.boxes.tolist():  # half white, and half what is there from the other one
            inner = image[math.ceil(y1) + 1 : int(y2) - 1, math.ceil(x1) + 1 : int(x2) - 1]
            assert inner.min() >= (1 + 60 / 255) / 2 - 1e-3
    outside = torch.ones_like(mosaic.images[0, 0], dtype=torch.bool)
    for x1, y1, x2, y2 in boxes.cls[0].boxes.tolist():
        assert mosaic.images[0, 0, math.ceil(y1) + 1 : int(y2) - 1, math.ceil(x1) + 1 : int(x2) - 1].min() > 0.99
        outside[int(y1) - 1 : math.ceil(y2) + 1, int(x1) - 1 : math.ceil(x2) + 1] = False
    assert mosaic.images[0, 0][outside].max() <= GREY[0] + 1e-6


@pytest.mark.parametrize(("n", "steps", "pictures"), [(1, 4, 1), (2, 3, 1), (3, 2, 1), (5, 2, 1), (8, 2, 2)])
def test_any_number_of_images_has_a_mosaic_of_the_newest_four(n: int, steps: int, pictures: int) -> None:
    m = mixpl(**PLAIN)
    m.see_batch(n)
    assert needed(n) == len(m.cache.facts)
    colors = iter(range(1, 255))
    for number in range(steps + 1):
        data = unlabeled(n, number)
        for image in data.strong.images:
            image.fill_(next(colors))
        made = m.tasks(data, number, labels(n))
        assert float(made[1][2]) == (number >= steps)
    mosaic = made[1][0]
    assert len(mosaic) == pictures
    newest = steps * n  # the last colour before this batch
    for i, (image, size) in enumerate(zip(mosaic.images[:, 0] * 255, mosaic.sizes)):
        y, x = (size // 2).tolist()
        found = sorted(round(float(image[y + dy, x + dx])) for dy in (-1, 0) for dx in (-1, 0))
        first = newest - 4 * (pictures - i) + 1
        assert found == [*range(first, first + 4)]


def test_no_mosaic_is_made_where_its_weight_is_0() -> None:
    assert len(run(mixpl(mosaic_weight=0), 3)) == 1


# ---- all or nothing ------------------------------------------------------------------------------------------------


def test_a_group_counts_if_each_of_its_pictures_has_a_box() -> None:
    m = mixpl(**PLAIN)
    (_, _, weight), _ = run(m, 1, empty=(2,))
    assert float(weight) == 0
    assert m.stats["pseudo/whole_mixup"] == 0
    m = mixpl(**PLAIN)
    m.see_batch(8)
    (_, _, weight), _ = run(m, 1, n=8, empty=(6,))
    assert float(weight) == 1  # one of two groups, times 2
    m = mixpl(**PLAIN)
    run(m, 2)
    (_, mine, weight), (_, _, other) = m.tasks(unlabeled(4, 2), 2, labels(4, (2,)))
    assert [len(t) for t in mine.cls] == [4, 4, 2, 4]
    assert float(weight) == 2  # an empty image has its partner's boxes
    assert float(other) == 1


def test_a_mosaic_without_a_box_does_not_count() -> None:
    m = mixpl(**PLAIN)
    run(m, 2, empty=(0, 1, 2, 3))
    (_, _, weight), (_, _, other) = m.tasks(unlabeled(4, 2), 2, labels(4))
    assert (float(weight), float(other)) == (2, 0)


def test_where_nothing_counts_labels_alone_teach() -> None:
    """The losses are there, so that every step has the same ones, and are 0."""
    m = mixpl(score=1.0)
    losses = m(batch(), 50)
    assert {key for key in losses if key.startswith("unsup/")} == {f"unsup/{k[4:]}" for k in losses if k[:4] == "sup/"}
    assert all(losses[key] == 0 for key in losses if key.startswith("unsup/"))
    sum(losses.values()).backward()
    gradient = [p.grad.clone() for p in m.student.parameters() if p.grad is not None]
    plain = method("supervised", detector("fcos"))
    sum(plain(batch(), 50).values()).backward()
    wanted = [p.grad for p in plain.student.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradient, wanted, strict=True))


def test_losses_of_both_pictures_are_added_with_their_weights() -> None:
    """Twice the weight is twice the loss, and without mosaics a part of it is missing."""
    found = {}
    for name, changes in {"one": {"weight": 1.0}, "two": {}, "bare": {"mosaic_weight": 0.0}}.items():
        m = mixpl(**PLAIN, **changes)
        m.label = lambda teacher, data: labels(4)
        for number in range(3):
            with torch.no_grad():
                losses = m(replace(unlabeled(4, number), labeled=batch().labeled), number)
        found[name] = losses["unsup/cls"]
    torch.testing.assert_close(found["two"], 2 * found["one"])
    assert 0 < found["bare"] < found["two"]


# ---- what is remembered, and chance ---------------------------------------------------------------------------------


def same(first: list[Task], second: list[Task]) -> bool:
    for (a, mine, weight), (b, other, factor) in zip(first, second, strict=True):
        equal = torch.equal(a.images, b.images) and torch.equal(a.sizes, b.sizes) and torch.equal(weight, factor)
        boxes = [torch.equal(s.boxes, t.boxes) and torch.equal(s.scores, t.scores) for s, t in zip(mine.cls, other.cls)]
        if not (equal and all(boxes) and torch.equal(a.keys, b.keys)):
            return False
    return True


def test_a_restored_state_makes_the_same_pictures() -> None:
    first = mixpl()
    run(first, 3)
    second = mixpl()
    second.load_state_dict(bits(first))
    data = unlabeled(4, 3)
    one, two = first.tasks(data, 3, labels(4)), second.tasks(data, 3, labels(4))
    assert same(one, two)
    assert float(one[1][2]) > 0
    assert all(torch.equal(a, b) for a, b in zip(bits(first).values(), bits(second).values()))
    assert not same(one, mixpl().tasks(data, 3, labels(4)))


def test_training_goes_on_with_the_same_bits_while_mosaics_are_made() -> None:
    first = mixpl(score=0.05, erase={"share": [0.0, 0.05]})
    optimizer = optimizer_of(first)
    for number in range(3):
        step(first, batch(), number, optimizer)
    second = mixpl(score=0.05, erase={"share": [0.0, 0.05]})
    second.load_state_dict(bits(first))
    other = optimizer_of(second)
    other.load_state_dict(optimizer.state_dict())
    for number in range(3, 5):
        step(first, batch(), number, optimizer)
        step(second, batch(), number, other)
        assert first.stats["pseudo/whole_mosaic"] == 1
    assert all(torch.equal(a, b) for a, b in zip(bits(first).values(), bits(second).values()))


def test_a_step_that_is_skipped_leaves_no_view() -> None:
    m = mixpl()
    run(m, 2)
    guard, before = Guard(m, optimizer_of(m)), bits(m)
    guard.remember()
    m.tasks(unlabeled(4, 2), 2, labels(4))
    assert m.cache.pushed == 12
    guard.restore()
    assert all(torch.equal(before[name], value) for name, value in bits(m).items())


def test_pictures_depend_on_keys_and_on_the_step_and_on_nothing_else() -> None:
    m = mixpl()
    run(m, 2)
    state, data = bits(m), unlabeled(4, 2)

    def made(number: int, data: Batch = data) -> list[Task]:
        m.load_state_dict(state)
        torch.rand(7)
        return m.tasks(data, number, labels(4))

    assert same(made(2), made(2))
    one, two = made(2), made(3)
    assert torch.equal(one[0][0].images, two[0][0].images)
    assert one[1][0].images.shape != two[1][0].images.shape  # the target is drawn by the step, too
    keys = replace(data.strong, keys=data.strong.keys + 1)
    other = made(2, Batch(data.labeled, {"weak": data.weak, "strong": keys}))
    assert not torch.equal(one[0][0].images, other[0][0].images)


def cut(data: Batch, rows: slice) -> Batch:
    names = ("images", "sizes", "matrix", "keys", "ids")
    views = {key: replace(v, **{name: getattr(v, name)[rows] for name in names}) for key, v in data.views.items()}
    return Batch(data.labeled, views)


def test_parts_of_a_step_make_the_pictures_of_the_whole() -> None:
    """Two parts of four images mix as one process with eight does, and as two processes would."""
    whole, parts, ranks = mixpl(), mixpl(), [mixpl(), mixpl()]
    whole.see_batch(8), parts.see_batch(8)
    rows = [slice(0, 4), slice(4, 8)]
    for number in range(3):
        data, boxes = unlabeled(8, number), labels(8)
        one = whole.tasks(data, number, boxes)
        state = bits(parts)

        def part(some: slice, state: dict[str, Tensor] = state, data: Batch = data, number: int = number) -> list[Task]:
            parts.load_state_dict(state)
            return parts.tasks(cut(data, some), number, labels(4))

        made, _ = together([lambda: part(rows[0]), lambda: part(rows[1])])
        alone = [m.tasks(cut(data, some), number, labels(4)) for m, some in zip(ranks, rows)]
        assert all(same(a, b) for a, b in zip(made, alone))
        for i, (mixed, mosaic) in enumerate(made):
            assert torch.equal(mixed[0].images, one[0][0].images[rows[i]])
            assert torch.equal(mosaic[0].sizes[0], one[1][0].sizes[i])
            height, width = mosaic[0].images.shape[-2:]
            assert torch.equal(mosaic[0].images[0], one[1][0].images[i, :, :height, :width])
            for mine, theirs in zip(mixed[1].cls + mosaic[1].cls, one[0][1].cls[rows[i]] + one[1][1].cls[i : i + 1]):
                assert torch.equal(mine.boxes, theirs.boxes)
    assert float(one[1][2]) == 1
    assert all(torch.equal(a, b) for a, b in zip(whole.cache.state_dict().values(), parts.cache.state_dict().values()))


def test_the_device_is_asked_what_is_dropped_and_nothing_else() -> None:
    m = mixpl()
    run(m, 2)
    data, boxes = unlabeled(4, 2), labels(4)
    with Waits() as waits:
        m.tasks(data, 2, boxes)
    assert waits.masks == 2  # when boxes move, and when pictures are made
    assert waits.copies == 1  # the number of boxes in the log, which stays on the host


def test_a_box_that_counts_nothing_stays_one() -> None:
    """An ignore region of a file that labels does not become an object in the cache."""
    m = mixpl(**PLAIN)
    for number in range(3):
        crowd = [replace(t, weight=torch.tensor([1.0, 0.0])) for t in labels(4).cls]
        (_, mine, _), (_, boxes, _) = m.tasks(unlabeled(4, number), number, Pseudo(crowd))
    assert all(t.weight.tolist() == [1, 0, 1, 0] for t in mine.cls)
    assert sorted(boxes.cls[0].weight.tolist()) == [0] * 4 + [1] * 4


# ---- the config -----------------------------------------------------------------------------------------------------


def test_the_room_of_the_cache_is_two_batches_of_a_process(tmp_path: Path) -> None:
    path = small_config(
        tmp_path, method={"name": "mix_pl", "cache": {"side": 64}}, train__batch={"labeled": 2, "unlabeled": 6}
    )
    cfg = config.load(path)
    data = build.load_data(cfg)
    m = build.build_method(cfg, data)
    assert isinstance(m, MixPL)
    assert m.cache.pixels.shape == (12, 3, 64, 64)
    assert (cfg.method.ema.every, cfg.method.ema.gamma, cfg.method.ema.decay) == (3, 4, 0.9998)
    rows, _ = facts(cfg, data, amounts(cfg, data))
    share = 1 - 4 / (4 + cfg.train.steps - 1)  # after the last step
    words = f"decay 0.9998, every 3 steps; {share:.3g} at the end of this run's warm-up"
    assert ("EMA half-life", f"{3 * half_life(share):.0f} steps ({words})") in rows
    assert [needed(n) for n in (1, 2, 3, 4, 8)] == [4, 5, 6, 8, 16]
    assert len(MixPL(detector("fcos"), Config(name="mix_pl")).cache.pixels) == 8  # what the release keeps


def test_a_report_reads_the_state_of_a_run_of_several_processes(tmp_path: Path) -> None:
    """Each had half of the batch, and so has the cache in the checkpoint; the report is one process."""
    batch_of_both = {"labeled": 2, "unlabeled": 6}
    path = small_config(tmp_path, method={"name": "mix_pl", "cache": {"side": 64}}, train__batch=batch_of_both)
    cfg = config.load(path)
    data = build.load_data(cfg)
    half = build.build_method(cfg, data)
    half.see_batch(3)
    half.cache.pixels.fill_(7)
    identity = {"classes": {"names": list(data.classes.names)}, "world_size": 2}
    window = {"sums": {}, "counts": {}, "last": {}, "skipped": 0}
    state = {"method": half.state_dict(), "step": 9, "identity": identity, "ranks": [{"window": window, "buffers": {}}]}
    state |= {"bad": 0, "best": None, "metrics": {}, "pending": False, "optimizer": {}, "scaler": {}}
    (tmp_path / "checkpoints").mkdir()
    checkpoint.save(tmp_path / "checkpoints", state)
    found, step = trained_method(SimpleNamespace(path=tmp_path), cfg, data)
    assert step == 9
    assert found.cache.pixels.shape == (6, 3, 64, 64)
    assert (found.cache.pixels == 7).all()


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"mix": {"mixup": 0.5, "mosaic": 0}}, "method.mix", "blends with labelled images"),
        ({"damping": 0.5}, "method.damping", "counts whole or not at all"),
        ({"mosaic_size": [0, 5]}, "method.mosaic_size", "above 0"),
        ({"mosaic_size": [9, 5]}, "method.mosaic_size", "smaller number first"),
        ({"erase": {"share": [0.0, 1.5]}}, "method.erase.share", "[0, 1]"),
        ({"erase": {"patches": [-1, 3]}}, "method.erase.patches", "below 0"),
        ({"cache": {"side": 0}}, "method.cache.side", "greater"),
        ({"interpolation": "cubic"}, "method.interpolation", "nearest"),
    ],
)
def test_what_the_config_refuses(tmp_path: Path, changes: dict, field: str, words: str) -> None:
    with pytest.raises(SsodError) as error:
        config.load(small_config(tmp_path, method={"name": "mix_pl", "burn_in": 6} | changes))
    assert (error.value.field, error.value.code) == (field, 2)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 1.0},
        {"mosaic_weight": 1.0},
        {"mosaic_size": (20, 24)},
        {"interpolation": "bilinear"},
        {"erase": {"patches": [5, 5], "share": [0.3, 0.3]}},
        {"erase": {"hidden": 0.01}},
        {"cache": {"side": 40}},
        {"cache": {"boxes": 1, "side": SIDE}},
    ],
    ids=str,
)
def test_every_key_of_its_own_changes_a_picture_or_its_weight(changes: dict) -> None:
    assert not same(run(mixpl(), 3), run(mixpl(**changes), 3))


def config_of_two(folder: Path) -> Path:
    """Two groups of four, all of one canvas: else one process pads its mosaics to a common size, and two do not."""
    own = {"name": "mix_pl", "score": 0.1, "ema": {"decay": 0.9}, "cache": {"side": 64}, "mosaic_size": 32}
    shared = {"train__batch": {"labeled": 2, "unlabeled": 8}, "data__split": {"percent": 25, "fold": 1}}
    net = ranks.begun("fcos", folder)
    return small_config(folder, detector=net, train__steps=4, **PLAIN_TRAIN | shared, method=own | {"burn_in": 0})


def last(folder: Path) -> dict:
    return checkpoint.load(folder / "checkpoints" / checkpoint.LAST)


@pytest.mark.slow
def test_two_ranks_mix_as_one_process_with_both_batches_does(tmp_path: Path) -> None:
    path = config_of_two(tmp_path)
    ranks.run(train_command(path, tmp_path / "one"))
    ranks.two(path, tmp_path / "two")
    alone, together = ranks.losses(tmp_path / "one"), ranks.losses(tmp_path / "two")
    assert len(alone) == len(together) == 4
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert [row["pseudo/whole_mosaic"] for row in rows if row["kind"] == "train"] == [0, 0, 1, 1]
    found = [ranks.largest_difference(a, b) for a, b in zip(alone, together)]
    assert max(found) <= 5e-5, found  # sums in another order, over four steps
    one, two = last(tmp_path / "one"), last(tmp_path / "two")
    mine = [share["buffers"]["cache.pixels"] for share in two["ranks"]]
    assert not torch.equal(*mine)
    batches = zip(*(pixels.split(4) for pixels in mine))  # each has four of every batch
    assert torch.equal(torch.cat([half for pair in batches for half in pair]), one["method"]["cache.pixels"])


@pytest.mark.slow
def test_two_ranks_go_on_with_their_own_views(tmp_path: Path) -> None:
    path = config_of_two(tmp_path)
    ranks.two(path, tmp_path / "two")
    ranks.two(path, tmp_path / "cut", "train.steps=3")
    ranks.two(path, tmp_path / "cut")
    two, cut = last(tmp_path / "two"), last(tmp_path / "cut")
    for a, b in zip(two["ranks"], cut["ranks"]):
        assert {"cache.pixels", "cache.facts"} < a["buffers"].keys()
        assert all(torch.equal(value, b["buffers"][name]) for name, value in a["buffers"].items())
    assert all(torch.equal(value, cut["method"][name]) for name, value in two["method"].items())


# ---- operations of the views ----------------------------------------------------------------------------------------


def transforms(item: object, count: int, size: tuple[int, int] = (8, 6)) -> list:
    (op,) = parse_list([item])
    return [op.draw(np.random.default_rng(i), size) for i in range(count)]


def test_colour_strengths_are_tenths_of_the_published_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[float]] = {name: [] for name in STRENGTH_OPS}
    for name in seen:
        monkeypatch.setitem(STRENGTH_OPS, name, lambda image, strength, name=name: seen[name].append(strength) or image)
    picture = Image.new("RGB", (8, 6), (200, 100, 40))
    for transform in transforms("color_op_uniform", 4000):
        transform.apply(picture)
    counts = {name: len(values) for name, values in seen.items()}
    assert all(abs(n - 4000 / 9) < 90 for n in counts.values()), counts  # one of nine, each as likely
    for name, values in seen.items():
        low, high = {"solarize": (0, 256), "posterize": (0, 4)}.get(name, (0.1, 1.9))
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high >= max(values) > high - 0.1 * (high - low)
        assert all(round(v, 1) == v for v in values)
        assert len(set(values)) > 15


def test_bits_are_rounded_up_and_none_is_black() -> None:
    picture = Image.new("RGB", (2, 1), (200, 100, 40))
    (op,) = parse_list([{"color_op_uniform": {"ops": ["posterize"], "bits": 0.0}}])
    assert op.draw(np.random.default_rng(0), (2, 1)).apply(picture).image().getpixel((0, 0)) == (0, 0, 0)
    (op,) = parse_list([{"color_op_uniform": {"ops": ["posterize"], "bits": 1.1}}])  # two bits
    assert op.draw(np.random.default_rng(0), (2, 1)).apply(picture).image().getpixel((0, 0)) == (192, 64, 0)
    (op,) = parse_list([{"color_op_uniform": {"ops": ["solarize"], "threshold": 100.0}}])
    assert op.draw(np.random.default_rng(0), (2, 1)).apply(picture).image().getpixel((0, 0)) == (55, 155, 40)


def test_geometry_is_one_of_five_by_the_tangent_and_either_way() -> None:
    kinds: dict[str, list[float]] = {}
    for transform in transforms("geometry_op", 3000, (200, 100)):
        (a, b, x), (c, _, y) = transform.matrix[:2]
        if b and c:
            name, value = "rotate", math.degrees(math.asin(c))
        elif b or c:
            name, value = ("shear_x" if b else "shear_y"), math.degrees(math.atan(b or c))
        else:
            name, value = ("translate_x" if x else "translate_y"), x / 200 or y / 100
        kinds.setdefault(name, []).append(value)
        assert transform.size == (200, 100)
        assert (x, y) == (0, 0) or name not in ("shear_x", "shear_y")  # from the top left corner
        assert a == 1 or name == "rotate"
    assert set(kinds) == {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
    for name, values in kinds.items():
        most = 0.1 if name.startswith("translate") else 30
        assert len(values) == pytest.approx(600, abs=100)
        assert -most <= min(values) < -0.9 * most
        assert 0.9 * most < max(values) <= most
        assert abs(np.mean(values)) < 0.1 * most
    moved = transforms({"geometry_op": {"ops": ["translate_x"], "share": 0.5}}, 1, (40, 20))[0]
    picture = moved.apply(Image.new("RGB", (40, 20), (255, 255, 255)))
    assert {color for _, color in picture.image().getcolors()} >= {(128, 128, 128), (255, 255, 255)}


def test_the_preset_does_both_in_random_order() -> None:
    (shuffle,) = parse_list(["mix_pl_strong"])
    assert [type(op).__name__ for group in shuffle.groups for op in group] == ["ColorOpUniform", "GeometryOp"]
