"""An exported graph in the place of weights: the same detections and the same AP, or one line that says why not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

import ssod
from ssod import cli
from ssod.build import load_data
from ssod.commands import options as option
from ssod.commands.check_sheet import prepare
from ssod.commands.evaluate import evaluate
from ssod.commands.init.weights import begin_with
from ssod.config import load as load_config
from ssod.detectors.build import build
from ssod.evaluation import matching
from ssod.inference import graph_content
from ssod.inference.export import Graph
from ssod.inference.export_parity import differences, measure, texture
from ssod.inference.graph import GraphDetector, detector_of
from ssod.inference.graph_content import DIVISOR
from ssod.inference.label import label_files
from ssod.inference.model import load
from ssod.inference.predict import predict_files
from ssod.labelers.from_config import build_labeler
from ssod.methods.registry import ALLOWED
from ssod.utils import graph_file
from ssod.utils.errors import Exit, SsodError
from tests import graphs
from tests.converted import Converted
from tests.inference.test_label_precision import CLASSES, STEP, matches
from tests.small import small_config
from tests.strange import ended, memory, spoilt
from tests.trained import model_file
from tests.trained import photos as textures

FORMATS = ("onnx", "pt2")
MANY, FEW = 200, 24
IMAGE = np.zeros((64, 100, 3), np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, converted: Converted) -> Path:
    """A run folder: a best teacher that sees images as they are, its matches of val, and its two graphs."""
    folder = tmp_path_factory.mktemp("graph") / "run"
    model = load(model_file(folder / "best.safetensors", step=STEP))
    matching.save(folder / "eval" / f"step_{STEP}.npz", matches())
    for format in FORMATS:
        (folder / f"best.{format}").write_bytes(converted(model, format))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two hundred small pictures of odd sizes and any contrast."""
    folder, draw, out = tmp_path_factory.mktemp("photos"), torch.Generator().manual_seed(3), []
    for number in range(MANY):
        height, width = torch.randint(50, 140, (2,), generator=draw).tolist()
        contrast = 4 * float(torch.rand((), generator=draw))
        image = ((texture(height, width, draw) - 0.5) * contrast + 0.5).clamp(0, 1)
        out.append(folder / f"{number:03}.png")
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(out[-1])
    return out


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let .pt2 files be opened."""
    monkeypatch.setenv(ALLOWED, "*")


def refusal(call: Callable[[], object], code: Exit) -> str:
    with pytest.raises(SsodError) as caught:
        call()
    assert caught.value.code == code, caught.value.line()
    assert caught.value.fix
    return caught.value.line()


# ---- the same as torch -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_two_hundred_images_of_odd_sizes_are_seen_as_torch_sees_them(
    run: Path, photos: list[Path], format: str, trust: None
) -> None:
    model, graph = ssod.load(run), ssod.load(run / f"best.{format}")
    want, have = model(photos), graph(photos)
    assert len({Image.open(path).size for path in photos}) > 100
    assert sum(map(len, want)) > MANY
    assert any(len(found) == 0 for found in want)
    decode, swayed = model.detector.decode, 0
    for path, a, b in zip(photos, want, have):
        if not differences(a, b, decode)[2]:
            continue
        seen = model.prepare(Image.open(path))
        images = torch.zeros(1, 3, *(-(-side // DIVISOR) * DIVISOR for side in seen.image.shape[1:]))
        images[:, :, : seen.image.shape[1], : seen.image.shape[2]] = seen.image / 255
        batch = images, torch.tensor([list(seen.image.shape[1:])])
        found = measure(model.detector, Graph(model.detector), graph.detector.run, [batch])
        assert found.differ == 0, f"{path.name}: {found.problem}"
        swayed += found.undecided
    assert swayed <= 0.02 * MANY


@pytest.fixture(scope="module")
def measured(run: Path, photos: list[Path]) -> Path:
    return graphs.measured_by(run, photos[:FEW], score=0.4)


@pytest.mark.parametrize("name", ["fcos", "faster_rcnn", "dense_detector"])
def test_the_shipped_file_of_every_detector_has_the_ap_of_its_run(
    name: str, tmp_path: Path, converted: Converted
) -> None:
    model = load(model_file(tmp_path / "run" / "best.safetensors", name))
    (tmp_path / "run" / "best.onnx").write_bytes(converted(model, "onnx"))
    seen = textures(tmp_path / "in", [f"{i}.png" for i in range(12)])
    config = graphs.measured_by(tmp_path / "run", seen, score=0.3, most=1)  # boxes may be small
    want, have = evaluate(tmp_path / "run", data=config), evaluate(tmp_path / "run" / "best.onnx", data=config)
    assert 0.1 < want["AP"] < 1
    assert have == pytest.approx(want, abs=0.01, nan_ok=True)  # a box may lie on an IoU that decides
    assert (have.score, have.images) == (want.score, want.images) == (0.2, 12)


@pytest.mark.parametrize("format", FORMATS)
def test_the_shipped_file_has_the_ap_of_its_weights(
    run: Path, measured: Path, format: str, trust: None, capsys: pytest.CaptureFixture[str]
) -> None:
    want = evaluate(run / "best.safetensors", data=measured)
    capsys.readouterr()
    have = evaluate(run / f"best.{format}", data=measured)
    assert 0.2 < want["AP"] < 0.95
    assert have == pytest.approx(want, abs=1e-3, nan_ok=True)
    out = capsys.readouterr().out
    assert f"best.{format}: run by {'onnxruntime' if format == 'onnx' else 'torch'} " in out
    assert "scores above 0.2" in out
    if format == "onnx":  # a .pt2 takes seconds to open
        higher = evaluate(run / "best.onnx", data=measured, score=0.6)
        assert higher["AP"] < have["AP"]
        assert higher == pytest.approx(evaluate(run, data=measured, score=0.6), abs=1e-3, nan_ok=True)


def test_predictions_and_labels_are_those_of_the_weights(
    run: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for path in photos[:6]:
        shutil.copy(path, tmp_path / "in")
    want = list(predict_files(run, tmp_path / "in", tmp_path / "a"))
    capsys.readouterr()
    have = list(predict_files(run / "best.onnx", tmp_path / "in", tmp_path / "b", batch=5))
    assert "run by onnxruntime" in capsys.readouterr().out
    assert len(want) == len(have) > 10
    for a, b in zip(want, have):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        assert a["bbox"] == pytest.approx(b["bbox"], abs=0.05)
    for how in ({"score": 0.4}, {"precision": 1.0}):
        labels = [label_files(weights, tmp_path / "in", tmp_path / f"{weights.name}{len(how)}{next(iter(how))}", **how)
                  for weights in (run, run / "best.onnx")]  # fmt: skip
        assert labels[0].boxes == labels[1].boxes > 3
        assert labels[0].labels.labels.tolist() == labels[1].labels.labels.tolist()
    assert "doubts are told by boxes from 0.2 on, which the graph begins at, not from 0.1" in capsys.readouterr().out


def test_images_are_looked_at_in_the_tiles_of_the_card(tmp_path: Path) -> None:
    whole = ssod.load(graphs.write(tmp_path / "a.onnx"))(IMAGE)
    assert whole.boxes.tolist() == [list(graphs.BOX)]
    assert whole.names == ["dog"]
    said = graphs.metadata(graphs.card(tiles={"size": 64, "overlap": 0.25}))
    parts = ssod.load(graphs.write(tmp_path / "b.onnx", graphs.model(said)))(IMAGE)
    assert sorted(parts.boxes[:, 0].tolist()) == [10.0, 46.0]


# ---- what cannot have its effect -------------------------------------------------------------------------------------


def test_what_is_part_of_the_graph_is_not_changed(tmp_path: Path) -> None:
    file = graphs.write(tmp_path / "g.onnx")
    config = small_config(tmp_path / "data")
    for key in ("detector.decode.score=0.5", "detector.decode.nms=0.4", "train.precision=bf16"):
        said = refusal(lambda key=key: evaluate(file, data=config, overrides=[key]), Exit.USAGE)
        assert f"{key.partition('=')[0]}: is part of the exported graph" in said
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    for call in (
        lambda: evaluate(file, data=config, score=0.1),
        lambda: predict_files(file, tmp_path / "a.png", tmp_path / "out", score=0.1),
        lambda: label_files(file, tmp_path / "a.png", tmp_path / "out", score=0.1),
        lambda: ssod.load(file)(IMAGE, score=0.1),
    ):
        assert "0.1 is below 0.2" in refusal(call, Exit.USAGE)
        assert not (tmp_path / "out").exists()
    assert len(ssod.load(file)(IMAGE, score=0.2)) == 1
    assert len(ssod.load(file)(IMAGE, score=0.95)) == 0


def test_a_graph_without_its_run_says_what_it_needs(run: Path, tmp_path: Path) -> None:
    alone = shutil.copy(run / "best.onnx", tmp_path / "best.onnx")
    assert "no config.yaml beside" in refusal(lambda: evaluate(alone), Exit.USAGE)
    Image.fromarray(IMAGE).save(tmp_path / "a.png")

    def label() -> object:
        return label_files(alone, tmp_path / "a.png", tmp_path / "out", precision=0.9)

    assert "no matches of its val images" in refusal(label, Exit.DATA)
    shutil.copytree(run / "eval", tmp_path / "eval")
    model_file(tmp_path / "best.safetensors", step=STEP, method="another")
    assert "no matches of its val images" in refusal(label, Exit.DATA), "a graph that was copied into another run"


# ---- files of strangers ----------------------------------------------------------------------------------------------


def test_a_card_that_is_spoilt_anywhere_is_one_line_or_a_model(tmp_path: Path) -> None:
    found: Counter[str] = Counter()
    with memory():
        for said, strange in spoilt({**graphs.card(), "step": 3}, 1, seed=1):
            names = json.dumps(["cat", "dog", "bird"])
            file = graphs.write(tmp_path / "m.onnx", graphs.model(graphs.metadata(strange, names=names)))
            codes = {Exit.DATA, Exit.CHECKPOINT, Exit.UNSAFE}
            found[ended(lambda file=file: load(file)(IMAGE), said, codes, "")] += 1
    assert min(found["good"], found["refused"]) > 1, found


def outside(proto: onnx.ModelProto, *, nested: bool) -> onnx.ModelProto:
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    if nested:
        inner = helper.make_graph([helper.make_node("Constant", [], ["x"], value=tensor)], "inner", [], [])
        proto.graph.node.append(helper.make_node("If", ["n"], ["y"], then_branch=inner, else_branch=inner))
    else:
        proto.graph.initializer.append(tensor)
    return proto


def sparse(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A file of some bytes that holds a gigabyte."""
    value, place = (onnx.numpy_helper.from_array(np.zeros(1, kind), "x") for kind in (np.float32, np.int64))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(value, place, [1 << 28]))
    return proto


