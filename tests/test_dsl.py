"""DSL: the released code's numbers through our functions, and what its three kinds of images share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssod import config
from ssod.data.loading import workers
from ssod.data.loading.loader import collate
from ssod.losses.scales import scale_distance
from ssod.methods.base import Labels, Method
from ssod.methods.dsl import Config
from ssod.pseudo_labels.class_balance import ClassBalance, balanced
from ssod.structures import Assignment, Batch, Predictions, Pseudo, Targets, View
from ssod.structures.boxes import LtrbCoder, clip, mirror
from ssod.transforms.half_copy import half_boxes, half_copy
from ssod.transforms.patch_shuffle import PatchShuffle, exchanged
from ssod.transforms.transform import Seen, Transform
from ssod.transforms.views import Pipeline, Sample, make_views
from ssod.utils.errors import SsodError
from tests.parts import together
from tests.paths import golden_path
from tests.small import small_config
from tests.test_methods import K, batch, detector, method, optimizer_of, some_targets, step, view
from tests.transforms.common import picture

FILE = np.load(golden_path("dsl.npz"), allow_pickle=False)
CASES = json.loads(str(FILE["cases_json"]))
CENTRAL = {"fcos": {"points": "middle", "box_weight": "centerness"}}


def named(kind: str) -> list:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["kind"] == kind]


def array(case: dict, name: str) -> Tensor:
    return torch.from_numpy(FILE[f"{case['id']}.{name}"])


def close(got: Tensor, wanted: Tensor, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got.detach().double(), wanted.double(), rtol=rtol, atol=atol)


def balance(classes: int, floor: float = 0.1) -> ClassBalance:
    return ClassBalance(classes, floor=floor, lowest=0.3, rise=0.05, power=0.05)


def scored(boxes: Tensor, labels: Tensor, scores: Tensor) -> Targets:
    return Targets(boxes.float(), labels, scores.float())


# ---- the released code's numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", named("threshold"))
def test_thresholds_of_several_epochs(case: dict) -> None:
    """A class without a counted box has none afterwards, counts all of its boxes, and is divided by the lowest."""
    thresholds = balance(case["num_classes"], floor=0.0)
    for epoch in range(case["epochs"]):
        scores, labels, image = (array(case, f"t{epoch}.{name}") for name in ("scores", "labels", "image"))
        images = [
            scored(torch.zeros(int((image == i).sum()), 4), labels[image == i], scores[image == i])
            for i in image.unique()
        ]
        for few in (images[:2], images[2:]):
            thresholds.see(few)
        thresholds.choose()
        wanted = array(case, f"t{epoch}.threshold")
        close(thresholds.values, wanted.nan_to_num(0))
        close(thresholds.thresholds(), wanted.nan_to_num(0.3))
        assert not thresholds.count.any()


@pytest.mark.parametrize("case", named("split"))
def test_labels_and_boxes_in_doubt(case: dict) -> None:
    """Sides of a pixel are none here, and what is below the lower limit is nothing; there it becomes a label."""
    thresholds = balance(case["num_classes"])
    thresholds.values.copy_(array(case, "threshold").nan_to_num(0))
    found = scored(*(array(case, name) for name in ("boxes", "labels", "scores")))
    here = replace(view(0, n=1), sizes=array(case, "image_hw")[None])
    labels = thresholds.divide([found]).move(here, here)
    wanted, low = array(case, "positive_boxes"), found.boxes[found.scores < case["low"]].double()
    wide = (wanted[:, 2:] - wanted[:, :2] > 1).all(1)
    kept = wide & ~(wanted[:, None] == low).all(2).any(1)
    close(labels.cls[0].boxes, clip(wanted[kept], here.sizes[0]))
    assert torch.equal(labels.cls[0].labels, array(case, "positive_labels")[kept])
    close(labels.unsure[0].boxes, array(case, "ignore_boxes"))


@pytest.mark.parametrize("case", named("half_image"))
def test_half_image_golden(case: dict) -> None:
    image = array(case, "image").float()
    whole = View(image[None], torch.tensor([image.shape[1:]]), torch.eye(3)[None], torch.zeros(1))
    half = half_copy(whole)
    close(half.images[0], array(case, "image_out"))
    boxes = [Targets(array(case, name), torch.zeros(len(array(case, name)))) for name in ("boxes", "ignore_boxes")]
    labels = half_boxes(Pseudo(boxes[:1], unsure=boxes[1:]))
    close(labels.cls[0].boxes, array(case, "boxes_out"))
    close(labels.unsure[0].boxes, array(case, "ignore_out"))


def level(case: dict, number: int, name: str) -> Tensor:
    return array(case, f"l{number}.{name}")


def rows(maps: list[Tensor]) -> Tensor:
    """[N, C, H, W] of each level -> [R, C], image-major."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1).flatten(0, 1)


