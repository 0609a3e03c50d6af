"""A page in Markdown beside an exported graph: what it is, what it was taught and measured on, and how to run it.

Every figure comes from the model's card, the run folder, or the comparison that the export has just made. Where one of
them does not say something, the page does not either. Names of classes, files and data sets are text of strangers, in
which Markdown and HTML are written out.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

from ssod.inference.export_parity import Parity
from ssod.inference.graph_content import DIVISOR
from ssod.inference.model import Model
from ssod.inference.run_facts import RunFacts
from ssod.utils.errors import SsodError
from ssod.utils.plain_text import visible
from ssod.utils.printing import percent

MARK = "<!-- written by ssod export -->"  # a file that begins otherwise is not replaced
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>&~$:@\"'^=])")
_SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_PACKAGES = {
    "onnx": ("ssod", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime"),
    "pt2": ("ssod", "torch", "torchvision"),
}


def card_file(graph: Path) -> Path:
    """Return where the page of a graph lies: ``best.md`` of ``best.onnx``, ``best.pt2.md`` of ``best.pt2``."""
    return graph.with_suffix(".md") if graph.suffix.lower() == ".onnx" else graph.with_name(f"{graph.name}.md")


def check_card_file(file: Path) -> None:
    """Refuse to replace a page that somebody else wrote.

    Raises:
        SsodError: code 2.
    """
    if not file.exists():
        return
    with file.open("rb") as page:
        ours = page.read(len(MARK)) == MARK.encode()
    if not ours:
        raise SsodError(file, "", "is there, and is no model card of ours", "move it, or name another graph with -o")


def escaped(value: object) -> str:
    """Return a text that Markdown shows letter by letter, on one line."""
    return _SPECIAL.sub(r"\\\1", visible(" ".join(str(value).split())))


def model_card(model: Model, graph: Path, format: str, found: Parity | None, facts: RunFacts | None) -> str:
    """Return the page.

    Args:
        model: whose graph it is.
        graph: the graph's file; its name alone is told.
        format: ``onnx`` or ``pt2``, and what more is to be said of it, in words: ``onnx fp16 openvino``.
        found: how the graph compares with torch; None = it was not compared.
        facts: of the run; None = no run folder is known.
    """
    kind = format.split()[0]
    parts = [
        [MARK, f"# {escaped(graph.name)}", "", *_what(model)],
        ["## Taught with", "", *_taught(model, facts)],
        ["## Measured", "", *_measured(model, facts)],
        ["## Inputs and outputs", "", *_tensors(model)],
        ["## How to run it", "", *_run(graph, kind)],
        ["## Compared with torch", "", _compared(found, format)],
        ["## Versions", "", *_versions(model, kind)],
        ["## License", "", "*To be filled in by who publishes it: of the weights, and of the data behind them.*"],
        ["## Limits", "", *_limits(model)],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _what(model: Model) -> list[str]:
    detector, card = model.card["detector"], model.card
    text = f"An object detector: {escaped(detector['name'])}"
    text += f", backbone {escaped(detector['backbone'])}" if "backbone" in detector else ""
    text += f", trained by the method {escaped(card['method'])}" if "method" in card else ""
    text += f" for {escaped(card['step'])} steps" if "step" in card else ""
    names = model.classes.names
    return [f"{text}.", "", f"{len(names)} classes: {', '.join(map(escaped, names))}."]


def _taught(model: Model, facts: RunFacts | None) -> list[str]:
    if facts is None:
        return ["Not known: the weights were exported without their run folder."]
    lines = []
    if facts.labeled is not None:
        boxes = "" if facts.boxes is None else f" with {facts.boxes} boxes"
        lines.append(f"- labelled images: {facts.labeled}{boxes}{f' ({facts.share})' if facts.share else ''}")
    if facts.unlabeled is not None:
        used = ", which this method does not use" if model.card.get("method") == "supervised" else ""
        lines.append(f"- images without labels: {facts.unlabeled}{used}")
    lines += [f"- {name}: {escaped(facts.sources[name])}" for name in ("labeled", "unlabeled") if name in facts.sources]
    return [*lines, *map(escaped, facts.notes)]


def _measured(model: Model, facts: RunFacts | None) -> list[str]:
    metrics = model.card.get("metrics")
    if not metrics:
        return ["The weights carry no figures."]
    where = "on val images that are not known: the run folder is not here"
    if facts is not None:
        where = f"on val: {escaped(facts.sources.get('val', 'not said'))}"
        where += "" if facts.val_images is None else f", {facts.val_images} images with {facts.val_boxes} boxes"
    lines = [f"Average precision in per cent, {where}. The weights were chosen on the same images.", ""]
    lines += ["| | all |", "|---|---:|"]
    lines += [f"| {name} | {percent(_number(metrics[name]))} |" for name in _SUMMARY if name in metrics]
    classes = [name for name in model.classes.names if f"AP/{name}" in metrics]
    if classes:
        lines += ["", "| class | AP |", "|---|---:|"]
        lines += [f"| {escaped(name)} | {percent(_number(metrics[f'AP/{name}']))} |" for name in classes]
    return lines


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _tensors(model: Model) -> list[str]:
    most = model.detector.decode.detections
    return [
        "| tensor | shape | type | |",
        "|---|---|---|---|",
        f"| images | N, 3, H, W | float32 | RGB in 0..1, padded below and right with 0 to multiples of {DIVISOR} |",
        "| sizes | N, 2 | int64 | height and width of each image without its padding |",
        f"| boxes | N, {most}, 4 | float32 | x1, y1, x2, y2 in pixels of images |",
        f"| scores | N, {most} | float32 | best first; 0: no detection from here on |",
        f"| labels | N, {most} | int64 | places in the list of classes, from 0 |",
        "",
        f"Images are shown as the view of evaluation makes them: `{_code(model.card['val_view'])}`.",
    ]


def _code(value: object) -> str:
    """Return what may stand between backticks."""
    return visible(" ".join(str(value).split())).replace("`", "'")


def _run(graph: Path, format: str) -> list[str]:
    if format == "pt2":
        lines = [
            "import torch",
            f"program = torch.export.load({_code(repr(graph.name))}).module()",
            "boxes, scores, labels = program(images, sizes)",
        ]
    else:
        lines = [
            "import onnxruntime",
            f"session = onnxruntime.InferenceSession({_code(repr(graph.name))})",
            'boxes, scores, labels = session.run(None, {"images": images, "sizes": sizes})',
        ]
    return [
        "```python",
        *lines,
        "```",
        "",
        "`docs/deploy.md` of ssod has a whole client, from files to boxes in their pixels.",
    ]


def _compared(found: Parity | None, format: str) -> str:
    if found is None:
        return "The graph was not compared with torch."
    return f"The graph ({escaped(format)}) and torch were shown the same seeded pictures: {escaped(found.line())}."


def _versions(model: Model, format: str) -> list[str]:
    lines = [f"- exported with {name} {version}" for name, version in versions(_PACKAGES[format])]
    return [*lines, f"- trained with ssod {escaped(model.card['version'])}"] if "version" in model.card else lines


def versions(packages: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return those that are installed, with their versions."""
    from ssod.version import __version__

    out = []
    for name in packages:
        try:
            out.append((name, __version__ if name == "ssod" else importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def _limits(model: Model) -> list[str]:
    cfg = model.detector.decode
    lines = [
        f"- It finds the classes above and no others, {cfg.detections} objects an image at most.",
        f"- Scores of {cfg.score:g} and less are left out; of boxes of one class that overlap by more than an IoU of "
        f"{cfg.nms:g}, the best stays.",
        "- The figures are those of images like the ones it was measured on, and say nothing of others.",
    ]
    if model.tiles is not None:
        size, overlap = model.tiles.size, model.tiles.overlap
        lines.append(
            f"- It looks at one tile of {size} x {size} pixels. Larger images are cut, tiles having {overlap:.0%} in "
            "common, and what is found is merged by who runs it."
        )
    return lines
