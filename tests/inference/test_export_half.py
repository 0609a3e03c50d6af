"""Half precision: which nodes compute in float16, what stays float32, and how the graph is judged."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from ssod.detectors.decode import DecodeConfig
from ssod.inference import export as exporting
from ssod.inference.export import Exported, export, runner
from ssod.inference.export_half import LAYERS, to_half
from ssod.inference.export_parity import FULL, HALF, Run, differences
from ssod.structures import Targets
from ssod.utils.errors import Exit, SsodError
from tests.converted import Converted
from tests.trained import model_file, shipped

CFG = DecodeConfig(score=0.3, nms=0.5, detections=10)


@pytest.fixture(scope="module")
def content(converted: Converted) -> bytes:
    return converted(shipped("faster_rcnn"), "onnx")


# ---- the graph ---------------------------------------------------------------------------------------------------


def test_layers_are_float16_and_all_after_them_is_float32(content: bytes) -> None:
    half = onnx.load_model_from_string(to_half(content))
    onnx.checker.check_model(half, full_check=True)
    seen = onnx.shape_inference.infer_shapes(half, strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*seen.value_info, *seen.input, *seen.output)}
    kinds |= {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    computes = {node.op_type for node in half.graph.node if kinds[node.output[0]] == TensorProto.FLOAT16}
    assert {"Conv", "Gemm", "Relu", "Add"} <= computes
    assert computes <= {"Conv", "Gemm", "Relu", "Add", "Resize", "MaxPool", "Cast"}
    for node in half.graph.node:
        if node.op_type in LAYERS:
            assert kinds[node.input[1]] == TensorProto.FLOAT16, node.name
        elif node.op_type in ("NonMaxSuppression", "TopK", "Exp", "RoiAlign", "Softmax", "Sub", "Div"):
            assert TensorProto.FLOAT16 not in {kinds[name] for name in node.input if name in kinds}, node.name
    before = onnx.load_model_from_string(content)
    assert list(half.graph.input) == list(before.graph.input)
    assert list(half.graph.output) == list(before.graph.output)
    assert list(half.metadata_props) == list(before.metadata_props)
    assert len(half.SerializeToString()) < 0.55 * len(content)


def test_what_others_read_too_stays_float32_for_them() -> None:
    """One number is a layer's bias and is read after the last layer, too; a pointwise node there stays float32."""
    weight = np.full((3, 3), 70000.0, np.float32)  # more than a half holds
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="one"),
        helper.make_node("Add", ["a", "b"], ["c"], name="between"),
        helper.make_node("MatMul", ["c", "v"], ["d"], name="two"),
        helper.make_node("Add", ["d", "b"], ["e"], name="after"),
        helper.make_node("Sub", ["e", "c"], ["y"], name="reads both"),
    ]
    stored = {"w": np.eye(3, dtype=np.float32), "v": weight, "b": np.float32([1 / 3, 0, 0])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    half = onnx.load_model_from_string(to_half(model.SerializeToString()))
    onnx.checker.check_model(half, full_check=True)
    names = [node.name for node in half.graph.node if node.op_type != "Cast"]
    assert names == [node.name for node in nodes]
    inputs = {node.name: list(node.input) for node in half.graph.node}
    assert inputs["between"] == ["a_half", "b_half"]
    assert inputs["two"] == ["c_half", "v_half"]
    assert inputs["after"] == ["d", "b"]
    assert inputs["reads both"] == ["e", "c"]
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    assert set(held) == {"b", "b_half", "w_half", "v_half"}
    assert held["b"].dtype == np.float32
    assert held["v_half"].dtype == np.float16
    assert held["v_half"].max() == 65504  # and not infinite


# ---- the export --------------------------------------------------------------------------------------------------


def _export(content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Exported:
    monkeypatch.setattr(exporting, "convert", lambda model, format: content)
    return export(model_file(folder / "best.safetensors", "faster_rcnn"), half=True)


def test_a_half_is_compared_and_written(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _export(content, tmp_path, monkeypatch)
    assert found.file == tmp_path / "best.fp16.onnx"
    assert found.card == tmp_path / "best.fp16.md"
    assert found.file.read_bytes() == to_half(content)
    assert found.parity.boxes > 10
    assert found.parity.undecided <= found.parity.images
    assert 0 < found.parity.score <= HALF.score  # not the same to the last bit: it was a half that computed
    assert "onnx fp16" in found.card.read_text("utf-8")


@pytest.mark.parametrize(("box", "score"), [(0.7, 0.0), (0.0, 0.02)])
def test_a_half_that_differs_more_is_not_written(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, box: float, score: float
) -> None:
    def off(content: bytes, format: str, engine: str) -> Run:
        run = runner(content, format, engine)

        def moved(images: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            boxes, scores, labels = run(images, sizes)
            return boxes + box, torch.where(scores > 0, scores + score, 0.0), labels

        return moved

    monkeypatch.setattr(exporting, "runner", off)
    with pytest.raises(SsodError, match="parity: ") as caught:
        _export(content, tmp_path, monkeypatch)
    assert caught.value.code == Exit.BUG
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


def test_half_is_of_onnx(tmp_path: Path) -> None:
    with pytest.raises(SsodError, match="--half: is of ONNX, not of pt2; use --format onnx"):
        export(model_file(tmp_path / "best.safetensors"), "pt2", half=True)


# ---- the judge ---------------------------------------------------------------------------------------------------


def _found(*rows: tuple[float, int, float]) -> Targets:
    """Return detections: (left side, label, score), each 10 x 10."""
    boxes = torch.tensor([[x, 0.0, x + 10, 10.0] for x, _, _ in rows]).view(-1, 4)
    return Targets(boxes, torch.tensor([k for _, k, _ in rows], dtype=torch.long), torch.tensor([s for *_, s in rows]))


A = (0.0, 0, 0.9)


@pytest.mark.parametrize(
    ("want", "have", "problem"),
    [
        ((A,), ((0.4, 0, 0.905),), ""),
        ((A,), ((0.0, 0, 0.92),), "1 too many"),  # scores more, so that nothing of torch's could suppress it
        ((A,), ((0.0, 0, 0.88),), "1 detections missing"),
        ((A,), ((2.0, 0, 0.9),), ""),  # IoU 0.67: either suppresses the other
        ((A,), ((4.0, 0, 0.9),), "1 detections missing, 1 too many"),  # IoU 0.43: nothing does
        ((A,), ((2.0, 1, 0.9),), "1 detections missing, 1 too many"),  # another class
        ((A,), (A, (2.0, 0, 0.8)), ""),  # what A suppresses
        ((A,), (A, (30.0, 0, 0.8)), "0 detections missing, 1 too many"),
        ((A,), (A, (30.0, 0, 0.305)), ""),  # on the threshold
    ],
)
def test_what_is_suppressed_in_the_other_is_forgiven(want: tuple, have: tuple, problem: str) -> None:
    _, _, found = differences(_found(*want), _found(*have), CFG, HALF)
    assert problem in found
    assert bool(problem) == bool(found)


def test_full_precision_forgives_none_of_it() -> None:
    assert differences(_found(A), _found((2.0, 0, 0.9)), CFG, FULL)[2]
    assert differences(_found(A), _found(A, (2.0, 0, 0.8)), CFG, FULL)[2]
