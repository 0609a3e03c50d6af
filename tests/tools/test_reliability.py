"""``tools/reliability.sh``: a line a part with how often, and an exit code that knows of every failure."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["kills", "input", "ranks", "fuzz", "numbers", "disk", "hostile", "endings"]


def script(*args: str, tmp: Path) -> tuple[int, list[str]]:
    command = ["bash", str(ROOT / "tools" / "reliability.sh"), *args]
    # Hypothesis tells no numbers in a worker of pytest-xdist, which the script's own pytest is not.
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(command, capture_output=True, text=True, env={**env, "TMPDIR": str(tmp)})
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_one_part_counts_what_it_tried(tmp_path: Path) -> None:
    """Of the smallest size, and of that one test."""
    code, lines = script("--small", "--only", "fuzz", "-k", "any_json", tmp=tmp_path)
    assert (code, len(lines)) == (0, 1)
    assert re.fullmatch(r"fuzz +100 examples, 1 tests, 0 failed, \d+ s", lines[0])
    assert list(tmp_path.glob("tmp.*")) == []


def test_every_part_is_made_of_tests_that_are_there(tmp_path: Path) -> None:
    code, lines = script("--kills", "301", "--examples", "950", "--list", tmp=tmp_path)
    assert (code, [line.partition(":")[0] for line in lines]) == (0, PARTS)
    files = [word for line in lines for word in line.split() if word.startswith("tests/")]
    assert [file for file in files if not (ROOT / file).exists()] == []
    assert "SSOD_KILLS=151" in lines[0]
    assert "SSOD_TEST_EXAMPLES=10" in lines[3]


def test_the_page_names_every_part() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    assert [part for part in PARTS if f"`{part}`" not in page and f"--only {part}`" not in page] == []
