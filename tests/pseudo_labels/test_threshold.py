"""Count filter, score banks and thresholds: the released code's numbers, a queue in plain Python, two ranks."""

from __future__ import annotations

import json
import multiprocessing
import os
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ssod.methods.base import above
from ssod.pseudo_labels.background_damping import damping
from ssod.pseudo_labels.class_counts import count_filter
from ssod.pseudo_labels.nms_once import at_least
from ssod.pseudo_labels.score_bank import ScoreBank
from ssod.pseudo_labels.threshold import FixedThreshold, GmmThreshold, ThresholdConfig, build_threshold
from ssod.structures import Targets
from ssod.utils import distributed
from tests.amount import examples
from tests.engine.fork import free_port
from tests.paths import golden_path
from tests.waits import Waits


def golden(name: str) -> tuple[list[dict], dict[str, np.ndarray]]:
    file = np.load(golden_path(f"consistent_teacher_{name}.npz"), allow_pickle=False)
    return json.loads(str(file["cases_json"])), {key: file[key] for key in file.files}


def found(labels: list[int], scores: list[float]) -> Targets:
    n = len(labels)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(n, 1)
    return Targets(boxes, torch.tensor(labels, dtype=torch.long), torch.tensor(scores, dtype=torch.float32))


def indexed(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Targets:
    """Detections whose ``weight`` is their row, so that what was kept can be told."""
    rows = torch.arange(len(scores), dtype=torch.float64)
    return Targets(*(torch.from_numpy(v) for v in (boxes, labels, scores)), weight=rows)


def rows_of(t: Targets) -> list[int]:
    return t.weight.long().tolist()


# ---- the released code -------------------------------------------------------------------------------------------


def test_golden_prefilter() -> None:
    """One image at a time, then all images of one ratio and size as one batch."""
    cases, a = golden("prefilter")
    images = {c["id"]: indexed(*(a[f"{c['id']}.{key}"] for key in ("boxes", "scores", "labels"))) for c in cases}
    for group_settings in {(c["dynamic_ratio"], c["min_size"]) for c in cases}:
        group = [c["id"] for c in cases if (c["dynamic_ratio"], c["min_size"]) == group_settings]
        together = count_filter([images[name] for name in group], *group_settings)
        for name, kept in zip(group, together):
            assert rows_of(kept) == a[f"{name}.kept_index"].tolist(), name
            assert rows_of(count_filter([images[name]], *group_settings)[0]) == rows_of(kept), name
    assert len(cases) == 21


def test_golden_selection() -> None:
    cases, a = golden("selection")
    assert len(cases) == 6
    for case in cases:
        threshold = GmmThreshold(
            case["num_classes"], size=case["bank_size"], policy=case["policy"], fallback=case["given_gt_thr"]
        )
        for t in range(case["steps"]):
            at = [f"{case['id']}.t{t}.i{i}" for i in range(case["images"])]
            images = [indexed(*(a[f"{p}.in_{key}"] for key in ("boxes", "scores", "labels"))) for p in at]
            kept = threshold(count_filter(images, case["dynamic_ratio"], case["min_size"]))
            for path, image in zip(at, kept):
                assert rows_of(image) == a[f"{path}.kept_index"].tolist(), path
            np.testing.assert_array_equal(threshold.bank.scores, a[f"{case['id']}.t{t}.bank_after"])
            mean = float(threshold.stats["threshold_mean"])
            assert mean == pytest.approx(float(a[f"{case['id']}.t{t}.mean_thr"]), rel=1e-6, abs=1e-8)


# ---- the bank ----------------------------------------------------------------------------------------------------


@settings(max_examples=examples(20), deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 1000)), max_size=12), max_size=5))
def test_a_bank_is_a_queue_per_class(batches: list[list[tuple[int, int]]]) -> None:
    bank, queues = ScoreBank(4, 5), [[] for _ in range(4)]
    for batch in batches:
        labels, scores = ([pair[i] for pair in batch] for i in (0, 1))
        seen = bank.push(torch.tensor(labels, dtype=torch.long), torch.tensor(scores, dtype=torch.float32))
        assert seen.tolist() == [k in labels for k in range(4)]
        queues = [([s for c, s in batch if c == k] + queue)[:5] for k, queue in enumerate(queues)]
        assert bank.scores.tolist() == [queue + [0] * (5 - len(queue)) for queue in queues]
    assert float(bank.fill()) == pytest.approx(sum(map(len, queues)) / 20)


# ---- thresholds --------------------------------------------------------------------------------------------------


def test_fixed_is_strict() -> None:
    kept = FixedThreshold(0.5)([found([0, 1, 2], [0.5, 0.75, 0.25])])
    assert kept[0].labels.tolist() == [1]


RULES = {
    "fixed": FixedThreshold(0.5),
    "gmm": GmmThreshold(3),
    "count": count_filter,
    "above": partial(above, score=0.5),
    "at_least": partial(at_least, score=0.5),
}


@pytest.mark.parametrize("name", RULES)
def test_no_rule_waits_for_each_image(name: str) -> None:
    waits = [Waits(), Waits()]
    for counter, n in zip(waits, (2, 6)):
        rule, some = deepcopy(RULES[name]), [found([0, 1, 0, 1, 2], [0.9, 0.8, 0.3, 0.2, 0.1])] * n
        with counter:
            rule(some)
    assert waits[0].masks == waits[1].masks > 0


