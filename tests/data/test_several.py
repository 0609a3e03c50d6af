"""``data.labeled: [A, B]``: several sources are one set, whatever their formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssod.data.data_config import DataConfig
from ssod.data.datasets import load
from ssod.data.formats.findings import Context, Findings
from ssod.data.formats.registry import CocoSource, SeveralSource, VocSource, read_labeled
from ssod.utils.config_errors import Source, read_section
from ssod.utils.errors import SsodError
from tests.small_sets import coco, voc, yolo

COCO = {"format": "coco", "ann": "coco.json", "images": "photos"}
VOC = {"format": "voc", "root": "voc", "split": "train"}
YOLO = {"format": "yolo", "root": "yolo", "split": "train"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    coco(tmp_path / "coco.json", tmp_path / "photos", ["a.jpg", "b.jpg", "c.jpg"])
    voc(tmp_path / "voc", {"train": 2})
    yolo(tmp_path / "yolo", {"train": 1})
    return tmp_path


def section(root: Path, labeled: Any) -> DataConfig:
    tree = {"root": str(root), "labeled": labeled}
    return read_section(DataConfig, tree, "data", Source("my.yaml", {}), {})


def test_a_list_is_one_set(root: Path) -> None:
    cfg = section(root, [COCO, VOC, YOLO])
    assert section(root, cfg.labeled.model_dump(mode="json")) == cfg, "a resolved config says the same"
    ctx = Context(str(root), "data.labeled")
    data = read_labeled(cfg.labeled, ctx)
    apart = [read_labeled(one, Context(str(root))) for one in cfg.labeled.sources]
    assert len(data) == sum(map(len, apart)) == 6
    assert len(set(data.images.ids)) == 6
    assert all((Path(data.images.root) / path).is_file() for path in data.images.paths)
    names = [data.classes.names[k] for k in data.labels.tolist()]
    assert names == [one.classes.names[k] for one in apart for k in one.labels.tolist()]
    np.testing.assert_array_equal(data.boxes, np.concatenate([one.boxes for one in apart]))
    assert not [finding for finding in ctx.findings if finding.id == "D36"]


def test_classes_can_be_put_in_order(root: Path) -> None:
    several = section(root, [COCO, VOC]).labeled
    plain = read_labeled(several, Context(str(root)))
    turned = read_labeled(several, Context(str(root)), classes=["bird", "dog", "cat"])
    assert turned.classes.names == ("bird", "dog", "cat"), "a VOC folder may lack a class that is declared"
    assert [turned.classes.names[k] for k in turned.labels] == [plain.classes.names[k] for k in plain.labels]
    assert len(set(turned.classes.ids)) == 3
    with pytest.raises(SsodError, match=r"only in data\.classes: 'bird'"):
        read_labeled(section(root, [COCO]).labeled, Context(str(root)), classes=["bird", "dog", "cat"])


def test_images_of_two_sources_are_told(root: Path) -> None:
    ctx = Context(str(root), "data.labeled")
    data = read_labeled(section(root, [COCO, COCO]).labeled, ctx)
    assert len(data) == 3
    (told,) = ctx.findings
    assert "3 images of sources[0] are in sources[1], too" in told.line()
    assert "other boxes" not in told.line()


def test_mistakes_name_the_source(root: Path) -> None:
    for labeled, words in (
        ([COCO, {**VOC, "splitt": "x"}], "splitt"),
        ([], "data.labeled.sources"),
        ([COCO, {"format": "folder", "path": "photos"}], "data.labeled.sources"),
    ):
        with pytest.raises(SsodError) as caught:
            section(root, labeled)
        assert words in caught.value.line()
    broken = SeveralSource(format="several", sources=[CocoSource(**COCO), VocSource(**{**VOC, "split": "none"})])
    with pytest.raises(SsodError, match=r"data\.labeled\.sources\[1\]|none"):
        read_labeled(broken, Context(str(root), "data.labeled"))


def test_a_run_learns_from_the_list(root: Path) -> None:
    coco(root / "val.json", root / "val", ["v.jpg"])
    tree = {"root": str(root), "labeled": [COCO, VOC, YOLO], "split": {"percent": 50, "fold": 1}}
    tree["val"] = {"format": "coco", "ann": "val.json", "images": "val"}
    cfg = read_section(DataConfig, tree, "data", Source("my.yaml", {}), {})
    findings = Findings()
    data = load(cfg, findings)
    assert (len(data.labeled), len(data.unlabeled), len(data.val)) == (3, 3, 1)
    assert not set(data.labeled.images.paths) & set(data.unlabeled.paths)
    assert data.classes.names == ("cat", "dog")
    (root / "voc" / "JPEGImages" / "train1.jpg").unlink()
    with pytest.raises(SsodError, match=r"train1\.jpg"):
        load(cfg)
