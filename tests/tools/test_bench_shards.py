"""tools/bench_shards: parts of which one is killed are joined without a gap or a double."""

from __future__ import annotations

import os

import pytest

from tools import bench_shards

LONG = pytest.mark.skipif("SSOD_ALL_ENDINGS" not in os.environ, reason="a minute or two; SSOD_ALL_ENDINGS=1 runs it")


@LONG
@pytest.mark.slow
def test_a_killed_part_is_started_again(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench_shards.main(["--images", "200", "--shards", "3", "--kill-after", "0"])
    assert isinstance(found, bench_shards.Joined)
    assert (found.images, found.gaps, found.doubles) == (200, 0, 0)
    assert found.memory > 100
    told = capsys.readouterr().out
    assert "instances.json" not in told
    assert "200 images in 3 parts, one of them killed and started again" in told


@LONG
@pytest.mark.slow
def test_memory_does_not_grow_with_the_images() -> None:
    found = bench_shards.main(["--images", "1000", "--memory"])
    assert isinstance(found, dict)
    for few, every in found.values():
        assert every < 1.1 * few
