"""Weights of detectron2's detectors in ours and back, where the two are one architecture; no number is changed.

Tensors are renamed. Beyond that, rows move: our anchors go ratio by ratio inside a cell and detectron2's size by size;
our RoI head has background first and detectron2's has it last; detectron2's first convolution mostly sees BGR. Our RoI
head also has box outputs for background, which nothing reads: they are 0 after a conversion.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from ssod.detectors.backbones import BackboneConfig
from ssod.detectors.build import OurConfig, build
from ssod.detectors.weights import State
from ssod.structures import Detector
from ssod.utils.errors import SsodError
from ssod.utils.schema import Section
from tools.d2_same import D2Detector, Layout, same, unlike

# What a detector computes hangs on these keys of its section, and on no other.
_FUNCTION = (
    *("backbone", "norm", "channels", "levels", "level6", "downsample", "pixel_std", "head_norm", "level_scale"),
    *("anchors", "delta_std", "points", "align", "roi.size", "roi.hidden", "roi.scale", "roi.pooling"),
)
_COLUMNS = r"\.(cls_logits|bbox_reg)\.|^rpn\.head\.bbox_pred\."  # layers with a row for each anchor of a cell


def ours_of(theirs: D2Detector, weights: str = "converted") -> tuple[Detector, dict[str, Any]]:
    """Return our detector that is detectron2's, with its weights, in eval mode, and its config section.

    Args:
        theirs: a ``D2Dense`` or ``D2FasterRcnn``.
        weights: what the section is to call the weights.

    Raises:
        SsodError: code 2, our detectors cannot be that.
    """
    section, layout = same(theirs)
    section["weights"] = weights
    ours = build(TypeAdapter(OurConfig).validate_python(section), theirs.num_classes, pretrained=False)
    same_anchors(ours, theirs, layout)
    ours.load_state_dict(to_ours(theirs.state_dict(), ours.state_dict(), layout))
    return ours.eval(), section


def theirs_of(ours: Detector, cfg: BackboneConfig, theirs: D2Detector) -> State:
    """Return the weights of our detector under detectron2's names.

    Args:
        ours: with its weights.
        cfg: its config section.
        theirs: a ``D2Dense`` or ``D2FasterRcnn`` that the weights are for.

    Raises:
        SsodError: code 2, the two are not one architecture.
    """
    section, layout = same(theirs)
    section["weights"] = "converted"
    refuse_difference(cfg, TypeAdapter(OurConfig).validate_python(section))
    same_anchors(ours, theirs, layout)
    return to_theirs(ours.state_dict(), theirs.state_dict(), layout)


def refuse_difference(ours: BackboneConfig, needed: BackboneConfig) -> None:
    """Raise ``SsodError`` where two sections say different functions; what only training or decoding reads may differ.

    Args:
        ours: the section of our detector.
        needed: that of our detector which is detectron2's.
    """
    if ours.name != needed.name:
        problem = f"is '{ours.name}', and detectron2's is a '{needed.name}'"
        raise SsodError("config", "detector.name", problem, "name that one")
    for key in _FUNCTION:
        have, want = _value(ours, key), _value(needed, key)
        if have != want:
            problem = f"our model has {_written(have)}, detectron2's is as ours with {_written(want)}"
            raise SsodError("config", f"detector.{key}", problem, "only equal architectures convert")
    if ours.weights == "coco" and ours.name != "fcos":
        problem = "coco: its batch-norm has no epsilon, and detectron2's has"
        raise SsodError("config", "detector.weights", problem, "only equal architectures convert")


def _value(cfg: Section, key: str) -> Any:
    """Return a setting by its dotted key, or None where there is no such setting."""
    value: Any = cfg
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def _written(value: Any) -> str:
    plain = value.model_dump(exclude_none=True) if isinstance(value, Section) else value
    return "no such key" if plain is None else str(plain)


def to_ours(theirs: State, ours: State, layout: Layout) -> State:
    """Return detectron2's weights under our names; ``ours`` says which there are, and their shapes.

    Raises:
        SsodError: code 2, either has a weight that the other has no place for.
    """
    out, used = {}, set()
    for name, like in ours.items():
        source = their_name(name, layout)
        if source not in theirs:
            raise unlike(f"it has no counterpart of our {name}")
        value = moved(name, theirs[source], layout, back=False)
        if value.shape != like.shape:
            raise unlike(f"its {source} is {list(theirs[source].shape)}, our {name} is {list(like.shape)}")
        out[name] = value.contiguous()
        used.add(source)
    _refuse_rest(theirs, used)
    return out


def to_theirs(ours: State, theirs: State, layout: Layout) -> State:
    """Return our weights under detectron2's names; ``theirs`` says which there are, and their shapes.

    Raises:
        SsodError: code 2, either has a weight that the other has no place for.
    """
    out = {}
    for name, value in ours.items():
        target = their_name(name, layout)
        if target not in theirs:
            raise unlike(f"it has no place for our {name}")
        moving = moved(name, value, layout, back=True)
        if moving.shape != theirs[target].shape:
            raise unlike(f"its {target} is {list(theirs[target].shape)}, our {name} is {list(value.shape)}")
        out[target] = moving.contiguous()
    _refuse_rest(theirs, set(out))
    return out


def _refuse_rest(theirs: State, used: set[str]) -> None:
    rest = [name for name in theirs if name not in used and not name.startswith("normalizer.")]
    if rest:
        raise unlike(f"we have nothing like its {rest[0]}")


def their_name(name: str, layout: Layout) -> str | None:
    """Return detectron2's name of one of our tensors."""
    for pattern, target in _rules(layout):
        match = re.fullmatch(pattern, name)
        if match:
            return target(match) if callable(target) else match.expand(target)
    return None


