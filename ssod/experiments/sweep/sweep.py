"""``ssod compare --sweep sweep.yaml``: one file names many runs; what is missing is run, what is finished is kept.

```yaml
configs:
  - recipe: {method: [supervised, mean_teacher], detector: fcos_r50_fpn, data: coco, percent: [1, 10]}  # four rows
  - my/*.yaml                    # configs by name or pattern; paths are relative to this file
base: my.yaml                    # and, or instead, method x detector x percent over one config
methods: [{name: supervised, ema: {decay: 0.996}}, mean_teacher, unbiased_teacher]
detectors: [fcos_tiny_fpn, retinanet_tiny_fpn]
percents: [5, 10]
folds: [1, 2, 3]
seeds: [0]
overrides: [train.steps=2000]    # for every run; {fold} and {seed} stand for their numbers
jobs: 2                          # at the same time at most, as long as memory allows
share_burn_in: true              # runs that are equal until burn-in ends go on from one's state
executor: local                  # or {name: submitit, ...} or {name: ray, ...}: runs are jobs of a cluster
```
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from ssod.config import Config, load, load_recipe
from ssod.engine.checkpointing.resume_check import flat
from ssod.engine.checkpointing.resume_check import kind as kind_of
from ssod.experiments.runs import read_run
from ssod.experiments.sweep.executors import AnyExecutor, ExecutorConfig, LocalConfig
from ssod.utils.address import refuse_url
from ssod.utils.config_errors import Source, read_section
from ssod.utils.errors import SsodError
from ssod.utils.recipes import Recipe, compose, former, names, read_recipe
from ssod.utils.schema import Section
from ssod.utils.yaml_io import read_yaml


class Entry(Section):
    """A config, or recipes, with changes of its own."""

    config: str | None = None
    "Config file, relative to the sweep file."
    recipe: dict[str, Any] | None = None
    "Instead: `{method: ..., detector: ..., data: ..., percent: ...}`; a list in place of a value makes a row of each."
    name: str | None = None
    "What its row is filed under; by default the file's stem, or the recipe's names."
    overrides: list[str] = []
    "`key.path=value`, before those of the sweep."


class SweepConfig(Section):
    """Many runs in one file: every config, or every method x detector x percent, on every fold with every seed."""

    out: str | None = None
    "Folder of the runs; by default `runs/<stem of this file>` in the current folder."
    configs: list[str | Entry] = []
    "Files, patterns such as `my/*.yaml`, or `{config: ..., name: ..., overrides: [...]}`, or `recipe` for `config`."
    base: str | None = None
    "Config that methods, detectors and percents are put into."
    methods: list[str | dict[str, Any]] = []
    "Names, or sections `{name: mean_teacher, burn_in: 40%}`; a `label` in one names its row; empty = the base's own."
    detectors: list[str | dict[str, Any]] = []
    "Names of configs/detectors, or sections as for methods; empty = the base's own."
    percents: list[float] = []
    "Values of `data.split.percent`; empty = the base's own."
    folds: list[int] = Field([1], min_length=1)
    "Values of `data.split.fold`."
    seeds: list[int] = Field([0], min_length=1)
    "Values of `train.seed`."
    overrides: list[str] = []
    "`key.path=value` for every run; `{fold}` and `{seed}` stand for their numbers."
    jobs: int = Field(1, ge=1)
    "Runs at the same time, at most; another one starts only while memory allows."
    share_burn_in: bool = True
    "Let runs that make the same steps until burn-in ends go on from the state of the one that makes them first."
    executor: ExecutorConfig = LocalConfig()
    "Where runs are made: `local`, on this machine, `submitit`, as jobs of Slurm, or `ray`; see docs/cluster.md."

    @field_validator("percents", "folds", "seeds")
    @classmethod
    def _each_once(cls, values: list) -> list:
        for value, count in Counter(values).items():
            if count > 1:
                raise ValueError(f"{value:g} is there twice; name it once")
        return values


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: ``<row>/fold1-seed0``.
        config: the file, or the recipe.
        overrides: all changes to it.
        folder: where the run lies, or will.
    """

    name: str
    config: Path | Recipe
    overrides: tuple[str, ...]
    folder: Path

    def load(self) -> Config:
        """Return the config that the run has."""
        return _load(self.config, self.overrides)

    def command(self) -> list[str]:
        """Return what makes ``ssod train`` train this config."""
        return [*([str(self.config)] if isinstance(self.config, Path) else self.config.options()), *self.overrides]


