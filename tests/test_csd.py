"""CSD: released numbers, which rows are partners, who is compared with whom, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ssod import config
from ssod.losses.agreement import DIVERGENCES, Pair, agreement, jensen_shannon, outcomes, symmetric_kl
from ssod.losses.elements import focal_elements
from ssod.methods.base import Method
from ssod.methods.csd import EVEN_CHANCE, Config, pair_of_boxes, pair_of_rows
from ssod.structures import Batch, Predictions, View
from ssod.structures.boxes import Coder, DeltaCoder, LtrbCoder, mirror
from ssod.utils.errors import SsodError
from tests.losses.rows import predictions
from tests.parts import together
from tests.paths import golden_path
from tests.small import small_config
from tests.test_methods import DETECTORS, SIDE, K, batch, detector, method, no_targets, view
from tests.test_micro_batches import N, looks

FILE = np.load(golden_path("csd_consistency.npz"), allow_pickle=False)
CASES = [case for case in json.loads(str(FILE["cases_json"])) if case["kind"] != "schedule"]
STEP = 50
LN2 = math.log(2)


def csd(net: str, **changes: object) -> Method:
    return method("csd", detector(net), **changes)


def of_unlabeled(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("unsup/"): loss for key, loss in losses.items() if key.startswith("unsup/")}


# ---- released numbers ----------------------------------------------------------------------------------------------


def golden_pair(case: dict, dtype: torch.dtype) -> tuple[Pair, dict[str, Tensor]]:
    """Return the pair of a case, and its inputs as leaves; there background comes first, here last."""
    two = case["kind"] == "two_stage"
    names = {"logits": "logits", "other_logits": "logits_mirror" + ("" if two else "_aligned")}
    names |= {"deltas": "box_pred" if two else "offsets"}
    names["other_deltas"] = names["deltas"] + ("_mirror" if two else "_mirror_aligned")
    found = {key: torch.from_numpy(FILE[f"{case['id']}.{name}"]).to(dtype) for key, name in names.items()}
    leaves = {key: value.requires_grad_() for key, value in found.items()}
    last = {key: torch.cat([leaves[key][..., 1:], leaves[key][..., :1]], -1) for key in ("logits", "other_logits")}
    rows = {key: value.reshape(-1, 21) for key, value in last.items()}
    deltas = {key: leaves[key].reshape(len(rows["logits"]), -1, 4) for key in ("deltas", "other_deltas")}
    p = predictions(rows["logits"], deltas["deltas"], softmax=True)
    mirrored = DeltaCoder().mirror(deltas["other_deltas"], torch.zeros(len(p)))
    return Pair(p, rows["other_logits"].softmax(-1), mirrored), leaves


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}-{case['name']}")
def test_golden_losses_and_their_gradients(case: dict, dtype: torch.dtype) -> None:
    pair, leaves = golden_pair(case, dtype)
    kept = pair.foreground(0.4)
    assert torch.equal(kept, torch.from_numpy(FILE[f"{case['id']}.mask"]).flatten())
    losses = agreement([pair], [kept], symmetric_kl)
    exact = dtype == torch.float64
    close = partial(torch.testing.assert_close, rtol=1e-9 if exact else 1e-4, atol=1e-12 if exact else 1e-6)
    wanted = {name: torch.tensor(float(FILE[f"{case['id']}.loss_{name}"]), dtype=dtype) for name in ("cls", "loc")}
    # The release's softmax, and with it its classes' numbers, are float32.
    torch.testing.assert_close(losses["cls"], wanted["cls"], rtol=2e-5 if exact else 1e-4, atol=1e-7)
    close(losses["box"], wanted["loc"])
    sum(losses.values()).backward()
    two = case["kind"] == "two_stage"
    for key, name in (
        ("logits", "logits"),
        ("other_logits", "logits_mirror"),
        ("deltas", "box_pred" if two else "offsets"),
        ("other_deltas", "box_pred_mirror" if two else "offsets_mirror"),
    ):
        grad = torch.from_numpy(FILE[f"{case['id']}.grad_{name}"]).to(dtype)
        torch.testing.assert_close(leaves[key].grad, grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case["kind"] == "two_stage"], ids=lambda case: case["id"])
def test_golden_boxes_are_mirrored(case: dict) -> None:
    """The last pixel belongs to a box there; here a box ends where it ends."""
    there, mirrored = (torch.from_numpy(FILE[f"{case['id']}.{name}"]) for name in ("rois", "rois_mirrored"))
    end = torch.tensor([0.0, 0, 1, 1])
    width = torch.tensor(float(FILE[f"{case['id']}.image_width"]))
    torch.testing.assert_close(mirror(there + end, width), mirrored + end, rtol=0, atol=1e-5)


def test_golden_ramp() -> None:
    """The defaults are those of the release, of whose 120 000 steps the first compares nothing."""
    cfg = Config.model_validate({"name": "csd"}, context={"steps": 120_000})
    assert (cfg.burn_in, cfg.ramp, cfg.ramp_down, cfg.unsup_start) == (0, 32_000, (100_000, 120_000), 1)
    m = csd("fcos", ramp=32_000, ramp_down=(100_000, 120_000))
    steps, weights = FILE["ramp.iteration"].tolist(), FILE["ramp.weight"].tolist()
    assert (steps[0], weights[0]) == (0, 0)
    for step, weight in zip(steps[1:], weights[1:], strict=True):
        assert m.unsup_weight(step, None) == pytest.approx(weight, rel=1e-6), step
    assert {0, 1, 32_000, 100_000} <= set(steps)


def test_the_ramp_of_a_run_with_burn_in_begins_at_its_end() -> None:
    m = csd("fcos", burn_in=10, ramp=10, ramp_down=(30, 40), weight=2)
    for step, t in ((11, 0.1), (15, 0.5), (20, 1.0), (30, 1.0)):
        assert m.unsup_weight(step, None) == pytest.approx(2 * math.exp(-5 * (1 - t) ** 2))
    for step, t in ((31, 0.1), (35, 0.5), (40, 1.0), (99, 1.0)):
        assert m.unsup_weight(step, None) == pytest.approx(2 * math.exp(-12.5 * t**2))
    linear = csd("fcos", burn_in=10, ramp=10, ramp_shape="linear", ramp_down=None)
    assert [linear.unsup_weight(step, None) for step in (11, 15, 20, 99)] == pytest.approx([0.1, 0.5, 1, 1])
    assert csd("fcos", ramp=0, ramp_down=(30, 30)).unsup_weight(31, None) == pytest.approx(math.exp(-12.5))
    Config.model_validate({"name": "csd"}, context={"steps": 1})  # a run to see whether it starts
    at_once = csd("fcos", ramp=0, ramp_down=None)
    assert (at_once.cfg.unsup_start, at_once.unsup_weight(0, None)) == (0, 1)


@pytest.mark.parametrize(("step", "compares"), [(9, False), (10, False), (11, True)])
def test_the_first_step_after_burn_in_compares_nothing(step: int, compares: bool) -> None:
    m = csd("fcos", burn_in=10, ramp=10)
    assert bool(of_unlabeled(m(batch(), step))) == compares
    assert bool(of_unlabeled(csd("fcos", burn_in=10, ramp=0)(batch(), 10)))


# ---- formulas ------------------------------------------------------------------------------------------------------


def probs(seed: int, rows: int = 50, scale: float = 3.0, softmax: bool = True) -> Tensor:
    logits = scale * torch.randn(rows, K + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.softmax(-1) if softmax else outcomes(logits.sigmoid(), False)


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_is_symmetric_never_negative_and_0_between_equals(name: str, softmax: bool) -> None:
    a, b = probs(0, softmax=softmax), probs(1, softmax=softmax)
    of = DIVERGENCES[name]
    torch.testing.assert_close(of(a, b), of(b, a))
    assert (of(a, b) > 0).all()
    assert of(a, a).abs().max() < 1e-12
    if name == "js":
        assert (of(a, b) <= LN2 * (1 if softmax else K + 1)).all()


def test_jensen_shannon_is_the_mean_divergence_from_the_middle() -> None:
    a, b = probs(0), probs(1)
    middle = (a + b) / 2
    wanted = sum((p * (p / middle).log()).sum(-1) for p in (a, b)) / 2
    torch.testing.assert_close(jensen_shannon(a, b), wanted)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_both_sides_learn(name: str) -> None:
    a, b = probs(0).requires_grad_(), probs(1).requires_grad_()
    DIVERGENCES[name](a, b).sum().backward()
    assert all(side.grad.abs().min() > 0 for side in (a, b))


def test_each_half_of_the_kl_divergence_holds_one_side() -> None:
    """Against the released form: the gradient of a side is that of the half that does not hold it."""
    a, b = probs(0).requires_grad_(), probs(1)
    symmetric_kl(a, b).sum().backward()
    torch.testing.assert_close(a.grad, -(b + 1e-7) / (a.detach() + 1e-7) / 2)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("softmax", [True, False])
def test_extreme_logits_have_finite_losses_and_gradients(name: str, softmax: bool) -> None:
    values = torch.tensor([-1e4, -88.0, 0.0, 88.0, 1e4])
    logits = torch.cartesian_prod(values, values).requires_grad_()
    other = torch.cartesian_prod(values.flip(0), values).roll(3, 0).requires_grad_()
    p = predictions(logits, softmax=softmax)
    seen = other.softmax(-1) if softmax else other.sigmoid()
    found = Pair(p, seen, p.deltas).distances(DIVERGENCES[name])["cls"]
    found.sum().backward()
    assert all(x.isfinite().all() for x in (found, logits.grad, other.grad))


def test_a_sigmoid_head_has_a_distribution_for_each_class() -> None:
    logits, other = torch.tensor([[0.3, -2.0, 1.0]]), torch.tensor([[0.1, -1.0, -1.0]])
    p = predictions(logits)
    whole = Pair(p, other.sigmoid(), p.deltas).distances(symmetric_kl)["cls"]
    parts = []
    for a, b in zip(logits[0].sigmoid(), other[0].sigmoid()):
        both = [torch.stack([x, 1 - x])[None] for x in (a, b)]
        parts.append(symmetric_kl(*both))
    torch.testing.assert_close(whole, sum(parts))


def test_the_default_score_is_what_a_focal_head_says_of_an_even_chance() -> None:
    scores = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    logits = scores.logit()
    loss = sum(focal_elements(logits, torch.full_like(logits, t)) for t in (0.0, 1.0))
    assert float(scores[loss.argmin()]) == pytest.approx(EVEN_CHANCE)


def test_the_image_itself_says_what_background_is() -> None:
    """Exchanged with its mirror image, other rows are left."""
    own, other = torch.tensor([[3.0, 0, 0], [0, 0, 3]]), torch.tensor([[0.0, 0, 3], [0, 0, 3]])
    for a, b, wanted in ((own, other, [True, False]), (other, own, [False, False])):
        p = predictions(a, softmax=True)
        assert Pair(p, b.softmax(-1), p.deltas).foreground(0.4).tolist() == wanted
    scores = torch.tensor([[0.41, 0.1], [0.39, 0.39], [0.1, 0.9]])
    p = predictions(scores.logit())
    pair = Pair(p, scores.flip(0), p.deltas, known=torch.tensor([True, True, False]))
    assert pair.foreground(0.4).tolist() == [True, False, False]
    assert pair.foreground(0.3).tolist() == [True, True, False]


def test_no_row_at_all_is_no_loss_and_no_gradient() -> None:
    p = predictions(torch.randn(4, 3).requires_grad_(), torch.randn(4, 1, 4).requires_grad_())
    pair = Pair(p, torch.rand(4, 3), torch.randn(4, 1, 4), known=torch.zeros(4, dtype=torch.bool))
    losses = agreement([pair, pair], [pair.foreground(0.0)] * 2, symmetric_kl)
    assert losses == {"cls": 0, "box": 0}
    sum(losses.values()).backward()
    assert not p.logits.grad.any()
    assert not p.deltas.grad.any()


def test_the_mean_is_over_the_rows_of_all_parts_and_of_both_kinds_of_images() -> None:
    def pairs(part: int) -> list[tuple[Pair, Tensor]]:
        g = torch.Generator().manual_seed(part)
        made = []
        for rows in (3, 5):
            p = predictions(torch.randn(rows, K, generator=g), torch.randn(rows, 1, 4, generator=g))
            other = Pair(p, torch.rand(rows, K, generator=g), torch.randn(rows, 1, 4, generator=g))
            made.append((other, torch.rand(rows, generator=g) > 0.4 + 0.6 * part * (rows == 5)))
        return made

    def run(*parts: int) -> dict[str, Tensor]:
        both = [pair for part in parts for pair in pairs(part)]
        return agreement(*zip(*both), symmetric_kl)

    whole, (shares, _) = run(0, 1), together([partial(run, 0), partial(run, 1)])
    for name, value in whole.items():
        torch.testing.assert_close(sum(share[name] for share in shares) / 2, value)
    rows = torch.cat([pair.distances(symmetric_kl)["box"][kept] for part in (0, 1) for pair, kept in pairs(part)])
    torch.testing.assert_close(whole["box"], rows.mean())


# ---- which rows are partners ---------------------------------------------------------------------------------------


def seen_by(net: torch.nn.Module, width: int, box: Tensor) -> tuple[Predictions, Predictions]:
    """Return what the rows of an image and of its mirror image would say that all mean the same box."""
    data = view(5, n=1)
    data.sizes = torch.tensor([[SIDE, width]])
    p = net.predict(data).stages["dense"]
    both = [p.coder.encode(b.expand(len(p), 4), p.priors)[:, None] for b in (box, mirror(box, torch.tensor(width)))]
    return replace(p, deltas=both[0]), replace(p, deltas=both[1])


@pytest.mark.parametrize("width", [SIDE, 64, SIDE - 13, 50])
@pytest.mark.parametrize("net", ["retinanet", "fcos"])
def test_rows_that_mean_the_same_box_agree(net: str, width: int) -> None:
    """Whatever the width, since the offsets of rows are linear in their places; a column too far would be a stride."""
    p, mirrored = seen_by(detector(net), width, torch.tensor([13.0, 20, 47, 66]))
    pair = pair_of_rows(p, mirrored)
    error = (pair.p.deltas - pair.deltas).abs().amax((1, 2))
    assert float(error[pair.known].max()) < 1e-4
    center = (p.priors[:, 0] + p.priors[:, 2]) / 2
    first = p.levels[0]
    inside = (center[:first] > 0) & (center[:first] < width - 8)
    assert pair.known[:first][inside].all()
    assert not pair.known[center > width].any()


@pytest.mark.parametrize("net", ["retinanet", "fcos"])
def test_where_strides_divide_the_width_a_partner_is_one_row(net: str) -> None:
    """Probabilities are read, not blended; the mirrored prior of a partner is the row's own."""
    student = detector(net)
    data = view(5, n=1)
    p, mirrored = (student.predict(look).stages["dense"] for look in (data, data.flipped()))
    pair = pair_of_rows(p, mirrored)
    there = mirror(p.priors, torch.tensor(float(SIDE)))
    row, partner = (p.priors[None] == there[:, None]).all(-1).nonzero().unbind(1)
    known = pair.known[row]
    assert int(known.sum()) > 100
    torch.testing.assert_close(pair.probs[row[known]], mirrored.logits.sigmoid()[partner[known]])
    wanted = p.coder.mirror(mirrored.deltas[partner[known]], torch.tensor(float(SIDE)))
    torch.testing.assert_close(pair.deltas[row[known]], wanted)