def test_only_classes_of_the_batch_are_fitted_anew() -> None:
    threshold = GmmThreshold(2, size=20)
    low, high = [0.05, 0.08, 0.1, 0.12, 0.7, 0.8, 0.85, 0.9], [0.3, 0.4, 0.5, 0.6]
    threshold([found([0] * 8 + [1] * 4, low + high)])
    before = threshold.values.clone()
    assert (before > 0).all()
    threshold([found([1] * 4, [0.9, 0.92, 0.95, 0.97])])
    assert threshold.values[0] == before[0]
    assert threshold.values[1] != before[1]
    assert threshold.stats["threshold"].tolist() == threshold.values.tolist()


def test_a_young_bank_lets_all_pass_or_none() -> None:
    some = [found([0, 0, 0], [0.06, 0.5, 0.99])]
    assert len(GmmThreshold(1)(some)[0]) == 3
    assert len(GmmThreshold(1, fallback=1.0)(some)[0]) == 0


@pytest.mark.parametrize("classes", [1, 3])
def test_no_detection_at_all(classes: int) -> None:
    threshold = GmmThreshold(classes)
    empty = [Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0)) for _ in range(2)]
    assert [len(t) for t in count_filter(empty)] == [0, 0]
    assert [len(t) for t in threshold(count_filter(empty))] == [0, 0]
    assert not threshold.bank.scores.any()
    assert threshold.stats["threshold_mean"] == 0
    assert all(v.isfinite().all() for v in threshold.stats.values())


def test_restored_thresholds_go_on_with_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    batches = [[found(rng.integers(0, 3, 9).tolist(), rng.random(9).tolist())] for _ in range(12)]
    first = GmmThreshold(3, size=10)
    for batch in batches[:6]:
        first(batch)
    second = GmmThreshold(3, size=10)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    assert set(first.state_dict()) == {"values", "bank.scores"}
    for batch in batches[6:]:
        one, other = first(batch)[0], second(batch)[0]
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())


def test_backends_keep_the_same_boxes() -> None:
    rng = np.random.default_rng(3)
    modules = [GmmThreshold(4, size=30, backend=backend) for backend in ("batched", "sklearn")]
    kept = []
    for _ in range(6):
        batch = [found(rng.integers(0, 4, 25).tolist(), rng.beta(0.7, 0.9, 25).clip(0.01).tolist())]
        one, other = (module(batch)[0] for module in modules)
        assert torch.equal(one.scores, other.scores)
        kept.append(len(one))
    assert 0 < sum(kept) < 150


def test_config_words() -> None:
    read = TypeAdapter(ThresholdConfig).validate_python
    assert isinstance(build_threshold(read({"name": "fixed", "score": 0.25}), 3), FixedThreshold)
    assert build_threshold(read("fixed"), 3).score == 0.5
    gmm = build_threshold(read({"name": "gmm", "size": 7, "policy": "middle", "fallback": 0.5}), 3)
    assert (gmm.bank.scores.shape, gmm.policy, gmm.values.tolist()) == ((3, 7), "middle", [0.5] * 3)
    with pytest.raises(ValidationError):
        read({"name": "gmm", "score": 0.5})


@pytest.mark.parametrize(("labeled", "scale"), [(0, 0.01), (1, 0.01), (2, 1.0), (4, 1.0)])
def test_damping_starts_below_one_half(labeled: int, scale: float) -> None:
    targets = [found([0], [0.9])] * labeled + [found([], [])] * (4 - labeled)
    with Waits() as waits:
        factor = damping(targets, 0.01)
    assert float(factor) == pytest.approx(scale)
    assert waits.copies == 0


# ---- two ranks ---------------------------------------------------------------------------------------------------


def shares(step: int) -> list[list[Targets]]:
    """What each of two ranks finds at a step; the second one finds nothing at first."""
    rng = np.random.default_rng(step)
    sizes = (6, 0 if step == 0 else 9)
    return [[found(rng.integers(0, 3, n).tolist(), rng.random(n).clip(0.01).tolist())] for n in sizes]


def work(rank: int, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))
    threshold = GmmThreshold(3, size=20)
    with distributed.job(torch.device("cpu")):
        kept = [threshold(shares(step)[rank])[0].scores for step in range(5)]
    torch.save((threshold.state_dict(), kept), folder / f"{rank}.pt")


def test_two_ranks_have_the_bank_and_the_thresholds_of_one(tmp_path: Path) -> None:
    context, port = multiprocessing.get_context("fork"), free_port()
    ranks = [context.Process(target=work, args=(rank, port, tmp_path), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    alone = GmmThreshold(3, size=20)
    kept: list[list[Tensor]] = [[], []]
    for step in range(5):
        for scores, image in zip(kept, alone([t for share in shares(step) for t in share])):
            scores.append(image.scores)
    for rank in range(2):
        state, scores = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(value, alone.state_dict()[name]) for name, value in state.items())
        assert all(torch.equal(a, b) for a, b in zip(scores, kept[rank]))
    assert alone.values.min() > 0
