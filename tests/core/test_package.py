"""What an installation has: every file that is not Python must be named in setup.cfg."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(p for p in (ROOT / "ssod").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc", ".md"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_data_files_are_installed(path: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    package = ".".join(path.parent.relative_to(ROOT).parts)
    patterns = setup["options.package_data"].get(package, "").split()
    assert any(path.match(pattern) for pattern in patterns)


def test_a_wheel_has_the_recipes(tmp_path: Path) -> None:
    """Without the repository, in an empty folder."""
    pytest.importorskip("setuptools", minversion="77", reason="builds with the setuptools that pyproject.toml names")
    source, empty = tmp_path / "source", tmp_path / "empty"
    empty.mkdir()
    for name in ("ssod", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    shutil.rmtree(source)
    options = ["--method", "mean_teacher", "--detector", "fcos_r50_fpn", "--data", "coco"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    command = [sys.executable, "-m", "ssod", "config", *options]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "configs/methods/mean_teacher.yaml (for data coco)" in done.stdout
    assert _recipes(tmp_path / "installed" / "ssod") == _recipes(ROOT)


def _recipes(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in (folder / "configs").rglob("*.yaml"))


def test_there_are_such_files() -> None:
    assert any(path.name == "demo.yaml" for path in FILES)
