"""A run goes on with the libraries that made its pixels, or says that it does not."""

from pathlib import Path

import pytest

from ssod.engine.checkpointing.resume_check import check
from ssod.transforms import raster
from ssod.utils.errors import Exit, SsodError

HERE = Path("run/checkpoints/step_6")
NOW = {"pixels": {"decoder": "pillow 13.0.0", "resampler": "opencv 5.0.0"}}


def test_the_same_libraries_are_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    check(HERE, NOW, {"pixels": dict(NOW["pixels"])})
    assert not caplog.messages


def test_another_library_is_refused_unless_it_is_allowed() -> None:
    saved = {"pixels": NOW["pixels"] | {"resampler": "pillow 13.0.0, torch 2.14.1"}}
    with pytest.raises(SsodError) as caught:
        check(HERE, saved, NOW)
    assert caught.value.code == Exit.CHECKPOINT
    assert "resampler pillow 13.0.0, torch 2.14.1 -> opencv 5.0.0" in caught.value.line()
    assert "decoder" not in caught.value.problem
    assert "--allow-change pixels" in caught.value.line()
    check(HERE, saved, NOW, allow=("pixels",))


def test_an_older_run_goes_on_and_says_what_made_its_pixels(caplog: pytest.LogCaptureFixture) -> None:
    check(HERE, {}, NOW)
    assert "its pixels were made by Pillow, one move at a time" in caplog.text
    assert "opencv 5.0.0" in caplog.text


def test_what_is_compared_names_library_and_version() -> None:
    assert set(raster.libraries()) == {"decoder", "resampler"}
    assert all(name.split()[1][0].isdigit() for name in raster.libraries().values())
