"""Runs that are made elsewhere, with submitit's stand-in for a cluster."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from ssod.commands.compare import _chosen, compare
from ssod.experiments.sweep import pool
from ssod.experiments.sweep.executor import Started
from ssod.experiments.sweep.executors import LocalConfig, SubmititConfig, build_executor
from ssod.experiments.sweep.sweep import Sweep, read_sweep
from ssod.utils.errors import Exit, SsodError
from tests.experiments.test_sweep import executable, sweep_file

LONG = 60.0
SAVES = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("begins", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Take Ctrl-C as in a terminal; a script hands on to what it runs in the background that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def started(folder: Path, script: str) -> tuple[Started, Path]:
    pytest.importorskip("submitit")
    executor = build_executor(SubmititConfig(cluster="local"), folder)
    assert not executor.here
    log = folder / "log"
    with open(log, "ab") as file:
        return executor.start([sys.executable, "-c", script], file, {"SSOD_TOLD": "this"}), log


def test_a_job_tells_its_code_and_writes_its_log(tmp_path: Path) -> None:
    run, log = started(tmp_path, "import os, sys; print(os.environ['SSOD_TOLD'], flush=True); sys.exit(5)")
    until(lambda: run.poll() is not None)
    assert (run.poll(), log.read_text()) == (5, "this\n")


def test_a_job_that_is_asked_to_end_lets_its_run_save(tmp_path: Path) -> None:
    run, log = started(tmp_path, SAVES)
    until(lambda: log.read_text() == "begins\n")
    assert run.poll() is None
    run.ask()
    run.wait()
    assert run.poll() is not None
    until(lambda: log.read_text() == "begins\nsaved\n")


def test_a_job_whose_time_is_over_asks_for_another_turn(tmp_path: Path) -> None:
    from ssod.experiments.sweep.submitit_jobs import Call

    pytest.importorskip("submitit")
    log = tmp_path / "log"
    call = Call([sys.executable, "-c", SAVES], str(log), {})
    with open(log, "ab") as file:
        call._process = pool.Local().start(call._command, file, {})._process
    until(lambda: log.read_text() == "begins\n")
    again = call.checkpoint()
    assert log.read_text() == "begins\nsaved\n"
    assert (again.function._command, again.function._log) == (call._command, call._log)


def test_the_command_line_names_another_executor_and_keeps_the_parameters_of_the_same(tmp_path: Path) -> None:
    mine = SubmititConfig(parameters={"timeout_min": 9})
    sweep = Sweep([], 1, tmp_path, executor=mine)
    assert _chosen(sweep, None) is mine
    assert _chosen(sweep, "submitit") is mine
    assert _chosen(sweep, "local") == LocalConfig()
    with pytest.raises(SsodError, match="executor") as refused:
        _chosen(sweep, "carrier pigeon")
    assert refused.value.code == Exit.USAGE


def test_a_parameter_that_submitit_does_not_know(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(SsodError, match="timeout_minutes") as refused:
        build_executor(SubmititConfig(cluster="local", parameters={"timeout_minutes": 3}), tmp_path)
    assert refused.value.code == Exit.USAGE


def test_a_cluster_that_takes_no_job_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    for name in ("sbatch", "srun", "squeue", "sacct", "scancel"):
        executable(tmp_path, "").rename(tmp_path / name)
        (tmp_path / name).write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: gpus' >&2\nexit 1\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (cell,) = read_sweep(sweep_file(tmp_path, configs=["small.yaml"])).cells
    sweep = Sweep([cell], 1, tmp_path / "runs")
    found = pool._Pool(sweep, Console(quiet=True), build_executor(SubmititConfig(cluster="slurm"), tmp_path / "runs"))
    with pytest.raises(SsodError, match="submitit cannot hand it over: sbatch: error: invalid partition") as refused:
        found.fill()
    assert refused.value.code == Exit.IO
    log = found._take(cell)
    assert log is not None, "its lock is free again"
    log.close()


def test_a_job_that_cannot_begin_says_why_in_its_log(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    executor = build_executor(SubmititConfig(cluster="local"), tmp_path)
    with open(tmp_path / "log", "ab") as file:
        run = executor.start([str(tmp_path / "absent"), "-c", "1"], file, {})
    until(lambda: run.poll() is not None)
    assert run.poll() == Exit.IO
    told = pool.why(tmp_path / "log", Exit.IO)
    assert "submitit: FileNotFoundError: " in told
    assert "absent" in told
    assert (tmp_path / "log").read_text().count("ssod: error: submitit") == 1


def test_without_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SsodError, match="ssod\\[cluster\\]"):
        build_executor(SubmititConfig(), tmp_path)


def test_a_pool_of_jobs_takes_no_memory_and_no_gpu_of_this_machine(tmp_path: Path) -> None:
    class Elsewhere:
        here = False

        def start(self, *_: object) -> Started:
            raise AssertionError

    found = pool._Pool(Sweep([], 2, tmp_path), Console(quiet=True), executor=Elsewhere())
    found.running = [None]  # whose memory nobody knows
    assert found._room()
    found.running *= 2
    assert not found._room()
    assert found.gpus == []


def test_a_sweep_where_files_cannot_be_locked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = read_sweep(sweep_file(tmp_path, configs=["small.yaml"])).cells
    monkeypatch.setattr(pool.sys, "executable", str(executable(tmp_path, "raise SystemExit(1)")))

    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(pool.fcntl, "flock", no_locks)
    found = pool._Pool(Sweep([cell], 1, tmp_path / "runs"), Console(quiet=True))
    with pytest.raises(SsodError, match="two sweeps would make one run twice") as refused:
        found.fill()
    assert refused.value.code == Exit.IO
    assert found.running == []


def test_an_executor_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SsodError, match="--executor: makes the runs of a sweep, and there is none"):
        compare([tmp_path], executor="ray")
