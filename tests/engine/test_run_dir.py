"""A run's folder: never overwritten, held by one process, and honest about how the run ended."""

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from ssod.engine.checkpointing import checkpoint
from ssod.engine.checkpointing.run_dir import RunFolder, environment
from ssod.utils.errors import Exit, SsodError
from ssod.utils.yaml_io import read_yaml
from tests.engine import toy
from tests.engine.crash import wait_for
from tests.engine.fork import Job


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    paths = [RunFolder.create(tmp_path, "soft_teacher", "a").path for _ in range(3)]
    assert [p.name for p in paths] == ["a", "a-2", "a-3"]
    timed = RunFolder.create(tmp_path, "soft_teacher").path
    assert time.strptime(timed.name, "%Y%m%d-%H%M%S")
    assert timed.parent == tmp_path / "soft_teacher"


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", pace=0.05, steps=1000)
    wait_for(lambda: (tmp_path / "run/.lock").exists() and (tmp_path / "run/.lock").read_text().startswith("pid"))
    with pytest.raises(SsodError, match=rf"locked by pid {job.process.pid} on host .* since 20") as caught:
        RunFolder(tmp_path / "run").__enter__()
    assert caught.value.code == Exit.IO
    assert not (tmp_path / "run/exit.json").exists()
    job.signal(signal.SIGKILL)
    job.wait()
    with RunFolder(tmp_path / "run"):
        pass


def test_a_file_system_without_locks_is_reported_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "")

    monkeypatch.setattr(fcntl, "flock", flock)
    with RunFolder(tmp_path / "run") as folder:
        assert folder.checkpoints.is_dir()
    assert "run: cannot be locked (No locks available)" in caplog.text


def test_a_disk_without_room_for_the_lock_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "")

    with monkeypatch.context() as full:
        full.setattr(os, "write", write)
        with pytest.raises(SsodError, match=r"\.lock: cannot be written: No space left on device") as caught:
            RunFolder(tmp_path / "run").__enter__()
    assert caught.value.code == Exit.IO
    with RunFolder(tmp_path / "run") as folder:
        (folder.path / "eval").touch()
        with pytest.raises(SsodError, match="cannot be written") as caught:
            folder.write_json(folder.eval / "x.json", {})
    assert caught.value.code == Exit.IO


def test_a_forked_worker_does_not_hold_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    """Data workers outlive a killed trainer by seconds; a restart must not wait for them."""
    reading, writing = os.pipe()
    trainer = os.fork()
    if trainer == 0:
        with RunFolder(tmp_path / "run"):
            worker = os.fork()
            if worker == 0:
                os.write(writing, str(os.getpid()).encode())  # from here: its copy of the lock is closed by now
                time.sleep(600)
                os._exit(0)
            time.sleep(600)
        os._exit(0)
    worker = int(os.read(reading, 20))
    with pytest.raises(SsodError, match="locked"):
        RunFolder(tmp_path / "run").__enter__()
    os.kill(trainer, signal.SIGKILL)
    os.waitpid(trainer, 0)
    os.kill(worker, 0)  # still there
    with RunFolder(tmp_path / "run"):
        pass
    os.kill(worker, signal.SIGKILL)


def end_of(path: Path, error: BaseException | None) -> dict:
    with contextlib.suppress(type(error) if error else ()), RunFolder(path):
        if error is not None:
            raise error
    return json.loads((path / "exit.json").read_text())


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (None, 0, "OK"),
        (SsodError("a", "b", "c", "d", code=Exit.DIVERGED), 5, "DIVERGED"),
        (ValueError("oops"), 1, "BUG"),
        (KeyboardInterrupt(), 130, "INTERRUPTED"),
    ],
)
def test_how_the_run_ended_is_written_down(tmp_path: Path, error: BaseException | None, code: int, name: str) -> None:
    message = end_of(tmp_path / "run", error)
    assert (message["code"], message["name"]) == (code, name)
    with RunFolder(tmp_path / "run") as folder:
        assert not folder.exit.exists(), "a running run has not ended"


