"""A command that fails ends: with its code, one line, and no process left; whatever ended it, and with data workers.

Each case is a real process, for what is tested here happens at the exit of one. ``SSOD_ALL_ENDINGS=1`` tries all of
them, with and without data workers; each prints its seconds. What saved its state goes on as if nothing had happened.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import active_children
from pathlib import Path

import pytest

import ssod
from ssod.utils.errors import Exit, SsodError
from tests.engine.crash import difference, final_state
from tests.engine.fork import environments
from tests.small import small_config
from tests.starter import Ended, Starter

ALL = "SSOD_ALL_ENDINGS" in os.environ
SECONDS = "20"  # time-outs, where one is waited for


class World:
    """A config, data of which some is cut off, and a starter of commands.

    Attributes:
        limit: seconds in which a command that fails must end: what one that does not fail took, several times.
        good: that one.
    """

    def __init__(self, folder: Path, starter: Starter) -> None:
        self.folder, self.starter, self.limit = folder, starter, 300.0
        method = {"name": "tests.acts", "burn_in": 1, "score": 0.05, "ema": {"decay": 0.9}}
        schedule = {"train__steps": 6, "train__eval_every": 4, "train__log_every": 1, "train__save_every": 2}
        self.config = small_config(folder, method=method, train__workers=2, **schedule)
        cut(folder / "data/train", folder / "data/train_cut")
        cut(folder / "data/val", folder / "data/val_cut", ["000004.jpg"])
        cut(folder / "data/train", folder / "data/few", ["000003.jpg"])
        self.good = self.train("good")
        self.limit = 20 + 5 * self.good.seconds

    def train(self, name: str, *words: str, head: bool = False, **env: str) -> Ended:
        """Train into the folder ``name``."""
        words = ("train", str(self.config), "-o", str(self.folder / name), *words)
        return self.starter.run(words, self.limit, head=head, **env)

    def pair(self, name: str, *words: str, envs: tuple[dict[str, str], dict[str, str]] = ({}, {})) -> list[Ended]:
        """Train on two ranks."""
        words = ("train", str(self.config), "-o", str(self.folder / name), *words)
        ranks = [job | env for job, env in zip(environments(2), envs)]
        return self.starter.run_all(words, 2 * self.limit, ranks)

    def exit_json(self, name: str) -> dict:
        """Return what the run ``name`` wrote down of its end."""
        return json.loads((self.folder / name / "exit.json").read_text())

    def state(self, name: str) -> dict:
        """Return all that a run has learned, without its setting."""
        state = final_state(self.folder / name)
        del state["checkpoint"]["identity"]
        return state


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


def check(ended: Ended, code: int, *lines: str) -> None:
    """Check how a command ended; ``lines`` are parts of its error lines."""
    assert ended.code == code, ended.err[-3000:]
    assert not ended.left
    told = [line for line in ended.err.splitlines() if line.startswith("ssod: ")]
    assert len(told) == len(lines), ended.err[-3000:]
    for line, part in zip(told, lines):
        assert part in line
    assert "Exception ignored" not in ended.err
    assert "Aborted" not in ended.err


def test_a_run_that_does_not_fail_is_what_the_others_are_compared_with(world: World) -> None:
    check(world.good, Exit.OK)
    assert world.exit_json("good")["code"] == Exit.OK


# ---- trainings ---------------------------------------------------------------------------------------------------

VAL_CUT, TRAIN_CUT = "data.val.images=val_cut", "data.labeled.images=train_cut"
OUTSIDE = ["data.split=null", "data.unlabeled={format: folder, path: few}"]


@dataclass(frozen=True)
class Cell:
    """One way in which a training ends.

    Attributes:
        code: its exit code.
        part: what is in its error line; None = there is none.
        act: what the method does, and where; see ``tests.acts``.
        words: of the command line.
        env: more environment variables.
        traceback: whether there is one.
        begun: whether the run folder has an ``exit.json`` with the code.
        goes_on: whether the same command, undisturbed, ends with the bits of a run that nobody disturbed.
        workers: numbers of data workers that it is tried with.
        often: of these the one that it is always tried with; None = with ``SSOD_ALL_ENDINGS`` alone.
    """

    code: int
    part: str | None = None
    act: str = ""
    words: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    traceback: bool = False
    begun: bool = True
    goes_on: bool = True
    workers: tuple[int, ...] = (0, 2)
    often: int | None = None


IO, OK, BUG = Exit.IO, Exit.OK, Exit.BUG
WORKER = {"env": {"SECONDS": SECONDS}, "workers": (2,)}
CELLS = {
    # data workers
    "a worker is killed": Cell(IO, "worker (pid", "kill worker@step", workers=(2,), often=2),
    "a worker is killed as it reads": Cell(IO, "worker (pid", "kill@reading", workers=(2,)),
    "a worker is stopped": Cell(IO, f"timed out after {SECONDS} seconds", "stop@reading", **WORKER),
    "a worker stalls": Cell(IO, f"timed out after {SECONDS} seconds", "stall@reading", **WORKER),
    # images
    "a labelled image is cut off": Cell(Exit.DATA, "train_cut/", words=[TRAIN_CUT], goes_on=False),
    "a val image is cut off": Cell(Exit.DATA, "000004.jpg", words=[VAL_CUT], begun=False, goes_on=False, often=0),
    "a val image is cut off, and not decoded before": Cell(
        Exit.DATA, "000004.jpg", words=[VAL_CUT, "--decode", "none"], goes_on=False
    ),
    "an unlabelled image is cut off": Cell(OK, words=OUTSIDE, goes_on=False),
    "all unlabelled images are cut off": Cell(
        Exit.DATA, "unlabelled images cannot be read", words=[OUTSIDE[0], OUTSIDE[1].replace("few", "train_cut")],
        goes_on=False,
    ),
    # mistakes of somebody's code; "open": with a loader that nobody closes, for the end of the process to close
    "the method raises": Cell(BUG, act="raise@step", traceback=True),
    "the method raises with a loader open": Cell(BUG, act="open@step", traceback=True, workers=(2,)),
    "the evaluation raises": Cell(BUG, act="raise@evaluation", traceback=True),
    "a tracker raises": Cell(OK, act="raise@tracker", words=["train.tensorboard=true"], goes_on=False),
    # numbers
    "it diverges": Cell(Exit.DIVERGED, "diverged: ", "nan@step", goes_on=False),
    "it diverges in debug": Cell(
        Exit.DIVERGED, "diverged: ", "nan@step", words=["--debug"], traceback=True, goes_on=False
    ),
    "debug": Cell(Exit.DATA, "train_cut/", words=[TRAIN_CUT, "--debug"], traceback=True, goes_on=False),
    # a full disk
    "no room for the checkpoint": Cell(IO, "last.pt: cannot be written: No space left", env={"FULL": "last.pt"}),
    "no room for the model": Cell(IO, "best.safetensors: cannot", env={"FULL": "best.safetensors"}),
    "no room for the log": Cell(OK, env={"FULL": "metrics.jsonl"}),
    "no room for an evaluation": Cell(OK, env={"FULL": "step_"}, goes_on=False),
    "no room for the config": Cell(IO, "config.yaml: cannot be written", env={"FULL": "config.yaml"}),
    "no room for anything": Cell(IO, "File too large", env={"LARGEST": "1500"}),
    # signals
    "SIGTERM at import": Cell(Exit.PREEMPTED, "stopped", "term@import", begun=False, workers=(0,)),
    "SIGINT at import": Cell(Exit.INTERRUPTED, "interrupted", "int@import", begun=False, workers=(0,)),
    **{
        f"{number} at the {place}": Cell(code, "state saved; run it again with -o", f"{word}@{place}", often=often)
        for number, word, code in [("SIGTERM", "term", Exit.PREEMPTED), ("SIGINT", "int", Exit.INTERRUPTED)]
        for place in ("first", "step", "evaluation", "saving")
        for often in [2 if (word, place) == ("term", "step") else None]
    },
    "SIGINT twice": Cell(Exit.INTERRUPTED, "interrupted", "int twice@step", often=0),
    "SIGKILL": Cell(-9, act="kill@step", begun=False, often=2),
    "SIGKILL in an evaluation": Cell(-9, act="kill@evaluation", begun=False),
}  # fmt: skip
CHOSEN = [(name, w) for name, c in CELLS.items() for w in c.workers if ALL or w == c.often]


@pytest.mark.parametrize(("name", "workers"), CHOSEN)
def test_a_training_ends(world: World, name: str, workers: int) -> None:
    cell, folder = CELLS[name], f"{name} {workers}"
    ended = world.train(folder, *cell.words, f"train.workers={workers}", ACT=cell.act, **cell.env)
    print(f"{name}, {workers} workers: code {ended.code} after {ended.seconds:.1f} s")
    check(ended, cell.code, *([] if cell.part is None else [cell.part]))
    assert ended.err.count("Traceback") == cell.traceback
    if cell.traceback and cell.part is None:
        assert ended.err.endswith("ValueError: a mistake of mine\n")
    if cell.begun:
        assert world.exit_json(folder)["code"] == cell.code
        error = world.exit_json(folder)["error"]
        assert (error is None) == (cell.code == Exit.OK)
        assert error is None or (cell.part or "a mistake of mine") in error
    else:
        assert not (world.folder / folder / "exit.json").exists()
    if ALL and cell.goes_on:
        check(world.train(folder, f"train.workers={workers}"), Exit.OK)
        assert difference(world.state("good"), world.state(folder)) == []
        assert world.exit_json(folder)["code"] == Exit.OK


def test_output_that_nobody_reads_changes_no_code(world: World) -> None:
    """Some unlabelled images cannot be read, and are told of while it trains."""
    check(world.train("head", VAL_CUT, "--decode", "none", *OUTSIDE, head=True), Exit.DATA, "000004.jpg")
    assert world.exit_json("head")["code"] == Exit.DATA


def test_a_call_that_fails_leaves_no_process_in_a_program_that_goes_on(world: World) -> None:
    """The error, with all frames that it went through, is still held."""
    before = active_children()
    cfg = ssod.load_config(world.config, [VAL_CUT, "method.name=mean_teacher"])
    with pytest.raises(SsodError, match="000004") as caught:
        ssod.train(cfg, out=world.folder / "call", decode="none")
    assert caught.tb is not None
    assert [child for child in active_children() if child not in before] == []


# ---- other commands ----------------------------------------------------------------------------------------------

LABEL = ["label", "good", "data/val", "-o", "new/", "--score", "0.01"]
PREDICT = ["predict", "good", "data/val", "-o", "new"]
INIT = ["init", "--labeled", "data/annotations/train.json", "--images", "data/train"]
INIT += ["--val", "data/annotations/val.json", "--val-images", "data/val", "--detector", "fcos_tiny_fpn"]
INIT += ["--percent", "50", "-o", "new.yaml"]
SPLIT = ["split", "--ann", "data/annotations/train.json", "--percent", "50", "--folds", "1", "-o", "new"]
NO_ROOM = "cannot be written: No space left on device"
OTHERS: dict[str, tuple[list[str], dict[str, str], int, str]] = {
    "eval, cut off": (["eval", "good", VAL_CUT, "train.workers=2", "--debug"], {}, Exit.DATA, "000004.jpg"),
    "plan, cut off": (["plan", "small.yaml", TRAIN_CUT, "train.workers=2", "--debug"], {}, Exit.DATA, "train_cut/"),
    "report, disk": (["report", "good", "-o", "new.html"], {"FULL": "new.html"}, IO, NO_ROOM),
    "compare, disk": (["compare", "good", "-o", "new.csv"], {"FULL": "new.csv"}, IO, NO_ROOM),
    "init, disk": (INIT, {"FULL": "new.yaml"}, IO, NO_ROOM),
    "split, disk": (SPLIT, {"FULL": ".json"}, IO, NO_ROOM),
    "label, disk": (LABEL, {"LARGEST": "1000"}, IO, "cannot be written: File too large"),
    "predict, disk": (PREDICT, {"LARGEST": "1000"}, IO, "cannot be written: File too large"),
    "predict, disk at its end": (PREDICT, {"FULL": "results.json"}, IO, NO_ROOM),
    **{
        f"{command}, {word}": (words, {"ACT": f"{word}@{place}", "HOOK": "tests.acts"}, code, part)
        for command, words, place, part in [
            ("label", LABEL, "labels", ", nothing was written; run it again"),
            ("predict", PREDICT, "picture", ", nothing was written; run it again"),
            ("eval", ["eval", "good"], "detections", ""),
        ]
        for word, code in [("term", Exit.PREEMPTED), ("int", Exit.INTERRUPTED)]
    },
}
OFTEN = ("eval, cut off", "predict, term")


@pytest.mark.parametrize("name", [name for name in OTHERS if ALL or name in OFTEN])
def test_another_command_ends(world: World, name: str) -> None:
    words, env, code, part = OTHERS[name]
    ended = world.starter.run(words, world.limit, **env)
    print(f"{name}: code {ended.code} after {ended.seconds:.1f} s")
    check(ended, code, part)
    assert ended.err.count("Traceback") == ("--debug" in words)
    left = [path.name for path in world.folder.rglob("*") if path.name.startswith((".tmp-", "new"))]
    assert left == []


# ---- two processes -----------------------------------------------------------------------------------------------

LOST = "rank 0: another rank died or is late"
# What the second does, words, and of each rank: its code, and its line.
RANKS: dict[str, tuple[dict[str, str], list[str], list[tuple[int, str | None]], int | None]] = {
    "one raises": ({"ACT": "raise@step"}, [], [(Exit.DISTRIBUTED, LOST), (BUG, None)], BUG),
    "one is killed": ({"ACT": "kill@step"}, [], [(Exit.DISTRIBUTED, LOST), (-9, None)], Exit.DISTRIBUTED),
    "one is stopped": (
        {"ACT": "stop@step", "SECONDS": SECONDS}, [], [(Exit.DISTRIBUTED, LOST), (-9, None)], Exit.DISTRIBUTED,
    ),
    "one is asked to stop": (
        {"ACT": "term@step"}, [], [(Exit.PREEMPTED, "state saved"), (Exit.PREEMPTED, None)], Exit.PREEMPTED,
    ),
    "a key is wrong": ({}, ["train.stepz=1"], [(Exit.USAGE, "train.stepz"), (Exit.USAGE, None)], None),
    "a file is not there": (
        {}, ["data.val.ann=no.json"], [(Exit.DATA, "no.json: data.val.ann: not found"), (Exit.DATA, None)], None,
    ),
    "it diverges": (
        {"ACT": "nan@step"}, [], [(Exit.DIVERGED, "diverged"), (Exit.DIVERGED, None)], Exit.DIVERGED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in RANKS if ALL or name in ("one raises", "a file is not there")])
def test_ranks_end(world: World, name: str) -> None:
    """What both have is told by one of them."""
    env, words, wanted, code = RANKS[name]
    waits = {key: env[key] for key in ("SECONDS",) if key in env}
    ended = world.pair(name, *words, envs=(waits, env))
    print(f"two ranks, {name}: {[(one.code, round(one.seconds, 1)) for one in ended]}")
    for one, (own, part) in zip(ended, wanted):
        check(one, own, *([] if part is None else [part]))
    if code is not None:
        assert world.exit_json(name)["code"] == code
