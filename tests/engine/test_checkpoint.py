"""Whatever happens to the writer or to the file, a good state is found, or the damage is named."""

import errno
import os
import pickle
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ssod.engine.checkpointing import checkpoint
from ssod.utils import atomic
from ssod.utils.errors import Exit, SsodError

POINTS = [f"ckpt.{name}" for name in (*atomic.POINTS, "before_trailer", "after_trailer")]


def state(step: int) -> dict:
    return {"step": step, "method": {"student.w": torch.full((300,), float(step))}, "list": [1, None, "x", (0.5, True)]}


def newest(folder: Path) -> int | None:
    path = checkpoint.find(folder)
    if path is None:
        return None
    loaded = checkpoint.load(path)
    assert bool((loaded["method"]["student.w"] == loaded["step"]).all())
    return loaded["step"]


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process; return how it ended, as ``subprocess`` would say."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except SsodError as error:
            os._exit(error.code)
        finally:
            os._exit(99)
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    for step in range(3):
        checkpoint.save(tmp_path, state(step))
        assert newest(tmp_path) == step
    assert checkpoint.load(tmp_path / checkpoint.PREVIOUS)["step"] == 1
    assert checkpoint.load(tmp_path / checkpoint.LAST)["list"] == [1, None, "x", (0.5, True)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "previous.pt"]


@pytest.mark.parametrize("action", ["kill", "raise"])
@pytest.mark.parametrize("point", POINTS)
def test_a_death_at_any_point_of_the_writer_leaves_a_good_state(
    tmp_path: Path, point: str, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three saves in a row; the process dies in the first, the second or the third."""
    for save in (1, 2, 3):
        folder = tmp_path / str(save)
        folder.mkdir()
        # Nothing can be kept of a first save: that point is passed once less.
        count = save - 1 if point.endswith("after_keep") else save
        if count == 0:
            continue
        monkeypatch.setenv("SSOD_FAILPOINT", f"{point}:{count}:{action}")
        atomic._passed.clear()

        def work(folder: Path = folder) -> None:
            for step in (1, 2, 3):
                checkpoint.save(folder, state(step))

        assert in_child(work) == (-signal.SIGKILL if action == "kill" else Exit.IO)
        monkeypatch.delenv("SSOD_FAILPOINT")
        replaced = point.endswith(("after_replace", "after_dir_fsync"))
        assert newest(folder) == (save if replaced else save - 1 or None)
        assert not list(folder.glob(".tmp-*")), "find() sweeps what a killed writer left"
        for step in (save, save + 1):  # life goes on
            checkpoint.save(folder, state(step))
        assert newest(folder) == save + 1


@pytest.mark.parametrize("point", POINTS)
def test_a_second_death_while_resuming_is_survived(tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest file is damaged, the run goes on from the older one, and dies in its next save."""
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step))
    flip(tmp_path / checkpoint.LAST, 1000)
    monkeypatch.setenv("SSOD_FAILPOINT", f"{point}:1:kill")
    atomic._passed.clear()

    def resume_and_save() -> None:
        assert newest(tmp_path) == 1
        checkpoint.save(tmp_path, state(2))
        checkpoint.save(tmp_path, state(3))  # the first save has no last.pt to keep

    assert in_child(resume_and_save) == -signal.SIGKILL
    monkeypatch.delenv("SSOD_FAILPOINT")
    assert newest(tmp_path) in (1, 2)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_every_cut_and_every_flipped_bit_is_seen(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    good, path, numbers = (tmp_path / checkpoint.LAST).read_bytes(), tmp_path / "x.pt", random.Random(0)
    lengths = {0, 1, len(good) - 1, len(good) - 48, *(numbers.randrange(len(good)) for _ in range(252))}
    for length in lengths:
        path.write_bytes(good[:length])
        assert checkpoint.damage(path), length
    bits = {*range(8 * len(good) - 400, 8 * len(good), 4), *(numbers.randrange(8 * len(good)) for _ in range(412))}
    for bit in bits:
        path.write_bytes(good)
        flip(path, bit)
        assert checkpoint.damage(path), bit
    path.write_bytes(good)
    assert checkpoint.damage(path) is None


@pytest.mark.parametrize("hurt", [lambda p: p.write_bytes(b""), lambda p: flip(p, 5000), lambda p: p.unlink()])
def test_the_older_one_serves_with_one_warning(
    tmp_path: Path, hurt: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step))
    hurt(tmp_path / checkpoint.LAST)
    assert newest(tmp_path) == 1
    assert len(caplog.messages) == 1
    assert "previous.pt" in caplog.text
    checkpoint.save(tmp_path, state(2))
    assert newest(tmp_path) == 2


