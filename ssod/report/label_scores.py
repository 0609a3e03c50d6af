"""From which score on a class's boxes are fit to be labels, as ``ssod label --precision`` takes them."""

from __future__ import annotations

import math

from markupsafe import Markup

from ssod.evaluation.cutoffs import LEAST, PRECISION, Cutoff
from ssod.experiments.runs import Run
from ssod.inference.label_limits import of_run
from ssod.report.page import sheet, text
from ssod.utils.errors import SsodError


def label_scores(run: Run) -> list[Markup]:
    """Return the table; nothing before a run has a best teacher, a note where its matches cannot be read."""
    if not (run.path / "best.safetensors").is_file():
        return []
    try:
        found = of_run(run.path, PRECISION)
    except SsodError as error:
        return [text(f"No scores for labels: {error.line()}")]
    title = f"the best teacher: scores from which {100 * PRECISION:g} % of the boxes are right (IoU 0.5, val, at least "
    title += f"{LEAST} boxes); ssod label --precision {PRECISION:g} takes them"
    columns = ["class", "score", "precision", "boxes", "right", "val boxes"]
    return [sheet(title, columns, [_row(cutoff) for cutoff in found])]


def _row(cutoff: Cutoff) -> list[str]:
    score = "left out" if cutoff.score is None else f"{cutoff.score:.3f}"
    share = "-" if math.isnan(cutoff.precision) else f"{100 * cutoff.precision:.1f}"
    return [cutoff.name, score, share, str(cutoff.boxes), str(cutoff.right), str(cutoff.wanted)]
