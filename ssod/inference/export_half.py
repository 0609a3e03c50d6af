"""An ONNX graph whose network computes in float16, and whose boxes are decoded, sorted and suppressed in float32.

A half has eleven bits: between 512 and 1024 its numbers are half a pixel apart, and scores near 1 a two-thousandth.
Converters that take a list of nodes to leave alone round what goes from one such node to the next to float16 as well,
onnxruntime's among them. So the nodes that change are picked here, and casts stand at the border of what was picked:

- a layer with weights (``LAYERS``) is picked;
- what lies between two of them (``BETWEEN``) is picked where its own inputs are picked nodes' or constants.

After the last layer all is float32 again, as are the inputs, whose normalisation comes before the first, and the
outputs. Weights of layers are stored as float16, which makes the file about half as large. Where a processor has no
kernels for float16, onnxruntime computes in float32 between the roundings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
BETWEEN = {
    "Add", "AveragePool", "BatchNormalization", "GlobalAveragePool", "GroupNormalization", "InstanceNormalization",
    "LeakyRelu", "MaxPool", "Mul", "Relu", "Reshape", "Resize", "Sigmoid",
}  # fmt: skip
_SHAPES = {"Reshape": 1, "Resize": 1}  # how many of the first inputs are values; the others are sizes
_HALF = 65504.0  # the largest finite half


def to_half(content: bytes) -> bytes:
    """Return an ONNX file with its layers in float16; names, inputs, outputs and metadata stay as they are.

    Args:
        content: what ``ssod.inference.export_graph.convert`` returned.
    """
    import onnx

    model = onnx.load_model_from_string(content)
    _rewrite(model.graph, picked(model))
    del model.graph.value_info[:]  # says float32 of what is float16 now; whoever needs it infers it
    return model.SerializeToString(deterministic=True)


def picked(model: ModelProto) -> list[NodeProto]:
    """Return the nodes that are to compute in float16, in their order."""
    constants = _constants(model.graph)
    maker = {name: node for node in model.graph.node for name in node.output}
    chosen: dict[int, NodeProto] = {}
    for node in model.graph.node:  # from the inputs on
        values = _values(node)
        if node.op_type in LAYERS:
            fits = node.input[1] in constants
        else:
            made = [name for name in values if name not in constants]
            fits = node.op_type in BETWEEN and bool(made) and all(id(maker.get(name)) in chosen for name in made)
        if fits:
            chosen[id(node)] = node
    wanted: set[str] = set()  # values that lead to a layer
    kept = []
    for node in reversed(list(chosen.values())):
        if node.op_type in LAYERS or not wanted.isdisjoint(node.output):
            kept.append(node)
            wanted.update(_values(node))
    return kept[::-1]


def _values(node: NodeProto) -> list[str]:
    """Return the inputs of a node that are numbers of the network, and not sizes of shapes."""
    return [name for name in node.input[: _SHAPES.get(node.op_type)] if name]


def _constants(graph: GraphProto) -> set[str]:
    """Return the names of what is stored as float32."""
    return {tensor.name for tensor in graph.initializer if tensor.data_type == tensor.FLOAT}


def _rewrite(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Let nodes take and return float16, with a cast wherever another node, or the world, has float32."""
    from onnx import TensorProto, numpy_helper

    chosen = {id(node) for node in nodes}
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    outside = {name for node in graph.node if id(node) not in chosen for name in node.input}
    outside.update(output.name for output in graph.output)
    made: dict[str, str] = {}  # float32 name -> name of the same in float16
    order: list[NodeProto] = []
    for node in graph.node:
        if id(node) not in chosen:
            order.append(node)
            continue
        for place, name in enumerate(node.input):
            if name not in _values(node):
                continue
            if name not in made:
                made[name] = f"{name}_half"
                if name in stored:
                    numbers = numpy_helper.to_array(stored[name]).clip(-_HALF, _HALF).astype(np.float16)
                    graph.initializer.append(numpy_helper.from_array(numbers, made[name]))
                else:
                    order.append(_cast(name, made[name], TensorProto.FLOAT16))
            node.input[place] = made[name]
        order.append(node)
        for place, name in enumerate(node.output):
            if name:
                made[name] = node.output[place] = f"{name}_half"
                if name in outside:
                    order.append(_cast(made[name], name, TensorProto.FLOAT))
    _store(graph, order, {name for name in stored if name not in outside})


def _cast(source: str, target: str, kind: int) -> NodeProto:
    from onnx import helper

    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind)


def _store(graph: GraphProto, order: list[NodeProto], unused: set[str]) -> None:
    """Put nodes into a graph in their new order, and take out the float32 numbers that nobody reads any more."""
    nodes = [type(node).FromString(node.SerializeToString()) for node in order]  # the graph owns those that it has
    del graph.node[:]
    graph.node.extend(nodes)
    for place, tensor in reversed(list(enumerate(graph.initializer))):
        if tensor.name in unused:
            del graph.initializer[place]
