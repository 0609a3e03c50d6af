"""How busy a machine is: what is said of it, and what its limits are, by files as Linux writes them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ssod.commands import doctor, load
from ssod.commands.load import Load, quota
from ssod.commands.planned import Phase, Plan, show

QUIET, BUSY = Load(0.3, 2, 2), Load(1.1, 2, 2)


@pytest.mark.parametrize(
    ("here", "threads", "words"),
    [
        (QUIET, 2, ""),
        (QUIET, 1, ""),
        (BUSY, 1, ""),
        (BUSY, 2, "load 1.1 on 2 CPUs: torch's 2 threads wait for each other; set OMP_NUM_THREADS=1"),
        (Load(14.3, 2, 2), 1, "load 14.3 on 2 CPUs: others are using it; steps will be faster on a free machine"),
        (Load(40.0, 64, 2), 2, ""),
        (Load(3.0, 8, 8), 8, "load 3.0 on 8 CPUs: torch's 8 threads wait for each other; set OMP_NUM_THREADS=5"),
        (
            Load(0.0, 64, 64, 1.5),
            32,
            "process may use 1.5: torch's 32 threads wait for each other; set OMP",
        ),
        (Load(0.0, 64, 4), 32, "load 0.0 on 64 CPUs, of which this process may use 4: "),
        (Load(None, 4, 4), 4, ""),
    ],
)
def test_what_is_said_of_a_load(here: Load, threads: int, words: str) -> None:
    said = here.doubt(threads)
    assert words in said
    assert bool(said) == bool(words)


def test_what_is_advised_is_not_advised_again() -> None:
    for tenths in range(160):
        here = Load(tenths / 10, 16, 12, 9.5)
        advice = here.doubt(16)
        threads = int(advice.rpartition("=")[2])
        assert "OMP_NUM_THREADS" not in here.doubt(threads)
        assert 1 <= threads <= 9


@pytest.mark.parametrize(
    ("files", "own", "cpus"),
    [
        ({"cpu.max": "max 100000"}, "0::/\n", math.inf),
        ({"cpu.max": "150000 100000"}, "0::/\n", 1.5),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 4.0),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "200000 100000"}, "0::/a/b\n", 2.0),
        ({"cpu.max": "200000 100000"}, "0::/host/path/that/is/not/here\n", 2.0),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu,cpuacct:/docker/1\n", 0.5),
        ({"cpu,x/d/cpu.cfs_quota_us": "300000", "cpu,x/d/cpu.cfs_period_us": "100000"}, "4:cpu,x:/d", 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/\n3:memory:/x\n", math.inf),
        ({"memory/cpu.max": "100000 100000", "cpu.max": "damaged"}, "3:memory:/\n0::/\nnonsense\n", math.inf),
        ({}, "", math.inf),
    ],
)  # fmt: skip
def test_control_groups_limit(files: dict[str, str], own: str, cpus: float, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    (tmp_path / "own").write_text(own)
    assert quota(tmp_path / "fs", tmp_path / "own") == cpus
    assert quota(tmp_path / "fs", tmp_path / "absent") == math.inf


def test_this_machine_has_a_load() -> None:
    here = load.measured()
    assert here.busy is not None
    assert here.busy >= 0
    assert 0 <= here.free <= here.usable <= here.cpus


def test_a_plan_says_its_load_and_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    seen = {"images_labeled": 4, "images_unlabeled": 0, "images_val": 0, "epochs_labeled": 5.0, "epochs_unlabeled": 0.0}
    batch, phases = {"batch_labeled": 2, "batch_unlabeled": 0}, [Phase("supervised", 0, 10, 1.0, 0.5)]
    doubts = load.doubts(BUSY, "cpu")
    plan = Plan(10, **seen, **batch, rows=[], warnings=doubts, phases=phases, load=BUSY.words())
    show(plan, "x")
    printed = capsys.readouterr().out
    assert "about 10.0 s on cpu, measured at load 1.1 on 2 CPUs" in printed
    assert "warning: load 1.1 on 2 CPUs: torch's 2 threads wait for each other; set OMP_NUM_THREADS=1" in printed
    assert load.doubts(QUIET, "cpu") == load.doubts(BUSY, "cuda:0") == []


def test_doctor_tells_a_busy_machine_and_calls_it_healthy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    monkeypatch.setattr(doctor, "_CHECKS", [("load", doctor._load)])
    for here, wanted in ((BUSY, "busy: load 1.1 on 2 CPUs, 2 threads of torch"), (QUIET, "ok: load 0.3 on 2 CPUs")):
        monkeypatch.setattr(load, "measured", lambda here=here: here)
        assert doctor.doctor().healthy
        printed = capsys.readouterr().out
        assert wanted in printed
        assert ("set OMP_NUM_THREADS=1" in printed) == (here is BUSY)
