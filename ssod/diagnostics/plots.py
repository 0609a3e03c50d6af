"""The report's figures as pictures, for trackers, which take no SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from ssod.diagnostics import curves
from ssod.diagnostics.curves import MOST_CLASSES, SURE, Scored
from ssod.diagnostics.pseudofile import Pseudo
from ssod.evaluation.matching import Matches
from ssod.utils.lettering import lettering


def charts(table: Matches | None, look: Pseudo | None) -> dict[str, Figure]:
    """Return the charts of an evaluation by name; one that lacks its numbers is left out.

    Args:
        table: the teacher's detections on val.
        look: the teacher's output on the fixed unlabelled images.
    """
    found = {}
    if table is not None:
        order = curves.ranked(table)
        title = "Precision against recall, IoU 0.5"
        if len(order) <= MOST_CLASSES:
            found["precision_recall"] = precision_recall(table, order, title)
        else:
            found["precision_recall/best"] = precision_recall(table, order[::-1][:MOST_CLASSES], f"{title}: best")
            found["precision_recall/weakest"] = precision_recall(table, order[:MOST_CLASSES], f"{title}: weakest")
    boxes = curves.scored(table, look)
    if boxes is not None:
        found["scores/all"] = histogram(boxes, 0.0)
        found["scores/sure"] = histogram(boxes, SURE)
        found["confidence_iou"] = confidence_iou(boxes)
    return found


def precision_recall(table: Matches, shown: Sequence[int], title: str) -> Figure:
    """Draw a line for each class of ``shown``."""
    figure, axes = _chart(title, "recall", "precision")
    letters = lettering(table.classes[k] for k in shown)
    for k in shown:
        name = letters.text(table.classes[k]).replace("$", r"\$")  # a pair of them is a formula to matplotlib
        name = f" {name}" if name.startswith("_") else name  # what begins so has no place in a legend
        axes.plot(*curves.precision_recall(table, k), marker=".", markersize=3, label=name)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    if shown:
        axes.legend(prop=FontProperties(fname=letters.path, size=8))
    return figure


def histogram(boxes: Scored, low: float) -> Figure:
    """Draw how many boxes have which score, the right ones below the wrong ones."""
    above = f" above {low:g}" if low else ""
    figure, axes = _chart(f"Scores{above} of the teacher's boxes, {boxes.where}", "score", "boxes")
    edges, right, wrong = curves.histogram(boxes, low)
    wide = np.diff(edges)
    axes.bar(edges[:-1], right, wide, align="edge", color="tab:blue", label="right")
    axes.bar(edges[:-1], wrong, wide, bottom=right, align="edge", color="tab:orange", label="wrong")
    axes.set_ylim(0, max(1.0, 1.05 * (right + wrong).max()))
    axes.legend(fontsize=8)
    return figure


def confidence_iou(boxes: Scored) -> Figure:
    """Draw how many boxes have which score and IoU; colours go by the root, since most boxes share few cells."""
    figure, axes = _chart(f"Confidence against IoU, {boxes.where}", "confidence", "IoU")
    counts = curves.confidence_iou(boxes)
    axes.imshow(np.sqrt(counts), origin="lower", extent=(0, 1, 0, 1), cmap="Blues", aspect="auto")
    for j, i in np.argwhere(counts):
        at = ((i + 0.5) / curves.CELLS, (j + 0.5) / curves.CELLS)
        dark = counts[j, i] > counts.max() / 4
        color = "white" if dark else "black"
        axes.annotate(f"{counts[j, i]:g}", at, ha="center", va="center", fontsize=7, color=color)
    return figure


def _chart(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
    axes.title.set_fontsize(10)
    return figure, axes


def render(figure: Figure) -> np.ndarray:
    """Return a figure's pixels, [H, W, 3] uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