@pytest.mark.parametrize(
    ("coder", "wanted"), [(DeltaCoder(), [-1.0, 2, 3, 4]), (LtrbCoder(), [3.0, 2, 1, 4])], ids=["deltas", "distances"]
)
def test_offsets_are_mirrored_as_they_are_encoded(coder: Coder, wanted: list[float]) -> None:
    assert coder.mirror(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([9.0])).tolist() == [wanted]


def test_the_second_stage_is_asked_about_the_proposals_of_the_image_and_their_mirror_images() -> None:
    student = detector("faster_rcnn").train()
    data = view(5)
    out, mirrored = student.predict(data), student.predict(data.flipped())
    boxes = [b[:7] for b in out.proposals]
    pair = pair_of_boxes(boxes, out, mirrored)
    sides = [mirror(b, torch.tensor(float(w))) for b, w in zip(boxes, data.sizes[:, 1])]
    assert (data.sizes[1] != SIDE).all()
    other = mirrored.score(sides)
    torch.testing.assert_close(pair.probs, other.logits.softmax(-1))
    torch.testing.assert_close(pair.deltas, other.deltas * torch.tensor([-1.0, 1, 1, 1]))
    torch.testing.assert_close(pair.p.logits, out.score(boxes).logits)
    assert pair.deltas.shape == (14, K, 4)
    assert pair.known is None


