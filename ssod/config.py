"""From a YAML file to a validated, frozen config, with every mistake reported in one line before anything is built.

A file may name a ``recipe`` (data set, detector and method, each a file of ``configs``) and one ``base``, which are
merged under it, key by key. One rule replaces deletion: **when a section's ``name`` (or ``format``) changes, the
section starts afresh.** Overrides ``a.b=c`` come last; the bare ``method.name=supervised`` leaves the ``method.ema``
that was written: a method and its baseline are measured by it. Where a value came from is kept, and told in messages.

Files are read and merged without torch, so that a mistake in them is told at once; ``validate`` imports the sections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as renamed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssod.methods.registry import find
from ssod.utils import recipes
from ssod.utils.config_errors import SECTIONS, Source, nearest, read_section, shown
from ssod.utils.config_files import read_with_bases
from ssod.utils.errors import SsodError
from ssod.utils.merging import merge, override, replace
from ssod.utils.schema import Section

if TYPE_CHECKING:
    from ssod.data.data_config import DataConfig
    from ssod.detectors.build import DetectorConfig
    from ssod.engine.train_config import TrainConfig
    from ssod.evaluation.eval_config import EvalConfig
    from ssod.methods.config import Common
    from ssod.transforms.views import ViewsConfig

Settle = Callable[[dict[str, Any], dict[str, str]], None]


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
        sections = {name: getattr(self, name) for name in SECTIONS}
        return {name: _written(section, section.model_dump(mode="json")) for name, section in sections.items()}


def _written(value: Any, plain: Any) -> Any:
    """Leave out of ``plain``, which is ``value`` for YAML, every null that is the default; others are written."""
    if isinstance(value, Section) and isinstance(plain, dict):
        fields = type(value).model_fields
        silent = {key for key in plain if plain[key] is None and key in fields and fields[key].default is None}
        return {key: _written(getattr(value, key, None), plain[key]) for key in plain if key not in silent}
    if isinstance(value, Mapping) and isinstance(plain, dict):
        return {key: _written(inner, plain[key]) for key, inner in value.items()}
    if isinstance(value, (list, tuple)) and isinstance(plain, list):
        return [_written(inner, item) for inner, item in zip(value, plain, strict=True)]
    return plain


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    replaced: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    settle: Settle | None = None,
) -> Config:
    """Read, merge, override and validate a config file.

    Args:
        path: the YAML file. Its ``recipe`` names files of ``configs`` that it is merged over; see
            ``ssod/utils/recipes.py``.
        overrides: ``key.path=value`` with the value in YAML.
        replaced: dotted key -> what takes the place of all that the file says there, before the overrides.
        recipe: keys that take the place of those in the file's ``recipe``.
        settle: is given the merged sections and their origins before they are validated, and may change both.

    Raises:
        SsodError: naming the file, the key and the fix. Code 2 for mistakes, 7 for YAML that wants to run code.
    """
    path = Path(path)
    chain = read_with_bases(path)
    named = {key: value for _, tree in chain for key, value in tree.pop("recipe").items()}
    if recipe and not named:
        keys = ", ".join(f"--{key}" for key in recipe)
        raise SsodError(path, "recipe", "missing", f"write e.g. 'recipe: {{method: mean_teacher}}', or drop {keys}")
    parts = recipes.read_recipe({**named, **(recipe or {})}, str(path))
    tree, origins = recipes.compose(parts)
    for file, own in chain:
        merge(tree, own, origins, str(file))
    recipes.draw(tree, origins, parts, "command line" if {"percent", "fold"} & set(recipe or {}) else str(path))
    for key, value in (replaced or {}).items():
        replace(tree, origins, key, value)
    for text in overrides:
        override(tree, origins, text)
    if settle is not None:
        _check_sections(tree, Source(str(path), origins))
        settle(tree, origins)
    return validate(tree, str(path), stem=path.stem, origins=origins)


def load_recipe(
    *,
    method: str,
    detector: str,
    data: str,
    percent: float | None = None,
    fold: int | None = None,
    overrides: Sequence[str] = (),
    settle: Settle | None = None,
) -> Config:
    """Return the config of a method on a detector and a data set, by the names of their files in ``configs``.

    Args:
        method: a file of ``configs/methods``.
        detector: a file of ``configs/detectors``.
        data: a file of ``configs/data``.
        percent: share of the labels, in per cent; None = the data file's.
        fold: number of the draw; None = the data file's.
        overrides: ``key.path=value`` with the value in YAML.
        settle: as in ``load``.

    Raises:
        SsodError: code 2, naming what is unknown or wrong, and the fix.
    """
    source = "command line"
    if data in recipes.OWNS:
        raise SsodError(source, "--data", f"{data}: that of a config file", "name the file; `ssod init` writes one")
    named = {"method": method, "detector": detector, "data": data, "percent": percent, "fold": fold}
    parts = recipes.read_recipe(named, source)
    tree, origins = recipes.compose(parts)
    recipes.draw(tree, origins, parts, source)
    for text in overrides:
        override(tree, origins, text)
    if settle is not None:
        _check_sections(tree, Source(source, origins))
        settle(tree, origins)
    cfg = validate(tree, source, origins=origins)
    return renamed(cfg, stem=recipes.stem(parts, cfg.data.split and cfg.data.split.percent))


def load_words(
    words: Sequence[str], named: Mapping[str, Any], more: Sequence[str] = (), settle: Settle | None = None
) -> Config:
    """Return the config of a command line.

    Args:
        words: a config file and overrides, or overrides alone.
        named: the recipe's keys, None where an option was not given. With a file they change its ``recipe``.
        more: further overrides, whatever ``words`` are.
        settle: as in ``load``.

    Raises:
        SsodError: code 2, naming what is missing, unknown or wrong.
    """
    given = {key: value for key, value in named.items() if value is not None}
    if words and not (given and "=" in words[0]):
        return load(words[0], [*words[1:], *more], recipe=given, settle=settle)
    missing = [key for key in ("method", "detector", "data") if key not in given]
    if missing:
        fix = "name a config file, or --method, --detector and --data"
        raise SsodError("command line", f"--{missing[0]}" if given else "CONFIG", "missing", fix)
    return load_recipe(**given, overrides=[*words, *more], settle=settle)


def validate(
    tree: Mapping[str, Any], source: str, *, stem: str = "run", origins: dict[str, str] | None = None
) -> Config:
    """Turn a plain tree into a ``Config``.

    Args:
        tree: section name -> keys.
        source: the file that messages name where ``origins`` does not know better.
        stem: the config's name; runs are filed under it.
        origins: dotted key -> the file that set it.

    Raises:
        SsodError: code 2, naming the key that is wrong.
    """
    source = Source(source, origins or {})
    _check_sections(tree, source)
    tree = {name: tree.get(name) or {} for name in SECTIONS}
    # Shares of the steps are resolved while a section is read, so the steps come first.
    steps = read_section(_Steps, {k: v for k, v in tree["train"].items() if k == "steps"}, "train", source, {}).steps
    context = {"steps": steps}
    method_name = tree["method"].get("name")
    if not isinstance(method_name, str) or not all(part.isidentifier() for part in method_name.split(".")):
        problem = "missing" if method_name is None else f"{shown(method_name)} is no name"
        raise source.error("method.name", problem, "name a method; `ssod methods` lists them")
    try:
        method = find(method_name)
    except SsodError as error:
        raise source.error("method.name", error.problem, error.fix, code=error.code) from None
    kinds = section_types() | {"method": method.Config}
    parts = {n: read_section(kinds[n], tree[n], n, source, context) for n in SECTIONS}
    cfg = Config(stem=stem, raw=dict(tree), origins=origins or {}, **parts)
    _cross_check(cfg, source)
    return cfg


def _check_sections(tree: Mapping[str, Any], source: Source) -> None:
    """Refuse a tree with other sections, without one that is needed, or with one that has no keys."""
    for key in tree:
        if key not in SECTIONS:
            raise source.error(str(key), "unknown section", nearest(str(key), SECTIONS))
    for name in SECTIONS:
        if name not in tree and name != "eval":
            raise source.error(name, "section missing", f"add '{name}:'")
        if not isinstance(tree.get(name) or {}, Mapping):
            raise source.error(name, f"{shown(tree[name])} is no section", f"write '{name}:' and keys below it")


# ---- validating --------------------------------------------------------------------------------------------------


class _Steps(Section):
    steps: int = Field(ge=1)


def section_types() -> dict[str, Any]:
    """Return the class of each section but ``method``; they are imported here, since most of them import torch."""
    from ssod.data.data_config import DataConfig
    from ssod.detectors.build import DetectorConfig
    from ssod.engine.train_config import TrainConfig
    from ssod.evaluation.eval_config import EvalConfig
    from ssod.transforms.views import ViewsConfig

    detector: Any = DetectorConfig  # a union
    return {"data": DataConfig, "views": ViewsConfig, "detector": detector, "train": TrainConfig, "eval": EvalConfig}


def _cross_check(cfg: Config, source: Source) -> None:
    """Refuse what is valid section by section but makes no sense together."""
    from ssod.detectors.build import names_assigner
    from ssod.methods.burn_in import not_kept
    from ssod.transforms.views import by_chance, unfit

    problem = not_kept(cfg.method, cfg.train.on_collapse) if cfg.train.keep_burn_in else ""
    if problem:
        raise source.error("train.keep_burn_in", problem, "remove it")
    if cfg.method.assigns_by_weighting and names_assigner(cfg.detector):
        problem = "nothing asks it: on all images the weighting 'cleanliness' says which rows learn a box"
        raise source.error("detector.assigner", problem, "remove it, or that weighting on one kind of images")
    if not find(cfg.method.name).uses_unlabeled:
        return
    if cfg.origins.get("method.score") == "command line" and getattr(cfg.method, "threshold", None) is not None:
        problem = f"is not read: 'method.threshold' says {cfg.method.threshold.name}"
        raise source.error("method.score", problem, "leave the score out, or add method.threshold=null")
    if cfg.method.burn_in >= cfg.train.steps:
        problem = f"{cfg.method.burn_in} >= train.steps {cfg.train.steps}: no semi-supervised phase"
        raise source.error("method.burn_in", problem, "lower it")
    if cfg.method.plateau is not None:
        _check_plateau(cfg, source)
    if cfg.train.batch.unlabeled < 1:
        raise source.error("train.batch.unlabeled", f"0, but '{cfg.method.name}' learns from them", "give at least 1")
    for name in ("weak", *cfg.method.student_views):
        if name not in cfg.views.unlabeled:
            raise source.error(f"views.unlabeled.{name}", "missing", f"'{cfg.method.name}' needs it")
    if cfg.method.labels_once and by_chance(cfg.views.unlabeled, "weak"):
        raise source.error("views.unlabeled.weak", "drawn by chance, but labelled once", "write [], or what val has")
    if cfg.method.labels_once and cfg.views.tiles is not None:
        problem = f"'{cfg.method.name}' labels an image once, and its views show another tile each time"
        raise source.error("views.tiles", problem, "remove it, or choose another method")
    for name in (m := cfg.method).student_views:
        facts = {"aligned": name in m.aligned_views, "places": m.asks_teacher and m.asks_maps}
        if found := unfit(cfg.views.unlabeled, name, m.name, **facts):
            raise source.error(f"views.unlabeled.{name}", *found)
    if cfg.data.unlabeled is None and cfg.data.split is None:
        problem, fix = f"no unlabelled images, but '{cfg.method.name}' needs them", "name a folder, or a data.split"
        raise source.error("data.unlabeled", problem, fix)


def _check_plateau(cfg: Config, source: Source) -> None:
    """Refuse a burn-in that is to end by evaluations where none could end it."""
    if cfg.data.val is None:
        raise source.error("method.plateau", "measures on val images, and there are none", "name data.val")
    most = cfg.method.burn_in // (cfg.method.plateau.looks + 2)
    if not 0 < cfg.train.eval_every <= most:
        problem = f"{cfg.train.eval_every} steps between evaluations, of which 'method.plateau' needs some in burn-in"
        raise source.error("train.eval_every", problem, f"set it to {max(most, 1)} or less")
