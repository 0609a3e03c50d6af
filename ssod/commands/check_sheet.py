"""``ssod check -o sheet.html``: the page with pictures, and the model that is asked about the labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssod.commands.coverage import lines
from ssod.config import Config
from ssod.data.checks.report import Report
from ssod.data.formats.findings import Context
from ssod.data.formats.records import Labeled
from ssod.inference.label_limits import Limits
from ssod.inference.model import Model, load
from ssod.inference.suspects import PRECISION, SURE, Suspect, check_classes, limits_of, suspects
from ssod.report.album import Album
from ssod.report.check_page import check_page
from ssod.utils import atomic
from ssod.utils.address import refuse_url
from ssod.utils.distributed import Device, pick_device
from ssod.utils.errors import SsodError

LOOKED_AT = 200  # images of a set that a model looks at, evenly spread


@dataclass(frozen=True)
class Judge:
    """A model that is asked about labels.

    Attributes:
        weights: what it was loaded from.
        model: ready to detect.
        limits: the scores from which it is sure.
    """

    weights: Path
    model: Model
    limits: Limits

    def words(self) -> str:
        """Return what the page says of it."""
        if self.limits.option == "--score":
            how = f"is sure above a score of {SURE:g}: it has no val images by which {PRECISION:.0%} are right"
        else:
            how = f"is sure from the scores on from which {PRECISION:.0%} of its boxes on val are right"
        return f"{self.weights} {how}. It may be wrong, too."


def prepare(out: Path | None, weights: Path | None, device: Device) -> Judge | None:
    """Refuse what cannot be done before any image is read; return the model, if one is named.

    Args:
        out, weights: see ``ssod.run.check``.
        device: where the model runs, as ``train.device`` says it.

    Raises:
        SsodError: see ``ssod.run.check``.
    """
    if out is None:
        raise SsodError("command line", "--run", "needs a page to show its doubts on", "add -o sheet.html")
    if out.suffix != ".html":
        raise SsodError("command line", "-o", f"'{out}' does not end in .html", "name a page, as in -o sheet.html")
    refuse_url(out)
    if weights is None:
        return None
    model = load(weights, device if device == "auto" else pick_device(device))
    return Judge(weights, model, limits_of(weights, model))


def write_page(cfg: Config, report: Report, out: Path, judge: Judge | None) -> None:
    """Write the page of a report, and say where.

    Raises:
        SsodError: code 3 for a model of other classes; code 6 when the disk refuses.
    """
    ctx = Context(cfg.data.root, "data", cfg.data.rules())
    album = Album(report.sets, ctx)
    doubts: dict[str, tuple[int, list[Suspect]]] = {}
    if judge is not None:
        for part, data in report.sets.items():
            if isinstance(data, Labeled):
                check_classes(judge.model, data.classes, judge.weights)
                rows = album.spread(part, LOOKED_AT)
                doubts[part] = len(rows), suspects(judge.model, data, rows, judge.limits, ctx)
    words = "" if judge is None else judge.words()
    page = check_page(cfg.stem, report, album, lines(report.coverage), None if judge is None else doubts, words)
    atomic.write_text(out, page)
    print(f"-> {out}")