def test_a_run_that_does_not_begin_keeps_its_old_end(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", steps=4)
    before = (tmp_path / "run/exit.json").read_bytes()
    with contextlib.suppress(ValueError), RunFolder(tmp_path / "run") as folder:
        assert folder.finished
        raise ValueError("before anything began")
    assert (tmp_path / "run/exit.json").read_bytes() == before
    with contextlib.suppress(ValueError), RunFolder(tmp_path / "run") as folder:
        folder.begin()
        assert not folder.exit.exists(), "a running run has not ended"
        raise ValueError("oops")
    assert json.loads((tmp_path / "run/exit.json").read_text())["error"] == "oops"
    assert not RunFolder(tmp_path / "run").finished


@pytest.mark.parametrize("file", ["a.jpg", "config.yaml", "checkpoints/epoch_1.pth", ".hidden"])
def test_a_folder_of_other_files_is_left_alone(tmp_path: Path, file: str) -> None:
    path = tmp_path / "few" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    before = sorted((tmp_path / "few").rglob("*"))
    with pytest.raises(SsodError, match=f"few: holds '{file}' and is no run folder") as caught:
        RunFolder(tmp_path / "few").__enter__()
    assert caught.value.code == Exit.USAGE
    assert sorted((tmp_path / "few").rglob("*")) == before


def test_a_folder_that_holds_the_own_log_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``mkdir run; ssod train ... -o run > run/log``."""
    log = open(tmp_path / "log", "w")  # noqa: SIM115
    real = os.fstat
    monkeypatch.setattr(os, "fstat", lambda handle: real(log.fileno() if handle == 1 else handle))
    with RunFolder(tmp_path):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other/log").touch()
    with pytest.raises(SsodError, match="holds 'log'"):
        RunFolder(tmp_path / "other").__enter__()
    log.close()


@pytest.mark.parametrize("files", [[], ["checkpoints/"], [".lock"], [".lock", "checkpoints/", "slurm.out"]])
def test_a_half_made_run_is_taken_up(tmp_path: Path, files: list[str]) -> None:
    (tmp_path / "run").mkdir()
    for name in files:
        path = tmp_path / "run" / name
        path.mkdir() if name.endswith("/") else path.touch()
    toy.run(tmp_path / "run", steps=4)
    assert RunFolder(tmp_path / "run").finished


@pytest.mark.parametrize(
    "lost", [[".lock"], [".lock", "checkpoints/last.pt", "checkpoints/previous.pt", "checkpoints"]]
)
def test_a_run_that_was_copied_in_part_is_still_a_run(tmp_path: Path, lost: list[str]) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.write_inputs({})
        toy.trainer(folder, steps=4).fit()
    for name in lost:
        path = tmp_path / "run" / name
        path.rmdir() if path.is_dir() else path.unlink()
    toy.run(tmp_path / "run", steps=6)


def test_what_ran_is_written_down(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        split = {"percent": 10, "hash": "ab"}
        folder.write_inputs({"train": {"steps": 3}, "list": [1, None]}, split, {"resampler": "opencv 5.0.0"})
        assert (folder.path / "config.yaml").read_text() == "train:\n  steps: 3\nlist:\n- 1\n- null\n"
        assert json.loads((folder.path / "split.json").read_text()) == {"percent": 10, "hash": "ab"}
        env = json.loads((folder.path / "env.json").read_text())
    assert env["torch"] == environment()["torch"]
    assert env["resampler"] == "opencv 5.0.0"
    assert env["command"]


def test_a_config_is_read_as_it_was(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.write_inputs({"data": {"classes": ["08", "1e3", "cat"]}})
        assert read_yaml(folder.path / "config.yaml") == {"data": {"classes": ["08", "1e3", "cat"]}}


def test_leftovers_of_a_killed_writer_are_swept(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run"):
        pass
    leftovers = [tmp_path / "run" / ".tmp-metrics.jsonl-1", tmp_path / "run/checkpoints/.tmp-last.pt-1"]
    for path in leftovers:
        path.write_text("half")
    with RunFolder(tmp_path / "run"):
        assert not any(path.exists() for path in leftovers)


def test_a_run_on_a_full_disk_ends_with_code_6_and_its_old_checkpoint(tmp_path: Path) -> None:
    """A limit on file size stands for the full disk: the first checkpoint is there, the next cannot be written."""
    toy.run(tmp_path / "run", steps=4)
    size = (tmp_path / "run/checkpoints/last.pt").stat().st_size
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        try:
            toy.run(tmp_path / "run", steps=8, save_every=2)
        except SsodError as error:
            (tmp_path / "line").write_text(str(error))
            os._exit(error.code)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == Exit.IO
    assert "cannot be written: File too large" in (tmp_path / "line").read_text()
    assert checkpoint.load(checkpoint.find(tmp_path / "run/checkpoints"))["step"] == 4
    assert toy.run(tmp_path / "run", steps=8)["AP"] >= 0
