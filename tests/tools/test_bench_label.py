"""tools/bench_label: both sides are measured on the same images."""

import pytest

from tools import bench_label


@pytest.mark.parametrize("command", ["label", "predict"])
def test_a_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench_label.main(["--images", "80", "--size", "32", "--rounds", "1", "--command", command])
    assert min(found.bare, found.command, found.beside) > 0
    told = capsys.readouterr().out
    assert "80 views of 32 x 32 px" in told
    assert f"{command:8} " in told
    assert f"ratio    {found.ratio:.2f}" in told
