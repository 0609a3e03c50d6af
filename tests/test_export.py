"""Exported graphs hold the teacher, say what torch says at every size, and a wrong one is not written."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from ssod import cli
from ssod.detectors.decode import DecodeConfig
from ssod.inference import export as exporting
from ssod.inference.export import Graph, convert, export, metadata, runner
from ssod.inference.export_parity import Run, differences, measure
from ssod.inference.model import Model
from ssod.structures import Targets
from ssod.utils.errors import Exit, SsodError
from tests.converted import Converted
from tests.trained import model_file, shipped, trained
from tools.export_parity import DETECTORS, SIZES, pictures, random_model, sweep

FORMATS = ("onnx", "pt2")
MANY = 8  # pictures of a size


@pytest.fixture(scope="module")
def graph(converted: Converted) -> Callable[[str, str], tuple[Model, bytes, Run]]:
    """A detector of two levels, its exported file and that file loaded; ``tools/export_parity.py`` has all levels."""
    made: dict[tuple[str, str], tuple[Model, bytes, Run]] = {}

    def get(name: str, format: str) -> tuple[Model, bytes, Run]:
        if (name, format) not in made:
            model = trained(name)
            content = converted(model, format)
            made[name, format] = model, content, runner(content, format)
        return made[name, format]

    return get


# ---- the graph ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", DETECTORS)
def test_says_what_torch_says(graph: Callable, name: str, format: str) -> None:
    model, _, run = graph(name, format)
    for seed, size in enumerate(SIZES):
        found = measure(model.detector, Graph(model.detector), run, pictures(3, size, seed=seed + 10))
        assert found.differ == 0, found.problem
        assert found.box <= 0.05
        assert found.score <= 1e-4
        assert found.undecided <= 1


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", DETECTORS)
def test_nothing_found_and_any_size(graph: Callable, name: str, format: str) -> None:
    """One flat image alone, in which no box survives, and sizes down to one cell, also no multiples of anything."""
    model, _, run = graph(name, format)
    empty = 0
    for n, height, width in ((1, 32, 32), (1, 8, 9), (2, 50, 75), (1, 200, 33)):
        images, sizes = torch.full((n, 3, height, width), 0.5), torch.tensor([[height, width]] * n)
        boxes, scores, labels = run(images, sizes)
        assert boxes.shape == (n, 100, 4)
        assert scores.shape == labels.shape == (n, 100)
        assert labels.dtype == torch.int64
        with torch.no_grad():
            expected = Graph(model.detector)(images, sizes)
        assert torch.equal((scores > 0).sum(1), (expected[1] > 0).sum(1))
        empty += n == 1 and not (scores > 0).any()
        assert (boxes[scores == 0] == 0).all()
        assert (labels[scores == 0] == 0).all()
    assert empty


def test_a_quality_branch_that_predicts_iou_exports() -> None:
    """Here for torch; the ONNX of one is that of Unbiased Teacher v2's FCOS."""
    model = random_model("fcos", levels=(4, 5), channels=16, quality="iou")
    assert model.card["detector"]["quality"] == "iou"
    run = runner(convert(model, "pt2"), "pt2")
    found = measure(model.detector, Graph(model.detector), run, pictures(3, SIZES[1], seed=10))
    assert found.differ == 0, found.problem
    assert found.boxes > 10


def test_a_dense_detector_exports(converted: Converted) -> None:
    """Heads of its own on each level, and scores that are products."""
    model = shipped("dense_detector")
    run = runner(converted(model, "onnx"), "onnx")
    for seed, size in enumerate(SIZES[1:3]):
        found = measure(model.detector, Graph(model.detector), run, pictures(3, size, seed=seed + 10))
        assert found.differ == 0, found.problem
        assert found.boxes > 10
        assert found.score <= 1e-4


@pytest.mark.parametrize("name", DETECTORS)
def test_padding_and_neighbours_do_not_matter(graph: Callable, name: str) -> None:
    """``sizes`` makes an image in a batch what it is alone; what lies in its padding is not looked at."""
    _, _, run = graph(name, "onnx")
    images, sizes = next(batch for batch in pictures(6, SIZES[0], seed=3) if len(batch[0]) == 2)
    together = run(images, sizes)
    dirty = images.clone()
    dirty[1, :, int(sizes[1, 0]) :] = 0.7
    for i in range(2):
        alone = run(images[i : i + 1], sizes[i : i + 1])
        spoilt = run(dirty[i : i + 1], sizes[i : i + 1])
        for a, b, c in zip(together, alone, spoilt):
            torch.testing.assert_close(a[i], b[0], rtol=0, atol=1e-4)
            torch.testing.assert_close(a[i], c[0], rtol=0, atol=1e-4)


