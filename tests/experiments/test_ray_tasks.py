"""Runs that are tasks of Ray, which runs on this machine here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssod.commands.compare import _chosen
from ssod.experiments.sweep.executor import Executor
from ssod.experiments.sweep.executors import RayConfig, build_executor
from ssod.experiments.sweep.sweep import Sweep
from ssod.utils.errors import Exit, SsodError
from tests.engine.crash import wait_for
from tests.experiments.test_executor import SAVES

SMALL = {"num_cpus": 1, "object_store_memory": 80_000_000}


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    ray = pytest.importorskip("ray")
    yield build_executor(RayConfig(init=SMALL), Path("unused"))
    ray.shutdown()


def test_a_task_tells_its_code_writes_its_log_and_starts_in_the_folder_of_the_sweep(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not executor.here
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    words = "import os, sys; print(os.environ['SSOD_TOLD'], os.getcwd(), flush=True); sys.exit(5)"
    with open("../log", "ab") as file:
        run = executor.start([sys.executable, "-c", words], file, {"SSOD_TOLD": "this"})
    wait_for(lambda: run.poll() is not None)
    assert (run.poll(), Path("../log").read_text()) == (5, f"this {os.path.realpath('.')}\n")


def test_a_task_that_is_asked_to_end_lets_its_run_save_before_anyone_goes_on(
    executor: Executor, tmp_path: Path
) -> None:
    """The second waits for the one CPU that there is, and never starts."""
    log, slow = tmp_path / "log", SAVES.replace('print("saved"', 'time.sleep(2); print("saved"')
    with open(log, "ab") as file:
        run = executor.start([sys.executable, "-c", slow], file, {})
        wait_for(lambda: log.read_text() == "begins\n")
        other = executor.start([sys.executable, "-c", "print('never')"], file, {})
    assert (run.poll(), other.poll()) == (None, None)
    run.ask()
    other.ask()
    run.wait()
    assert log.read_text() == "begins\nsaved\n"
    other.wait()
    assert (run.poll(), other.poll()) == (Exit.PREEMPTED, Exit.PREEMPTED)


def test_a_task_whose_log_cannot_be_written_fails(executor: Executor, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with open(folder / "log", "ab") as file:
        (folder / "log").unlink()
        folder.rmdir()
        run = executor.start([sys.executable, "-c", "print('never')"], file, {})
    assert run.wait() == Exit.IO


def test_more_than_this_machine_has_is_refused(executor: Executor) -> None:
    with pytest.raises(SsodError, match="it takes 3 CPU of 1, 2 scales of 0") as refused:
        build_executor(RayConfig(num_cpus=3, resources={"scales": 2}), Path("unused"))
    assert refused.value.code == Exit.USAGE


def test_an_argument_that_ray_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(SsodError, match="num_cpu") as refused:
        build_executor(RayConfig(init={"num_cpu": 1}), Path("unused"))
    assert refused.value.code == Exit.USAGE


def test_where_ray_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nMore")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(SsodError, match="does not start: The current node timed out during startup") as refused:
        build_executor(RayConfig(), Path("unused"))
    assert refused.value.code == Exit.IO


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SsodError, match="ssod\\[ray\\]"):
        build_executor(RayConfig(), Path("unused"))


def test_the_command_line_names_ray(tmp_path: Path) -> None:
    assert _chosen(Sweep([], 1, tmp_path), "ray") == RayConfig()
