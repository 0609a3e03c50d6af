"""detectron2's weights as a model file of ours, and ours as a file for detectron2; both find the same, or none is made.

    python -m tools.convert_weights ours my.yaml -o retinanet.safetensors detector.weights=model_final_bfca0b.pkl
    python -m tools.convert_weights keep my.yaml -o kept.safetensors detector.weights=model_final_bfca0b.pkl
    python -m tools.convert_weights detectron2 best.safetensors -o model.pth --config my.yaml

``my.yaml`` is a config of this project whose detector is ``d2_retinanet``, ``d2_fcos`` or ``d2_faster_rcnn``.

``ours`` makes it our own RetinaNet, FCOS or Faster R-CNN: its file needs no detectron2. ``keep`` changes nothing; its
file needs detectron2. Classes and the view of evaluation come from the config's data: ``ssod eval`` and ``ssod
predict`` read both files. ``detectron2`` goes back, from either kind of file; what that one was trained with is as the
config has it, or an error says what differs. A model file of a ``d2_`` detector needs no ``--config``.

Before anything is written, detectron2's own model and ours look at pictures in which they find something, with the
weights that are written, and must agree to 0.05 px and 1e-4 in score; what they differ by is printed.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import TypeAdapter
from torch import Tensor, nn

from ssod import config
from ssod.data import datasets
from ssod.detectors.build import DetectorConfig, build
from ssod.detectors.d2.config import D2Config
from ssod.detectors.d2.model import build_model
from ssod.detectors.d2.weights import initialise
from ssod.detectors.weights import State
from ssod.inference import model
from ssod.inference.export import Graph
from ssod.inference.export_parity import Parity, Run, measure, pictures
from ssod.structures import Detector
from ssod.utils import atomic, model_file
from ssod.utils.errors import Exit, SsodError
from ssod.version import __version__
from tools.d2_convert import ours_of, theirs_of


def make_ours(source: Path, out: Path, overrides: list[str], *, keep: bool) -> Parity:
    """Write a model file with the weights of detectron2 that the config names.

    Args:
        source: a config with a detector of detectron2.
        out: the model file.
        overrides: ``key.path=value`` for that config.
        keep: leave the detector detectron2's.
    """
    cfg = config.load(source, overrides)
    section = d2_section(cfg.detector, source)
    if section.weights == "none":
        raise SsodError(source, "detector.weights", "none", "name the file of detectron2's weights")
    classes = datasets.load(cfg.data).classes
    theirs = build(section, len(classes), pretrained=False).eval()
    fresh = [name for name in initialise(theirs, section).fresh if not name.startswith("normalizer.")]
    if fresh:
        problem = f"the file has not the {len(classes)} classes of the data: nothing for {fresh[0]}"
        raise SsodError(source, "detector.weights", problem, "give the data that it was trained on")
    ours, plain = theirs, section.model_dump(mode="json", exclude_none=True)
    if not keep:
        ours, plain = ours_of(theirs, str(out))
    found = compare(ours, original(section, len(classes), theirs.state_dict()), theirs.normalise.bgr, out)
    card = {
        "detector": plain,
        "classes": {"names": list(classes.names), "ids": list(classes.ids)},
        "val_view": cfg.views.val.model_dump(mode="json", exclude_none=True),
        **({} if cfg.views.tiles is None else {"tiles": cfg.views.tiles.model_dump(mode="json")}),
        "method": "converted",
        "version": __version__,
    }
    model_file.save(out, ours.state_dict(), card)
    if not keep:
        print(yaml.safe_dump({"detector": _plain(plain)}, sort_keys=False, default_flow_style=None), end="")
    return found


def make_theirs(source: Path, out: Path, target: Path | None, overrides: list[str]) -> Parity:
    """Write a model file's weights as detectron2 loads them.

    Args:
        source: a model file of ours, or a run folder.
        out: the file, ``*.pth``.
        target: a config with the detector of detectron2 that the weights are for; None = the model file's own.
        overrides: ``key.path=value`` for that config.
    """
    loaded = model.load(source)
    own = TypeAdapter(DetectorConfig).validate_python(loaded.card["detector"])
    ours, classes = loaded.detector, len(loaded.classes.names)
    if isinstance(own, D2Config):
        section, theirs = own, ours
        state = {name: value for name, value in ours.state_dict().items() if not name.startswith("normalizer.")}
    elif target is None:
        raise SsodError("command line", "--config", f"missing; the file is of a '{own.name}'", "name a d2_ config")
    else:
        section = d2_section(config.load(target, overrides).detector, target)
        theirs = build(section, classes, pretrained=False).eval()
        state = theirs_of(ours, own, theirs)
        take_settings(ours, theirs)
    found = compare(ours, original(section, classes, state), theirs.normalise.bgr, out)
    content = io.BytesIO()
    torch.save({"model": state}, content)
    atomic.write(out, lambda file: file.write(content.getvalue()), label="weights")
    return found


def d2_section(section: Any, source: Path) -> D2Config:
    """Return the section of a detector of detectron2."""
    if not isinstance(section, D2Config):
        problem = f"'{section.name}' is no detector of detectron2"
        raise SsodError(source, "detector.name", problem, "use d2_retinanet, d2_fcos or d2_faster_rcnn")
    return section


def original(section: D2Config, classes: int, state: State) -> nn.Module:
    """Return detectron2's own model with these weights, in eval mode."""
    found = build_model(section, classes).eval()
    known = {name: value for name, value in state.items() if not name.startswith("normalizer.")}
    found.load_state_dict(known)
    return found


