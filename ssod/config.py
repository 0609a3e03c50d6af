"""From a YAML file to a validated, frozen config, with every mistake told in one line before anything is built.

A file may name one ``base``, which is merged under it, key by key. One rule replaces deletion: **when a section's
``name`` (or ``format``) changes, the section starts afresh.** Overrides ``a.b=c`` come last. Where each value came
from is kept, so that ``ssod config`` can say.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ssod.data.datasets import DataConfig
from ssod.data.views import ViewsConfig
from ssod.detectors.build import DetectorConfig
from ssod.engine.trainer import TrainConfig
from ssod.errors import SsodError
from ssod.methods.base import Common
from ssod.methods.find import find
from ssod.schema import Section
from ssod.yamlfile import parse_yaml, read_yaml

_KINDS = ("name", "format")


class EvalConfig(Section):
    """How a detector is measured."""

    metric: Literal["coco", "voc", "voc07"] = "coco"
    "COCO's AP; or VOC's with the area under the curve, or VOC 2007's with 11 points."
    batch: int = Field(8, ge=1)
    "Images at a time, on each process."


@dataclass(frozen=True)
class Config:
    """A whole run, section by section."""

    data: DataConfig
    views: ViewsConfig
    detector: DetectorConfig
    method: Common
    train: TrainConfig
    eval: EvalConfig
    stem: str = "run"
    raw: dict[str, Any] = field(default_factory=dict, repr=False)
    origins: dict[str, str] = field(default_factory=dict, repr=False)

    def dump(self) -> dict[str, Any]:
        """Return the resolved config as plain values, defaults included, ready for YAML."""
        return {name: getattr(self, name).model_dump(mode="json", exclude_none=True) for name in SECTIONS}


SECTIONS = ("data", "views", "detector", "method", "train", "eval")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, merge, override and validate a config file.

    Args:
        path: the YAML file.
        overrides: ``key.path=value`` with the value in YAML.

    Raises:
        SsodError: naming the file, the key and the fix. Code 2 for mistakes, 7 for YAML that wants to run code.
    """
    path = Path(path)
    tree, origins = _read_with_base(path, ())
    for text in overrides:
        _override(tree, origins, text)
    return validate(tree, str(path), stem=path.stem, origins=origins)


def validate(
    tree: Mapping[str, Any], source: str, *, stem: str = "run", origins: dict[str, str] | None = None
) -> Config:
    """Turn a plain tree into a ``Config``; ``source`` is the file that messages name."""
    known = [f.name for f in fields(Config) if f.name in SECTIONS]
    for key in tree:
        if key not in known:
            raise SsodError(source, str(key), "unknown section", _nearest(str(key), known))
    for name in ("data", "views", "detector", "method", "train"):
        if not isinstance(tree.get(name), Mapping):
            raise SsodError(
                source, name, "section missing" if name not in tree else "is not a mapping", f"add '{name}:'"
            )
    steps = tree["train"].get("steps")
    context = {"steps": steps} if isinstance(steps, int) else {}
    method_name = tree["method"].get("name")
    if not isinstance(method_name, str):
        raise SsodError(source, "method.name", "missing", "name a method; `ssod methods` lists them")
    kinds = {
        "data": DataConfig,
        "views": ViewsConfig,
        "detector": DetectorConfig,
        "method": find(method_name).Config,
        "train": TrainConfig,
        "eval": EvalConfig,
    }
    parts = {n: _section(kind, tree.get(n) or {}, n, source, context) for n, kind in kinds.items()}
    cfg = Config(stem=stem, raw=dict(tree), origins=origins or {}, **parts)
    _cross_check(cfg, source)
    return cfg


# ---- merging -----------------------------------------------------------------------------------------------------


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    if path.resolve() in seen:
        raise SsodError(path, "base", "bases form a circle", "remove one")
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise SsodError(path, "", f"is a {type(tree).__name__}, expected sections", "see `ssod init`")
    base = tree.pop("base", None)
    if base is None:
        merged: dict[str, Any] = {}
        origins: dict[str, str] = {}
    elif isinstance(base, str):
        merged, origins = _read_with_base(path.parent / base, (*seen, path.resolve()))
    else:
        raise SsodError(path, "base", "is not one path", "name one file, relative to this one")
    _merge(merged, tree, origins, str(path), "")
    return merged, origins


def _merge(into: dict[str, Any], tree: Mapping[str, Any], origins: dict[str, str], source: str, prefix: str) -> None:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        old = into.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not _renamed(old, value):
            _merge(old, value, origins, source, f"{path}.")
            continue
        for stale in [p for p in origins if p == path or p.startswith(f"{path}.")]:
            del origins[stale]
        into[key] = value
        _note(value, origins, source, path)


def _renamed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(kind in new and new[kind] != old.get(kind) for kind in _KINDS)


def _note(value: Any, origins: dict[str, str], source: str, path: str) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _note(inner, origins, source, f"{path}.{key}")
    else:
        origins[path] = source


def _override(tree: dict[str, Any], origins: dict[str, str], text: str) -> None:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise SsodError("command line", text, "not of the form key=value", "write e.g. train.lr=0.01")
    branch: dict[str, Any] = {}
    leaf = branch
    *parents, last = key.strip().split(".")
    for part in parents:
        leaf = leaf.setdefault(part, {})
    leaf[last] = parse_yaml(value, f"command line {text}")
    _merge(tree, branch, origins, "command line", "")


