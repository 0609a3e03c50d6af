"""What is no file of the kind that is meant ends in one line, in whatever reader: never in a traceback."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ssod.commands.check import check
from ssod.commands.compare import compare
from ssod.commands.ending import one_line_errors
from ssod.commands.evaluate import evaluate
from ssod.commands.init.write import write_config
from ssod.config import load, load_words
from ssod.data.data_config import DataConfig
from ssod.data.formats.findings import Context
from ssod.data.formats.xmlfile import XmlProblem, parse_xml
from ssod.data.formats.yolofile import class_names, read_data_yaml
from ssod.data.splits import write_splits
from ssod.detectors.d2.config import read_config
from ssod.detectors.weights import read as read_weights
from ssod.experiments.sweep.sweep import read_sweep
from ssod.inference.export import export
from ssod.inference.label import label_files
from ssod.inference.model import load as load_model
from ssod.inference.predict import predict_files
from ssod.report.run_page import report
from ssod.utils.errors import Exit
from ssod.utils.yaml_io import parse_yaml
from tests.data.nano import Nano, voc, yolo
from tests.strange import ended, memory
from tests.trained import model_file, photos

CODES = {Exit.USAGE, Exit.DATA, Exit.CHECKPOINT, Exit.IO, Exit.UNSAFE}

# ---- YAML ------------------------------------------------------------------------------------------------------------

TAGS = (
    *("int ''", "int x", "int 1_", "int 0x", "int 0o", f"int {'9' * 5000}", "bool maybe", "timestamp x", "float x"),
    *("float ''", "null x", "binary x", "set {b}", "omap [1]", "str [1]", "map [1]", "seq {b: 1}", "merge x"),
    *("python/none ''", "python/object/apply:os.system [a]"),
)
TEXTS = {
    **{f"!!{tag:.30}": f"names: !!{tag}\n" for tag in TAGS},
    **{f"key !!{tag:.30}": f"? !!{tag}\n: 1\n" for tag in TAGS},
    "half a character": 'names: ["\\ud800"]\n',
    "beyond Unicode": 'names: "\\U00110000"\n',
    "a key that is a list": "? [1]\n: 2\n",
    "itself": "names: &a [*a]\n",
    "an alias of nothing": "names: *a\n",
    "a version": "%YAML 9.9\n---\na: 1\n",
    "a merge": "a: &a {b: 1}\nc: {<<: *a}\n",
    "two documents": "a: 1\n---\nb: 1\n",
    "NUL": "a: \0\n",
    "NUL in a text": 'names: ["a\\0b"]\n',
    "a tab": "\ta: 1\n",
    "deep": "names: " + "[" * 3000,
    "deep maps": "".join(f"{' ' * i}a:\n" for i in range(300)),
    "bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{c}: &{c} [{','.join([f'*{chr(ord(c) - 1)}'] * 9)}]\n" for c in "bcdefghij"),
    "a number": "3\n",
    "nothing": "",
}  # fmt: skip
READERS: dict[str, Callable[[Path], Any]] = {
    "data.yaml": lambda file: class_names(read_data_yaml(str(file), Context(), needed=True), Context(), needed=True),
    "config": load,
    "sweep": read_sweep,
    "detectron2": read_config,
}


@pytest.mark.parametrize("reader", READERS)
def test_yaml_is_plain_or_one_line(tmp_path: Path, reader: str) -> None:
    file = tmp_path / "x.yaml"
    for name, text in TEXTS.items():
        file.write_text(text)
        ended(partial(READERS[reader], file), f"{reader} {name}", CODES, "")


def test_too_much_yaml_is_refused_at_once() -> None:
    for text in ("a: 1\n" * 10**6, "- " * 30_000 + "a", "[" + "1," * 100_000 + "]"):
        assert ended(partial(parse_yaml, text, "x.yaml"), text[:9], {Exit.UNSAFE}, "x.yaml") == "refused"


# ---- XML and weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding", ["xyz", "utf-7", "utf-16", "utf-32", "cp037", "big5", "ascii", "idna", "base64", ""]
)
def test_xml_of_any_encoding_is_read_or_refused(encoding: str) -> None:
    for body in (b"<annotation/>", b"<annotation>\xff\xfe\x00</annotation>"):
        with suppress(XmlProblem):
            assert parse_xml(f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + body).tag == "annotation"


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_weights_are_tensors_or_one_line(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pt"
    torch.save({"model": {f"ä{i}": torch.randn(3, 4) for i in range(3)}}, path, _use_new_zipfile_serialization=zipped)
    good, draw = path.read_bytes(), np.random.RandomState(0)
    found = []
    with memory():
        for i in range(120):
            bad = bytearray(good)
            if i % 4:
                for at in draw.randint(0, len(good) if i % 2 else min(700, len(good)), i % 4):
                    bad[at] = draw.randint(256)
            else:
                bad = bad[: draw.randint(len(good))]
            path.write_bytes(bad)
            found.append(ended(lambda: read_weights(path), f"{i}", CODES, "w.pt"))
    assert found.count("refused") > 20


# ---- a file for a folder, and the reverse ----------------------------------------------------------------------------


def kinds(folder: Path) -> dict[str, str]:
    """Return paths of what is not what is meant, whatever is meant."""
    folder.mkdir()
    made = {}
    for name in ("x", "x.jpg", "x.json", "x.txt", "x.yaml", "data.yaml", "x.pt", "x.safetensors", "best.safetensors"):
        (folder / "files").mkdir(exist_ok=True)
        (folder / "files" / name).write_bytes(b"no such thing")
        (folder / "folders" / name).mkdir(parents=True)
        made |= {f"file {name}": str(folder / "files" / name), f"folder {name}": str(folder / "folders" / name)}
        made[f"below file {name}"] = str(folder / "files" / name / "y")
    (folder / "loop").symlink_to("loop")
    (folder / "gone").symlink_to("nowhere")
    made |= {name: str(folder / name) for name in ("loop", "gone", "absent", "n" * 300, "n/" * 3000)}
    return made


def sections(root: Path) -> dict[str, tuple[dict[str, Any], list[tuple[str, str]]]]:
    """Return data sections, and the keys of each that are paths."""
    coco = Nano(root / "coco").config().model_dump(mode="json", exclude_none=True)
    pair = [("labeled", "ann"), ("labeled", "images"), ("val", "ann"), ("unlabeled", "path"), ("", "root")]
    own = {name: {"root": str(root), "labeled": of(root / name)} for name, of in (("voc", voc), ("yolo", yolo))}
    return {"coco": (coco, pair), **{name: (section, [("labeled", "root")]) for name, section in own.items()}}


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_any_path_of_a_data_section_may_be_anything(tmp_path: Path, format: str) -> None:
    section, keys = sections(tmp_path)[format]
    for said, path in {**kinds(tmp_path / "kinds"), "NUL": "a\0b"}.items():
        for part, key in keys:
            tree = {**section, key: path} if not part else {**section, part: {**section[part], key: path}}
            try:
                cfg = DataConfig.model_validate(tree)
            except ValidationError:
                continue
            ended(partial(check, cfg), f"{said} for {part}.{key}", CODES, "")


def test_any_path_of_a_command_may_be_anything(tmp_path: Path) -> None:
    good, image = model_file(tmp_path / "good.safetensors"), str(photos(tmp_path / "images", ["a.jpg"])[0])
    number = iter(range(10**6))

    def out() -> Path:
        return tmp_path / f"out{next(number)}"

    commands: dict[str, Callable[[str], Any]] = {
        "report": lambda path: report(path),
        "report --baseline": lambda path: report(path, baseline=path),
        "compare": lambda path: compare([path]),
        "compare --sweep": lambda path: compare(sweep=path),
        "eval": lambda path: evaluate(Path(path)),
        "eval --data": lambda path: evaluate(good, data=Path(path)),
        "load": load_model,
        "weights": lambda path: read_weights(Path(path)),
        "export": lambda path: export(path, format="pt2"),
        "predict": lambda path: predict_files(path, image, out()),
        "predict images": lambda path: predict_files(good, path, out()),
        "label -o": lambda path: label_files(good, image, Path(path)),
        "init": lambda path: write_config(out(), labeled=path, val=path),
        "split": lambda path: write_splits(Path(path), [10], [1], out()),
        "config": lambda path: load_words([path], {}),
    }
    for name, call in commands.items():
        for said, path in kinds(tmp_path / f"kinds{name}").items():
            try:
                with one_line_errors(debug=False):
                    call(path)
            except SystemExit as end:
                code = end.code
            except Exception as error:
                raise AssertionError(f"{name} {said}: {type(error).__name__}: {error}") from error
            else:
                code = Exit.OK
            assert code in {Exit.OK, *CODES}, f"{name} {said}"