def take_settings(ours: Detector, theirs: Detector) -> None:
    """Give our detector the thresholds and counts of detectron2's config, which its weights do not hold."""
    ours.decode = theirs.decode
    if hasattr(theirs, "rpn_cfg"):
        names = ("before", "after", "nms")
        ours.rpn_cfg = ours.rpn_cfg.model_copy(update={name: getattr(theirs.rpn_cfg, name) for name in names})


# ---- the check ---------------------------------------------------------------------------------------------------


def compare(ours: Detector, theirs: nn.Module, bgr: bool, out: Path) -> Parity:
    """Return how far our detector is from detectron2's own inference.

    Raises:
        SsodError: code 1, they do not find the same.
    """
    found = measure(ours, Graph(ours), inference(theirs, bgr, ours.decode.detections), pictures(ours))
    if found.problem:
        raise SsodError(out, "check", found.problem, "it was not written; please report this", code=Exit.BUG)
    return found


def inference(theirs: nn.Module, bgr: bool, places: int) -> Run:
    """Return detectron2's own inference with our inputs and outputs; see ``ssod.inference.export``."""

    def run(images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes = torch.zeros(len(images), places, 4)
        scores, labels = torch.zeros(len(images), places), torch.zeros(len(images), places, dtype=torch.long)
        batch = [{"image": (image.flip(0) if bgr else image) * 255.0} for image in _unpadded(images, sizes)]
        with torch.no_grad():
            answers = [answer["instances"] for answer in theirs(batch)]
        for i, answer in enumerate(answers):
            boxes[i, : len(answer)] = answer.pred_boxes.tensor
            scores[i, : len(answer)], labels[i, : len(answer)] = answer.scores, answer.pred_classes
        return boxes, scores, labels

    return run


def _unpadded(images: Tensor, sizes: Tensor) -> list[Tensor]:
    return [image[:, :height, :width] for image, (height, width) in zip(images, sizes.tolist())]


def _plain(value: Any) -> Any:
    """Turn tuples into lists, which YAML has."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


# ---- command line ------------------------------------------------------------------------------------------------


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, source, text in (
        ("ours", "config", "detectron2's weights in our own detector"),
        ("keep", "config", "detectron2's weights in detectron2's detector, as a model file"),
        ("detectron2", "model", "a model file as detectron2 loads it"),
    ):
        command = verbs.add_parser(verb, help=text)
        command.add_argument("source", type=Path, metavar=source)
        command.add_argument("-o", "--out", type=Path, required=True, help="file to write")
        if verb == "detectron2":
            command.add_argument("--config", type=Path, help="config with the detector that the weights are for")
        command.epilog = "key.path=value may follow, as changes to the config"
    args, overrides = parser.parse_known_args(argv)
    for text in overrides:
        if text.startswith("-") or "=" not in text:
            parser.error(f"unexpected {text}")
    args.overrides = overrides
    return args


def main(argv: list[str] | None = None) -> Parity:
    """Convert, and print what the check found."""
    args = arguments(argv)
    if args.verb == "detectron2":
        found = make_theirs(args.source, args.out, args.config, args.overrides)
    else:
        found = make_ours(args.source, args.out, args.overrides, keep=args.verb == "keep")
    print(f"{args.out}: compared with detectron2's inference: {found.line()}")
    return found


if __name__ == "__main__":
    try:
        main()
    except SsodError as error:
        print(f"convert_weights: error: {error.line()}", file=sys.stderr)
        sys.exit(int(error.code))
