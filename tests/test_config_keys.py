"""The JSON schema of a config file: what ssod reads it takes, what ssod refuses by its form it refuses; and as text."""

from __future__ import annotations

import re

import jsonschema
import pytest
import yaml

from ssod import config
from ssod.cli import app
from ssod.commands.config_keys import Schema, config_schema, keys_text
from ssod.methods.registry import names
from ssod.utils import recipes
from ssod.utils.errors import SsodError
from ssod.utils.recipes import Recipe


@pytest.fixture(scope="module")
def schema() -> Schema:
    return config_schema()


@pytest.fixture(scope="module")
def judge(schema: Schema) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def plain(tree: object) -> object:
    """As a file would have it."""
    return yaml.safe_load(yaml.safe_dump(tree))


@pytest.mark.parametrize("method", recipes.names("method"))
def test_every_recipe_fits(judge: jsonschema.Draft202012Validator, method: str) -> None:
    fitting = 0
    for detector in recipes.names("detector"):
        for data in ("coco", "neu_det"):
            try:
                tree, _ = recipes.compose(Recipe(method=method, detector=detector, data=data))
            except SsodError:
                continue  # refused, and said so
            errors = [f"{'.'.join(map(str, e.path))}: {e.message[:200]}" for e in judge.iter_errors(plain(tree))]
            assert errors == [], (detector, data)
            fitting += 1
    assert fitting


RIGHT = [
    {"recipe": {"method": "mean_teacher", "detector": "fcos_r50_fpn", "data": "own"}, "train": {"lr": 0.005}},
    {"method": {"burn_in": "60%"}},
    {"method": {"name": "mean_teacher", "burn_in": 200, "threshold": "gmm"}},
    {"method": {"name": "mean_teacher", "loss": {"unsup": {"cls": "bce", "weighting": "uncertainty"}}}},
    {"method": {"name": "my_package.my_method", "anything": 1}},
    {"detector": {"name": "retinanet", "align": "none", "assigner": "adaptive"}},
    {"views": {"val": [{"resize": {"short": 640}}], "unlabeled": {"strong": {"start": "weak", "ops": ["flip"]}}}},
    {"base": "other.yaml"},
]
WRONG = [
    {"trian": {}},
    {"train": {"lr": "fast"}},
    {"train": {"learning_rate": 0.1}},
    {"train": {"steps": 0}},
    {"method": {"name": "mean_teacher", "scor": 0.5}},
    {"method": {"name": "mean_teacher", "burn_in": "long"}},
    {"method": {"name": "mean_teacher", "ema": {"decay": 1.5}}},
    {"data": {"labeled": {"format": "csv"}}},
]


@pytest.mark.parametrize("tree", RIGHT)
def test_what_is_right(judge: jsonschema.Draft202012Validator, tree: dict) -> None:
    assert [error.message for error in judge.iter_errors(tree)] == []


@pytest.mark.parametrize("tree", WRONG)
def test_what_is_wrong(judge: jsonschema.Draft202012Validator, tree: dict) -> None:
    assert not judge.is_valid(tree)


def test_every_key_has_help_and_is_listed_once() -> None:
    told = keys_text([])
    heads = re.findall(r"^\S.*$", told, re.MULTILINE)
    paths = [re.split(r": |   \(", head)[0] for head in heads]
    assert len(paths) == len(set(paths)) > 500
    assert {path.split(".")[0] for path in paths} == {
        "recipe",
        "base",
        *config.SECTIONS,
    }
    assert {f"method.{name}.name" for name in names()} <= set(paths)


def test_a_place_alone_and_the_defaults_of_the_section_that_it_is_in() -> None:
    told = keys_text(["method.mean_teacher.ema"])
    assert told.splitlines()[0] == "method.mean_teacher.ema   (section)"
    assert "method.mean_teacher.ema.decay: 0.9995   (number, 0 or more, below 1)" in told
    assert "method.mean_teacher.weight" not in told
    assert "train.steps   (whole number, 1 or more)\n    Optimiser steps" in keys_text(["train"])
    assert "or text, like 5% or null)" in told


def test_an_unknown_place() -> None:
    with pytest.raises(SsodError, match="trian: no such key; did you mean 'train"):
        keys_text(["trian"])


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words, begins in (["--keys", "train.lr"], "train.lr: 0.01"), (["--schema"], '{\n "$schema"'):
        with pytest.raises(SystemExit) as end:
            app(["config", *words])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(begins)