# ---- validating --------------------------------------------------------------------------------------------------


def _section(kind: Any, value: Any, name: str, source: str, context: dict[str, Any]) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value, context=context)
    except ValidationError as error:
        raise _explain(error, kind, name, source) from None


def _explain(error: ValidationError, kind: Any, name: str, source: str) -> SsodError:
    """Turn pydantic's first finding into one line."""
    first = error.errors()[0]
    path = ".".join([name, *(str(part) for part in first["loc"] if not _is_tag(part, kind))])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    shown = repr(first["input"])
    shown = shown if len(shown) < 60 else shown[:57] + "..."
    if first["type"] == "extra_forbidden":
        return SsodError(
            source, path, f"unknown key{more}", _nearest(str(first["loc"][-1]), _names(kind, first["loc"]))
        )
    if first["type"] == "missing":
        return SsodError(source, path, f"missing{more}", "add it")
    if first["type"].startswith("union_tag"):
        wanted = first.get("ctx", {}).get("expected_tags", "")
        return SsodError(source, f"{path}.name", f"unknown or missing{more}", f"choose one of {wanted}")
    message = first["msg"].removeprefix("Value error, ")
    return SsodError(source, path, f"{shown}: {message}{more}", "")


def _is_tag(part: object, kind: Any) -> bool:
    """Whether a piece of pydantic's location is the tag of a union and no key of the file."""
    return isinstance(part, str) and part in _tags(kind)


def _models(kind: Any) -> list[type[BaseModel]]:
    """Every model that ``kind`` can hold, its own first."""
    found: list[type[BaseModel]] = []
    queue = [kind]
    while queue:
        item = queue.pop(0)
        if isinstance(item, type) and issubclass(item, BaseModel):
            if item not in found:
                found.append(item)
                queue.extend(f.annotation for f in item.model_fields.values())
        elif get_origin(item) is not None or isinstance(item, UnionType):
            queue.extend(get_args(item))
    return found


def _tags(kind: Any) -> set[str]:
    tags: set[str] = set()
    for model in _models(kind):
        for key in _KINDS:
            info = model.model_fields.get(key)
            if info is not None and get_origin(info.annotation) is Literal:
                tags.update(str(a) for a in get_args(info.annotation))
    return tags


def _names(kind: Any, loc: tuple) -> list[str]:
    """Return the keys that would have been right at ``loc``."""
    here = [kind]
    for part in loc[:-1]:
        step: list[Any] = []
        for model in (m for item in here for m in _open(item)):
            if isinstance(part, str) and part in model.model_fields:
                step.append(model.model_fields[part].annotation)
        here = step or here
    names = {name for item in here for model in _open(item) for name in model.model_fields}
    return sorted(names)


def _open(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if get_origin(kind) in (Union, UnionType) or get_origin(kind) is not None:
        return [m for a in get_args(kind) for m in _open(a)]
    return []


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"


def _cross_check(cfg: Config, source: str) -> None:
    """Refuse what is valid section by section but makes no sense together."""
    if not find(cfg.method.name).uses_unlabeled:
        return
    if cfg.method.burn_in >= cfg.train.steps:
        problem = f"{cfg.method.burn_in} >= train.steps {cfg.train.steps}: no semi-supervised phase"
        raise SsodError(source, "method.burn_in", problem, "lower it")
    if cfg.train.batch.unlabeled < 1:
        problem = f"0, but method '{cfg.method.name}' learns from unlabelled images"
        raise SsodError(source, "train.batch.unlabeled", problem, "give at least 1")
    for name in ("weak", "strong"):
        if name not in cfg.views.unlabeled:
            raise SsodError(source, f"views.unlabeled.{name}", "missing", "every method needs a weak and a strong view")
    if cfg.data.unlabeled is None and cfg.data.split is None:
        problem = f"no unlabelled images, but method '{cfg.method.name}' needs them"
        raise SsodError(source, "data.unlabeled", problem, "name a folder, or a data.split that leaves some over")


def describe(cfg: Config) -> str:
    """Return the resolved config as YAML, each line with the file that set it; what no file set is ``default``."""
    lines: list[str] = []
    _describe(cfg.dump(), cfg.origins, "", lines)
    width = max(len(text) for text, _ in lines)
    return "\n".join(f"{text:<{width}}  # {origin}" if origin else text for text, origin in lines)


def _describe(tree: Mapping[str, Any], origins: Mapping[str, str], prefix: str, lines: list[tuple[str, str]]) -> None:
    indent = "  " * prefix.count(".")
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            lines.append((f"{indent}{key}:", ""))
            _describe(value, origins, f"{path}.", lines)
        else:
            text = yaml.safe_dump({key: value}, default_flow_style=True, width=10_000, sort_keys=False).strip()
            lines.append((f"{indent}{text[1:-1]}", _origin(path, origins)))


def _origin(path: str, origins: Mapping[str, str]) -> str:
    while path:
        if path in origins:
            return origins[path]
        path = path.rpartition(".")[0]
    return "default"