# ---- the step ------------------------------------------------------------------------------------------------------


def pairs_of(m: Method, data: Batch) -> Iterator[Pair]:
    """Compute again what a step compares, labelled images first."""
    for look in (data.labeled, data.strong):
        out, mirrored = m.student.predict(look), m.student.predict(look.flipped())
        if out.proposals is None:
            yield pair_of_rows(out.stages["dense"], mirrored.stages["dense"])
        else:
            yield pair_of_boxes(out.proposals, out, mirrored)


@pytest.mark.parametrize("net", DETECTORS)
def test_labelled_and_unlabelled_images_are_compared_as_one(net: str) -> None:
    m, data = csd(net), batch()
    losses = of_unlabeled(m(data, STEP))
    pairs = list(pairs_of(m, data))
    kept = [pair.foreground(0.4) for pair in pairs]
    assert all(0 < rows.sum() < len(rows) for rows in kept)
    for name, value in losses.items():
        rows = torch.cat([pair.distances(symmetric_kl)[name][rows] for pair, rows in zip(pairs, kept)])
        torch.testing.assert_close(value, rows.mean())
    assert m.unsup_weight(STEP, None) == 1
    counts = [m.stats[f"{kind}/foreground_per_image"] for kind in ("labeled", "pseudo")]
    assert [float(count) * 2 for count in counts] == [float(rows.sum()) for rows in kept]


