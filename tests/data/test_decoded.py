"""``ssod check`` finds images that are truncated: it decodes all of a set of usual size, and says of how many."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssod.config import load
from ssod.data.checks import decoded
from ssod.run import check
from ssod.utils.errors import Exit, SsodError
from tests.small import small_config


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])


@pytest.mark.parametrize(
    ("decode", "code", "words"),
    [
        (None, Exit.DATA, "images decoded: labeled 12 of 12, val 6 of 6\n"),
        ("all", Exit.DATA, "images decoded: labeled 12 of 12, val 6 of 6\n"),
        ("sample", Exit.OK, "images decoded: labeled 4 of 12, val 3 of 6; --decode all finds"),
        ("none", Exit.OK, "images decoded: labeled 0 of 12, val 0 of 6; --decode all finds"),
    ],
)
def test_check_decodes(
    tmp_path: Path, decode: str | None, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(decoded, "SAMPLE", 4)
    cfg = load(small_config(tmp_path))
    cut(sorted((tmp_path / "data" / "val").iterdir())[1])
    assert check(cfg, decode=decode).code == code
    said = capsys.readouterr().out
    assert words in said
    assert ("truncated" in said.replace("what is truncated", "")) == (code == Exit.DATA)


def test_a_large_set_is_sampled_and_an_unknown_word_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(decoded, "SAMPLE", 4)
    monkeypatch.setattr(decoded, "MOST", 8)
    cfg = load(small_config(tmp_path))
    assert check(cfg).code == Exit.OK
    assert "labeled 4 of 12, val 6 of 6" in capsys.readouterr().out
    with pytest.raises(SsodError, match="--decode: 'some' is unknown; use none, sample, all"):
        check(cfg, decode="some")