SAID = graphs.metadata(graphs.card())
BATCHED = {**graphs.PORTS, "images": (TensorProto.FLOAT, (1, 3, "h", "w"))}
HALF = {**graphs.PORTS, "images": (TensorProto.FLOAT16, ("n", 3, "h", "w"))}
OTHER = {"x": graphs.PORTS["images"], "out": graphs.PORTS["scores"]}
STRANGE: dict[str, tuple[Callable[[], onnx.ModelProto | bytes], Exit, str]] = {
    "no metadata": (lambda: graphs.model({}), Exit.CHECKPOINT, "metadata.card: missing: not written by ssod"),
    "no names": (lambda: graphs.model(graphs.metadata(graphs.card(), names=None)), Exit.CHECKPOINT, "metadata.names"),
    "names": (lambda: graphs.model(SAID | {"names": '["a"]'}), Exit.CHECKPOINT, "others than those of its card"),
    "names no JSON": (lambda: graphs.model(SAID | {"names": "["}), Exit.CHECKPOINT, "metadata.names: damaged"),
    "divisor": (lambda: graphs.model(SAID | {"divisor": "64"}), Exit.CHECKPOINT, "'64', this version pads to 32"),
    "decode": (lambda: graphs.model(SAID | {"decode": '{"score": 7}'}), Exit.CHECKPOINT, "card.decode.score"),
    "newer": (lambda: graphs.model(SAID | {"card": '{"format": 9}'}), Exit.CHECKPOINT, "upgrade ssod"),
    "a card of 20 MB": (lambda: graphs.model(SAID | {"card": " " * 20_000_000}), Exit.CHECKPOINT, "16 MB limit"),
    "nothing": (lambda: b"", Exit.CHECKPOINT, "graph.inputs: are none, must be images, sizes"),
    "no ONNX": (lambda: b"no graph" * 99, Exit.CHECKPOINT, "no ONNX file, or cut off"),
    "a zip": (lambda: b"PK\3\4" + bytes(99), Exit.CHECKPOINT, "no ONNX file, or cut off"),
    "other inputs": (lambda: graphs.model(SAID, ports=OTHER), Exit.CHECKPOINT, "graph.inputs: are x, must be images"),
    "one batch": (lambda: graphs.model(SAID, ports=BATCHED), Exit.CHECKPOINT, "shape [1, 3, free, free], must be"),
    "half": (lambda: graphs.model(SAID, ports=HALF), Exit.CHECKPOINT, "graph.images: is of type 10"),
    "outside": (lambda: outside(graphs.model(SAID), nested=False), Exit.UNSAFE, "'secret' lies in another file"),
    "outside, inside": (lambda: outside(graphs.model(SAID), nested=True), Exit.UNSAFE, "'secret' lies in another file"),
    "sparse": (lambda: sparse(graphs.model(SAID)), Exit.CHECKPOINT, "has a sparse tensor, and ssod writes none"),
    "label": (lambda: graphs.model(SAID, label=3), Exit.CHECKPOINT, "labels beyond the 3 classes"),
    "score": (lambda: graphs.model(SAID, score=2), Exit.CHECKPOINT, "answers with what are no detections"),
    "box": (lambda: graphs.model(SAID, box=(0, 0, float("nan"), 1)), Exit.CHECKPOINT, "what are no detections"),
}  # fmt: skip


