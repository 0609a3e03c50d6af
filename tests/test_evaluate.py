"""``ssod eval``: what an override means for trained weights, and what has to be there."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from ssod.commands.evaluate import evaluate
from ssod.detectors.build import DetectorConfig, build
from ssod.evaluation.columns import Found
from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError
from tests.small import small_config

SECTION: dict[str, Any] = {
    "name": "fcos",
    "backbone": "tiny",
    "channels": 16,
    "levels": [3, 5],
    "decode": {"score": 0.0, "detections": 7},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_config(tmp_path_factory.mktemp("measure"))


def names_of(config: Path) -> list[str]:
    tree = json.loads((config.parent / "data/annotations/val.json").read_text())
    return [category["name"] for category in tree["categories"]]


def weights(config: Path, names: list[str] | None = None) -> Path:
    """Write random weights for the classes of ``config``, or for others."""
    names = names_of(config) if names is None else names
    torch.manual_seed(0)
    detector = build(TypeAdapter(DetectorConfig).validate_python(SECTION), len(names), pretrained=False)
    card = {"detector": SECTION, "classes": {"names": names, "ids": list(range(1, len(names) + 1))}, "val_view": []}
    path = config.parent / "weights" / "best.safetensors"
    path.parent.mkdir(exist_ok=True)
    model_file.save(path, detector.state_dict(), card)
    return path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the evaluator was given, and found."""
    from ssod.commands import evaluate as measure

    passed: dict[str, object] = {}
    make = measure.evaluator

    def evaluator(cfg, val, *, score=None, keep=None):
        def both(truth: dict, rows: Found) -> None:
            keep(truth, rows)
            passed["rows"] = rows
            passed["names"] = [truth["categories"][label]["name"] for label in rows.label.tolist()]

        passed["view"] = cfg.views.val.model_dump(mode="json")
        return make(cfg, val, score=score, keep=both)

    monkeypatch.setattr(measure, "evaluator", evaluator)
    return passed


def test_detector_and_view_are_the_model_s_unless_an_override_changes_them(config: Path, seen: dict) -> None:
    path = weights(config)
    own = {"detector.channels": 64, "views.val": [{"resize": {"short": 32, "long": 32}}]}
    other = small_config(config.parent / "other", detector__channels=64, views__val=own["views.val"])
    for passed in (config, other):
        evaluate(path, data=passed)
        assert seen["view"] == []
        assert len(seen["rows"]) == 6 * 7, "seven detections in each image, as the card says"
    evaluate(path, data=other, overrides=["detector.decode.detections=3"])
    assert len(seen["rows"]) == 6 * 3
    evaluate(path, data=config, overrides=["detector.decode.score=0.99"])
    assert len(seen["rows"]) == 0
    evaluate(path, data=config, overrides=["views.val=[{resize: {short: 32, long: 32}}]"])
    assert seen["view"] == [{"resize": {"short": [32, 32], "long": 32}}]


@pytest.mark.parametrize(
    "override",
    [
        "detector.channels=32",
        "detector={name: fcos}",
        "method.score=0.9",
        "views.labeled.weak=[]",
        "train.lr=1",
        "data.split.percent=5",
        "data.labeled.ann=x.json",
        "eval.diagnose=0",
        "evil=1",
    ],
)
def test_an_override_that_would_do_nothing_is_refused(config: Path, override: str) -> None:
    with pytest.raises(SsodError) as caught:
        evaluate(weights(config), data=config, overrides=[override])
    line = caught.value.line()
    assert caught.value.code == Exit.USAGE
    assert line.startswith(f"command line: {override.partition('=')[0]}: has no effect on weights")
    assert "data, eval, detector.decode, views.val" in line


def test_nothing_but_val_has_to_be_there(tmp_path: Path) -> None:
    config = small_config(tmp_path, data__split=None, data__unlabeled={"format": "folder", "path": "absent"})
    path = weights(config)
    shutil.rmtree(tmp_path / "data/train")
    (tmp_path / "data/annotations/train.json").unlink()
    assert evaluate(path, data=config)["AP"] >= 0
    (tmp_path / "data/val/000003.jpg").write_bytes(b"no image")
    with pytest.raises(SsodError, match=r"000003\.jpg") as caught:
        evaluate(path, data=config)
    assert caught.value.code == Exit.DATA


def test_labels_of_val_are_brought_into_the_model_s_order(config: Path, seen: dict) -> None:
    names = names_of(config)
    straight = evaluate(weights(config), data=config)
    said = seen["names"]
    turned = evaluate(weights(config, names[::-1]), data=config)
    assert dict(zip(said, seen["names"])) == {name: names[-1 - names.index(name)] for name in set(said)}
    assert set(straight) == set(turned)
    with pytest.raises(SsodError, match="only in the model: 'zebra'") as caught:
        evaluate(weights(config, [*names[:-1], "zebra"]), data=config)
    assert caught.value.code == Exit.DATA


def test_weights_alone_need_a_config_that_names_val(config: Path) -> None:
    path = weights(config)
    with pytest.raises(SsodError) as caught:
        evaluate(path)
    assert caught.value.line() == (
        f"command line: --data: missing, and there is no config.yaml beside '{path}'; "
        "name a config whose data.val to measure on"
    )
    with pytest.raises(SsodError, match=r"data\.val: missing"):
        evaluate(path, data=config, overrides=["data.val=null"])


def test_a_name_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(tmp_path)
    odd = ["car [small]", "[/b]x", ":car:"]
    for part in ("train", "val"):
        ann = tmp_path / f"data/annotations/{part}.json"
        tree = json.loads(ann.read_text())
        for category, name in zip(tree["categories"], odd):
            category["name"] = name
        ann.write_text(json.dumps(tree))
    evaluate(weights(config), data=config)
    printed = capsys.readouterr().out
    assert all(f" AP/{name} " in printed for name in odd)


def test_of_a_run_folder_it_is_told_which_model_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``compare`` and the report have the last one, which may be much worse."""
    config = small_config(tmp_path)
    path = weights(config)
    state, card = model_file.read(path)
    model_file.save(path, state, card | {"step": 15})
    evaluate(path, data=config)
    assert "step 15" not in capsys.readouterr().out
    evaluate(path.parent, data=config)
    assert "the best teacher on its own val set, of step 15" in " ".join(capsys.readouterr().out.split())


def test_a_score_is_a_number_from_0_to_1(config: Path) -> None:
    for score in (50.0, -0.1, float("nan")):
        with pytest.raises(SsodError, match="not between 0 and 1"):
            evaluate(weights(config, names_of(config)), data=config, score=score)


def test_from_which_score_on_boxes_are_right_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(weights(config), data=config, precision=0.05)
    head, *rows = capsys.readouterr().out.splitlines()[-1 - len(names_of(config)) :]
    assert head.startswith("scores from which 5 % of the boxes are right")
    assert [row.partition(":")[0].strip() for row in rows] == names_of(config)
    assert all(re.search(r": (from 0\.\d{3}, |none, )", row) for row in rows)
    for wrong in (0.0, 90.0):
        with pytest.raises(SsodError, match="--precision"):
            evaluate(weights(config), data=config, precision=wrong)
