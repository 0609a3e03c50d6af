"""Pictures in a report: what the teacher keeps, moves and rejects on unlabelled images, and the hardest val images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from markupsafe import Markup

from ssod import build as root
from ssod.config import Config, load
from ssod.data.datasets import DataSets
from ssod.data.formats.records import Labeled
from ssod.data.loading.loader import Loading, eval_views
from ssod.data.loading.sampling import Place
from ssod.data.loading.tiled import val_views
from ssod.diagnostics.gallery import MOST_REJECTED, SHOWN, SURE, Shown, pixels, show
from ssod.diagnostics.pseudo_quality import fixed_set, same_views, untouched
from ssod.engine.checkpointing import checkpoint, contents
from ssod.evaluation.matching import Matches
from ssod.evaluation.measure import detect
from ssod.evaluation.merge_tiles import Merging
from ssod.experiments.runs import Run
from ssod.labelers import from_config as labelers
from ssod.methods.base import Method
from ssod.report.page import Section, grid, text
from ssod.report.shots import boxes_of, legend, shot
from ssod.structures import Detector, Targets, View, move_targets
from ssod.transforms.views import Pipeline
from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError

TEACHES = "What the teacher teaches"
MOST_NAMED = 3  # boxes that a caption names
ONE_OF_TWO = "No pictures: best.safetensors has not all that makes these labels, and last.pt is not there."


def pictures(run: Run) -> list[Section]:
    """Return the gallery and the hardest images; a section that says why where data or weights are not there.

    Both are there no more, too, where the data changed so that they do not fit what was trained.
    """
    try:
        cfg = load(run.path / "config.yaml")
        data = root.load_data(cfg)
        method, step = trained_method(run, cfg, data)
        whole = (run.path / "checkpoints" / checkpoint.LAST).exists()  # else there is the best teacher alone
        enough = whole or not method.uses_unlabeled or method.labels_alone
        taught = gallery(cfg, data, method, step) if enough else Section("gallery", TEACHES, [text(ONE_OF_TWO)])
        return [taught, hardest(run, cfg, data, method)]
    except SsodError as error:
        return [Section("gallery", "Pictures", [text(f"No pictures: {error.line()}")])]


def trained_method(run: Run, cfg: Config, data: DataSets) -> tuple[Method, int]:
    """Return the method with the state of its last checkpoint, or else with its best teacher, and its steps.

    Raises:
        SsodError: code 3, the run learnt other classes; code 4, there are no weights, or they do not fit.
    """
    classes = data.classes.names
    last, best = run.path / "checkpoints" / checkpoint.LAST, run.path / "best.safetensors"
    processes = 1
    if last.exists():
        saved = contents.load(last)
        processes = saved["identity"].get("world_size") or 1
        path, state, step = last, saved["method"], saved["step"]
        learnt = (saved["identity"].get("classes") or {}).get("names") or []
    else:
        state, card = model_file.read(best)
        path, step, learnt = best, card.get("step") or 0, card["classes"]["names"]
    if list(learnt) != list(classes):
        fix = "pictures need the data that the run was trained on"
        raise SsodError(run.path / "config.yaml", "data", _differences(learnt, classes), fix, code=Exit.DATA)
    method = root.build_method(cfg, data, pretrained=False)
    method.see_batch(cfg.train.batch.unlabeled // processes)  # what is kept of a batch is that of one of them
    module = method if path == last else method.teacher.model
    checkpoint.check_model(path, state, module.state_dict())
    module.load_state_dict(state)
    labeler = labelers.build_labeler(cfg, data) if path == best else None  # a model file has the average alone
    if labeler is not None:
        method.use_labeler(labeler)
    return method.eval(), step


def _differences(learnt: Sequence[str], classes: Sequence[str]) -> str:
    """Say how the classes that a run learnt differ from those that its data have now."""
    gone, new = [n for n in learnt if n not in classes], [n for n in classes if n not in learnt]
    message = [f"has no {', '.join(gone[:MOST_NAMED])} any more, which the run learnt"] if gone else []
    message += [f"now has {', '.join(new[:MOST_NAMED])}, which the run did not learn"] if new else []
    return "; ".join(message) or "now has its classes in another order"


# ---- unlabelled images ---------------------------------------------------------------------------------------------


@torch.no_grad()
def gallery(cfg: Config, data: DataSets, method: Method, step: int) -> Section:
    """Show weak views with kept, unsure and rejected boxes, and strong ones with the kept boxes moved into them.

    A method that chooses no box is shown by the detections that its teacher is surest of. Who labels is who does at
    ``step``.
    """
    images, hidden = fixed_set(data, SHOWN, SHOWN)
    if images is None or not method.uses_unlabeled:
        return Section("gallery", TEACHES)
    cfg = replace(cfg, eval=cfg.eval.model_copy(update={"batch": len(images)}))
    (batch,) = same_views(cfg, data.labeled, images)
    with untouched(method):
        labels = method.labels(batch, step)
        chosen, found = labels.pseudo, labels.teacher.detections()
    word = f"above {SURE:g}" if chosen is None else "kept"
    looks = show(batch, found, chosen, hidden)
    figures = [_pair(shown, data.classes.names, word) for shown in looks]
    kinds = {"kept": "kept as pseudo-label", "rejected": "rejected"}
    which = "kept" if chosen is not None else "blue"
    how = f"Left the weak view that the teacher saw, right the strong view with the {which} boxes moved into it."
    if chosen is None:
        kinds = {"kept": f"detections that score above {SURE:g}", "rejected": "below"}
        how = f"This method chooses no box; it learns from outputs as they are. {how}"
    kinds["unsure"] = "unsure, neither object nor background, unless the method makes more of it"
    kinds["truth"] = "hidden truth, which training never sees"
    kinds = {kind: words for kind, words in kinds.items() if any(len(getattr(shown, kind)) for shown in looks)}
    return Section("gallery", TEACHES, [text(how, "small"), legend(kinds), grid(figures, wide=True)])


def _pair(shown: Shown, names: tuple[str, ...], word: str) -> Markup:
    kept, moved = shown.kept, shown.moved
    rejected = shown.rejected[:MOST_REJECTED]
    kinds = {"rejected": rejected, "unsure": shown.unsure, "kept": kept, "truth": shown.truth}  # the last is on top
    left = [box for kind, targets in kinds.items() for box in boxes_of(kind, targets, names)]
    lost, unsure = len(kept) - len(moved), f", {len(shown.unsure)} unsure" if len(shown.unsure) else ""
    weak = f"{len(kept)} {word}{_listed(kept, names)}{unsure}, {len(shown.rejected)} rejected"
    strong = f"{len(moved)} moved" + (f", {lost} left the view" if lost else "")
    return Markup(
        '<figure><figcaption>{}</figcaption><div class="pair"><div>{}<p>weak: {}</p></div>'
        "<div>{}<p>strong: {}</p></div></div></figure>"
    ).format(
        str(shown.id),
        shot(shown.weak, left, f"weak view of {shown.id}: {weak}"),
        weak,
        shot(shown.strong, boxes_of("kept", moved, names), f"strong view of {shown.id}: {strong}"),
        strong,
    )


def _listed(targets: Targets, names: tuple[str, ...]) -> str:
    """Return `` (circle 0.91, ring 0.62 and 2 more)``, or nothing of no boxes."""
    labels = [names[label] for label in targets.labels.tolist()]
    scores = [""] * len(labels) if targets.scores is None else [f" {score:.2f}" for score in targets.scores.tolist()]
    items = [label + score for label, score in zip(labels, scores)]
    more = f" and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
    return f" ({', '.join(items[:MOST_NAMED])}{more})" if items else ""


# ---- val images ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def hardest(run: Run, cfg: Config, data: DataSets, method: Method) -> Section:
    """Show the val images with the most missed and wrong boxes."""
    if run.table is None or data.val is None:
        message = "The run saved no eval/step_*.npz to find them by."
        return Section("hardest", "Hardest val images", [text(message)])
    cost = difficulty(run.table)
    number = {image: i for i, image in enumerate(data.val.images.ids)}
    order = [i for i in np.argsort(-cost, kind="stable") if run.table.ids[i] in number][:SHOWN]
    chosen = [i for i in order if cost[i] > 0]
    val = data.val.subset([number[run.table.ids[i]] for i in chosen])
    figures = []
    for i, (view, found) in zip(chosen, looked_at(cfg, val, method.teacher.model)):
        figures.append(_hard(view, found, val, len(figures), float(cost[i])))
    how = f"Boxes missed at IoU 0.5, and wrong ones that score above {SURE:g}, make an image hard."
    kinds = legend({"kept": f"detected with a score above {SURE:g}", "truth": "the truth"})
    blocks = [text(how, "small"), kinds, grid(figures)] if figures else [text("No image has a missed or wrong box.")]
    return Section("hardest", "Hardest val images", blocks)


def difficulty(table: Matches) -> np.ndarray:
    """Return [I]: missed boxes and wrong sure detections of each image, at IoU 0.5."""
    sure = table.score > SURE
    hits = np.bincount(table.image, weights=table.right[:, 0] & sure, minlength=len(table))
    wrong = np.bincount(table.image, weights=table.counted[:, 0] & ~table.right[:, 0] & sure, minlength=len(table))
    return table.wanted.sum(1) - hits + wrong


def looked_at(cfg: Config, val: Labeled, detector: Detector) -> Iterator[tuple[View, Targets]]:
    """Yield each val image in the view that it is measured in, and what is found; one in tiles as it is in its file."""
    loading, merging = Loading(0, cfg.data.reader()), Merging.of(detector.decode)
    if cfg.views.tiles is None:
        for view in eval_views(val.images, cfg.views.val, 1, loading, Place()):
            yield view, detector.predict(view).detections()[0]
        return
    parts = val_views(val.images, cfg.views, 1, loading, Place())
    found = (one for view in parts for one in detect(detector, view, {}, merging, device="cpu"))
    for view, (_, boxes, labels, scores) in zip(eval_views(val.images, Pipeline(), 1, loading, Place()), found):
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        yield view, Targets(*map(torch.from_numpy, (corners, labels, scores)))


def _hard(view: View, found: Targets, val: Labeled, i: int, cost: float) -> Markup:
    found = found[found.confidence() > SURE]
    truth = move_targets([val.targets(i)], view.matrix, view.sizes)[0]
    names = val.classes.names
    boxes = [*boxes_of("kept", found, names), *boxes_of("truth", truth, names)]  # the last are on top
    caption = f"{len(truth)} true boxes, {len(found)} detected, {cost:.0f} missed or wrong"
    return Markup("<figure><figcaption>{}</figcaption>{}<p class='small'>{}</p></figure>").format(
        str(view.ids[0]), shot(pixels(view, 0), boxes, f"{view.ids[0]}: {caption}"), caption
    )
