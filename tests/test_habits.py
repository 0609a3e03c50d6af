"""What says how the project is joined and cited is true: version, files that are named, commands."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

import ssod

ROOT = Path(__file__).resolve().parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`((?:ssod|configs|tests|docs|tools)/[\w./]+)", CONTRIBUTING)))


def test_the_version_is_one() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == ssod.__version__
    assert citation["license"] == "Apache-2.0"


def test_the_changelog_has_a_place_for_what_comes() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## \[Unreleased\]$", text, re.M)
    assert ssod.__version__ in text


@pytest.mark.parametrize("name", NAMED)
def test_files_of_the_recipes_are_there(name: str) -> None:
    """A reader's own file, ``my_...``, lies in a folder that is there."""
    path = ROOT / name.rstrip(".")
    assert path.exists() or (path.name.startswith("my_") and path.parent.is_dir())


def test_files_are_named() -> None:
    assert len(NAMED) > 20


def test_hooks_and_ci_run_the_test_command() -> None:
    """A hook runs a part of the README's command; CI runs all of it."""
    command = re.search(r"<!-- tests -->\n```bash\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert command
    parts = [part.strip() for part in command[1].split("&&")]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    assert {hook["entry"] for hook in hooks} == {"ruff check", "pyrefly check"}
    assert all(any(part.startswith(hook["entry"]) for part in parts) for hook in hooks)
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    assert {"run": "bash .ci/run"} in workflow["jobs"]["tests"]["steps"]
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]


def test_the_ci_script_finds_the_command() -> None:
    script = (ROOT / ".ci/run").read_text("utf-8").replace("bash -euo pipefail -c", "printf %s")
    shown = subprocess.run(["bash", "-c", script, str(ROOT / ".ci/run")], capture_output=True, text=True, check=True)
    assert "pyrefly check && python -m pytest" in shown.stdout
