"""A config names a module and nobody allowed it: the module is not run, whoever reads the config."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ssod import cli
from ssod.commands.compare import compare
from ssod.commands.evaluate import evaluate
from ssod.config import load
from ssod.inference.export import export
from ssod.inference.label import label_files
from ssod.inference.predict import predict_files
from ssod.methods.registry import ALLOWED, find
from ssod.report.run_page import report
from ssod.utils.errors import Exit, SsodError
from tests.experiments.fake import fake_run
from tests.trained import model_file, photos


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder whose config names ``strange.method``; importing any part of that package leaves ``canary``."""
    package = tmp_path / "path" / "strange"
    package.mkdir(parents=True)
    canary = f"open({str(tmp_path / 'canary')!r}, 'w')\n"
    (package / "__init__.py").write_text(canary)
    (package / "method.py").write_text(canary + "from ssod.methods.mean_teacher import METHOD\n")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delenv(ALLOWED, raising=False)
    run = fake_run(tmp_path / "run", images=4)
    tree = yaml.safe_load((run / "config.yaml").read_text())
    tree["method"]["name"] = "strange.method"
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    model_file(run / "best.safetensors")
    photos(tmp_path / "images", ["a.jpg"])
    yield run
    for name in [name for name in sys.modules if name.partition(".")[0] == "strange"]:
        del sys.modules[name]


READERS: dict[str, tuple[Callable[[Path], object], bool]] = {
    "load": (lambda run: load(run / "config.yaml"), True),
    "eval": (lambda run: evaluate(run), True),
    "report": (lambda run: report(run), False),
    "compare": (lambda run: compare([run], resamples=10), False),
    "predict": (lambda run: predict_files(run, run.parent / "images", run.parent / "p"), False),
    "label": (lambda run: label_files(run, run.parent / "images", run.parent / "l"), False),
    "export": (lambda run: export(run, format="pt2", check=False), False),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_of_a_config_runs_its_module(run: Path, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssod.inference.export.convert", lambda model, format: b"graph")
    read, refuses = READERS[reader]
    if refuses:
        file = run.parent / "path" / "strange" / "method.py"
        with pytest.raises(
            SsodError, match=f"method.name: 'strange.method' would run {file}; .*--allow-code"
        ) as caught:
            read(run)
        assert caught.value.code == Exit.UNSAFE
    else:
        read(run)
    assert not (run.parent / "canary").exists()


@pytest.mark.parametrize(("allowed", "runs"), [("strange", True), ("a, strange.method", True), ("*", True),
                                               ("", False), ("stran", False), ("strange.method.x", False)])  # fmt: skip
def test_who_names_its_package_runs_it(run: Path, allowed: str, runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, allowed)
    if runs:
        assert find("strange.method").__name__ == "MeanTeacher"
    else:
        with pytest.raises(SsodError):
            find("strange.method")
    assert (run.parent / "canary").exists() == runs


def test_the_flag_stands_anywhere(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv(ALLOWED, "")
    for words, code in ((["config", str(run / "config.yaml")], Exit.UNSAFE),
                        (["config", str(run / "config.yaml"), "--allow-code"], Exit.OK)):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["ssod", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == code
    assert "name: strange.method" in capsys.readouterr().out
