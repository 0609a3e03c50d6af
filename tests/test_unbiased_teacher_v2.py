"""Unbiased Teacher v2: the released code's numbers through our functions, and what its sides and weights do."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ssod import config
from ssod.assign.surer_sides import by_place, certainty, surer_sides
from ssod.detectors import weights
from ssod.detectors.dense import Dense
from ssod.detectors.heads.integral import Integral
from ssod.inference.export import Graph, convert, runner
from ssod.inference.export_parity import measure
from ssod.losses.box import l1, nll
from ssod.methods.registry import find
from ssod.methods.unbiased_teacher_v2 import Config
from ssod.structures import Assignment, Batch, Predictions, Pseudo, Targets, join
from ssod.structures.boxes import SideCoder, clip, warp_sides
from ssod.utils.errors import SsodError
from tests.losses.rows import predictions
from tests.paths import golden_path
from tests.rows import context
from tests.small import small_config
from tests.test_methods import SIDES, asked_for, batch, detector, method, some_targets, view
from tools.export_parity import SIZES, pictures, random_model

FILE = np.load(golden_path("unbiased_teacher_v2.npz"), allow_pickle=False)
CASES = json.loads(str(FILE["cases_json"]))
LRTB = (0, 2, 1, 3)  # the released Faster R-CNN's order of sides


def of_kind(kind: str) -> list:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["kind"] == kind]


def array(case: dict, name: str) -> Tensor:
    return torch.from_numpy(FILE[f"{case['id']}.{name}"])


def close(got: Tensor, wanted: Tensor, rtol: float = 1e-6, atol: float = 1e-8) -> None:
    torch.testing.assert_close(got.detach().double(), wanted.double(), rtol=rtol, atol=atol)


# ---- the released FCOS ---------------------------------------------------------------------------------------------

MAPS = ("logits", "reg_logits", "centerness_logit", "delta")


def maps_of(case: dict, images: int) -> dict[str, list[Tensor]]:
    levels = sum(f"{case['id']}.l{i}.logits" in FILE for i in range(9))
    return {n: [array(case, f"l{i}.{n}")[:images].requires_grad_() for i in range(levels)] for n in MAPS}


def rows_of(student: Dense, maps: dict[str, list[Tensor]], height: int, width: int) -> Predictions:
    def flat(name: str) -> Tensor:
        return torch.cat([x.flatten(2).transpose(1, 2) for x in maps[name]], 1).flatten(0, 1)

    grids = [tuple(x.shape[-2:]) for x in maps["logits"]]
    n, priors = len(maps["logits"][0]), student.anchors((height, width), grids)
    return Predictions(
        logits=flat("logits"),
        deltas=student.head.integral(flat("reg_logits"))[:, None],
        priors=priors.repeat(n, 1),
        image=torch.arange(n).repeat_interleave(len(priors)),
        sizes=torch.tensor([[height, width]]).repeat(n, 1),
        coder=student.coder,
        quality=flat("centerness_logit").squeeze(1),
        levels=tuple(h * w for h, w in grids),
        strides=student.strides,
        grids=tuple(grids),
        box_std=flat("delta"),
    )


def level_first(p: Predictions, rows: Tensor) -> Tensor:
    """Image, level, row, column -> level, image, row, column."""
    each = rows.unflatten(0, (p.num_images, -1)).split(p.levels, 1)
    return torch.cat([part.flatten(0, 1) for part in each])


def boxes(case: dict, image: int, part: str = "") -> Targets:
    name = f"i{image}{part}"
    found = Targets(array(case, f"{name}.boxes"), array(case, f"{name}.labels"))
    if part:
        found.box_std = array(case, f"{name}.boundary_delta")
    return found


def gradients(case: dict, maps: dict[str, list[Tensor]], loss: Tensor) -> None:
    """Compare the derivatives; those of the classes went through float32."""
    loss.backward()
    for name in MAPS:
        for i, x in enumerate(maps[name]):
            got = torch.zeros_like(x) if x.grad is None else x.grad
            rtol, atol = (1e-4, 1e-8) if name == "logits" else (1e-5, 1e-8)
            close(got, array(case, f"l{i}.grad_{name}")[: len(x)], rtol, atol)


@pytest.mark.parametrize("case", of_kind("fcos_unsup"))
def test_pseudo_labels_on_fcos_golden(case: dict) -> None:
    """Classes and centerness by one set, sides by the other, averaged over those that learn; no box is background."""
    m = method("unbiased_teacher_v2", detector("fcos", case["num_classes"], SIDES), certainty=case["c_min"], weight=1.0)
    m.cfg, m = m.cfg.model_copy(update={"margin": case["margin"]}), m.double()
    n, (height, width) = case["batch"], case["image_hw"]
    maps = maps_of(case, n)
    p = rows_of(m.student, maps, height, width)
    labels = Pseudo([boxes(case, i, ".cls") for i in range(n)], [boxes(case, i, ".reg") for i in range(n)])
    rows = m.student.rows | m.criterion.rows("unsup", labels)
    out = SimpleNamespace(stages={"dense": p})
    ctx = context(student=out, teacher=out, labels=labels, view=view(0, n=n), rows=rows, side="unsup")
    a = m.reweight("dense", p, m.assign(ctx)["dense"][1], ctx)
    assert torch.equal(level_first(p, a.box_weight > 0), array(case, "selected_lnhw"))
    assert m.stats["pseudo/foreground_sides_per_image"] * n == case_count(case)
    assert torch.equal(level_first(p, a.quality_of.cls), array(case, "cls_labels_lnhw"))
    losses = m.learn(ctx)
    close(losses["cls"], array(case, "loss_cls"), 1e-5)
    close(losses["box"], array(case, "loss_loc"))
    close(losses["quality"], array(case, "loss_ctr"))
    gradients(case, maps, losses["cls"] + losses["box"] + losses["quality"])


def case_count(case: dict) -> int:
    return int(array(case, "n_selected"))


@pytest.mark.parametrize("case", of_kind("fcos_sup"))
def test_labels_on_fcos_golden(case: dict) -> None:
    """GIoU by centerness and the likelihood beside it, without our floor; images without a box are left out by hand."""
    student = detector("fcos", case["num_classes"], SIDES).double()
    student.rows["spread"] = partial(student.rows["spread"], floor=1e-9)
    n, (height, width) = case["batch"], case["image_hw"]
    n -= sum(len(boxes(case, i)) == 0 for i in range(n))
    maps = maps_of(case, n)
    p = rows_of(student, maps, height, width)
    out = SimpleNamespace(stages={"dense": p})
    losses = student.reduce(student.assign(out, [boxes(case, i) for i in range(n)]))
    close(losses["cls"], array(case, "loss_cls"), 1e-5)
    close(losses["box"] + losses["spread"], array(case, "loss_loc"))
    close(losses["quality"], array(case, "loss_ctr"))
    gradients(case, maps, sum(losses.values()))


def test_a_distance_is_the_mean_of_its_distribution() -> None:
    integral = Integral(17)
    sure = torch.full((2, 4, 17), -50.0)
    sure[..., 5] = 50.0
    assert torch.equal(integral(sure.flatten(1)), torch.full((2, 4), 5.0))
    torch.testing.assert_close(integral(torch.zeros(1, 68)), torch.full((1, 4), 8.0))


# ---- the released Faster R-CNN -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", of_kind("roi"))
def test_sides_of_proposals_golden(case: dict) -> None:
    def sides(name: str) -> Tensor:
        return array(case, name)[:, LRTB].clone()

    deltas, std = sides("pred_deltas").requires_grad_(), sides("pred_delta_std").requires_grad_()
    labels, priors, rows = array(case, "gt_classes"), array(case, "proposals"), case["R"]
    fg = labels < case["num_classes"]
    p = Predictions(
        torch.zeros(rows, case["num_classes"] + 1), deltas[:, None], priors, torch.zeros(rows, dtype=torch.long),
        torch.tensor([[400, 400]]), SideCoder(case["weights"]), softmax=True, box_std=std,
    )  # fmt: skip
    a = Assignment(labels, torch.ones(rows), array(case, "gt_boxes"), fg.double(), box_std=sides("teacher_delta_std"))
    close(p.boxes().float(), array(case, "decoded").float(), 1e-4, 1e-4)
    close(p.coder.encode(a.box, priors)[fg], sides("target_deltas")[fg])
    listening = surer_sides(p, a, case["c_min"], case["margin"])
    assert torch.equal((listening.box_weight > 0)[fg], array(case, "selected")[:, LRTB][fg])
    pseudo = listening.weighed_box(l1(p, listening)).sum() / rows
    close(pseudo, array(case, "loss_pseudo"))
    pseudo.backward()
    close(deltas.grad, array(case, "grad_pseudo_deltas")[:, LRTB], 1e-5)
    assert std.grad is None or not std.grad.any()
    deltas.grad = None
    labelled = (l1(p, a) + 0.05 * nll(p, a, iou_slope=True)).sum() / rows
    close(labelled, array(case, "loss_supervised"))
    labelled.backward()
    close(deltas.grad, array(case, "grad_sup_deltas")[:, LRTB], 1e-5)
    close(std.grad, array(case, "grad_sup_std")[:, LRTB], 1e-5)


# ---- sides that travel ---------------------------------------------------------------------------------------------


def test_a_number_of_a_side_goes_where_the_side_goes() -> None:
    values = torch.tensor([[1.0, 2, 3, 4]])
    ways = {
        "as it is": ([[2.0, 0, 5], [0, 2, 0], [0, 0, 1]], [1, 2, 3, 4]),
        "flip": ([[-1.0, 0, 90], [0, 1, 0], [0, 0, 1]], [3, 2, 1, 4]),
        "upside down": ([[1.0, 0, 0], [0, -1, 90], [0, 0, 1]], [1, 4, 3, 2]),
        "quarter turn": ([[0.0, 1, 0], [-1, 0, 90], [0, 0, 1]], [2, 3, 4, 1]),
        "a little": ([[0.9, 0.1, 0], [-0.1, 0.9, 0], [0, 0, 1]], [1, 2, 3, 4]),
    }
    for matrix, wanted in ways.values():
        assert warp_sides(values, torch.tensor([matrix])).tolist() == [wanted]


def test_boxes_keep_their_deviations_where_they_move_and_mix() -> None:
    src, dst = view(0), view(0, flip=True)
    own = Targets(torch.tensor([[8.0, 8, 50, 60]]), torch.tensor([1]), torch.tensor([0.7]))
    own.box_std = torch.tensor([[1.0, 2, 3, 4]])
    nothing = Targets.empty(torch.zeros(1))
    moved = Pseudo([own, nothing]).move(src, dst).cls
    assert moved[0].box_std.tolist() == [[3, 2, 1, 4]]
    assert moved[1].box_std is None or len(moved[1].box_std) == 0
    both = join([own, some_targets()[0]])
    assert both.box_std[0].tolist() == [1, 2, 3, 4]
    assert torch.equal(certainty(both.box_std[1:]), torch.ones(2, 4))  # truth is certain


@pytest.mark.parametrize("net", SIDES)
def test_a_detection_has_the_deviations_of_its_row(net: str) -> None:
    m = method("unbiased_teacher_v2", detector(net))
    out = m.teacher.predict(view(5))
    found = out.detections(rank=by_place)
    if net == "faster_rcnn":
        p = out.score(out.proposals)
    else:
        p = out.stages["dense"]
    boxes = clip(p.boxes(), p.sizes[p.image])
    seen = 0
    for i, t in enumerate(found):
        assert t.box_std.shape == (len(t), 4)
        assert t.scores[:-1].ge(t.scores[1:]).all()
        for box, std, score, label in list(zip(t.boxes, t.box_std, t.scores, t.labels))[:5]:
            rows = ((boxes - box).abs().amax(1) < 1e-3) & (p.image == i)
            assert any(
                torch.allclose(own, std, atol=1e-5) and abs(rank - score) < 1e-5
                for own, rank in zip(p.box_std[rows], by_place(p)[rows][:, label])
            )
            seen += 1
    assert seen
    assert all(len(t.box_std) == len(t) for t in out.detections(score=1.0))


# ---- what teaches what ---------------------------------------------------------------------------------------------


def test_a_side_learns_where_the_teacher_is_certain_and_surer() -> None:
    theirs = torch.tensor([[0.79, 0.81, 0.95, 0.95], [0.9, 0.9, 0.9, 0.9]])
    mine = torch.tensor([[0.1, 0.1, 0.86, 0.84], [0.1, 0.1, 0.1, 0.1]])
    p = predictions(torch.zeros(2, 1), box_std=-mine.logit())
    a = Assignment(torch.zeros(2).long(), torch.ones(2), torch.zeros(2, 4), torch.tensor([0.5, 0.0]))
    a.box_std = -theirs.logit()
    assert surer_sides(p, a, 0.8, 0.1).box_weight.tolist() == [[0, 0.5, 0, 0.5], [0, 0, 0, 0]]
    assert surer_sides(p, a, 0.5, 0.1).box_weight.tolist() == [[0.5, 0.5, 0, 0.5], [0, 0, 0, 0]]


@pytest.mark.parametrize("net", ["retinanet", "fcos"])
def test_one_ranking_teaches_classes_and_another_places(net: str) -> None:
    m, data = method("unbiased_teacher_v2", detector(net)), batch()
    out = m.teacher.predict(data.weak)
    plain, placed = out.detections(rank=Predictions.probs), out.detections(rank=by_place)
    low, high = (torch.cat([t.scores for t in found]).median().item() for found in (placed, plain))
    assert low != high
    m.cfg = m.cfg.model_copy(update={"score": high, "box_score": low})
    labels = m.labels(data, 50).pseudo
    for i in range(2):
        assert torch.equal(labels.cls[i].boxes, plain[i].boxes[plain[i].scores > high])
        assert torch.equal(labels.box[i].boxes, placed[i].boxes[placed[i].scores > low])
    for found in (labels.cls, labels.box):
        assert 0 < sum(map(len, found)) < sum(map(len, plain))
    assert method("unbiased_teacher_v2", detector(net)).labels(data, 50).pseudo.box is None


@pytest.mark.parametrize("net", SIDES)
@pytest.mark.parametrize("box_score", [None, 0.2])
def test_places_learn_from_chosen_sides_alone(net: str, box_score: float | None) -> None:
    m, data = method("unbiased_teacher_v2", detector(net), box_score=box_score), batch()
    losses, stage = m(data, 50), "roi" if net == "faster_rcnn" else "dense"
    p, a = asked_for(m, data)[stage]
    chosen = a.box_weight > 0
    assert chosen.any()
    assert not chosen[a.fg].all()
    each = (p.deltas[:, 0] - p.coder.encode(a.box, p.priors)).abs()[chosen].sum()
    counted = chosen.sum() if stage == "dense" else ((a.cls_weight > 0) | a.fg).sum()
    if stage == "roi" and box_score is not None:  # boxes have a sample of their own
        counted = a.normalizer["box"]
    torch.testing.assert_close(losses["unsup/box"], m.cfg.box_weight * each / counted)
    none = method("unbiased_teacher_v2", detector(net), box_score=box_score, certainty=1.0)(data, 50)
    assert none["unsup/box"] == 0 < losses["unsup/box"]
    assert all(torch.equal(none[k], losses[k]) for k in losses if k != "unsup/box")


@pytest.mark.parametrize("net", SIDES)
def test_labels_alone_teach_deviations(net: str) -> None:
    m = method("unbiased_teacher_v2", detector(net))
    losses = m(batch(), 50)
    sum(loss for key, loss in losses.items() if key.startswith("unsup/")).backward()
    (path,) = [path for path, _ in m.student.named_parameters() if path.endswith("spread.weight")]
    weight = m.student.get_parameter(path)
    assert not weight.grad.any()
    m(batch(), 50)["sup/spread"].backward()
    assert weight.grad.any()
    assert m.stats["off/spread"].isfinite()


@pytest.mark.parametrize("changes", [{}, {"assigner": {"name": "adaptive"}, "box_weight": None}])
def test_the_quality_branch_learns_the_boxes_that_teach_classes(changes: dict) -> None:
    data, net = batch(), {"fcos": SIDES["fcos"] | changes}
    one, *others = (
        method("unbiased_teacher_v2", detector("fcos", keys=net), box_score=score)(data, 50)["unsup/quality"]
        for score in (None, 0.0, 1.0)
    )
    assert one > 0
    assert all(torch.equal(one, other) for other in others)


def test_after_burn_in_both_kinds_of_images_share_a_whole() -> None:
    keys = {"weight": 3.0, "box_weight": 0.2, "burn_in": 10, "box_score": 0.2}
    plain, shared = (method("unbiased_teacher_v2", detector("fcos"), **keys, normalize=on) for on in (False, True))
    labeled = Batch(batch().labeled)
    before = [m(labeled, 9) for m in (plain, shared)]
    assert all(torch.equal(before[0][k], before[1][k]) for k in before[0])
    one, two = plain(batch(), 10), shared(batch(), 10)
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(two[key], one[key] / (1.2 if key.endswith(("box", "spread")) else 4.0))
    thrice = method("unbiased_teacher_v2", detector("fcos"), **keys | {"weight": 9.0, "box_weight": 0.6})(batch(), 10)
    for key in one:
        torch.testing.assert_close(thrice[key], one[key] * (3 if key.startswith("unsup/") else 1))


# ---- the config ----------------------------------------------------------------------------------------------------


def test_the_released_constants_are_the_defaults() -> None:
    cfg = Config(name="unbiased_teacher_v2")
    assert (cfg.burn_in, cfg.weight, cfg.box_weight, cfg.score) == (2000, 4.0, 1.0, 0.7)
    assert (cfg.box_score, cfg.certainty, cfg.margin, cfg.normalize) == (None, 0.5, 0.1, False)
    assert (cfg.ema.decay, cfg.ema.warm_up, cfg.ema.start) == (0.9996, False, None)
    named = Config(name="unbiased_teacher_v2", loss={"unsup": {"cls": "bce"}}, loss_weights={"cls": 2.0})
    assert named.loss.unsup.box.name == "l1"
    assert named.loss_weights == {"cls": 2.0, "rpn_box": 0.0, "spread": 0.0}


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"loss": {"unsup": {"box": "giou"}}}, "method.loss.unsup.box", "use one of: l1, smooth_l1, nll"),
        ({"teacher": {"name": "file", "results": "x.json"}}, "method.teacher", "asks its teacher for more than boxes"),
        ({"weight": 0}, "method.weight", "greater than 0"),
    ],
)
def test_what_the_config_refuses(tmp_path: Path, changes: dict, field: str, words: str) -> None:
    with pytest.raises(SsodError) as error:
        config.load(small_config(tmp_path, method={"name": "unbiased_teacher_v2", "burn_in": 6} | changes))
    assert (error.value.field, error.value.code) == (field, 2)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("net", SIDES)
def test_a_detector_that_says_no_side_is_refused(net: str) -> None:
    kind = find("unbiased_teacher_v2")
    with pytest.raises(SsodError, match=r"asks how certain a side is, .* write detector\.spread: true"):
        kind(detector(net), Config(name="unbiased_teacher_v2"))
    if net != "fcos":
        keys = {net: {key: value for key, value in SIDES[net].items() if key != "code"}}
        with pytest.raises(SsodError, match=r"compares sides, .* write detector\.code: sides"):
            kind(detector(net, keys=keys), Config(name="unbiased_teacher_v2"))


def test_centerness_divides_box_losses_where_nothing_else_does() -> None:
    keys = {"fcos": {"box_weight": "centerness", "assigner": {"name": "adaptive"}}}
    with pytest.raises(ValueError, match="'adaptive' says what divides box losses"):
        detector("fcos", keys=keys)


@pytest.mark.parametrize(
    ("net", "keys", "words"),
    [
        ("fcos", {"loss": {"spread": "nll"}}, "no head predicts how uncertain a side is"),
        ("faster_rcnn", {"loss": {"spread": "nll"}}, "no head predicts how uncertain a side is"),
        ("fcos", {"spread": True, "loss": {"spread": "l1"}}, "'l1' is a box loss, and this head needs a spread one"),
        ("retinanet", {"code": "sides", "delta_std": [0.1, 0.2]}, "detector.code asks for sides"),
        (
            "retinanet",
            {"code": "sides", "align": "2d", "anchors": {"scale": 8, "octaves": 1, "ratios": [1]}},
            "are not decoded from sides",
        ),
    ],
)
def test_what_a_detector_refuses(net: str, keys: dict, words: str) -> None:
    with pytest.raises(SsodError) as error:
        detector(net, keys={net: keys})
    assert words in str(error.value)


@pytest.mark.parametrize("net", SIDES)
def test_weights_of_such_a_detector_load_by_the_names_of_their_classes(net: str, tmp_path: Path) -> None:
    first = detector(net, 3, SIDES)
    file = tmp_path / "model.safetensors"
    save_file(first.state_dict(), file, {"ssod": json.dumps({"classes": ["a", "b", "c"]})})
    second = detector(net, 2, {net: SIDES[net]})
    state = weights.by_name(second, weights.read(file), ["a", "b", "c"], ["c", "a"], str(file))
    second.load_state_dict(state)
    for name, value in second.state_dict().items():
        if "cls_logits" not in name and "cls_score" not in name:
            assert torch.equal(value, first.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(("net", "format"), [("fcos", "onnx"), ("faster_rcnn", "pt2")])  # ONNX takes far longer
def test_the_graph_of_such_a_detector_says_what_torch_says(net: str, format: str) -> None:
    quality = {"quality": "iou"} if net == "fcos" else {}  # the other branch that an exported score is made of
    model = random_model(net, levels=(4, 5), channels=16, **SIDES[net], **quality)
    run = runner(convert(model, format), format)
    found = measure(model.detector, Graph(model.detector), run, pictures(3, SIZES[1], seed=10))
    assert found.differ == 0, found.problem