@pytest.mark.parametrize("case", STRANGE)
def test_what_is_no_graph_of_ours_is_one_line(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, code, words = STRANGE[case]
    made, file = make(), tmp_path / "g.onnx"
    file.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    (tmp_path / "secret").write_bytes(bytes(4))
    assert words in refusal(lambda: load(file)(IMAGE), code)
    assert capfd.readouterr() == ("", ""), "onnxruntime says nothing of its own"


def test_a_graph_that_breaks_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    proto = graphs.model(SAID)
    proto.graph.node[0].op_type = "NoSuchOperator"
    assert "graph: cannot be run" in refusal(lambda: load(graphs.write(tmp_path / "a.onnx", proto)), Exit.CHECKPOINT)
    proto = graphs.model(SAID)
    rest = next(tensor for tensor in proto.graph.initializer if tensor.name == "rest_3")
    rest.CopyFrom(onnx.numpy_helper.from_array(np.array([5, 5]), "rest_3"))  # two boxes become five, which fails
    file = graphs.write(tmp_path / "b.onnx", proto)
    assert "graph: cannot be run" in refusal(lambda: load(file)(IMAGE), Exit.CHECKPOINT)
    assert capfd.readouterr() == ("", "")


def greedy(proto: onnx.ModelProto, values: dict[str, object], op: str, *inputs: str) -> onnx.ModelProto:
    """Let the scores depend on the largest value of what ``op`` makes of these."""
    scores = next(node for node in proto.graph.node if "scores" in node.output)
    scores.output[0] = "known"
    held = {name: np.array(value) for name, value in values.items()} | {"zero": np.float32(0)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in held.items())
    proto.graph.node.extend([
        helper.make_node(op, inputs, ["much"]),
        helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("Add", ["known", "nothing"], ["scores"]),
    ])  # fmt: skip
    return proto


LIMITED = """
import os, resource, sys
import numpy as np
from ssod.inference import graph
from ssod.inference.model import load
from ssod.utils.errors import SsodError

graph.SHARE = 300e6 / (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
load(sys.argv[1])(np.zeros((64, 100, 3), np.uint8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for file in sys.argv[2:]:
    try:
        load(file)(np.zeros((64, 100, 3), np.uint8))
        print(file, "good")
    except SsodError as error:
        print(error.line())
found = load(sys.argv[1])(np.zeros((64, 100, 3), np.uint8))
print(len(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_graph_that_takes_all_memory_is_one_line(tmp_path: Path) -> None:
    """Before there is a picture, by the shape of a constant; or then, by what it makes of it. Each asks for 2 GB."""
    cases = {
        "constant": ({"shape_much": [1 << 29]}, "ConstantOfShape", "shape_much"),
        "range": ({"from": np.float32(0), "to": np.float32(1 << 29), "by": np.float32(1)}, "Range", "from", "to", "by"),
        "tile": ({"often": [1, 1, 300, 100]}, "Tile", "images", "often"),
    }
    files = [graphs.write(tmp_path / "good.onnx")]
    for name, (values, op, *inputs) in cases.items():
        files.append(graphs.write(tmp_path / f"{name}.onnx", greedy(graphs.model(SAID), values, op, *inputs)))
    done = subprocess.run([sys.executable, "-c", LIMITED, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    for file, line in zip(files[1:], lines, strict=True):
        assert line.startswith(f"{file}: graph: takes more than"), line
        assert line.endswith("give it smaller images, or fewer at once")
    found, more = map(int, last.split())
    assert found == 1, "the others still run"
    assert more < 600_000, "kilobytes"


def test_a_file_that_is_cut_off_anywhere_is_one_line(tmp_path: Path) -> None:
    whole = graphs.write(tmp_path / "whole.onnx").read_bytes()
    load(tmp_path / "whole.onnx")
    for length in range(0, len(whole), 37):
        (tmp_path / "cut.onnx").write_bytes(whole[:length])
        ended(lambda: load(tmp_path / "cut.onnx"), f"{length} bytes", {Exit.CHECKPOINT}, "cut.onnx")


def test_a_pt2_is_opened_only_where_somebody_trusts_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ALLOWED, raising=False)
    monkeypatch.setattr(torch.export, "load", lambda *_, **__: pytest.fail("it was opened"))
    said = refusal(lambda: load(run / "best.pt2"), Exit.UNSAFE)
    assert "a .pt2 can run any code when torch opens it; use an .onnx, or if you trust it pass --allow-code" in said
    monkeypatch.setenv(ALLOWED, "my_package")
    refusal(lambda: load(run / "best.pt2"), Exit.UNSAFE)
    monkeypatch.setenv(ALLOWED, "*")
    for damaged in (b"", b"no zip", (run / "best.pt2").read_bytes()[:-100]):
        (tmp_path / "m.pt2").write_bytes(damaged)
        assert "damaged" in refusal(lambda: load(tmp_path / "m.pt2"), Exit.CHECKPOINT)


# ---- every command that takes weights --------------------------------------------------------------------------------

TAKES, REFUSES = {"evaluate", "predict", "label", "check"}, {"export", "init"}


def test_every_command_that_takes_weights_is_walked_here() -> None:
    kinds = (option.Weights, option.OnlyWeights, option.Doubts, option.BeginWith)
    found = set()
    for command in cli.app.registered_commands:
        hints = get_type_hints(command.callback, include_extras=True)
        if "weights" in hints or any(hint in kinds for hint in hints.values()):
            found.add(command.callback.__name__)
    assert found == TAKES | REFUSES


@pytest.mark.parametrize("name", ["g.onnx", "g.pt2"])
def test_where_weights_are_needed_a_graph_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = graphs.write(tmp_path / name)
    config = small_config(tmp_path / "data")

    def teach() -> object:
        cfg = load_config(config, [f"method.teacher={file}"])
        return build_labeler(cfg, load_data(cfg))

    def begin() -> object:
        cfg = load_config(config, [f"detector.weights={file}"])
        return build(cfg.detector, 3, classes=CLASSES)

    for call in (lambda: begin_with(file, "mean_teacher", None), teach, begin):
        assert f"{name}: is an exported graph, which cannot be trained on" in refusal(call, Exit.CHECKPOINT)
    monkeypatch.setattr("sys.argv", ["ssod", "export", str(file)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == Exit.CHECKPOINT
    assert "is an exported graph, which cannot be exported again; name the best.safe" in capsys.readouterr().err
    assert "cannot be exported again" in refusal(lambda: ssod.export(file, out=tmp_path / "x.onnx"), Exit.CHECKPOINT)


def test_a_graph_judges_labels_as_weights_do(tmp_path: Path) -> None:
    judge = prepare(tmp_path / "sheet.html", graphs.write(tmp_path / "g.onnx"), "auto")
    assert isinstance(judge.model.detector, GraphDetector)
    assert judge.limits.option == "--score"
    assert len(judge.model(IMAGE)) == 1


# ---- what runs it ----------------------------------------------------------------------------------------------------


def test_without_its_packages_it_is_refused_before_torch_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = graphs.write(tmp_path / "g.onnx")
    child = "import sys; sys.modules['onnxruntime'] = None; sys.argv = ['ssod', *sys.argv[1:]]; from ssod import cli\n"
    child += "try:\n    cli.main()\nfinally:\n    print('torch' in sys.modules)"
    words = ["predict", str(file), "images", "-o", "out"]
    done = subprocess.run([sys.executable, "-c", child, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == Exit.USAGE
    assert done.stdout.strip() == "False"
    line = f'ssod: error: {file}: needs onnxruntime, which is not installed; pip install "ssod[export]"'
    assert done.stderr.strip() == line
    monkeypatch.setattr(graph_file.importlib.util, "find_spec", lambda name: None)
    assert "needs onnx and onnxruntime" in refusal(lambda: ssod.load(file), Exit.USAGE)


def test_it_runs_where_it_can_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = graph_content.read(graphs.write(tmp_path / "g.onnx"))
    gpu = torch.device("cuda")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "onnxruntime has nothing here that runs on it" in refusal(
        lambda: detector_of(content, 3, gpu, must=True), Exit.USAGE
    )
    assert "CPUExecutionProvider" in detector_of(content, 3, gpu, must=False).line()
    threads: list[int] = []
    make = onnxruntime.InferenceSession

    def session(data: bytes, options: onnxruntime.SessionOptions, **how: object) -> object:
        threads.append(options.intra_op_num_threads)
        return make(data, options, **how)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    load(content.path, "auto")
    assert threads == [3]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" not in onnxruntime.get_all_providers() or not torch.cuda.is_available():
        said = refusal(lambda: detector_of(content, 3, gpu, must=True), Exit.USAGE)
        assert "'cuda' is built into onnxruntime but does not load here" in said, (
            "onnxruntime by itself would take the CPU and say nothing"
        )
