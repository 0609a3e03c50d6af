"""What answers at once: nothing that needs no torch imports it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ssod.cli import app
from ssod.methods.registry import find, names, summary
from ssod.utils.docstrings import first_line
from ssod.utils.errors import Exit

# Each command is called in one process that has not imported torch; the first that does is seen by all after it.
CHILD = """
import contextlib, io, json, sys
from ssod import cli
told = []
for words in json.load(sys.stdin):
    sys.argv = ["ssod", *words]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    told.append([words, int(code), out.getvalue(), err.getvalue(), "torch" in sys.modules])
json.dump(told, sys.stdout)
"""
HELP = [[], *([command.name or command.callback.__name__] for command in app.registered_commands if command.callback)]
ABSENT = {
    **{command: (["absent.yaml"], Exit.USAGE) for command in ("config", "train", "check", "plan")},
    "eval": (["absent.safetensors"], Exit.CHECKPOINT),
    "predict": (["absent.safetensors", "images", "-o", "out"], Exit.CHECKPOINT),
    "label": (["absent.safetensors", "images", "-o", "out"], Exit.CHECKPOINT),
    "export": (["absent.safetensors"], Exit.CHECKPOINT),
    "report": (["absent"], Exit.DATA),
    "compare": (["absent"], Exit.DATA),
}
OF_INIT = ["init", "-o", "my.yaml", "--percent", "10"]
WRONG = [
    ["compare", "--sweep", "absent.yaml"],
    [*OF_INIT, "--labeled", "absent"],
    [*OF_INIT, "--labeled", ".", "--val", "absent"],
    [*OF_INIT, "--labeled", ".", "--unlabeled", "absent"],
    [*OF_INIT, "--labeled", ".", "--method", "absent"],
    [*OF_INIT, "--data", "absent"],
]


def test_help_lists_and_names_of_absent_files_need_no_torch(tmp_path: Path) -> None:
    lists = [["methods"], ["detectors"], ["--version"]]
    unknown = ["config", "--method", "mean_teachr", "--detector", "fcos_r50_fpn", "--data", "coco"]
    absent = [[command, *words] for command, (words, _) in ABSENT.items()]
    asked = [*([*words, "--help"] for words in HELP), *lists, unknown, *absent, *WRONG]
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(asked), capture_output=True, text=True, cwd=tmp_path, check=True
    )
    told = json.loads(done.stdout)
    assert [words for words, *_, torch in told if torch] == []
    answers = {" ".join(words): (code, out, err) for words, code, out, err, _ in told}
    assert all(answers[" ".join(words)][0] == 0 for words in asked[: len(HELP) + len(lists)])
    assert all(len(answers[" ".join([*words, "--help"])][1]) > 100 for words in HELP)
    assert all(f"{name}  " in answers["methods"][1] for name in names() if len(name) < 20)
    assert "did you mean 'mean_teacher'?" in answers[" ".join(unknown)][2]
    for words in WRONG:
        assert answers[" ".join(words)][0] == Exit.USAGE
        assert "absent" in answers[" ".join(words)][2]
    for command, (words, code) in ABSENT.items():
        said = answers[" ".join([command, *words])]
        assert said[0] == code
        assert said[2].startswith(f"ssod: error: {words[0]}: ")
        assert "not found" in said[2]


def test_the_line_that_is_read_from_the_file_is_that_of_the_docstring() -> None:
    for name in names():
        assert summary(name) == (sys.modules[find(name).__module__].__doc__ or "").splitlines()[0]


def test_what_has_no_docstring_has_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_nothing.py").write_text("class A:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert first_line("module_of_nothing") == first_line("module_of_nothing", "A") == ""
    with pytest.raises(ModuleNotFoundError, match="no_module_at_all"):
        first_line("no_module_at_all")
