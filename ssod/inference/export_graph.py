"""A detector as one graph, for ONNX Runtime or for torch without our code.

The graph is normalise -> backbone -> head -> decode -> top K -> one NMS -> D detections, and holds the teacher's
weights only.

====================  ============================  ==================================================================
``images``            [N, 3, H, W] float32          RGB in 0..1, padded with 0 at the bottom and right
``sizes``             [N, 2] int64                  (height, width) of each image without its padding
``boxes``             [N, D, 4] float32             x1, y1, x2, y2 in pixels of ``images``, clipped to ``sizes``
``scores``            [N, D] float32                best first; 0 = no detection from here on
``labels``            [N, D] int64                  0..K-1
====================  ============================  ==================================================================

N, H and W are free. For the answers of ``ssod predict``, show images as the card's ``val_view`` says and pad their
sides to multiples of ``divisor``. D and the score threshold are those of the detector's config. The ONNX file's
metadata, and the .pt2 file's extra files, are ``card`` (JSON), ``names`` (JSON list of class names), ``divisor`` and
``decode`` (JSON: the score threshold, the IoU of suppression and D, which are part of the graph).
The card's ``pixels`` say how images of more than 8-bit RGB become that: which values are black and white (``levels``),
and what an alpha channel means. Where the card has ``tiles``, the graph is that of one tile: cutting large images, and
merging what is found in their parts (``ssod.evaluation.merge_tiles``), is left to those who run it.
A .pt2 graph runs on the CPU; ``torch.export.passes.move_to_device_pass`` moves it.
"""

from __future__ import annotations

import io
import json

import torch
import torch.fx.experimental._config as shapes
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ssod.inference.export_parity import as_view
from ssod.inference.graph import quiet
from ssod.inference.graph_content import DIVISOR, INPUTS, OUTPUTS
from ssod.inference.model import Model
from ssod.structures import Detector

_AXES = {"images": {0: "batch", 2: "height", 3: "width"}, "sizes": {0: "batch"}}


class Graph(nn.Module):
    """A detector as a function of tensors; see the module's table."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, 3, H, W], [N, 2] -> [N, D, 4], [N, D], [N, D]."""
        found = self.detector.predict(as_view(images, sizes)).detect()
        return found.boxes, found.scores, found.labels


def metadata(model: Model) -> dict[str, str]:
    """Return what travels with the graph."""
    return {
        "card": json.dumps(model.card),
        "names": json.dumps(list(model.classes.names)),
        "divisor": str(DIVISOR),
        "decode": json.dumps(model.detector.decode.model_dump(mode="json")),
    }


def trace(detector: Detector) -> ExportedProgram:
    """Return the graph of a detector, with N, H and W free."""
    example = (torch.zeros(2, 3, 256, 320), torch.tensor([[256, 320], [200, 231]]))
    free = {name: dict.fromkeys(axes, Dim.DYNAMIC) for name, axes in _AXES.items()}
    # Without this the tracer takes no dimension to be 1: neither the batch, nor the coarsest level of a small image.
    with torch.no_grad(), shapes.patch(backed_size_oblivious=True):
        program = torch.export.export(Graph(detector).eval(), example, dynamic_shapes=free, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of this machine
    # They would be saved, and with them the tracer's notes on the example's memory layout ("this level is not 1 x 1"),
    # which the graph does not depend on but would make it refuse single and small images.
    program.example_inputs = None
    return program


def convert(model: Model, format: str) -> bytes:
    """Return the file that holds a model's graph; the model must be on the CPU."""
    with quiet():
        return _onnx(model) if format == "onnx" else _pt2(model)


def _onnx(model: Model) -> bytes:
    program = torch.onnx.export(
        trace(model.detector),
        dynamo=True,
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        dynamic_shapes=_AXES,
        verbose=False,
    )
    proto = program.model_proto
    for node in [*proto.graph.node, *(n for f in proto.functions for n in f.node)]:
        del node.metadata_props[:]
    for key, value in metadata(model).items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString(deterministic=True)


def _pt2(model: Model) -> bytes:
    program = trace(model.detector)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=metadata(model))
    return buffer.getvalue()
