"""The golden vectors lie beside the tests, and their README knows each of them."""

import json
import re

import numpy as np
import pytest

from tests.paths import GOLDEN, NOT_HERE, golden_path

README = (GOLDEN / "README.md").read_text(encoding="utf-8")
FILES = sorted(path.name for path in GOLDEN.iterdir() if path.name != "README.md")
ROWS = dict(re.findall(r"^\| `(\w+\.(?:npz|json))` \| (\d+) \|", README, re.MULTILINE))


def test_the_readme_lists_the_files_that_there_are() -> None:
    assert sorted(ROWS) == FILES
    made_by = README[README.index("## What made them") :]
    names = [name.replace("*", r"\w+") for name in re.findall(r"`([\w*]+)`", made_by)]
    for file in FILES:
        assert any(re.fullmatch(name, file.split(".")[0]) for name in names), file
    for file in NOT_HERE:
        assert file not in FILES
        assert f"`{file}`" in made_by


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".npz")])
def test_a_file_holds_the_cases_that_the_readme_counts(name: str) -> None:
    file = np.load(golden_path(name), allow_pickle=False)
    cases = json.loads(str(file["cases_json"]))
    assert len(cases) == int(ROWS[name])
    assert {key.split(".")[0] for key in file.files} - {"cases_json"}


def test_a_name_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="no such golden vectors"):
        golden_path("splitz.json")
