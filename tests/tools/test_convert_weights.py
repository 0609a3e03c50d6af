"""tools/convert_weights.py, from a file of detectron2 to `ssod eval` and back into detectron2."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from ssod.commands.evaluate import evaluate
from ssod.detectors.d2.model import build_model
from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError
from tests.detectors.d2 import pair, section
from tests.small import small_config
from tools import convert_weights
from tools.convert_weights import arguments, main

SMALL = section("d2_faster_rcnn").opts
CLASSES = 6  # of the generated images


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder with a config and a `.pkl` as detectron2's zoo has them, and that file's tensors."""
    folder = tmp_path_factory.mktemp("convert")
    theirs, _ = pair("d2_faster_rcnn", lively=True, classes=CLASSES)
    state = theirs.state_dict()
    arrays = {name: value.numpy() for name, value in state.items()}
    (folder / "model_final.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "the zoo"}))
    detector = {"name": "d2_faster_rcnn", "opts": SMALL, "weights": str(folder / "model_final.pkl")}
    config = small_config(folder)
    tree = yaml.safe_load(config.read_text()) | {"detector": detector}
    config.write_text(yaml.safe_dump(tree))
    return folder, state


def ap(file: Path, config: Path) -> dict[str, float]:
    return evaluate(file, data=config)


def test_from_the_zoo_to_eval_and_back(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    folder, state = given
    config = folder / "small.yaml"
    found = main(["ours", str(config), "-o", str(folder / "ours.safetensors")])
    assert found.boxes > 20
    printed = capsys.readouterr().out
    assert "compared with detectron2's inference" in printed
    main(["keep", str(config), "-o", str(folder / "kept.safetensors")])
    assert model_file.read_card(folder / "ours.safetensors")["detector"]["name"] == "faster_rcnn"
    assert model_file.read_card(folder / "kept.safetensors")["detector"]["name"] == "d2_faster_rcnn"
    a, b = (ap(folder / name, config) for name in ("ours.safetensors", "kept.safetensors"))
    assert a == pytest.approx(b, abs=2e-3)

    for source, extra in (("ours.safetensors", ["--config", str(config)]), ("kept.safetensors", [])):
        main(["detectron2", str(folder / source), "-o", str(folder / "back.pth"), *extra])
        model = build_model(section("d2_faster_rcnn"), CLASSES)
        missing = DetectionCheckpointer(model, save_dir=str(folder)).load(str(folder / "back.pth"))
        assert set(missing) <= {"__author__"}
        back = model.state_dict()
        assert set(back) == set(state)
        assert all(torch.equal(back[name], state[name]) for name in state)


def test_the_printed_section_trains_from_the_file(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from ssod.detectors.build import build
    from tests.detectors.reference import CONFIG

    folder, _ = given
    file = folder / "section.safetensors"
    main(["ours", str(folder / "small.yaml"), "-o", str(file)])
    printed = capsys.readouterr().out
    tree = yaml.safe_load(printed[printed.index("detector:") : printed.rindex(str(file))])
    detector = build(CONFIG.validate_python(tree["detector"]), CLASSES)
    saved, _ = model_file.read(file)
    assert all(torch.equal(value, saved[name]) for name, value in detector.state_dict().items())


def test_other_classes_are_refused(given: Any) -> None:
    folder, state = given
    wide = {n: v.numpy() for n, v in state.items()}
    for name in [n for n in wide if "box_predictor" in n]:
        wide[name] = wide[name].repeat(2, 0)
    (folder / "wide.pkl").write_bytes(pickle.dumps({"model": wide, "__author__": "x"}))
    out = folder / "none.safetensors"
    with pytest.raises(SsodError, match="has not the 6 classes of the data"):
        main(["ours", str(folder / "small.yaml"), "-o", str(out), f"detector.weights={folder / 'wide.pkl'}"])
    assert not out.exists()


def test_what_is_missing_is_named(given: Any, tmp_path: Path) -> None:
    folder, _ = given
    config = str(folder / "small.yaml")
    main(["ours", config, "-o", str(tmp_path / "ours.safetensors")])
    for argv, problem in (
        (["ours", config, "-o", str(tmp_path / "x"), "detector.weights=none"], "name the file"),
        (["ours", str(small_config(tmp_path / "own")), "-o", str(tmp_path / "x")], "is no detector of detectron2"),
        (["detectron2", str(tmp_path / "ours.safetensors"), "-o", str(tmp_path / "x")], "missing; the file is of a"),
    ):
        with pytest.raises(SsodError, match=problem) as error:
            main(argv)
        assert error.value.code == Exit.USAGE
    assert not (tmp_path / "x").exists()


def test_changes_to_the_config_follow_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments(["ours", "my.yaml", "-o", "x", "detector.weights=w.pkl", "data.root=here"])
    assert args.overrides == ["detector.weights=w.pkl", "data.root=here"]
    for wrong in ("--scale=1", "spare"):
        with pytest.raises(SystemExit):
            arguments(["ours", "my.yaml", "-o", "x", wrong])
        assert f"unexpected {wrong}" in capsys.readouterr().err


def test_a_difference_is_not_written(given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = given
    plain = convert_weights.original

    def wrong(*args: Any) -> Any:
        found = plain(*args)
        torch.nn.init.normal_(found.backbone.bottom_up.stem.conv1.weight)
        return found

    monkeypatch.setattr(convert_weights, "original", wrong)
    out = tmp_path / "ours.safetensors"
    with pytest.raises(SsodError, match="was not written") as error:
        main(["ours", str(folder / "small.yaml"), "-o", str(out)])
    assert error.value.code == Exit.BUG
    assert not out.exists()