def _load(config: Path | Recipe, overrides: Sequence[str]) -> Config:
    return load(config, overrides) if isinstance(config, Path) else load_recipe(**dict(config), overrides=overrides)


@dataclass(frozen=True)
class Sweep:
    """A sweep, spelt out."""

    cells: list[Cell]
    jobs: int
    out: Path
    share_burn_in: bool = True
    executor: AnyExecutor = field(default_factory=LocalConfig)


def read_sweep(path: Path | str) -> Sweep:
    """Read a sweep file and validate every run in it.

    Raises:
        SsodError: code 2, a mistake in the file or in any config, and a run folder that holds another run.
    """
    path = Path(path)
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise SsodError(path, "", f"is a {type(tree).__name__}, expected keys", "see docs/compare.md")
    cfg = read_section(SweepConfig, tree, "sweep", Source(str(path), {}), {})
    out = Path(cfg.out) if cfg.out else Path("runs") / path.stem
    refuse_url(out)
    named, grid = _configs(cfg, path), _grid(cfg, path)
    if not named and not grid:
        raise SsodError(path, "configs", "no run is named", "give configs, or base and methods")
    entries = [*named, *grid]
    twice = [name for name, count in Counter(name for name, _, _ in entries).items() if count > 1]
    if twice:
        raise SsodError(path, "configs", f"two rows are called '{twice[0]}'", "give one a name")
    cells = [_cell(cfg, path, out, *entry, f, s) for entry in entries for f in cfg.folds for s in cfg.seeds]
    for cell in cells:
        check_folder(cell)
    return Sweep(cells, cfg.jobs, out, cfg.share_burn_in, cfg.executor)


def _configs(cfg: SweepConfig, path: Path) -> list[tuple[str, Path | Recipe, tuple[str, ...]]]:
    """Return (name, file or recipe, overrides) of the configs that are named."""
    found = []
    for item in cfg.configs:
        entry = Entry(config=item) if isinstance(item, str) else item
        if (entry.config is None) == (entry.recipe is None):
            raise SsodError(path, "configs", "an entry has neither or both of config and recipe", "give one of them")
        rows = _files(entry.config, path) if entry.recipe is None else _recipes(entry.recipe, path)
        if entry.name is not None and len(rows) > 1:
            raise SsodError(path, "configs", f"'{entry.name}' would name {len(rows)} rows", "leave the name out")
        called = [stem if entry.name is None else _folder_name(path, "configs", entry.name) for stem, _ in rows]
        found += [(name, config, tuple(entry.overrides)) for name, (_, config) in zip(called, rows)]
    return found


def _files(text: str, path: Path) -> list[tuple[str, Path]]:
    """Return stem and path of the files that a pattern names."""
    pattern = Path(text)
    anchor = Path(pattern.anchor) if pattern.is_absolute() else path.parent
    try:
        files = sorted(f for f in anchor.glob(str(pattern.relative_to(pattern.anchor))) if f.is_file())
    except (ValueError, IndexError):  # what is no pattern: '', '.', 'a**b'
        files = []
    if not files:
        options = former(pattern)
        fix = f"give {{recipe: ...}} for {options}" if options else "paths are relative to the sweep file"
        raise SsodError(path, "configs", f"'{text}' names no file", fix)
    return [(file.stem, file) for file in files]


def _recipes(section: dict[str, Any], path: Path) -> list[tuple[str, Recipe]]:
    """Return name and recipe of each combination of a section whose values may be lists."""
    if "fold" in section:
        raise SsodError(path, "configs.recipe.fold", "every run has a fold of the sweep", "write folds: [...]")
    axes = [[(key, value) for value in (v if isinstance(v, list) else [v])] for key, v in section.items()]
    rows = []
    for point in itertools.product(*axes):
        recipe = read_recipe(dict(point), str(path))
        missing = [key for key, value in recipe if value is None and key in ("method", "detector", "data")]
        if missing:
            raise SsodError(path, f"configs.recipe.{missing[0]}", "missing", "add it")
        rows.append((_load(recipe, ()).stem, recipe))
    return rows