def predictions(case: dict, m: Method, maps: dict[str, list[Tensor]], image: int) -> SimpleNamespace:
    grids = [tuple(x.shape[-2:]) for x in maps["logits"]]
    size = torch.tensor([case["image_hw"]])
    priors = m.student.anchors(tuple(case["image_hw"]), grids)
    logits, ltrb, quality = (rows([x[image : image + 1] for x in maps[name]]) for name in maps)
    image_of = torch.zeros(len(priors), dtype=torch.long)
    levels = tuple(h * w for h, w in grids)
    p = Predictions(
        logits,
        ltrb[:, None],
        priors,
        image_of,
        size,
        LtrbCoder(),
        quality=quality[:, 0],
        levels=levels,
        strides=tuple(case["strides"]),
        grids=tuple(grids),
    )
    return SimpleNamespace(stages={"dense": p}, proposals=None)


def targets(case: dict, image: int, ignore: bool = False) -> Targets:
    if ignore:
        boxes = array(case, f"i{image}.ignore_boxes").float()
        return Targets(boxes, torch.zeros(len(boxes), dtype=torch.long), torch.full((len(boxes),), 0.2))
    boxes, labels = array(case, f"i{image}.boxes").float(), array(case, f"i{image}.labels")
    return Targets(boxes, labels, torch.full((len(boxes),), 0.9))


def staged(case: dict, m: Method) -> tuple[Batch, dict[str, list[Tensor]], list[dict]]:
    """A batch of the file's images, its maps in the place of what the student says, and what is asked of them."""
    names = {"logits": "logits", "ltrb": "ltrb_strides", "quality": "centerness_logit"}
    count = len(case["strides"])
    maps = {own: [level(case, i, name).clone().requires_grad_() for i in range(count)] for own, name in names.items()}
    said = iter([predictions(case, m, maps, i) for i in range(3)])
    asked: list[dict] = []
    reduce = m.student.reduce
    m.student.predict = lambda view: next(said)
    m.student.reduce = lambda assigned, *more: asked.append(dict(assigned)) or reduce(assigned, *more)
    m.labels = lambda *_: Labels(SimpleNamespace(), Pseudo([targets(case, 1)], unsure=[targets(case, 1, ignore=True)]))
    here = View(
        torch.zeros(1, 3, *case["image_hw"]), torch.tensor([case["image_hw"]]), torch.eye(3)[None], torch.zeros(1)
    )
    truth = replace(targets(case, 0), scores=None)
    return Batch(replace(here, targets=[truth]), {"weak": here, "strong": here}), maps, asked


@pytest.mark.parametrize("case", [c for c in named("fcos_loss") if c.values[0]["batch"] == 3])
def test_losses_of_three_images(case: dict) -> None:
    """A whole step: cells in doubt, one divisor for all three images, weights that multiply terms, both scales."""
    m = method("dsl", detector("fcos", case["num_classes"], CENTRAL), slow=100 if case["consistency_weight"] < 1 else 0)
    data, maps, asked = staged(case, m)
    losses = m(data, 50)
    for own, name in {"cls": "cls", "box": "box", "quality": "centerness"}.items():
        close(losses[f"sup/{own}"] + losses[f"unsup/{own}"], array(case, f"loss_{name}"), rtol=1e-4)
    close(losses["unsup/consistency"], array(case, "loss_consistency"))
    for i, of in enumerate(asked):
        _, a = of["dense"]
        count = range(len(case["strides"]))
        ignored, labels = (torch.cat([level(case, at, x)[i].flatten() for at in count]) for x in ("ignored", "labels"))
        assert torch.equal(a.cls, labels)
        assert torch.equal(a.cls_weight == 0, ignored & (labels == case["num_classes"]))
    sum(losses.values()).backward()
    for own, name in {"logits": "logits", "ltrb": "ltrb", "quality": "centerness"}.items():
        for i, x in enumerate(maps[own]):
            grad = torch.zeros_like(x) if x.grad is None else x.grad
            close(grad, level(case, i, f"grad_{name}"), rtol=1e-3)


# ---- patches that change places ------------------------------------------------------------------------------------


