"""The batched mixtures against scikit-learn itself and against the released code's thresholds."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssod.pseudo_labels import gmm
from tests.amount import examples
from tests.paths import golden_path
from tools import bench_gmm

POLICIES = ("high", "middle")


def bank_of(scores: list[Tensor], size: int = 100) -> Tensor:
    bank = torch.zeros(len(scores), max([size, *map(len, scores)]), dtype=torch.float64)
    for row, values in zip(bank, scores):
        row[: len(values)] = values
    return bank


def all_rows(bank: Tensor) -> Tensor:
    return torch.ones(len(bank), dtype=torch.bool)


# ---- the released code -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases() -> tuple[list[dict], dict[str, np.ndarray]]:
    file = np.load(golden_path("consistent_teacher_gmm.npz"), allow_pickle=False)
    return json.loads(str(file["cases_json"])), {name: file[name] for name in file.files}


@pytest.mark.parametrize("backend", ["batched", "sklearn"])
@pytest.mark.parametrize("policy", POLICIES)
def test_golden_thresholds(cases: tuple, policy: str, backend: str) -> None:
    """All 37 banks are fitted together, so a row's result does not depend on the others either."""
    cases, a = cases
    bank = bank_of([torch.from_numpy(a[f"{c['id']}.scores"]) for c in cases])
    found = gmm.thresholds(bank, all_rows(bank), policy=policy, backend=backend)
    half = gmm.thresholds(bank, all_rows(bank), policy="high", fallback=0.5, backend=backend)
    ties = 0
    for case, threshold, with_fallback in zip(cases, found.tolist(), half.tolist()):
        accepted = [float(a[f"{case['id']}.thr_{policy}"])]
        if not case["f32_agrees"]:
            accepted.append(float(a[f"{case['id']}.thr_{policy}_f32"]))
            ties += 1
        assert any(threshold == pytest.approx(t, rel=1e-6, abs=1e-8) for t in accepted), case
        if case["f32_agrees"]:
            assert with_fallback == pytest.approx(float(a[f"{case['id']}.thr_high_fallback05"]), rel=1e-6), case
            kept = int((torch.from_numpy(a[f"{case['id']}.scores"]) > threshold).sum())
            assert kept == a[f"{case['id']}.n_kept_{policy}"], case
    assert (len(cases), ties) == (37, 2)


def test_golden_mixtures(cases: tuple) -> None:
    fitted = [c for c in cases[0] if c["fitted"]]
    a = cases[1]
    bank = bank_of([torch.from_numpy(a[f"{c['id']}.scores"]) for c in fitted])
    m = gmm.fit(bank, bank > 0, all_rows(bank))
    assert len(fitted) > 25
    for row, case in enumerate(fitted):
        for name, ours in {
            "means": m.means,
            "variances": m.variances,
            "weights": m.weights,
            "lower_bound": m.bound,
        }.items():
            np.testing.assert_allclose(ours[row].numpy(), a[f"{case['id']}.{name}"], rtol=1e-6, atol=1e-8)
        assert m.iterations[row] == a[f"{case['id']}.n_iter"], case
        n = len(a[f"{case['id']}.scores"])
        logs = m.log_densities(bank)[:, row, :n]
        np.testing.assert_allclose(torch.logaddexp(*logs), a[f"{case['id']}.log_density"], rtol=1e-6, atol=1e-6)
        if case["f32_agrees"]:
            assert (logs[1] > logs[0]).long().tolist() == a[f"{case['id']}.assign"].tolist()
    assert m.iterations.max() > gmm.LOOK_EVERY, "else the rows that stop early are not tested"


# ---- scikit-learn itself -----------------------------------------------------------------------------------------

uniform = st.lists(st.floats(1e-3, 1.0), min_size=4, max_size=40)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def banks(draw: st.DrawFn) -> Tensor:
    """Several classes, each with a bank as training fills them, or as bad luck would."""
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["any", "beta", "few values", "close"]))
        if kind == "any":
            rows.append(torch.tensor(draw(uniform), dtype=torch.float64))
            continue
        rng = np.random.default_rng(draw(seeds))
        n = int(rng.integers(4, 101))
        if kind == "beta":
            top = rng.random(n) < rng.random()
            values = np.where(top, rng.beta(8, 2, n), rng.beta(2, 8, n))
        elif kind == "few values":
            values = rng.choice(rng.random(3), n)
        else:
            values = rng.random() * 0.9 + 10.0 ** -rng.integers(1, 7) * rng.random(n)
        rows.append(torch.from_numpy(np.clip(values, 1e-3, 1)))
    return bank_of(rows)