# ---- the files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DETECTORS)
def test_onnx_holds_the_teacher_and_nothing_else(graph: Callable, name: str) -> None:
    model, content, _ = graph(name, "onnx")
    proto = onnx.load_model_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    held = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert not any(t.external_data for t in proto.graph.initializer)
    for key, weight in model.detector.named_parameters():
        if weight.ndim > 1:  # biases and norms may be folded into them, which scales these by 1 / sqrt(1 + eps)
            np.testing.assert_allclose(held[f"detector.{key}"], weight.numpy(), rtol=1e-5, atol=0, err_msg=key)
    floats = sum(a.size for a in held.values() if a.dtype == np.float32)
    assert floats <= sum(t.numel() for t in model.detector.state_dict().values()) + 300

    assert {p.key: p.value for p in proto.metadata_props} == metadata(model)
    assert [i.name for i in proto.graph.input] == ["images", "sizes"]
    assert [o.name for o in proto.graph.output] == ["boxes", "scores", "labels"]
    axes = [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]
    assert str(Path(exporting.__file__).parents[2]).encode() not in content


@pytest.mark.parametrize("name", DETECTORS)
def test_pt2_holds_the_teacher_and_nothing_else(graph: Callable, name: str) -> None:
    model, content, _ = graph(name, "pt2")
    extra = dict.fromkeys(metadata(model), "")
    program = torch.export.load(io.BytesIO(content), extra_files=extra)
    assert {k: v.decode() if isinstance(v, bytes) else v for k, v in extra.items()} == metadata(model)
    expected = model.detector.state_dict()
    assert {k.removeprefix("detector.") for k in program.state_dict} == set(expected)
    for key, value in program.state_dict.items():
        assert torch.equal(value, expected[key.removeprefix("detector.")])
    assert len(content) < 1.2 * 4 * sum(t.numel() for t in expected.values()) + 1_500_000
    assert str(Path(exporting.__file__).parents[2]).encode() not in content


def test_export_writes_beside_the_weights_and_says_how_near_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_file(tmp_path / "best.safetensors", "fcos")
    file = export(tmp_path, format="pt2").file
    assert file == tmp_path / "best.pt2"
    messages = capsys.readouterr().out.splitlines()
    assert len(messages) == 3
    assert "above 0.2" in messages[0]
    assert "largest difference" in messages[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt2", "best.pt2.md", "best.safetensors"]
    extra = {"card": ""}
    torch.export.load(file, extra_files=extra)
    assert json.loads(extra["card"])["classes"]["ids"] == [3, 7, 11]


def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: Converted
) -> None:
    """Boxes that lie 0.06 px off, a little more than is allowed, are those of another detector."""

    def off(content: bytes, format: str) -> Run:
        run = runner(content, format)
        return lambda images, sizes: (run(images, sizes)[0] + 0.06, *run(images, sizes)[1:])

    monkeypatch.setattr(exporting, "runner", off)
    monkeypatch.setattr(exporting, "convert", converted)
    weights = model_file(tmp_path / "best.safetensors", "retinanet")
    with pytest.raises(SsodError, match="px off") as caught:
        export(weights, format="pt2", out=tmp_path / "x.pt2")
    assert caught.value.code == Exit.BUG
    assert not (tmp_path / "x.pt2").exists()


@pytest.mark.parametrize(
    ("weights", "out", "format", "words"),
    [
        ("best.safetensors", "best.safetensors", "pt2", r"does not end in \.pt2"),
        ("best.pt2", "best.pt2", "pt2", "holds the weights"),
        ("best.pt2", "other name.pt2", "pt2", "holds the weights"),
        ("best.pt2", None, "pt2", "holds the weights"),
        ("best.safetensors", "teacher.pt2", "onnx", r"does not end in \.onnx"),
        ("best.safetensors", "teacher", "onnx", r"does not end in \.onnx"),
        ("best.safetensors", "folder", "pt2", r"is a folder; name a file in it: -o .*folder/best\.pt2"),
    ],
)
def test_a_target_that_is_no_place_for_a_graph_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, out: str | None, format: str, words: str
) -> None:
    def work(*args: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(exporting, "load", work)
    file = model_file(tmp_path / weights)
    (tmp_path / "folder").mkdir()
    (tmp_path / "other name.pt2").hardlink_to(file)
    before = file.read_bytes()
    with pytest.raises(SsodError, match=words) as caught:
        export(file, format=format, out=out and tmp_path / out)
    assert caught.value.code == Exit.USAGE
    assert file.read_bytes() == before


def test_missing_packages_and_unknown_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = model_file(tmp_path / "best.safetensors")
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SsodError, match="pip install onnx onnxscript onnxruntime") as caught:
        export(weights)
    assert caught.value.code == Exit.USAGE
    with pytest.raises(SsodError, match="unknown"):
        export(weights, format="torchscript")
    with pytest.raises(SsodError, match="not found"):
        export(tmp_path / "absent.safetensors", format="pt2")