def cut_of(case: dict) -> Transform:
    height, width = array(case, "image").shape[:2]
    return exchanged((width, height), int(array(case, "cut")), across=case["axis"] == "x")


def all_boxes(case: dict, suffix: str = "") -> list[Targets]:
    """Labels and boxes in doubt, the released code's input or output."""
    labels = array(case, f"labels{suffix}").long()
    ignored = array(case, f"ignore{suffix or '_boxes'}").view(-1, 4)
    boxes = array(case, f"boxes{suffix}").view(-1, 4)
    return [Targets(boxes, labels), Targets(ignored, torch.zeros(len(ignored), dtype=torch.long))]


def wide(t: Targets) -> Targets:
    return t[(t.boxes[:, 2:] - t.boxes[:, :2] > 1).all(1)]  # others are dropped here


@pytest.mark.parametrize("case", named("patch_shuffle"))
def test_boxes_go_with_their_pixels(case: dict) -> None:
    """True boxes inside the view, and pseudo-labels by what the view says of its parts, one box or two for each."""
    picture, wanted = Image.fromarray(array(case, "image").numpy()), [wide(t) for t in all_boxes(case, "_out")]
    cut = cut_of(case)
    for given, out in zip(all_boxes(case), wanted):
        seen = cut.follow(Seen(picture, np.eye(3), given))
        assert np.array_equal(np.asarray(seen.image), array(case, "image_out").numpy())
        close(seen.boxes().boxes, out.boxes)
        assert seen.boxes().labels.tolist() == out.labels.tolist()
    unknown = cut.follow(Seen(picture, np.eye(3), None))
    assert np.array_equal(np.asarray(unknown.image), array(case, "image_out").numpy())
    src = collate([Sample(picture, np.eye(3), 0, None)], [0], 8)
    dst = collate([Sample(unknown.image, unknown.matrix, 0, None, unknown.pieces)], [0], 8)
    labels, doubt = all_boxes(case)
    moved = Pseudo([labels], unsure=[doubt]).move(src, dst)
    for got, out in zip((moved.cls[0], moved.unsure[0]), wanted):
        close(got.boxes, out.boxes)
        assert got.labels.tolist() == out.labels.tolist()


OPS = [{"resize": {"ratio": 0.8}}, {"patch_shuffle": {"p": 1}}, {"flip": {"p": 1}}, {"resize": {"ratio": 1.5}}]


def test_pseudo_labels_follow_as_true_boxes_do() -> None:
    """From the mirrored weak view into one that is scaled, cut, mirrored and scaled again; one image stays whole."""
    boxes = torch.tensor([[3.0, 5, 40, 44], [30, 2, 77, 20], [50, 30, 60, 58], [1, 1, 79, 59]])
    truth = Targets(boxes, torch.tensor([0, 1, 2, 0]), torch.tensor([0.9, 0.8, 0.7, 0.6]))
    views = {"weak": Pipeline.model_validate([{"flip": {"p": 1}}]), "strong": Pipeline.model_validate(OPS)}
    plain = views | {"strong": Pipeline.model_validate(OPS[:1])}
    counts = []
    for draw in range(6):
        image = picture(80, 60, draw)
        known, blind = ([make_views(image, of, v, draw) for v in (views, plain)] for of in (truth, None))
        src, dst = (collate([of[name] for of in blind], [0, 1], 32) for name in ("weak", "strong"))
        assert np.array_equal(np.asarray(known[0]["strong"].image), np.asarray(blind[0]["strong"].image))
        labels = Pseudo([of["weak"].targets for of in known])
        moved = labels.move(src, dst).cls
        for got, of in zip(moved, known):
            close(got.boxes, of["strong"].targets.boxes, atol=1e-3)
            assert torch.equal(got.labels, of["strong"].targets.labels)
            assert torch.equal(got.confidence(), of["strong"].targets.confidence())
        mirrored = labels.move(src, dst.flipped()).cls
        close(mirrored[0].boxes, mirror(moved[0].boxes, dst.sizes[0, 1]), atol=1e-3)
        counts.append((len(moved[0]), len(moved[1])))
        with pytest.raises(TypeError, match="out of a view that was cut"):
            Pseudo(moved).move(dst, src)
    assert all(whole == 4 for _, whole in counts)
    assert max(cut for cut, _ in counts) > 4


