"""What a killed command leaves behind does not stand in the way of the next one, and nobody else's files go with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ssod.inference import output_dir
from ssod.utils import atomic
from ssod.utils.errors import Exit, SsodError


def in_a_process(work: Callable, end: signal.Signals) -> int:
    """Do ``work`` in a forked process, which is sent ``end`` when it calls ``ready``; return its code or -signal."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            work(lambda: (os.write(writer, b"x"), signal.pause()))
        except SsodError as stop:
            os._exit(stop.code)
        finally:
            os._exit(1)
    os.read(reader, 1)
    os.kill(pid, end)
    os.close(reader)
    os.close(writer)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def filling(out: Path, count: int) -> Callable:
    def work(ready: Callable[[], object]) -> None:
        with output_dir.staged(out) as stage:
            for i in range(count):
                (stage / f"{i}.jpg").write_text("half")
            ready()

    return work


def moving(out: Path) -> Callable:
    """Work that is killed between the first and the second file of three that take their names."""

    def work(ready: Callable[[], object]) -> None:
        rename, moved = os.rename, []

        def one(source: Path, target: Path) -> None:
            if moved:
                ready()
            rename(source, target)
            moved.append(target)

        os.rename = one
        with output_dir.staged(out) as stage:
            for name in ("a", "b", "c"):
                (stage / name).mkdir()

    return work


@pytest.mark.parametrize("work", [lambda out: filling(out, 3), moving], ids=["filling", "moving"])
def test_a_kill_leaves_nothing_that_blocks_the_repetition(tmp_path: Path, work: Callable) -> None:
    out = tmp_path / "out"
    assert in_a_process(work(out), signal.SIGKILL) == -signal.SIGKILL
    assert list(out.iterdir())  # or nothing would be tested
    output_dir.refuse_taken(out)
    assert list(out.iterdir()) == []
    with output_dir.staged(out) as stage:
        (stage / "a").write_text("whole")
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("a", "whole")]


def test_files_that_were_there_stay(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    fake = tmp_path / ".tmp-ssod-x"
    fake.mkdir()
    (fake / ".moving.json").write_text('{"b": 1, "../b": 2}')
    (tmp_path / ".tmp-mine").mkdir()
    output_dir.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-mine", "b"]


def test_who_still_works_is_left_alone(tmp_path: Path) -> None:
    with output_dir.staged(tmp_path) as stage:
        output_dir.sweep(tmp_path)
        assert stage.is_dir()
        with pytest.raises(SsodError, match="exists; nothing is written over"):
            output_dir.refuse_taken(tmp_path)


def test_sigterm_removes_what_is_half_done(tmp_path: Path) -> None:
    assert in_a_process(filling(tmp_path / "out", 3), signal.SIGTERM) == Exit.PREEMPTED
    assert not (tmp_path / "out").exists()


def test_a_file_of_a_killed_write_goes_with_the_next(tmp_path: Path) -> None:
    def work(ready: Callable[[], object]) -> None:
        atomic.write(tmp_path / "a*.yaml", lambda file: (file.write(b"half"), file.flush(), ready()))

    assert in_a_process(work, signal.SIGKILL) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".tmp-ab.yaml-1").write_text("of another file")
    atomic.write_text(tmp_path / "a*.yaml", "whole", new=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-ab.yaml-1", "a*.yaml"]
    with pytest.raises(SsodError, match="File exists"):
        atomic.write_text(tmp_path / "a*.yaml", "another", new=True)
    assert (tmp_path / "a*.yaml").read_text() == "whole"


def test_a_new_file_on_a_full_disk_is_not_there(tmp_path: Path) -> None:
    def full(file) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(SsodError, match="No space left"):
        atomic.write(tmp_path / "a.yaml", full, new=True)
    assert list(tmp_path.iterdir()) == []