def _grid(cfg: SweepConfig, path: Path) -> list[tuple[str, Path | Recipe, tuple[str, ...]]]:
    """Return (name, file, overrides) of every method x detector x percent."""
    if cfg.base is None:
        if cfg.methods or cfg.detectors or cfg.percents:
            raise SsodError(path, "base", "missing", "name the config that methods and detectors are put into")
        return []
    methods = [_row(path, "methods", {"name": m} if isinstance(m, str) else m) for m in cfg.methods]
    detectors = [_detector(d) if isinstance(d, str) else _row(path, "detectors", d) for d in cfg.detectors]
    for key, rows in (("methods", methods), ("detectors", detectors)):
        twice = [name for name, count in Counter(name for name, _ in rows).items() if count > 1]
        if twice:
            fix = f"give one a name of its own: {{label: ..., name: {twice[0]}, ...}}"
            raise SsodError(path, key, f"two rows are called '{twice[0]}'", fix)
    axes = (
        [(name, f"method={json.dumps(section)}") for name, section in methods] or [(Path(cfg.base).stem, "")],
        [(name, f"detector={json.dumps(section)}") for name, section in detectors] or [("", "")],
        [(f"{p:g}p", f"data.split.percent={p:g}") for p in cfg.percents] or [("", "")],
    )
    base = path.parent / cfg.base
    return [
        ("_".join(name for name, _ in point if name), base, tuple(text for _, text in point if text))
        for point in itertools.product(*axes)
    ]


def _row(path: Path, field: str, section: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return what a section's row is filed under, and the section without its label."""
    if not isinstance(section.get("name"), str):
        raise SsodError(path, field, f"{section} has no name", "write {name: ..., ...}")
    name = _folder_name(path, field, section.get("label", section["name"]))
    return name, {key: value for key, value in section.items() if key != "label"}


def _folder_name(path: Path, field: str, name: object) -> str:
    """Return ``name``, which becomes a folder in `out`.

    Raises:
        SsodError: code 2, it would be none, or another one.
    """
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
        raise SsodError(path, field, f"{name!r} is no folder name", "use letters, digits, - and _")
    return name


def _detector(name: str) -> tuple[str, dict[str, Any]]:
    """Return a detector's row and section: that of its recipe, or of the bare name."""
    recipe = Recipe(detector=name)
    return name, compose(recipe)[0]["detector"] if recipe.detector in names("detector") else {"name": name}


def _cell(
    cfg: SweepConfig,
    path: Path,
    out: Path,
    name: str,
    config: Path | Recipe,
    own: tuple[str, ...],
    fold: int,
    seed: int,
) -> Cell:
    texts = [text.replace("{fold}", str(fold)).replace("{seed}", str(seed)) for text in (*own, *cfg.overrides)]
    overrides = (*texts, f"train.seed={seed}")
    plain = _load(config, overrides)
    if plain.data.split is not None:
        overrides = (*overrides, f"data.split.fold={fold}")
    elif len(cfg.folds) > 1 and not any("{fold}" in text for text in (*own, *cfg.overrides)):
        problem = f"{len(cfg.folds)} folds, but {config if isinstance(config, Path) else name} has no data.split"
        raise SsodError(path, "folds", problem, "add an override with {fold} in it, such as data.labeled.ann=...")
    return Cell(f"{name}/fold{fold}-seed{seed}", config, overrides, out / name / f"fold{fold}-seed{seed}")


def check_folder(cell: Cell) -> None:
    """Refuse a folder that holds a run of another config: it would be counted for what it is not.

    Raises:
        SsodError: code 2, with the first difference.
    """
    file = cell.folder / "config.yaml"
    if not file.exists():
        return
    if not isinstance(there := read_yaml(file), dict):
        raise SsodError(file, "", "is no run's config", "remove the folder, or name another `out`")
    old, new = flat(there), flat(cell.load().dump())
    for key in sorted(old.keys() | new.keys()):
        if kind_of(key) != "cosmetic" and old.get(key) != new.get(key):
            problem = f"holds a run with {key}={old.get(key)!r}, the sweep says {new.get(key)!r}"
            raise SsodError(cell.folder, key, problem, "name another `out`, or remove the folder")


def finished(cell: Cell) -> bool:
    """Whether the run made its last step and was measured; it is never run again."""
    files = ("config.yaml", "split.json", "exit.json")
    return all((cell.folder / name).exists() for name in files) and read_run(cell.folder).finished
