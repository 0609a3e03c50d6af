"""No name in a data file can make the program open anything outside the image folder, or anything that is no file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssod.data.formats.findings import Context
from ssod.data.formats.paths import name_problem, refuse_unsafe, safe_join
from ssod.utils.errors import Exit, SsodError


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "img/sub").mkdir(parents=True)
    (tmp_path / "img/a.jpg").write_text("a")
    (tmp_path / "img/sub/b.jpg").write_text("b")
    (tmp_path / "img-other").mkdir()
    (tmp_path / "img-other/c.jpg").write_text("outside")
    return str(tmp_path / "img")


@pytest.mark.parametrize("name", ["a.jpg", "sub/b.jpg"])
def test_plain_names_open(name: str, root: str) -> None:
    assert Path(safe_join(root, name)).is_file()


REFUSED = [
    ("S01", "../img-other/c.jpg"),
    ("S01", "sub/../../img-other/c.jpg"),
    ("S01", ".."),
    ("S02", "/etc/passwd"),
    ("S04", "https://x/y.jpg"),
    ("S05", "a\0.jpg"),
    ("S05", "é" * 200),
    ("S05", "\ud800"),
    ("S07", "sub\\b.jpg"),
    ("S07", "D:/b.jpg"),
]


@pytest.mark.parametrize(("id", "name"), REFUSED)
def test_names_that_are_refused(id: str, name: str, root: str) -> None:
    assert name_problem(name, root)[0] == id
    with pytest.raises(SsodError) as caught:
        safe_join(root, name)
    assert caught.value.code == Exit.UNSAFE
    ctx = Context()
    refuse_unsafe(["a.jpg", name, "a..b.jpg", "x" * 100], root, "list.txt", "images[{}]", ctx)
    assert [(f.id, f.field, f.code) for f in ctx.findings] == [(id, "images[1]", Exit.UNSAFE)]


@pytest.mark.parametrize("name", ["a..b.jpg", "a:b.jpg", "~/a.jpg", "x" * 200, "nul", "a\nb.jpg", "$(rm -rf x).jpg"])
def test_odd_but_harmless_names(name: str, root: str) -> None:
    assert name_problem(name, root) is None
    ctx = Context()
    refuse_unsafe(["a.jpg", name], root, "list.txt", "{}", ctx)
    assert len(ctx.findings) == 0


def test_links_must_stay_inside(root: str, tmp_path: Path) -> None:
    os.symlink("a.jpg", f"{root}/inner.jpg")
    os.symlink(tmp_path / "img-other/c.jpg", f"{root}/outer.jpg")
    os.symlink(tmp_path / "img-other", f"{root}/folder")
    assert safe_join(root, "inner.jpg")
    for name in ("outer.jpg", "folder/c.jpg"):
        with pytest.raises(SsodError, match="resolves outside root") as caught:
            safe_join(root, name)
        assert caught.value.code == Exit.UNSAFE
        assert safe_join(root, name, allow_symlinks=True)


def test_the_root_itself_may_be_a_link(root: str, tmp_path: Path) -> None:
    os.symlink(root, tmp_path / "link")
    assert safe_join(str(tmp_path / "link"), "sub/b.jpg")


@pytest.mark.timeout(60)  # a pipe that nobody writes to, and a file without end, would be read for ever
def test_what_is_no_regular_file_is_never_opened(root: str) -> None:
    os.mkfifo(f"{root}/pipe.jpg")
    os.symlink("/dev/zero", f"{root}/zero.jpg")
    for name, links in (("pipe.jpg", False), ("sub", False), ("zero.jpg", True)):
        with pytest.raises(SsodError, match="not a regular file") as caught:
            safe_join(root, name, allow_symlinks=links)
        assert caught.value.code == Exit.UNSAFE


def test_a_missing_file_names_its_twin(root: str) -> None:
    with pytest.raises(SsodError, match=r"'a.jpg' exists \(case\)") as caught:
        safe_join(root, "A.JPG")
    assert caught.value.code == Exit.DATA
    with pytest.raises(SsodError, match="not found under"):
        safe_join(root, "no/such.jpg")


def test_a_loop_of_links_is_no_crash(root: str) -> None:
    os.symlink("loop.jpg", f"{root}/loop.jpg")
    with pytest.raises(SsodError):
        safe_join(root, "loop.jpg")
