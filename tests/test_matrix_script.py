"""``tools/test_matrix.sh``: one line a variant, and an exit code that knows of every failure."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "test_matrix.sh"
SEEN = "import os\n\ndef test_a():\n    assert os.environ.get('SSOD_TEST_ROUNDING') != '2'\n\ndef test_b():\n    pass\n"


def matrix(*args: str, tmp: Path) -> tuple[int, list[list[str]]]:
    done = subprocess.run(
        ["bash", str(SCRIPT), *args], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp)}
    )
    assert done.stderr == ""
    return done.returncode, [line.split() for line in done.stdout.splitlines()]


def test_a_failure_in_one_variant_is_reported_and_is_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "test_seen.py").write_text(SEEN)
    code, lines = matrix("--only", "own,rounding-2", "-n", "0", str(tmp_path / "test_seen.py"), tmp=tmp_path)
    assert code == 1
    assert lines[0][:5] == ["own", "2", "passed", "0", "failed"]
    assert lines[1][:5] == ["rounding-2", "1", "passed", "1", "failed"]
    assert lines[0][6] == lines[1][6] == "s"
    assert any(line[:1] == ["FAILED"] and line[1].endswith("::test_a") for line in lines[2:])
    (log,) = tmp_path.rglob("rounding-2.log")
    assert any(str(log) in line for line in lines[2:])


def test_without_failures_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "test_seen.py").write_text(SEEN)
    code, lines = matrix("--only", "own", "-n", "0", str(tmp_path / "test_seen.py"), tmp=tmp_path)
    assert (code, len(lines)) == (0, 1)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp.")] == []


@pytest.mark.parametrize("name", ["own", "threads-2", "threads-4", "rounding-1", "shuffled", "torch-floor", "loaded"])
def test_the_list_has_what_any_machine_can_play(tmp_path: Path, name: str) -> None:
    code, lines = matrix("--list", "--only", name, "--torch", "floor", "--load", tmp=tmp_path)
    assert (code, [line[0] for line in lines]) == (0, [name])
