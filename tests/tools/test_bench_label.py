"""tools/bench_label: both sides are measured on the same images."""

import pytest

from tools import bench_label


def test_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench_label.main(["--images", "80", "--size", "32", "--rounds", "1"])
    assert min(found.bare, found.label, found.reading) > 0
    told = capsys.readouterr().out
    assert "80 images of 32 x 32 px" in told
    assert f"ratio    {found.ratio:.2f}" in told
