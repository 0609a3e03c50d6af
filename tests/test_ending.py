"""A command that fails ends: with its code, one line, and no process left; whatever ended it, and with data workers.

Each case is a real process, for what is tested here happens at the exit of one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest

import ssod
from ssod.utils.errors import Exit, SsodError
from tests.engine.fork import free_port
from tests.small import small_config
from tests.starter import Ended, Starter

ACTS = '''
"""A method that does in its third step what $ACT says: things that end a run."""

import os
import signal
from multiprocessing import active_children

from torch.utils.data import Dataset

from ssod.data.loading.workers import run
from ssod.methods.mean_teacher import MeanTeacher

LOADERS = []


class Numbers(Dataset):
    def __getitem__(self, k):
        return k


def open_loader():
    LOADERS.append(run(Numbers(), range(100), str, 2, 60))
    next(LOADERS[0])


class Acting(MeanTeacher):
    def forward(self, batch, step):
        act = os.environ.get("ACT") if step == 2 else None
        if act == "worker":
            os.kill(active_children()[0].pid, signal.SIGKILL)
        if act == "open":
            open_loader()
        if act in ("raise", "open"):
            raise ValueError("a mistake of mine")
        if act == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if act == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        if act == "ctrl-c twice":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return super().forward(batch, step)


METHOD = Acting
'''


class World:
    """A config, data of which some is cut off, and a starter of commands.

    Attributes:
        limit: seconds in which a command that fails must end: what one that does not fail took, several times.
        good: that one.
    """

    def __init__(self, folder: Path, starter: Starter) -> None:
        self.folder, self.starter, self.limit = folder, starter, 300.0
        (folder / "own").mkdir()
        (folder / "own/acts.py").write_text(ACTS)
        method = {"name": "own.acts", "burn_in": 1, "score": 0.05, "ema": {"decay": 0.9}}
        schedule = {"train__steps": 6, "train__eval_every": 4, "train__log_every": 1, "train__save_every": 2}
        self.config = small_config(folder, method=method, train__workers=2, **schedule)
        cut(folder / "data/train", folder / "data/train_cut")
        cut(folder / "data/val", folder / "data/val_cut", ["000004.jpg"])
        cut(folder / "data/train", folder / "data/few", ["000003.jpg"])
        self.good = self.train("good")
        self.limit = 20 + 5 * self.good.seconds

    def train(self, name: str, *words: str, act: str = "", head: bool = False) -> Ended:
        """Train into the folder ``name``."""
        words = ("train", str(self.config), "-o", str(self.folder / name), *words)
        return self.starter.run(words, self.limit, head=head, ACT=act)

    def exit_json(self, name: str) -> int:
        """Return the code that the run ``name`` wrote down."""
        return json.loads((self.folder / name / "exit.json").read_text())["code"]


def cut(folder: Path, to: Path, names: list[str] | None = None) -> None:
    """Copy a folder of images, and cut off those of ``names``, or all."""
    shutil.copytree(folder, to)
    for path in to.iterdir():
        if names is None or path.name in names:
            path.write_bytes(path.read_bytes()[:-200])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("ending")
    with Starter(folder) as starter:
        yield World(folder, starter)


VAL_CUT, TRAIN_CUT = "data.val.images=val_cut", "data.labeled.images=train_cut"
OUTSIDE = ["data.split=null", "data.unlabeled={format: folder, path: few}"]


def check(ended: Ended, code: int, *lines: str) -> None:
    """Check how a command ended; ``lines`` are the beginnings of the error lines and what must be in them."""
    assert ended.code == code, ended.err[-3000:]
    assert not ended.left
    told = [line for line in ended.err.splitlines() if line.startswith("ssod: ")]
    assert len(told) == len(lines), ended.err[-3000:]
    for line, part in zip(told, lines):
        assert part in line
    assert "Exception ignored" not in ended.err


def test_a_run_that_does_not_fail_is_what_the_others_are_compared_with(world: World) -> None:
    check(world.good, Exit.OK)
    assert world.exit_json("good") == Exit.OK


FAILURES = {
    "a worker is killed": ([], "worker", Exit.IO, "worker (pid"),
    "a val image is cut off": ([VAL_CUT], "", Exit.DATA, "000004.jpg"),
    "it is asked to stop": ([], "term", Exit.PREEMPTED, "state saved"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_an_error_ends_the_run(world: World, what: str) -> None:
    words, act, code, part = FAILURES[what]
    ended = world.train(what, *words, act=act)
    check(ended, code, part)
    assert "Traceback" not in ended.err
    assert world.exit_json(what) == code


@pytest.mark.parametrize("act", ["raise", "open"])
def test_a_bug_ends_the_run(world: World, act: str) -> None:
    """``open``: with a loader that nobody closes, for the end of the process to close."""
    ended = world.train(act, act=act)
    check(ended, Exit.BUG)
    assert ended.err.count("Traceback") == 1
    assert ended.err.endswith("ValueError: a mistake of mine\n")
    assert world.exit_json(act) == Exit.BUG


def test_debug_adds_the_traceback_to_the_line_and_the_code(world: World) -> None:
    """Here of the first batch, which is read before the run's first line."""
    ended = world.train("debug", TRAIN_CUT, "--debug")
    check(ended, Exit.DATA, "train_cut/")
    assert "Traceback" in ended.err
    assert world.exit_json("debug") == Exit.DATA


def test_a_second_ctrl_c_ends_the_run(world: World) -> None:
    ended = world.train("twice", act="ctrl-c twice")
    check(ended, Exit.INTERRUPTED, "interrupted")
    assert world.exit_json("twice") == Exit.INTERRUPTED


def test_a_killed_run_takes_its_workers_along(world: World) -> None:
    check(world.train("killed", act="killed"), -9)


def test_output_that_nobody_reads_changes_no_code(world: World) -> None:
    """Some unlabelled images cannot be read, and are told of while it trains."""
    check(world.train("head", VAL_CUT, *OUTSIDE, head=True), Exit.DATA, "000004.jpg")
    assert world.exit_json("head") == Exit.DATA


@pytest.mark.parametrize(
    ("words", "part"), [(["eval", "good", VAL_CUT], "000004.jpg"), (["plan", "small.yaml", TRAIN_CUT], "train_cut/")]
)
def test_other_commands_with_workers_end(world: World, words: list[str], part: str) -> None:
    check(world.starter.run([*words, "train.workers=2", "--debug"], world.limit), Exit.DATA, part)


def test_a_rank_that_fails_ends_both(world: World) -> None:
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [{**job, "RANK": str(r), "LOCAL_RANK": str(r), "ACT": ["", "raise"][r]} for r in range(2)]
    words = ["train", str(world.config), "-o", str(world.folder / "ranks")]
    first, second = world.starter.run_all(words, 2 * world.limit, ranks)
    check(second, Exit.BUG)
    check(first, Exit.DISTRIBUTED, "rank 0: another rank died")
    assert world.exit_json("ranks") == Exit.BUG


def test_a_call_that_fails_leaves_no_process_in_a_program_that_goes_on(world: World) -> None:
    """The error, with all frames that it went through, is still held."""
    before = active_children()
    cfg = ssod.load_config(world.config, [VAL_CUT, "method.name=mean_teacher"])
    with pytest.raises(SsodError, match="000004") as caught:
        ssod.train(cfg, out=world.folder / "call")
    assert caught.tb is not None
    assert [child for child in active_children() if child not in before] == []
