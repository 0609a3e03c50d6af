"""Which boxes become labels: those above one score, or above a score for each class that was precise enough on val."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssod.evaluation import cutoffs, matching
from ssod.evaluation.cutoffs import Cutoff
from ssod.inference import graph_content
from ssod.inference.weights_file import weights_file
from ssod.utils import graph_file, model_file
from ssod.utils.errors import Exit, SsodError

SCORE = 0.5  # where nothing else is said


@dataclass(frozen=True)
class Limits:
    """The limits of K classes.

    Attributes:
        above: [K] float32, a box becomes a label if it scores above; infinite = the class is left out.
        near: [K] float32, the score at which a box is most in doubt; of a class that is left out ``SCORE``.
        option: what was asked for, as a command says it.
        words: where a box becomes a label, in words.
        lines: more for people, a line each.
    """

    above: np.ndarray
    near: np.ndarray
    option: str
    words: str
    lines: Sequence[str] = ()


def of_score(score: float, classes: int) -> Limits:
    """Return one limit for all classes."""
    same = np.full(classes, score, np.float32)
    return Limits(same, same, "--score", f"above {score:g}")


def of_precision(weights: str | os.PathLike, classes: Sequence[str], precision: float) -> Limits:
    """Return the limits from which labels would have had a precision on the run's val images.

    Args:
        weights: as ``of_run`` has it.
        classes: of the model.
        precision: in 0..1.

    Raises:
        SsodError: the run has no matches, they are of other classes, or no class reaches the precision.
    """
    check_precision(precision)
    found = {cutoff.name: cutoff for cutoff in of_run(weights, precision)}
    if set(found) != set(classes):
        problem = "the matches of its val images are of other classes"
        raise SsodError(weights, "eval", problem, "give --score in the place of --precision", code=Exit.DATA)
    own = [found[name] for name in classes]
    scores = np.array([np.inf if cutoff.score is None else cutoff.score for cutoff in own], np.float32)
    if np.isinf(scores).all():
        best = np.nanmax([0.0, *(cutoff.precision for cutoff in own)])
        if not best:  # which is also what stands where nothing was counted
            problem = f"no class has {cutoffs.LEAST} detections on val of which any is right"
            raise SsodError(weights, "--precision", problem, "train longer, or give --score", code=Exit.DATA)
        problem = f"no class reaches {precision:g} on val; the highest is {best:.3f}, of {cutoffs.LEAST} boxes or more"
        fix = "lower it, train longer, or give --score"
        raise SsodError("command line", "--precision", problem, fix, code=Exit.DATA)
    out = [cutoff.name for cutoff in own if cutoff.score is None]
    told = cutoffs.lines(own, precision)
    if out:
        told.append(f"left out, since no score is precise enough: {', '.join(out)}")
    out_of_reach = np.isinf(scores)
    above = np.where(out_of_reach, scores, np.nextafter(scores, np.float32(-1)))  # a box of just this score is a label
    near = np.where(out_of_reach, np.float32(SCORE), scores)
    return Limits(above, near, "--precision", "from these scores", told)


def check_precision(precision: float) -> None:
    """Refuse what is no share of boxes.

    Raises:
        SsodError: naming it.
    """
    if not 0 < precision <= 1:
        problem = f"{precision:g} is not above 0 and at most 1"
        raise SsodError("command line", "--precision", problem, "give a share of the boxes, as in 0.9")


def of_run(weights: str | os.PathLike, precision: float) -> list[Cutoff]:
    """Return the thresholds of a run's best teacher, from the matches that its training kept.

    Args:
        weights: a run folder, its ``best.safetensors``, or a graph that was exported from it and lies beside it.
        precision: in 0..1.

    Raises:
        SsodError: no weights; or no matches of the evaluation that these weights were the best of.
    """
    file = weights_file(weights)
    card = graph_content.read(file).card if graph_file.is_graph(file) else model_file.read_card(file)
    step = card.get("step")
    table = file.parent / "eval" / f"step_{step}.npz"
    if not _of_its_run(file, card) or not isinstance(step, int) or not table.is_file():
        problem = f"no matches of its val images: eval/{table.name} is not there"
        fix = "name a run folder that was evaluated, or give --score: `ssod eval` prints a score for each class"
        raise SsodError(weights, "--precision", problem, fix, code=Exit.DATA)
    return cutoffs.cutoffs(matching.read(table), precision)


def _of_its_run(file: Path, card: model_file.Card) -> bool:
    """Return whether weights are those of the run in whose folder they lie; a graph may have been copied there."""
    if not graph_file.is_graph(file):
        return file.name == "best.safetensors"
    best = file.with_name("best.safetensors")
    changing = {"step": None, "metrics": None}  # a training that went on has a better teacher by now
    return best.is_file() and model_file.read_card(best) | changing == card | changing