def test_boxes_in_pieces_go_to_the_half_copy() -> None:
    """As those of the view that was cut, at half their size; half of a pixel is the least that stays of them."""
    image, truth = picture(80, 60), Targets(torch.tensor([[3.0, 5, 40, 44], [50, 30, 60, 58]]), torch.tensor([0, 1]))
    views = {"weak": Pipeline.model_validate(OPS[:1]), "strong": Pipeline.model_validate(OPS)}
    blind = [make_views(image, None, views, draw) for draw in range(3)]
    src, dst = (collate([of[name] for of in blind], [0, 1, 2], 32) for name in ("weak", "strong"))
    labels = Pseudo([truth] * 3)
    whole, half = labels.move(src, dst).cls, labels.move(src, half_copy(dst), 0.5).cls
    assert max(len(t) for t in whole) > 2
    for a, b in zip(whole, half):
        close(b.boxes, a.boxes / 2, atol=1e-3)


def test_parts_come_through_the_workers() -> None:
    blind = make_views(picture(80, 60), None, {"strong": Pipeline.model_validate(OPS)}, 0)["strong"]
    strong = collate([blind], [0], 32)
    sent = workers._each_view(Batch(view(0), {"strong": strong}), workers._to_array)
    got = workers._unpack(sent).strong
    for name in ("before", "regions", "after"):
        assert torch.equal(getattr(got.pieces, name), getattr(strong.pieces, name))
    assert workers._unpack(sent).labeled.pieces is None


def test_two_cuts_undo_each_other() -> None:
    image = np.asarray(picture(50, 30))
    for across, length in ((True, 50), (False, 30)):
        once, again = (exchanged((50, 30), cut, across=across) for cut in (11, length - 11))
        assert np.array_equal(np.asarray(again.apply(once.apply(Image.fromarray(image)))), image)


def test_half_of_the_pictures_are_cut() -> None:
    """Across and down alike, and the same whatever is drawn besides."""
    seen = [PatchShuffle().draw(np.random.default_rng(i), (64, 48)) for i in range(400)]
    cut = [t for t in seen if t.always]
    assert 160 < len(cut) < 240
    place = [cut.boxed(Seen(picture(64, 48), np.eye(3), None)).pieces.regions[0, 0].tolist() for cut in cut[:100]]
    across = [region for region in place if region[3] == 48]
    assert 30 < len(across) < 70
    assert {region[2] for region in across} != {64}


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ("views.unlabeled.weak=[patch_shuffle]", "views.unlabeled", "tears apart what the teacher is to find whole"),
        ("views.unlabeled.strong=[patch_shuffle, {maybe: {ops: [patch_shuffle]}}]", "views.unlabeled", "cut 2 times"),
        ("views.val=[patch_shuffle]", "views.val", "tears apart what is to be found whole"),
        ("method={name: soft_teacher}", "views.unlabeled.strong", "'soft_teacher' asks its teacher for more"),
        ("method={name: dense_teacher, burn_in: 2}", "views.unlabeled.strong", "'dense_teacher' asks its teacher"),
    ],
)
def test_where_no_picture_may_be_cut(tmp_path: Path, change: str, field: str, words: str) -> None:
    with pytest.raises(SsodError) as error:
        config.load(small_config(tmp_path, views__unlabeled__strong=["patch_shuffle"]), [change])
    assert error.value.field.startswith(field)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


# ---- a step --------------------------------------------------------------------------------------------------------

DENSE = ["fcos", "retinanet"]


def dsl(net: str, keys: dict | None = None, **changes: object) -> Method:
    return method("dsl", detector(net, keys={net: keys or {}}), **changes)


def spied(m: Method, data: Batch, number: int = 50) -> tuple[dict[str, Tensor], list[tuple[Predictions, Assignment]]]:
    """Losses of a step, and what each look was asked for: labelled images, unlabelled ones, these at half the size."""
    asked: list[tuple[Predictions, Assignment]] = []
    reduce = m.student.reduce
    m.student.reduce = lambda assigned, *more: asked.append(assigned["dense"]) or reduce(assigned, *more)
    losses = m(data, number)
    m.student.reduce = reduce
    return losses, asked