def test_when_all_are_damaged_it_says_so(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step))
    for name in (checkpoint.LAST, checkpoint.PREVIOUS):
        flip(tmp_path / name, 999)
    with pytest.raises(SsodError, match="sha256 mismatch") as caught:
        checkpoint.find(tmp_path)
    assert caught.value.code == Exit.CHECKPOINT


class Evil:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch canary",))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with a correct hash: the hash proves that the file is whole, not that it is honest."""
    monkeypatch.chdir(tmp_path)
    torch.save({"schema": 1, "x": Evil()}, tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    digest = checkpoint.hashlib.sha256(data).digest()
    (tmp_path / "x.pt").write_bytes(data + checkpoint._TRAILER.pack(checkpoint._MAGIC, len(data), digest))
    with pytest.raises(SsodError, match="system") as caught:
        checkpoint.load(tmp_path / "x.pt")
    assert caught.value.code == Exit.UNSAFE
    assert not (tmp_path / "canary").exists()
    assert "\n" not in str(caught.value)


def test_a_bare_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(pickle.dumps([0] * 100))
    with pytest.raises(SsodError) as caught:
        checkpoint.load(tmp_path / "x.pt")
    assert caught.value.code == Exit.CHECKPOINT


def test_non_finite_weights_are_not_written(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    bad = state(2)
    bad["method"]["student.w"][7] = float("inf")
    with pytest.raises(SsodError, match=r"student\.w: 1 non-finite") as caught:
        checkpoint.save(tmp_path, bad)
    assert caught.value.code == Exit.DIVERGED
    assert newest(tmp_path) == 1
    bad = state(2)
    bad["method"]["thresholds"] = torch.tensor([float("inf")])  # nothing passes: a legitimate threshold
    checkpoint.save(tmp_path, bad)


def test_a_full_disk_is_an_error_and_costs_nothing(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        checkpoint.save(tmp_path, {**state(2), "big": torch.zeros(1 << 20)})

    assert in_child(work) == Exit.IO
    assert newest(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt"]


def test_the_message_of_a_full_disk_names_file_and_room(tmp_path: Path) -> None:
    line = str(atomic.refused(tmp_path / "last.pt", OSError(errno.ENOSPC, "")))
    assert "last.pt" in line
    assert "No space left on device" in line
    assert "MB free" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="drops root, for whom no folder is read-only")
def test_a_read_only_folder_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for parent in [tmp_path, *list(tmp_path.parents)[:3]]:
        parent.chmod(0o755) if parent.stat().st_uid == 0 and parent.name != "tmp" else None
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IXOTH | stat.S_IROTH)

    def work() -> None:
        os.setgid(65534)
        os.setuid(65534)
        checkpoint.save(folder, state(1))

    assert in_child(work) == Exit.IO
    assert list(folder.iterdir()) == []


def test_the_disk_is_measured_before_the_first_step(tmp_path: Path) -> None:
    checkpoint.check_space(tmp_path, 1000)
    with pytest.raises(SsodError, match="MB are free") as caught:
        checkpoint.check_space(tmp_path, 10**18)
    assert caught.value.code == Exit.IO


@pytest.mark.parametrize(("more", "there", "needed"), [
    ((), (), 300), (("best.pt",), (), 400), ((), ("last.pt", "previous.pt"), 100), ((), ("best.pt", "damaged.pt"), 300),
    (("best.pt",), ("last.pt", "best.pt"), 200), (("best.pt", "burn_in.pt"), ("last.pt", "best.pt"), 300),
])  # fmt: skip
def test_what_is_there_needs_no_room_and_the_one_being_written_does(
    tmp_path: Path, more: tuple, there: tuple, needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in there:
        (tmp_path / name).write_bytes(bytes(100))
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1000, 0, needed))
    checkpoint.check_space(tmp_path, 100, *more)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1000, 0, needed - 1))
    with pytest.raises(SsodError, match="checkpoints need"):
        checkpoint.check_space(tmp_path, 100, *more)


def test_bytes_reach_the_disk_before_the_name_does(tmp_path: Path) -> None:
    """SIGKILL keeps the page cache, so only the order of the calls says what a power cut would leave."""
    script = "from pathlib import Path; from ssod.utils import atomic; "
    script += f"atomic.write_text(Path({str(tmp_path)!r}) / 'x', 'y')"
    calls: list[str] = []
    tracer = (
        "import os, sys\n"
        "for name in ('fsync', 'replace'):\n"
        "    def spy(*a, f=getattr(os, name), n=name, **k):\n"
        "        what = 'folder' if n == 'fsync' and os.path.isdir(f'/proc/self/fd/{a[0]}') else ''\n"
        "        print(n, what); return f(*a, **k)\n"
        "    setattr(os, name, spy)\n"
    )
    result = subprocess.run([sys.executable, "-c", tracer + script], capture_output=True, text=True, check=True)
    calls = [line.strip() for line in result.stdout.splitlines()]
    assert calls == ["fsync", "replace", "fsync folder"]
