"""What a message says to set can be set, in the command that said it."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel
from typer.testing import CliRunner

from ssod import cli
from ssod.commands import shipping
from ssod.config import load
from ssod.data.datasets import DataConfig
from ssod.detectors.build import DetectorConfig
from ssod.engine.train_config import TrainConfig
from ssod.evaluation.eval_config import EvalConfig
from ssod.methods.registry import find, names
from ssod.transforms.views import ViewsConfig
from ssod.utils.errors import SsodError

PACKAGE = Path(cli.__file__).parent
SECTIONS = ("data", "views", "detector", "method", "train", "eval")
KEY = re.compile(r"\b(?:set|raise|lower|or)\s+((?:data|views|detector|method|train|eval)(?:\.[\w*]+)+)")


# ---- the words in the source -------------------------------------------------------------------------------------


def texts() -> Iterator[tuple[str, str]]:
    """Give every string of the package with its place; what a format fills in is ``*``, a section ``data.labeled``."""
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text())
        docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        parts = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
        for node in ast.walk(tree):
            if id(node) in docs or id(node) in parts:
                continue
            place = f"{file.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield place, node.value
            elif isinstance(node, ast.JoinedStr):
                yield place, "".join(_filled(value) for value in node.values)


def _filled(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    source = ast.unparse(value)
    return "data.labeled" if "section" in source else "data.labeled.box_format" if source == "{key}" else "*"


def keys() -> list[tuple[str, str]]:
    return sorted({(place.split(":")[0], key.rstrip(".")) for place, text in texts() for key in KEY.findall(text)})


def models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if get_origin(kind) in (Union, UnionType) or get_origin(kind) is not None:
        return [model for part in get_args(kind) for model in models(part)]
    return []


def known(key: str) -> bool:
    """Whether a config may have ``key``; ``*`` stands for any one name."""
    section, *path = key.split(".")
    roots = {
        "data": [DataConfig],
        "views": [ViewsConfig],
        "detector": models(DetectorConfig),
        "method": [find(name).Config for name in names()],
        "train": [TrainConfig],
        "eval": [EvalConfig],
    }
    here = roots[section]
    for i, part in enumerate(path):
        fields = [m.model_fields[f] for m in here for f in m.model_fields if part in ("*", f)]
        if not fields:
            return False
        here = [model for field in fields for model in models(field.annotation)]
        if i + 1 < len(path) and not here:  # a mapping, whose keys are the user's
            return any("dict" in str(field.annotation) for field in fields)
    return True


def test_every_key_that_a_message_names_is_one() -> None:
    found = keys()
    assert len(found) > 20
    assert [(place, key) for place, key in found if not known(key)] == []
    assert not known("data.no_such_key")
    assert not known("data.labeled.no_such_key")


def test_no_message_names_a_key_without_its_section() -> None:
    bare = re.compile(r"\b(?:set|raise|lower) (?:box_format|max_\w+|allow_\w+|exif|strict|percent)\b")
    assert [place for place, text in texts() if bare.search(text)] == []


# Who reads a data section can fail on it, and so takes its keys.
READS_DATA = (cli.init, cli.check, cli.plan, cli.train, shipping.evaluate, cli.show_config)


@pytest.mark.parametrize("command", READS_DATA, ids=lambda command: command.__name__)
def test_who_can_say_it_takes_it(command: Callable[..., None]) -> None:
    taken = inspect.signature(command).parameters
    assert {"words", "overrides", "changes"} & set(taken)


# ---- the commands themselves -------------------------------------------------------------------------------------

SIZE = (96, 72)


def scene(root: Path, part: str, *, turn: int = 1) -> dict:
    exif = Image.Exif()
    exif[0x0112] = turn
    images, annotations = [], []
    for i in range(6):
        pixels = np.random.default_rng([i, len(part)]).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        (root / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / part / f"{part}{i}.png", exif=exif)
        images.append({"id": i, "file_name": f"{part}{i}.png", "width": SIZE[0], "height": SIZE[1]})
        for box in ([60 + i, 40, 20, 20], [2, 2, 12, 30], [30, 20, 9, 20]):
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": 1, "bbox": box})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "disc"}]}


def corners(root: Path, table: dict) -> None:
    for row in table["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x, y, x + w, y + h]


def shares(root: Path, table: dict) -> None:
    for row in table["annotations"]:
        row["bbox"] = [value / SIZE[k % 2] for k, value in enumerate(row["bbox"])]


def leaning(root: Path, table: dict) -> None:
    table["annotations"][0]["bbox"] = [50, 40, 90, 20]


def many(root: Path, table: dict) -> None:
    table["annotations"] += [{**table["annotations"][0], "id": 1000 + k} for k in range(1001)]


def stored(root: Path, table: dict) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in table["images"]:
        path = root / "train" / image["file_name"]
        Image.open(path).save(path, exif=exif)


def links(root: Path, table: dict) -> None:
    (root / "elsewhere").mkdir()
    for image in table["images"]:
        path = root / "train" / image["file_name"]
        os.rename(path, root / "elsewhere" / path.name)
        os.symlink(root / "elsewhere" / path.name, path)


def deep(root: Path, table: dict) -> None:
    for image in table["images"]:
        path = root / "train" / image["file_name"]
        Image.fromarray(np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16).save(path)


def clear(root: Path, table: dict) -> None:
    for image in table["images"]:
        path = root / "train" / image["file_name"]
        picture = Image.open(path).convert("RGB")
        picture.putalpha(90)
        picture.save(path)


ENDS = (corners, shares, leaning, many, stored, links, deep, clear)


@pytest.fixture(params=ENDS, ids=lambda end: end.__name__)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    train, val = scene(tmp_path, "train"), scene(tmp_path, "val")
    scene(tmp_path, "pool")
    request.param(tmp_path, train)
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "val.json").write_text(json.dumps(val))
    return tmp_path


def run(words: list[str]) -> str:
    """Run a command as often as it names a key to set, each time with that key; return the keys that it took."""
    taken: list[str] = []
    for _ in range(4):
        done = CliRunner().invoke(cli.app, [*words, *taken])
        error = done.exception if isinstance(done.exception, SsodError) else None
        said = error.line() if error else done.output if done.exit_code else ""
        if not said:
            return " ".join(taken)
        named = re.search(r"\bset ((?:data)[.\w]+=[^\s,;]+(?:,[\d.]+\])?)", said)
        assert named, said
        assert named[1] not in taken, f"{said}: was set, and changed nothing"
        taken.append(named[1])
    raise AssertionError(f"no end: {taken}")


def test_init_takes_what_it_says(data: Path) -> None:
    base = ["init", "--labeled", str(data / "train.json"), "--images", str(data / "train")]
    base += ["--val", str(data / "val.json"), "--val-images", str(data / "val"), "--unlabeled", str(data / "pool")]
    out = data / "my.yaml"
    taken = run([*base, "--detector", "retinanet_tiny_fpn", "-o", str(out)])
    assert taken
    assert CliRunner().invoke(cli.app, ["check", str(out)]).exit_code == 0, "the config holds what was set"
    section = load(out).dump()["data"]
    for text in shlex.split(taken):
        key, _, value = text.partition("=")
        here: Any = {"data": section}
        for part in key.split("."):
            here = here[part]
        assert str(here).lower().replace(" ", "").replace(".0", "") == value.lower()


@pytest.mark.parametrize("command", ["check", "train"])
def test_check_and_train_take_what_they_say(command: str, data: Path) -> None:
    config = data / "own.yaml"
    config.write_text(
        f"data: {{root: {data}, labeled: {{format: coco, ann: train.json, images: train}}}}\n"
        "views: {labeled: {weak: [flip]}, val: []}\n"
        "detector: {name: fcos, backbone: tiny, channels: 8, levels: [4, 5]}\n"
        "method: {name: supervised}\n"
        "train: {steps: 1, batch: {labeled: 2, unlabeled: 0}, workers: 0, lr: 0.0001}\n"
    )
    assert run([command, str(config), *(["-o", str(data / "run")] if command == "train" else [])])


def test_split_needs_to_know_nothing_of_it(data: Path) -> None:
    done = CliRunner().invoke(
        cli.app, ["split", "--ann", str(data / "train.json"), "--percent", "50", "--folds", "1", "-o", str(data / "s")]
    )
    assert done.exit_code == 0, done.output


def test_init_writes_keys_of_every_section(tmp_path: Path) -> None:
    train, val = scene(tmp_path, "train"), scene(tmp_path, "val")
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "val.json").write_text(json.dumps(val))
    base = ["init", "--labeled", str(tmp_path / "train.json"), "--val", str(tmp_path / "val.json"), "--percent", "50"]
    base += ["--detector", "retinanet_tiny_fpn"]
    changes = ["train.steps=77", "method.burn_in=9", "eval.batch=3", "data.max_clip=0.2"]
    out = tmp_path / "a.yaml"
    done = CliRunner().invoke(cli.app, [*base, "-o", str(out), *changes])
    assert done.exit_code == 0, done.output
    cfg = load(out)
    assert (cfg.train.steps, cfg.method.burn_in, cfg.eval.batch, cfg.data.max_clip) == (77, 9, 3, 0.2)
    plain = tmp_path / "b.yaml"
    CliRunner().invoke(cli.app, [*base, "-o", str(plain)])
    both = load(out).dump(), load(plain).dump()
    differ = {(s, k) for s in SECTIONS for k in both[0][s] if both[0][s][k] != both[1][s].get(k)}
    assert differ == {("train", "steps"), ("method", "burn_in"), ("eval", "batch"), ("data", "max_clip")} | (
        differ & {("train", "schedule"), ("train", "warm_up"), ("train", "eval_every"), ("train", "save_every")}
    )
    for wrong in ("data.no_such=1", "nowhere.key=1", "train.steps=x", "train=3"):
        refused = CliRunner().invoke(cli.app, [*base, "-o", str(tmp_path / "c.yaml"), wrong])
        assert isinstance(refused.exception, SsodError), wrong
        assert not (tmp_path / "c.yaml").exists()
