"""Whatever a data file holds, reading it gives a data set or one ``SsodError``: nothing else, nothing slow."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssod.data.formats.coco import read_coco, to_coco
from ssod.data.formats.findings import Context
from ssod.data.formats.records import Labeled
from ssod.data.formats.voc import read_voc
from ssod.data.formats.yolo import read_yolo
from ssod.utils.errors import Exit, SsodError
from tests.amount import examples
from tests.data.nano import Nano, coco, voc, voc_object, xml, yolo

FOLDER = tempfile.TemporaryDirectory(prefix="ssod-fuzz-")  # removed when the interpreter ends
ROOT = Path(FOLDER.name)
CODES = {Exit.DATA, Exit.UNSAFE}

NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 1, 1 << 63, -(1 << 63), 10**400, 1e30, 0.5, 64, 48, True])
)
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["", "..", "/", "a/../b", "\0", "\ud800", "car", "C:\\x", "3"]))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
FUZZ = settings(
    max_examples=examples(100),
    deadline=30_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the path of every value inside a JSON object."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


GOOD = coco("a", 3, 10)
PLACES = places(GOOD)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A good file in which up to three values are replaced, removed or repeated."""
    data = json.loads(json.dumps(GOOD))
    for path in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3)):
        at: Any = data
        try:
            for key in path[:-1]:
                at = at[key]
            at[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
        if not isinstance(at, (dict, list)):
            continue
        match draw(st.sampled_from(["replace", "remove", "repeat"])):
            case "replace":
                at[path[-1]] = draw(VALUES)
            case "remove":
                del at[path[-1]]
            case "repeat" if isinstance(at, list):
                at.append(at[path[-1]])
    return data


def attempt(read: Callable[[], Labeled]) -> Labeled | SsodError:
    """Read, and hand over the one kind of error that is allowed."""
    try:
        return read()
    except SsodError as error:
        return error


def sound(read: Callable[[], Labeled]) -> None:
    """Read; what comes back must be consistent, or one error of the right kind."""
    data = attempt(read)
    if isinstance(data, SsodError):
        assert data.code in CODES
        assert len(data.line()) <= 300
        assert "\n" not in data.line()
        assert data.file
        assert data.line().encode()
        return
    size = np.tile(data.images.sizes[np.repeat(np.arange(len(data)), np.diff(data.starts))][:, ::-1], 2)
    assert np.isfinite(data.boxes).all()
    assert (data.boxes >= 0).all()
    assert (data.boxes <= size).all()
    assert (data.boxes[:, :2] < data.boxes[:, 2:]).all()
    assert ((data.labels >= 0) & (data.labels < len(data.classes))).all()
    assert data.starts[-1] == len(data.boxes) == len(data.labels) == len(data.crowd) == len(data.difficult)
    assert all(len(column) == len(data) for column in (data.images.ids, data.images.paths, data.images.sizes))
    assert math.isfinite(sum(row["area"] for row in to_coco(data)["annotations"]))


@FUZZ
@given(mutated())
def test_a_mutated_coco_file(data: dict[str, Any]) -> None:
    (ROOT / "train.json").write_text(json.dumps(data))
    sound(lambda: read_coco("train.json", "train", Context(str(ROOT))))


@FUZZ
@given(VALUES)
def test_any_json_at_all(value: Any) -> None:
    (ROOT / "train.json").write_text(json.dumps(value))
    sound(lambda: read_coco("train.json", "train", Context(str(ROOT))))


@FUZZ
@given(st.integers(0, 10_000), st.binary(max_size=8), st.integers(0, 8))
def test_cut_and_overwritten_bytes(at: int, new: bytes, cut: int) -> None:
    text = json.dumps(GOOD).encode()
    at %= len(text)
    (ROOT / "train.json").write_bytes(text[:at] + new + text[at + cut :])
    sound(lambda: read_coco("train.json", "train", Context(str(ROOT))))


VOC_ROOT = ROOT / "voc"
VOC_SOURCE = voc(VOC_ROOT, images=2)
XML = xml(objects=voc_object() + voc_object("van")).encode()


@FUZZ
@given(
    st.integers(0, 10_000),
    st.one_of(st.binary(max_size=12), TEXTS.map(lambda t: t.encode("utf-8", "replace"))),
    st.integers(0, 40),
)
def test_a_mutated_voc_file(at: int, new: bytes, cut: int) -> None:
    at %= len(XML)
    (VOC_ROOT / "Annotations/000.xml").write_bytes(XML[:at] + new + XML[at + cut :])
    sound(lambda: read_voc(str(VOC_ROOT), "train", Context(), classes=["car", "van"]))


YOLO_ROOT = ROOT / "yolo"
YOLO_SOURCE = yolo(YOLO_ROOT, images=2)


@FUZZ
@given(
    st.one_of(
        st.binary(max_size=60), st.lists(NUMBERS, max_size=11).map(lambda n: " ".join(map(repr, n))[:4000].encode())
    )
)
def test_any_yolo_label_file(text: bytes) -> None:
    (YOLO_ROOT / "labels/train/0.txt").write_bytes(text)
    sound(lambda: read_yolo(str(YOLO_ROOT), "train", Context()))


def test_the_unchanged_files_are_read() -> None:
    """The control: the invariants above are not met by errors alone."""
    nano = Nano(ROOT / "control")
    nano.config()
    sets = [
        read_coco("train.json", "train", Context(str(ROOT / "control"))),
        read_yolo(str(yolo(ROOT / "control-yolo")["root"]), "train", Context()),
        read_voc(str(voc(ROOT / "control-voc")["root"]), "train", Context()),
    ]
    assert [len(data.boxes) for data in sets] == [20, 4, 12]
