"""Every command is one call of Python: its options, its result, its errors; and what ``--json`` prints of it."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

import ssod
from ssod import cli
from ssod.commands import demo as demo_command
from ssod.experiments.standings import Standing
from ssod.inference.label import WrittenLabels
from ssod.utils.errors import Exit, SsodError
from ssod.utils.plain_json import plain, to_json
from tests.small import small_config
from tests.test_cli import one_line
from tests.test_cli import ssod as command_line
from tests.test_demo import finished

# ---- names ---------------------------------------------------------------------------------------------------------

COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]  # of a group
# Commands whose call has another name, and why.
CALLED = {
    "eval": ("evaluate", "eval is a function of Python's own"),
    "config": ("load_config", "prints what load_config and load_recipe return"),
    "report": ("write_report", "ssod.report is a folder of the package"),
    "methods": ("list_methods", "ssod.methods is a folder of the package"),
    "detectors": ("list_detectors", "ssod.detectors is a folder of the package"),
    "losses": ("list_losses", "ssod.losses is a folder of the package"),
}
# Options that a call has under another name, and why.
RENAMED = {
    ("init", "changes"): ("overrides", "the word of load_config, for the same texts"),
    ("check", "run"): ("weights", "a model file will do, too; the word of all other calls"),
}
WORDS = {"words", "method", "detector", "data", "percent", "fold"}  # what a config is made of: load_config, load_recipe
SHORT = {"device", "seed", "epochs", "batch", "set"}  # short for keys of a config
MORE = {"export": {"check"}, "merge": set[str]()}  # arguments that have no option


def call_of(command: str) -> str:
    return CALLED[command][0] if command in CALLED else command


def parameters(call: str) -> set[str]:
    return set(inspect.signature(getattr(ssod, call)).parameters)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_call_has_the_options_of_its_command(command: str) -> None:
    assert call_of(command) in ssod.__all__
    assert call_of(command) == command or CALLED[command][1]
    if command == "config":
        return
    options = {parameter.name for parameter in COMMANDS[command].params} - {"help", "json"}
    mine = parameters(call_of(command))
    if "words" in options:
        assert "cfg" in mine
        options, mine = options - WORDS - SHORT, mine - {"cfg"}
    elif "overrides" in mine:
        options -= SHORT - mine
    options = {RENAMED[command, name][0] if (command, name) in RENAMED else name for name in options}
    assert options == mine - MORE.get(command, set())


def test_exceptions_are_still_true() -> None:
    assert set(CALLED) <= set(COMMANDS)
    for (command, option), (name, _) in RENAMED.items():
        assert option in {parameter.name for parameter in COMMANDS[command].params}
        assert name in parameters(call_of(command))
    for name in ("methods", "detectors", "losses", "report", "config"):
        assert importlib.util.find_spec(f"ssod.{name}") is not None


def test_no_call_is_hidden_by_a_file_of_its_name() -> None:
    """``import ssod.plan`` would put the module where the call was."""
    assert [name for name in ssod.__all__ if name[0] != "_" and importlib.util.find_spec(f"ssod.{name}")] == []


def test_editors_see_the_same_names() -> None:
    tree = ast.parse(Path(ssod.__file__).read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname or alias.name: (node.module, alias.name) for node in imports for alias in node.names}
    assert seen == ssod._CALLS
    assert set(ssod.__all__) == {*seen, "__version__"}
    assert set(ssod.__all__) <= set(dir(ssod))
    for name, (module, attribute) in ssod._CALLS.items():
        assert getattr(ssod, name) is getattr(importlib.import_module(module), attribute)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ssod.trian  # noqa: B018


def test_import_costs_nothing_and_lists_need_no_torch() -> None:
    code = "import sys, ssod; dir(ssod); heavy = {'torch', 'numpy', 'pydantic', 'typer', 'rich'} & set(sys.modules); "
    code += "assert not heavy, heavy; ssod.list_methods(); ssod.list_detectors(); ssod.SsodError; "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- each call once, but export, which takes long: tests/test_example.py calls it ----------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A config, two runs of a few steps, and what training them returned."""
    root = tmp_path_factory.mktemp("calls")
    file = small_config(root, train__steps=4, train__eval_every=4, method__burn_in=2)
    taught = ssod.train(ssod.load_config(file), out=root / "runs" / "taught")
    ssod.train(ssod.load_config(file, ["method={name: supervised}"]), out=root / "runs" / "baseline")
    labels = ssod.label(taught.folder, root / "data" / "train", root / "labels.json", score=0.0, audit=2, next=1)
    return {"root": root, "file": file, "cfg": ssod.load_config(file), "taught": taught, "labels": labels}