def test_the_command_exits_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["ssod", "export", str(tmp_path / "no.safetensors"), "--format", "pt2"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == Exit.CHECKPOINT
    assert capsys.readouterr().err.startswith("ssod: error: ")


# ---- the judge ---------------------------------------------------------------------------------------------------

CFG = DecodeConfig(score=0.3, detections=3)


def _found(*rows: tuple[float, int, float]) -> Targets:
    """Return detections: (left side, label, score), each 10 x 10."""
    boxes = torch.tensor([[x, 0.0, x + 10, 10.0] for x, _, _ in rows]).view(-1, 4)
    return Targets(boxes, torch.tensor([k for _, k, _ in rows], dtype=torch.long), torch.tensor([s for *_, s in rows]))


A, B, C = (0.0, 0, 0.9), (50.0, 1, 0.8), (90.0, 0, 0.7)


@pytest.mark.parametrize(
    ("want", "have", "problem"),
    [
        ((), (), ""),
        ((A, B), (A, B), ""),
        ((A, (50, 0, 0.9)), ((50, 0, 0.9), A), ""),  # equal scores come in any order
        ((A, B), ((0.04, 0, 0.90005), B), ""),
        ((A, B), ((0.06, 0, 0.9), B), "px off"),
        ((A, B), ((0, 0, 0.9002), B), "1 detections missing, 1 too many"),
        ((A, B), ((0, 1, 0.9), B), "1 detections missing, 1 too many"),
        ((A, B), (A,), "1 detections missing, 0 too many"),
        ((A,), (A, B), "0 detections missing, 1 too many"),
        ((A,), (A, A), "0 detections missing, 1 too many"),
        ((A,), (), "1 detections missing"),
        ((A, (90, 0, 0.300005)), (A,), ""),  # on the threshold
        ((A,), (A, (90, 0, 0.300005)), ""),
        ((A, (90, 0, 0.3001)), (A,), "1 detections missing"),
        ((A, B, C), (A, B, (20, 0, 0.7)), ""),  # equal scores compete for the last place
        ((A, B, C), (A, B, (20, 0, 0.71)), "1 too many"),
    ],
)
def test_differences(want: tuple, have: tuple, problem: str) -> None:
    box, score, found = differences(_found(*want), _found(*have), CFG)
    assert problem in found
    assert bool(problem) == bool(found)
    assert box >= 0
    assert score >= 0


def _program(answer: Callable[[Tensor], tuple]) -> Run:
    def run(images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = _found(*answer(images))
        return found.boxes[None], found.scores[None], found.labels[None]

    return run


def test_only_what_is_wrong_on_every_copy_is_wrong() -> None:
    class Detector:
        decode = CFG

    batch = [(torch.zeros(1, 3, 4, 4), torch.tensor([[4, 4]]))]
    steady = _program(lambda images: (A,))
    wavering = _program(lambda images: (A,) if images.sum() == 0 else (B,))
    wrong = _program(lambda images: (C,))
    assert measure(Detector, steady, steady, batch).images == 1
    found = measure(Detector, steady, wrong, batch)
    assert (found.differ, found.undecided, found.images) == (1, 0, 1)
    assert "missing" in found.problem
    found = measure(Detector, wavering, wrong, batch)  # torch hangs on rounding
    assert (found.differ, found.undecided, found.images) == (0, 1, 0)
    found = measure(Detector, steady, _program(lambda images: (B,) if images.sum() == 0 else (A,)), batch)
    assert (found.differ, found.undecided) == (0, 1)
    nothing = measure(Detector, _program(lambda _: ()), _program(lambda _: ()), batch)
    assert nothing.empty == 1
    assert "no box could be compared" in nothing.line()


# ---- at length ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_many_images_of_four_sizes(graph: Callable, name: str) -> None:
    """``python tools/export_parity.py`` has fifty of each."""
    model, _, run = graph(name, "onnx")
    found = sweep(model, run, MANY)
    assert found.crashes == 0
    assert found.parity.differ == 0, found.parity.problem
    assert found.parity.box <= 0.05
    assert found.parity.score <= 1e-4
    assert found.parity.undecided <= 0.05 * 4 * MANY
    assert found.parity.empty >= 0.15 * 4 * MANY
    assert found.parity.boxes > 4 * MANY


def test_what_is_no_model_is_reported_before_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SsodError) as caught:
        export(tmp_path / "empty")
    assert caught.value.code == Exit.CHECKPOINT