@pytest.mark.parametrize("net", DETECTORS)
def test_labels_are_learnt_as_without_agreement(net: str) -> None:
    losses, plain = csd(net)(batch(), STEP), method("supervised", detector(net))(batch(), STEP)
    assert all(torch.equal(losses[key], value) for key, value in plain.items())


def test_the_proposal_network_is_not_compared() -> None:
    m = csd("faster_rcnn")
    losses = of_unlabeled(m(batch(), STEP))
    assert losses.keys() == {"cls", "box"}
    sum(losses.values()).backward()
    grads = {n: p.grad for n, p in m.student.named_parameters() if p.requires_grad}
    rpn = [grad for name, grad in grads.items() if name.startswith("rpn")]
    assert rpn
    assert all(grad is None or not grad.any() for grad in rpn)
    assert all(grad is not None and grad.any() for name, grad in grads.items() if "roi" in name)


@pytest.mark.parametrize("parts", [1, 2])
def test_nobody_else_looks_and_the_student_looks_twice(parts: int) -> None:
    """... at labelled and at unlabelled images; in parts it looks once more for the count of rows."""
    assert looks(csd("fcos"), parts) == (4 * N * parts, 0)


def test_what_is_shown_of_a_run_is_the_model_that_is_measured() -> None:
    m, data = csd("fcos"), batch()
    labels = m.labels(data, STEP)
    assert labels.pseudo is None
    found = m.teacher.predict(data.weak).detections()
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(labels.teacher.detections(), found))