def _rules(layout: Layout) -> list[tuple[str, str | Callable[[re.Match], str]]]:
    """Return patterns of our names, and detectron2's names of what they match."""
    up = "backbone.bottom_up"

    def stage(match: re.Match) -> str:
        layer, block, rest = match.groups()
        rest = re.sub(r"^bn(\d)\.", r"conv\1.norm.", rest)
        rest = re.sub(r"^downsample\.0\.", "shortcut.", rest)
        rest = re.sub(r"^downsample\.1\.", "shortcut.norm.", rest)
        return f"{up}.res{int(layer) + 1}.{block}.{rest}"

    def level(word: str) -> Callable[[re.Match], str]:
        return lambda match: f"backbone.fpn_{word}{layout.first + int(match[1])}.{match[2]}"

    def tower(match: re.Match) -> str:
        kind = "cls" if match[1] == "classification" else "bbox"
        numbers = [int(n) for n in match[2].split(".")]
        # Ours: RetinaNet's layers lie in blocks, FCOS's in a row of three a block.
        block, part = numbers if len(numbers) == 2 else divmod(numbers[0], 3)
        return f"head.{kind}_subnet.{(3 if layout.norm else 2) * block + part}.{match[3]}"

    return [
        (r"backbone\.body\.conv1\.(\w+)", rf"{up}.stem.conv1.\1"),
        (r"backbone\.body\.bn1\.(\w+)", rf"{up}.stem.conv1.norm.\1"),
        (r"backbone\.body\.layer(\d)\.(\d+)\.(.+)", stage),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.(\w+)", level("lateral")),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.(\w+)", level("output")),
        (r"backbone\.fpn\.extra_blocks\.(.+)", r"backbone.top_block.\1"),
        (r"head\.(classification|regression)_head\.conv\.([\d.]+)\.(\w+)", tower),
        (r"head\.classification_head\.cls_logits\.(\w+)", r"head.cls_score.\1"),
        (r"head\.regression_head\.bbox_reg\.(\w+)", r"head.bbox_pred.\1"),
        (r"head\.regression_head\.bbox_ctrness\.(\w+)", r"head.ctrness.\1"),
        (r"rpn\.head\.conv\.0\.0\.(\w+)", r"proposal_generator.rpn_head.conv.\1"),
        (r"rpn\.head\.cls_logits\.(\w+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
        (r"rpn\.head\.bbox_pred\.(\w+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
        (r"roi_heads\.box_head\.fc6\.(\w+)", r"roi_heads.box_head.fc1.\1"),
        (r"roi_heads\.box_head\.fc7\.(\w+)", r"roi_heads.box_head.fc2.\1"),
        (r"roi_heads\.box_predictor\.(\w+)\.(\w+)", r"roi_heads.box_predictor.\1.\2"),
    ]


def moved(name: str, value: Tensor, layout: Layout, *, back: bool) -> Tensor:
    """Put the rows of a tensor into our order, or ``back`` into detectron2's; ``name`` is ours."""
    if name == "backbone.body.conv1.weight" and layout.bgr:
        return value.flip(1)
    if name.startswith("roi_heads.box_predictor.cls_score."):
        return value.roll(-1 if back else 1, 0)
    if name.startswith("roi_heads.box_predictor.bbox_pred."):
        return value[4:] if back else torch.cat([torch.zeros_like(value[:4]), value])
    if re.search(_COLUMNS, name):
        outer, inner = (layout.ratios, layout.sizes) if back else (layout.sizes, layout.ratios)
        return value.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)
    return value


def same_anchors(ours: Detector, theirs: D2Detector, layout: Layout) -> None:
    """Raise ``SsodError`` where the priors of the two differ."""
    grids = [(2, 3)] * len(theirs.strides)
    canvas = (2 * theirs.strides[0], 3 * theirs.strides[0])
    a, b = ours.anchors(canvas, grids), theirs.anchors(canvas, grids)
    b = b.unflatten(0, (-1, layout.sizes, layout.ratios)).transpose(1, 2).flatten(0, 2)
    if a.shape != b.shape or not torch.allclose(a, b, rtol=0, atol=1e-3):
        raise unlike("its anchors follow another rule of sizes")