@pytest.mark.parametrize(
    ("net", "keys"),
    [("fcos", {}), ("fcos", {"box_weight": "centerness"}), ("retinanet", {}), ("fcos", {"assigner": "adaptive"})],
)
def test_all_images_of_a_step_are_divided_by_what_they_count_together(net: str, keys: dict) -> None:
    m = dsl(net, keys)
    losses, asked = spied(m, batch())
    assert len(asked) == 3
    assert all(a.fg.any() for _, a in asked)
    for name in asked[0][1].normalizer:
        assert len({float(a.normalizer[name]) for _, a in asked}) == 1
    divided = asked[0][1].normalizer["cls"]
    if "assigner" not in keys:
        assert divided == sum(int((a.matches() >= 0).sum()) for _, a in asked)
    own = [replace(a, normalizer={"cls": torch.ones(())}) for _, a in asked]
    sums = [m.student.reduce({"dense": (p, a)})["cls"] for (p, _), a in zip(asked, own)]
    torch.testing.assert_close(losses["sup/cls"], sums[0] / divided)
    torch.testing.assert_close(losses["unsup/cls"], 3 * (sums[1] + sums[2]) / divided)
    before, alone = spied(dsl(net, keys, burn_in=60), batch())
    assert len(alone) == 1
    assert "centerness" not in alone[0][1].normalizer
    assert before.keys() == {key for key in losses if key.startswith("sup/")}


@pytest.mark.parametrize("net", DENSE)
def test_rows_of_boxes_in_doubt_learn_no_class_unless_they_learn_a_sure_box(net: str) -> None:
    m, data = dsl(net, score=0.9), batch(flip=False)
    sure = [replace(t, scores=torch.ones(len(t))) for t in some_targets()]
    # The same boxes, and smaller ones inside them, which FCOS would give the rows to.
    doubt = [replace(t, boxes=t.boxes + torch.tensor([4.0, 4, -4, -4])) for t in sure]
    m.label = lambda teacher, of: Pseudo(sure, unsure=doubt)
    _, (_, (p, a), _) = spied(m, data)
    plain, other = (m.student.assign(SimpleNamespace(stages={"dense": p}), t)["dense"][1] for t in (sure, doubt))
    objects = plain.matched >= 0
    assert torch.equal(a.cls, plain.cls)
    assert torch.equal(a.box_weight, plain.box_weight)
    assert torch.equal(a.cls_weight, plain.cls_weight * ~((other.matched != -1) & ~objects))
    labels = Pseudo(sure, unsure=doubt).with_ignored()
    assert torch.equal(torch.cat([t.boxes for t in labels])[a.matched[objects]], plain.box[objects])
    m.label = lambda teacher, of: Pseudo([t[:0] for t in sure], unsure=doubt)
    _, (_, (_, alone), _) = spied(m, data)
    assert torch.equal(alone.cls_weight == 0, other.matched != -1)
    assert not alone.fg.any()


@pytest.mark.parametrize("net", DENSE)
def test_both_sizes_learn_from_their_distance(net: str) -> None:
    m, data = dsl(net, slow=0), batch()
    losses, asked = spied(m, data)
    whole, half = asked[1][0], asked[2][0]
    torch.testing.assert_close(losses["unsup/consistency"], scale_distance(whole, half))
    gradient = torch.autograd.grad(scale_distance(whole, half), (whole.logits, half.logits))
    assert all(g.any() for g in gradient)
    n, k, per_cell = whole.num_images, whole.num_classes, m.student.anchors.per_cell
    start = sum(whole.levels[:1])
    (h, w), cells = whole.grids[1], whole.logits.view(n, -1, k)
    second = cells[:, start : start + h * w * per_cell].reshape(n, h, w, -1)
    first = half.logits.view(n, -1, k)[:, : whole.levels[0]].reshape(n, *whole.grids[0], -1)[:, :h, :w]
    pairs = [(second - first).square().mean()]
    rest = scale_distance(whole, half) - pairs[0]
    assert rest > 0
    doubled = replace(whole, logits=torch.cat([cells[:, :start] * 9, cells[:, start:]], 1).flatten(0, 1))
    torch.testing.assert_close(scale_distance(doubled, half), pairs[0] + rest)  # no level lies below the first


def test_the_distance_counts_little_at_first() -> None:
    m = dsl("fcos", burn_in=10, slow=5, consistency=2.0)
    assert [m.consistency(number) for number in (10, 14, 15, 90)] == [0.002, 0.002, 2.0, 2.0]
    assert "unsup/consistency" not in dsl("fcos", consistency=0)(batch(), 50)