@pytest.mark.parametrize("net", DETECTORS)
def test_without_foreground_nothing_is_learnt_from_agreement(net: str) -> None:
    m = csd(net, **({} if net == "faster_rcnn" else {"foreground": 0.999999}))
    for path, layer in m.student.named_modules():
        if path.endswith("cls_score"):
            layer.bias.data[0] = 1e3  # torchvision's background comes first
    losses = m(batch(no_targets()), STEP)
    assert of_unlabeled(losses).keys() >= {"cls", "box"}
    assert all(loss == 0 for loss in of_unlabeled(losses).values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in m.student.parameters() if p.grad is not None)


def test_no_proposals_is_a_step_like_any_other() -> None:
    m = csd("faster_rcnn")
    predict = m.student.predict

    def blind(look: View) -> Any:
        out = predict(look)
        out.__dict__["found"] = out.found._replace(scores=out.found.scores * 0)
        return out

    m.student.predict = blind
    losses = m(batch(), STEP)
    assert of_unlabeled(losses) == {"cls": 0, "box": 0}
    sum(losses.values()).backward()


@pytest.mark.parametrize("net", DETECTORS)
def test_narrow_images_and_odd_sizes(net: str) -> None:
    m, data = csd(net), batch()
    for look in (data.labeled, data.strong):
        look.sizes = torch.tensor([[SIDE - 5, 23], [31, SIDE - 1]])
    losses = m(data, STEP)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize("net", DETECTORS)
def test_half_precision_learns_the_same(net: str) -> None:
    m, data = csd(net), batch()
    exact = of_unlabeled(m(data, STEP))
    with torch.autocast("cpu", torch.bfloat16):
        losses = of_unlabeled(m(data, STEP))
    for key in exact:
        assert losses[key].dtype == torch.float32
        torch.testing.assert_close(losses[key], exact[key], rtol=0.3, atol=0.02)