def frozen(result: object) -> None:
    assert is_dataclass(result)
    assert type(result).__dataclass_params__.frozen  # type: ignore[attr-defined]  # of a dataclass
    documented = " ".join(kind.__doc__ or "" for kind in type(result).__mro__ if is_dataclass(kind))
    assert all(field.name in documented for field in fields(result)), "each attribute is said"


def test_train_and_evaluate_are_tables_of_metrics(world: dict[str, Any]) -> None:
    taught, found = world["taught"], ssod.evaluate(world["taught"].folder)
    frozen(taught)
    frozen(found)
    assert (taught.step, taught.folder) == (4, world["root"] / "runs" / "taught")
    assert 0 <= taught["AP"] <= 1
    assert dict(taught) == taught.metrics
    assert taught == dict(taught)
    assert (found.images, found.step) == (6, 4)
    assert {cutoff.name for cutoff in found.cutoffs} == set(plain(world["labels"].labels.classes)["names"])
    assert found["AP"] == pytest.approx(taught["AP"], nan_ok=True)


def test_check_and_plan(world: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    checked = ssod.check(world["cfg"])
    frozen(checked)
    assert capsys.readouterr().out == "\n".join(checked.text) + "\n", "what is printed is what is returned"
    assert (checked.code, checked.errors, checked.counts["labeled"]["images"]) == (0, 0, 12)
    assert checked.reached is not None
    assert checked.decoded["val"] == (6, 6)
    plan = ssod.plan(world["cfg"])
    frozen(plan)
    assert (plan.steps, plan.images_labeled, plan.epochs_labeled) == (4, 4, 2.0)
    assert f"{plan.memory_gb:.1f} GB" in capsys.readouterr().out


def test_predict(world: dict[str, Any], tmp_path: Path) -> None:
    predicted = ssod.predict(world["taught"].folder, world["root"] / "data" / "val", tmp_path / "out", score=0.0)
    frozen(predicted)
    assert (predicted.images, predicted.unreadable) == (6, 0)
    assert len(list(predicted.out.rglob("*.jpg"))) == 6
    assert predicted[0]["score"] > 0
    assert len(predicted) == predicted.boxes == len(json.loads(predicted.path.read_text()))


def test_label_audit_merge(world: dict[str, Any], tmp_path: Path) -> None:
    labels: WrittenLabels = world["labels"]
    frozen(labels)
    rows = json.loads(labels.out.read_text())
    assert (
        (labels.images, labels.boxes)
        == (len(rows["images"]), len(rows["annotations"]))
        == (12, len(labels.labels.boxes))
    )
    assert labels.audit is not None
    assert labels.next is not None
    assert labels.review.is_file()
    audited = ssod.audit(labels.out, labels.audit)
    frozen(audited)
    assert (audited.images, audited.left_out) == (2, 0)
    assert audited.classes[-1].precision_interval[1] == pytest.approx(1.0)
    merged = ssod.merge([labels.out, labels.audit], tmp_path / "all.json")
    frozen(merged)
    assert (merged.whole.images, [one.images for one in merged.sources]) == (12, [12, 2])
    with pytest.raises(SsodError, match="--shard: '0/2' names no part"):
        ssod.label(world["taught"].folder, world["root"] / "data" / "val", tmp_path / "no", shard="0/2")


def test_compare_and_report(world: dict[str, Any], tmp_path: Path) -> None:
    found = ssod.compare([world["root"] / "runs"], resamples=10)
    frozen(found)
    assert {standing.rank for standing in found.standings} == {1, 2}
    rows = {one.name: one for one in found.standings}
    first: Standing = rows["mean_teacher"]
    frozen(first)
    assert first.baseline == "supervised"
    assert first.gain == pytest.approx(first.metrics["AP"] - rows["supervised"].metrics["AP"], abs=1e-6)
    assert first.runs == (world["taught"].folder,)
    assert ssod.write_report(world["taught"].folder, out=tmp_path / "a.html") == tmp_path / "a.html"


def test_init_and_split_print_nothing(
    world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ann = world["root"] / "data" / "annotations" / "train.json"
    parts = ssod.split(ann, tmp_path / "folds", percent=[50], shots=[1], folds=2)
    assert [one.labeled.name for one in parts] == [
        f"train.{end}.json" for end in ("1@50", "2@50", "1@1shot", "2@1shot")
    ]
    images = str(world["root"] / "data" / "train")
    new = ssod.init(tmp_path / "a.yaml", labeled=str(ann), images=images, percent=50, detector="fcos_tiny_fpn")
    frozen(new)
    assert ssod.load_config(new.file).method.name == "mean_teacher"
    other = ssod.init(tmp_path / "b.yaml", data="coco", percent=10)
    assert other.text == f"wrote {other.file}; next: ssod check, ssod plan and ssod train {other.file}"
    with pytest.raises(SsodError, match="--labeled: --data coco names all images"):
        ssod.init(tmp_path / "c.yaml", data="coco", labeled="x")
    assert capsys.readouterr().out == ""


def test_doctor_lists_and_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in demo_command.METHODS:
        finished(tmp_path / f"runs/{name}-1", 20, 0.5)
    monkeypatch.setattr(demo_command, "write_shapes", lambda folder, **sizes: folder)
    monkeypatch.setattr(demo_command, "predict_files", lambda weights, images, out, score: out.mkdir())
    shown = ssod.demo(str(tmp_path), steps=20)
    frozen(shown)
    assert shown.rows == ({"supervised": 0.5, "mean_teacher": 0.5},)
    health = ssod.doctor()
    frozen(health)
    assert {check.name for check in health.checks} > {"torch", "write access"}
    capsys.readouterr()
    for found in (ssod.list_methods(), ssod.list_detectors(), ssod.list_losses()):
        frozen(found)
        assert all(one.summary for one in found.known)
    assert "fcos_tiny_fpn" in ssod.list_detectors().recipes
    assert capsys.readouterr().out == ""


BAD = {
    "audit": lambda path: ssod.audit(path / "a.json", path / "b.json"),
    "compare": lambda path: ssod.compare([]),
    "eval": lambda path: ssod.evaluate(path / "absent"),
    "export": lambda path: ssod.export(path / "absent"),
    "config": lambda path: ssod.load_config(path / "absent.yaml"),
    "demo": lambda path: finished(path / "runs/supervised-1", 30, 0.5) or ssod.demo(path, steps=20),
    "init": lambda path: ssod.init(path / "a.yaml"),
    "label": lambda path: ssod.label(path / "absent", path, path / "out"),
    "merge": lambda path: ssod.merge([path / "a.json"], path / "b.json"),
    "predict": lambda path: ssod.predict(path / "absent", path, path / "out"),
    "report": lambda path: ssod.write_report(path / "absent"),
    "split": lambda path: ssod.split(path / "absent.json", path / "out", percent=[10]),
}
NEVER = {"doctor", "methods", "detectors", "losses"}  # they have nothing that could be wrong
FOUND = {"check", "plan", "train"}  # the test below: what is wrong with data


@pytest.mark.parametrize("command", BAD)
def test_what_is_wrong_is_raised(command: str, tmp_path: Path) -> None:
    with pytest.raises(SsodError):
        BAD[command](tmp_path)


def test_every_command_is_called_wrongly() -> None:
    assert {*BAD, *NEVER, *FOUND} == set(COMMANDS)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A config whose val set has a box without a class."""
    file = small_config(tmp_path)
    ann = tmp_path / "data" / "annotations" / "val.json"
    tree = json.loads(ann.read_text())
    tree["annotations"][0]["category_id"] = 999
    ann.write_text(json.dumps(tree))
    return file


def test_check_returns_what_others_raise(broken: Path, tmp_path: Path) -> None:
    cfg = ssod.load_config(broken)
    for call in (ssod.plan, lambda cfg: ssod.train(cfg, out=tmp_path / "run")):
        with pytest.raises(SsodError, match="999") as caught:
            call(cfg)
    checked = ssod.check(cfg)
    assert checked.code == caught.value.code == Exit.DATA
    assert any("999" in finding.problem for finding in checked.findings)
    with pytest.raises(SsodError, match=r"'sheet\.pdf' does not end in \.html"):
        ssod.check(cfg, out="sheet.pdf")
    with pytest.raises(SsodError, match="--decode: 'some'"):
        ssod.check(cfg, decode="some")  # type: ignore[arg-type]  # that is what is wrong


# ---- JSON ------------------------------------------------------------------------------------------------------------


def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    """Return the exit code of a command, the one JSON object on its standard output, and its standard error."""
    capsys.readouterr()
    code = command_line(monkeypatch, *words, "--json")
    out, err = capsys.readouterr()
    return code, json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")), err


def test_json_of_what_is_measured(
    world: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = str(world["taught"].folder), str(world["file"])
    code, found, err = answer(monkeypatch, capsys, "eval", run)
    assert (code, found["images"]) == (0, 6)
    assert found["metrics"] == plain(ssod.evaluate(run).metrics)
    assert len(found["cutoffs"]) == len(world["labels"].labels.classes)
    assert "AP50" in err, "the table is for people"
    code, found, err = answer(monkeypatch, capsys, "plan", config)
    assert (code, found["steps"], found["epochs_labeled"]) == (0, 4, 2.0)
    assert found["seconds_per_step"] > 0
    assert found["hours"] == pytest.approx(found["seconds"] / 3600)
    assert "rows" not in found
    assert [phase["name"] for phase in found["phases"]] == ["burn-in", "pseudo-labels"]
    assert "in all" in err
    code, found, err = answer(monkeypatch, capsys, "compare", str(world["root"] / "runs"), "--resamples", "10")
    assert code == 0
    assert found == plain(ssod.compare([world["root"] / "runs"], resamples=10))
    assert {row["name"] for row in found["standings"]} == {"mean_teacher", "supervised"}
    labels = world["labels"]
    code, found, err = answer(monkeypatch, capsys, "audit", str(labels.out), str(labels.audit))
    assert (code, found["images"]) == (0, 2)
    assert found["classes"][-1]["precision"] in (1.0, None)


def test_json_of_a_check(
    world: dict[str, Any], broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found, _ = answer(monkeypatch, capsys, "check", str(world["file"]))
    assert (code, found["code"], found["errors"]) == (0, 0, 0)
    code, found, err = answer(monkeypatch, capsys, "check", str(broken))
    assert code == found["code"] == Exit.DATA
    (first,) = [finding for finding in found["findings"] if finding["level"] == "error"][:1]
    assert first.keys() >= {"id", "level", "file", "field", "problem", "fix"}
    assert "999" in first["problem"]
    assert f"error[{first['id']}]" in err


def test_json_of_lists_and_of_the_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("methods", "detectors", "losses"):
        code, found, err = answer(monkeypatch, capsys, command)
        assert (code, err) == (0, "")
        assert found == plain(getattr(ssod, call_of(command))())
    code, found, err = answer(monkeypatch, capsys, "doctor")
    assert code == (0 if found["healthy"] else 1)
    assert "ssod doctor" in err


def test_a_refusal_is_one_line_and_no_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    having = [name for name, command in COMMANDS.items() if "json" in {parameter.name for parameter in command.params}]
    words = {"eval": ["absent"], "compare": ["absent"], "audit": ["a.json", "b.json"]}
    words |= {name: ["absent.yaml"] for name in ("plan", "check")}
    assert {*words, *NEVER} == set(having)
    monkeypatch.chdir(tmp_path)
    for command, more in words.items():
        code = command_line(monkeypatch, command, *more, "--json")
        out, err = capsys.readouterr()
        assert code in (Exit.USAGE, Exit.DATA, Exit.CHECKPOINT)
        assert out == ""
        assert one_line(err)


def test_plain_values() -> None:
    given = {"nan": float("nan"), "inf": float("-inf"), 3: (True, None, Exit.DATA), "path": Path("a/b")}
    assert json.loads(to_json(given)) == {"nan": None, "inf": None, "3": [True, None, 3], "path": "a/b"}
    with pytest.raises(TypeError, match="no plain value"):
        to_json({"a": object()})