def test_thresholds_are_chosen_after_each_so_many_steps_and_come_back() -> None:
    m = dsl("fcos", burn_in=2, every=3, rise=0.3)
    optimizer, seen = optimizer_of(m), []
    for number in range(9):
        data = batch() if number >= 2 else Batch(view(0, some_targets()))
        if number == 4:
            m(data, number)
            m.after_skip(number)
        else:
            step(m, data, number, optimizer)
        seen.append((m.balance.values.clone(), int(m.balance.count.sum())))
    counts = [count for _, count in seen]
    assert [count == 0 for count in counts] == [True, True, False, False, True, False, False, True, False]
    assert torch.equal(seen[3][0], torch.full((K,), 0.3))
    assert not torch.equal(seen[4][0], seen[3][0])
    other = dsl("fcos", burn_in=2, every=3, rise=0.3)
    other.load_state_dict(m.state_dict())
    for name in ("values", "count", "total"):
        assert torch.equal(getattr(other.balance, name), getattr(m.balance, name))


def test_parts_and_ranks_count_what_all_of_them_see() -> None:
    g = torch.Generator().manual_seed(0)
    images = [
        scored(torch.rand(n, 4, generator=g), torch.randint(0, K, (n,), generator=g), torch.rand(n, generator=g))
        for n in (5, 0, 7, 20)
    ]

    def counted(some: list[Targets]) -> ClassBalance:
        of = balance(K)
        of.see(some)
        return of

    alone = counted(images)
    parts, _ = together([lambda some=some: counted(some) for some in (images[:2], images[2:])])
    assert alone.count.sum() > 0
    for of in parts:
        assert torch.equal(of.count, alone.count)
        torch.testing.assert_close(of.total, alone.total, rtol=1e-6, atol=0)


def test_ignore_regions_are_not_counted_and_a_constant_share_changes_nothing() -> None:
    crowd = replace(scored(torch.zeros(2, 4), torch.zeros(2).long(), torch.ones(2)), weight=torch.tensor([1.0, 0]))
    of = balance(2)
    of.see([crowd])
    assert of.count.tolist() == [1, 0]
    count = torch.tensor([40, 40, 0])
    assert balanced(count, count * 0.5, 0.3, 0.05, 0.0).tolist() == pytest.approx([0.3, 0.3, 0])


def test_a_half_copy_of_an_odd_picture() -> None:
    """Its last column has the mean colour beside it; what lies outside is padding, and places follow the matrix."""
    picture_ = View(
        torch.full((1, 3, 8, 8), 255, dtype=torch.uint8), torch.tensor([[5, 6]]), torch.eye(3)[None], torch.zeros(1)
    )
    half = half_copy(picture_)
    assert half.sizes.tolist() == [[3, 3]]
    assert half.images[0, :, :2, :3].eq(1).all()
    assert half.images[0, 0, 2, 0] == pytest.approx((1 + 0.485) / 2)
    assert not half.images[0, :, 3:].any()
    assert half.matrix[0].diagonal().tolist() == [0.5, 0.5, 1]


# ---- the config ----------------------------------------------------------------------------------------------------


def test_the_released_constants_are_the_defaults() -> None:
    cfg = Config(name="dsl")
    assert (cfg.weight, cfg.score, cfg.rise, cfg.power, cfg.unsure) == (3.0, 0.3, 0.05, 0.05, 0.1)
    assert (cfg.consistency, cfg.slow, cfg.every) == (1.0, 5000, 13_300)
    assert (cfg.ema.decay, cfg.ema.warm_up, cfg.ema.start) == (0.99, False, 0)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"every": 0}, "method.every", "must be 1 or more"),
        ({"unsure": 0.4}, "method.unsure", "above 'score: 0.3', so that no detection is in doubt"),
        ({"threshold": "gmm"}, "method.threshold", "unknown key"),
    ],
)
def test_what_the_config_refuses(tmp_path: Path, changes: dict, field: str, words: str) -> None:
    with pytest.raises(SsodError) as error:
        config.load(small_config(tmp_path, method={"name": "dsl", "burn_in": 6} | changes))
    assert (error.value.field, error.value.code) == (field, 2)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_detectors_that_have_nothing_to_compare_are_refused() -> None:
    with pytest.raises(SsodError, match="a detector with proposals has none of them") as error:
        method("dsl", detector("faster_rcnn"))
    assert (error.value.field, error.value.code) == ("method.name", 2)
    one = detector("fcos", keys={"fcos": {"levels": (4, 4)}})
    with pytest.raises(SsodError, match=r"set method\.consistency=0") as error:
        method("dsl", one)
    assert error.value.field == "detector.levels"
    assert "unsup/cls" in method("dsl", one, consistency=0)(batch(), 50)
