"""``ssod doctor`` looks at all that ssod needs, from wherever it is asked."""

import configparser
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssod.commands import doctor
from ssod.transforms import raster, raster_torch


def test_every_package_that_is_needed_is_looked_at() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).resolve().parents[1] / "setup.cfg")
    needed = setup["options"]["install_requires"].split()
    assert {re.split("[<>=]", package)[0] for package in needed} == set(doctor._NEEDED)


def test_a_folder_is_printed_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "[" / "foo] [red]"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("SSOD_DATASETS", ":car:")
    monkeypatch.setenv("COLUMNS", "300")
    assert doctor.doctor().healthy
    printed = capsys.readouterr().out
    assert f"ok: {here}" in printed
    assert "absent: :car:" in printed


def test_what_makes_views_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for ops, well in ((raster_torch, None), (SimpleNamespace(NAME="opencv 5.0.0"), True)):
        monkeypatch.setattr(raster, "ops", ops)
        assert doctor._pixels()[:2] == (well, ops.NAME)


def test_what_is_missing_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    absent = ("rich", lambda: doctor._package("no-such-package-xyz", needed=True))
    monkeypatch.setattr(doctor, "_CHECKS", [absent])
    assert not doctor.doctor().healthy
    assert "FAILED" in capsys.readouterr().out
