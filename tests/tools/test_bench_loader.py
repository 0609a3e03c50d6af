"""tools/bench_loader: every method's views are made, and each row is measured on the same files."""

from pathlib import Path

import pytest

from ssod.data.synthetic import write_shapes
from ssod.utils import recipes
from ssod.utils.errors import SsodError
from tools import bench_loader


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_shapes(tmp_path / "set", train=5, val=1, size=64)
    found = bench_loader.main(
        [str(root), "--images", "4", "--rounds", "1", "--method", "dense_teacher", "csd", "supervised"]
    )
    assert next(iter(found)) == "decode"
    assert len(found) == 3
    assert all(cost.views > 0 and cost.shortest > 0 for cost in found.values())
    assert found["decode"].views == found["decode"].shortest
    told = capsys.readouterr().out
    assert "4 files" in told
    assert "dense_teacher" in told


def test_every_method_with_unlabelled_images_has_a_row() -> None:
    rows = bench_loader.by_views(recipes.names("method"))
    named = [name for row in rows for name in row.split(", ")]
    assert sorted(named) == sorted(set(recipes.names("method")) - {"supervised"})
    assert len(rows) > 3


def test_a_folder_without_a_photo(tmp_path: Path) -> None:
    with pytest.raises(SsodError, match="no JPEG file below"):
        bench_loader.main([str(tmp_path)])