def gap(bank: Tensor, m: gmm.Mixtures, row: int, one: float, other: float) -> float:
    """How near rounding was to choosing the other threshold: the smallest margin of any decision behind it."""
    logs = m.log_densities(bank)[:, row]
    total = torch.logaddexp(*logs)
    dense = [float(total[(bank[row] - value).abs().argmin()]) for value in (one, other)]
    sides = (logs[1] - logs[0]).abs()[bank[row] > 0]
    return min(abs(dense[0] - dense[1]), float(sides.min()))


@settings(
    max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(banks())
def test_every_bank_gets_what_scikit_learn_gives_it(bank: Tensor) -> None:
    ours, theirs = (fit(bank, bank > 0, all_rows(bank)) for fit in (gmm.fit, gmm.fit_sklearn))
    for mine, reference in zip(vars(ours).values(), vars(theirs).values()):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-6)
    for policy in POLICIES:
        found, wanted = (
            gmm.thresholds(bank, all_rows(bank), policy=policy, backend=b).tolist() for b in ("batched", "sklearn")
        )
        for row, pair in enumerate(zip(found, wanted)):
            if abs(pair[0] - pair[1]) > 1e-6:
                event("a tie")
                assert gap(bank, ours, row, *pair) < 1e-8


def test_a_class_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(0)
    bank = bank_of([torch.from_numpy(rng.beta(2, 5, n)) for n in (5, 100, 40, 7, 100)])
    alone = torch.cat([gmm.thresholds(bank[i : i + 1], all_rows(bank[:1])) for i in range(len(bank))])
    assert torch.equal(gmm.thresholds(bank, all_rows(bank)), alone)


# ---- corners -----------------------------------------------------------------------------------------------------


def test_few_scores_and_no_positive_fall_back() -> None:
    bank = bank_of([torch.tensor(v, dtype=torch.float64) for v in ([], [0.9], [0.1, 0.2, 0.9], [0.3] * 5)])
    for backend in ("batched", "sklearn"):
        assert gmm.thresholds(bank, all_rows(bank), fallback=0.25, backend=backend).tolist() == [0.25] * 4


def test_the_order_of_a_bank_does_not_matter() -> None:
    bank = bank_of([torch.tensor([0.05, 0.07, 0.09, 0.11, 0.6, 0.7, 0.71, 0.9], dtype=torch.float64)], 8)
    mixed = bank[:, [3, 7, 0, 2, 6, 1, 5, 4]]
    for policy in (*POLICIES, "component"):
        one, other = (gmm.thresholds(b, all_rows(b), policy=policy) for b in (bank, mixed))
        torch.testing.assert_close(one, other)


def test_the_likeliest_of_the_positive_component_is_near_its_mean() -> None:
    rng = np.random.default_rng(1)
    bank = bank_of([torch.from_numpy(np.concatenate([rng.normal(0.15, 0.03, 30), rng.normal(0.8, 0.05, 70)]))])
    m = gmm.fit(bank, bank > 0, all_rows(bank))
    found = gmm.thresholds(bank, all_rows(bank), policy="component")
    assert (bank[0] - m.means[0, 1]).abs().min() == (found[0] - m.means[0, 1]).abs()
    assert found[0] > gmm.thresholds(bank, all_rows(bank), policy="middle")[0]


@pytest.mark.counts_calls
def test_the_device_is_asked_once_in_several_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """``nonzero`` waits for the device; the number of looks bounds how often."""
    looks: list[int] = []
    nonzero = Tensor.nonzero
    monkeypatch.setattr(Tensor, "nonzero", lambda self: looks.append(1) or nonzero(self))
    bank = bank_of([torch.tensor([0.05, 0.07, 0.09, 0.11, 0.13, 0.15, 0.17, 0.2, 0.8, 0.9], dtype=torch.float64)])
    m = gmm.fit(bank, bank > 0, all_rows(bank))
    assert len(looks) <= int(m.iterations.max()) // gmm.LOOK_EVERY + 2


def test_the_benchmark_says_both_times_and_that_the_results_agree(capsys: pytest.CaptureFixture) -> None:
    bench_gmm.main(classes=3, scores=20, runs=1)
    out = capsys.readouterr().out
    assert out.startswith("3 classes x 20 scores, cpu")
    times = {line.split()[0]: float(line.split()[1]) for line in out.splitlines()[1:]}
    assert times["ratio"] == pytest.approx(times["sklearn"] / times["batched"], rel=0.1)
    assert float(out.split()[-1]) < 1e-6
