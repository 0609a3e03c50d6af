"""What a user starts: a training, or a check of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ssod.build import build, read_data, visible
from ssod.commands.check import check as check_data
from ssod.commands.check_sheet import prepare, write_page
from ssod.commands.checked import Checked, checked
from ssod.commands.coverage import coverage, doubt
from ssod.commands.measured import Measured
from ssod.config import Config
from ssod.data import datasets
from ssod.data.checks.decoded import Decode, check_word
from ssod.data.datasets import DataSets
from ssod.data.loading.team import worker_deaths
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.engine.trainer import Trainer
from ssod.methods.burn_in import apart
from ssod.utils import distributed
from ssod.utils.errors import SsodError
from ssod.utils.signals import Signals


@dataclass(frozen=True, eq=False)
class Trained(Measured):
    """What a training ended with: the teacher's metrics by name, ``trained["AP"]``, and where it is.

    Attributes:
        metrics: of the teacher's last evaluation, fractions in 0..1; NaN where there was nothing to find, empty where
            nothing was measured.
        folder: the run's.
        step: that was reached.
    """

    folder: Path
    step: int


@contextmanager
def opened(
    cfg: Config,
    *,
    out: Path | str | None = None,
    allow_change: Sequence[str] = (),
    from_burn_in: Path | str | None = None,
    decode: Decode | None = None,
) -> Iterator[Trainer]:
    """Read the data, enter the run folder and build what trains in it; see ``train``."""

    def read() -> DataSets:
        check_word(decode)
        problem = apart(cfg.method, cfg.train.on_collapse) if from_burn_in is not None else ""
        if problem:
            raise SsodError("command line", "--from-burn-in", problem, "leave it out")
        return read_data(cfg, decode)

    device = distributed.pick_device(cfg.train.device)
    with Signals(), distributed.job(device):
        data = distributed.together(read)  # before the folder is made: a run that cannot start leaves nothing behind
        with RunFolder(out) if out else RunFolder.create("runs", cfg.stem) as folder, worker_deaths():
            begin = None if from_burn_in is None else Path(from_burn_in)
            yield folder.or_discard(partial(build, cfg, data, folder, allow_change, begin))


def train(
    cfg: Config,
    *,
    out: Path | str | None = None,
    allow_change: Sequence[str] = (),
    from_burn_in: Path | str | None = None,
    decode: Decode | None = None,
) -> Trained:
    """Train a config to its last step, or go on where its run folder stopped.

    Args:
        cfg: from ``ssod.config.load``.
        out: the run folder; by default a new one below ``runs/<config>``.
        allow_change: dotted keys that may differ from a checkpoint's.
        from_burn_in: folder of a run that was trained with ``train.keep_burn_in``. A run without a checkpoint of its
            own begins where that one's burn-in ended, if its own would have been the same; its best teacher is sought
            from there on.
        decode: which val images to decode before the first step, which finds truncated ones: ``none``, a ``sample`` or
            ``all``; None = all of a set of up to 20 000 images, and a sample of a larger one.

    Returns:
        The teacher's metrics of the last evaluation by name, fractions in 0..1, and the folder.
    """
    with opened(cfg, out=out, allow_change=allow_change, from_burn_in=from_burn_in, decode=decode) as trainer:
        return Trained(trainer.fit(), trainer.folder.path, trainer.step)


def check(
    cfg: Config, *, decode: Decode | None = None, out: Path | str | None = None, weights: Path | str | None = None
) -> Checked:
    """Print counts and every finding about a config's data, instead of stopping at the first.

    Args:
        cfg: from ``ssod.config.load``.
        decode: which images to decode, which finds truncated ones and near duplicates: ``none``, a ``sample`` or
            ``all``; None = all of a set of up to 20 000 images, and a sample of a larger one.
        out: an ``.html`` file for a page with pictures; one that is there is replaced. None = no page.
        weights: a run folder or a model file, whose doubts about the labels the page shows; None = no model is asked.

    Returns:
        The same as values. Errors in the data are among its findings; they are not raised.

    Raises:
        SsodError: ``decode`` is none of these; ``out`` is no ``.html`` file, or is not named although ``weights`` are;
            the model cannot be read or knows a class that the data have not; the disk refuses.
    """
    check_word(decode)
    out, weights = (None if path is None else Path(path) for path in (out, weights))
    judge = None if out is None and weights is None else prepare(out, weights, cfg.train.device)
    report = check_data(cfg.data, decode=decode, visible=visible(cfg), reach=partial(coverage, cfg))
    if problem := doubt(report.coverage):
        file = datasets.name_of(cfg.data.labeled, datasets.context(cfg.data)("labeled"))
        report.findings.warning("D50", file, "data.labeled", *problem)
    found = checked(report)
    print("\n".join(found.text))
    if out is not None:
        write_page(cfg, report, out, judge)
    return found