@pytest.mark.parametrize("net", DETECTORS)
def test_keys_change_what_is_learnt(net: str) -> None:
    plain = of_unlabeled(csd(net)(batch(), STEP))
    own = {"proposals": 5} if net == "faster_rcnn" else {"foreground": 0.6}
    for change in ({"distance": "js"}, own, {"weight": 2}, {"ramp": 80}, {"ramp_down": [20, 60]}):
        other = of_unlabeled(csd(net, **change)(batch(), STEP))
        assert any(not torch.equal(other[key], plain[key]) for key in plain), change


def test_centerness_is_compared_and_may_be_left_out() -> None:
    assert of_unlabeled(csd("fcos")(batch(), STEP)).keys() == {"cls", "box", "quality"}
    m = csd("fcos", loss_weights={"quality": 0})
    assert of_unlabeled(m(batch(), STEP)).keys() == {"cls", "box"}
    assert m.stats["off/quality"] > 0


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"teacher": {"name": "frozen", "weights": "x"}}, "nobody labels: 'csd' compares the student with itself"),
        ({"teacher": {"name": "file", "results": "x.json"}}, "nobody labels"),
        ({"ema": {"rule": "never"}, "burn_in": 5}, "'never' says who labels, and 'csd' asks nobody"),
        ({"ema": {"rule": "copy", "every": 2}, "burn_in": 5}, "'copy' says who labels"),
        ({"mix": {}}, "'mix' blends the student's view, and 'csd' compares"),
        ({"damping": 0.5}, "counts images with a pseudo-label, and 'csd' makes none"),
        ({"loss": {"unsup": {"cls": "bce"}}}, "'csd' has no losses of rows on pseudo-labels"),
        ({"ramp": 0, "ramp_shape": "linear"}, "has no meaning with 'ramp: 0'"),
        ({"ramp_down": [51, 50]}, "is where the weight begins to fall; exchange them"),
        ({"ramp_down": [5, 10], "burn_in": 10}, "would be gone at step 10, before burn-in ends"),
        ({"ramp_down": ["50%", "x%"]}, "neither a number of steps nor a percentage"),
        ({"foreground": 1.0}, "less than 1"),
        ({"proposals": 0}, "greater than or equal to 1"),
        ({"distance": "mse"}, "'kl' or 'js'"),
        ({"score": 0.5}, "Extra inputs are not permitted"),
    ],
)
def test_settings_without_meaning_are_refused(section: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate({"name": "csd"} | section, context={"steps": 100})


@pytest.mark.parametrize(
    ("net", "key", "value"),
    [("faster_rcnn", "foreground", 0.3), ("fcos", "proposals", 9), ("retinanet", "proposals", 9)],
)
def test_keys_of_the_other_kind_of_detector_are_refused(net: str, key: str, value: float) -> None:
    with pytest.raises(SsodError, match=rf"method\.{key}: a (softmax head|detector with one stage) has .*; remove it"):
        csd(net, **{key: value})


def test_a_share_of_the_steps_needs_their_number() -> None:
    with pytest.raises(ValidationError, match=r"is a share of train\.steps, which is not known here"):
        Config(name="csd")
    cfg = Config.model_validate({"name": "csd", "burn_in": "60%", "ramp": "10%"}, context={"steps": 1000})
    assert (cfg.burn_in, cfg.ramp, cfg.ramp_down) == (600, 100, (833, 1000))
    assert Config.model_validate(cfg.model_dump(), context={"steps": 2000}) == cfg  # as a run's config.yaml has it


def test_the_students_view_may_move_pixels(tmp_path: Path) -> None:
    """It is compared with its own mirror image, and with no other view."""
    section = {"name": "csd", "burn_in": 6, "ramp": 2}
    cfg = config.load(small_config(tmp_path, method=section, views__unlabeled__strong=["flip", "color_op"]))
    assert cfg.method.unsup_start == 7
    with pytest.raises(SsodError, match="not pixel-aligned"):
        config.load(
            small_config(
                tmp_path, method={"name": "humble_teacher", "burn_in": 6}, views__unlabeled__strong=["flip", "color_op"]
            )
        )


def test_the_measured_model_is_the_student_or_its_average() -> None:
    assert csd("fcos").teacher.decay(50) == 0
    assert csd("fcos", ema={"decay": 0.9}).teacher.decay(50) == 0.9
