"""Cells that make the same steps until burn-in ends: one makes them and keeps the state, the others begin with it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssod.config import Config
from ssod.engine.checkpointing import burn_in as kept
from ssod.engine.checkpointing import checkpoint, lines
from ssod.engine.checkpointing.resume_check import UNLABELED, flat
from ssod.experiments.sweep.sweep import Cell
from ssod.methods import burn_in
from ssod.methods.registry import find

KEEP = ("train.keep_burn_in=true",)


@dataclass
class Group:
    """Cells that share a burn-in; they agree in fold and seed, too.

    Attributes:
        step: where it ends.
        deciding: what decides it; see ``ssod.methods.burn_in.deciding``.
        place: where the data lie, as the configs say it; a run that is begun by hand may have moved.
        makers: those that have a burn-in of their own, and so can keep its state.
        others: supervised ones.
    """

    step: int
    deciding: dict[str, Any]
    place: dict[str, Any]
    makers: list[Cell] = field(default_factory=list)
    others: list[Cell] = field(default_factory=list)

    @property
    def cells(self) -> list[Cell]:
        """All of them."""
        return [*self.makers, *self.others]

    def fits(self, cfg: Config) -> bool:
        """Whether a run of ``cfg`` makes the group's steps."""
        return decided(cfg, self.step) == self.deciding and place(cfg) == self.place


class Sharing:
    """Says of each cell how it is to be started, or that it has to wait.

    Everything is read from the run folders at each question, so that other sweeps, and earlier ones, take part.

    Args:
        cells: of the sweep, in the order in which they are to make burn-ins.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.over: set[str] = set()  # names of cells that finished or failed
        self._groups = {cell.name: group for group in groups_of(cells) for cell in group.cells}
        self._said: dict[tuple[Path, int], bool] = {}  # whether a state fits its cell's group, by its time

    def options(self, cell: Cell) -> tuple[str, ...] | None:
        """Return what ``ssod train`` is told besides the cell's own words; None = wait for another cell's burn-in."""
        group = self._groups.get(cell.name)
        if group is None:
            return ()
        # In this order: once a run has told of a later step, its state is there.
        maker, source = self.maker(group), self.source(group)
        if source is not None:
            return () if started(cell) else ("--from-burn-in", str(source.folder))
        if maker is not None and cell is not maker and not started(cell):
            return None
        followed = any(self._may_follow(other) for other in group.cells if other is not cell)
        return KEEP if followed and cell in group.makers else ()

    def source(self, group: Group) -> Cell | None:
        """Return a cell that kept the state at the end of the group's burn-in."""
        return next((cell for cell in group.makers if self._keeps(cell, group)), None)

    def maker(self, group: Group) -> Cell | None:
        """Return the cell that makes the burn-in, or is to make it: one that has begun to, else the first."""
        able = (cell for cell in group.makers if cell.name not in self.over)
        begun_first = sorted(able, key=lambda cell: not started(cell))
        return next((cell for cell in begun_first if last_step(cell) <= group.step), None)

    def _may_follow(self, cell: Cell) -> bool:
        return cell.name not in self.over and not started(cell)

    def _keeps(self, cell: Cell, group: Group) -> bool:
        """Whether a cell's folder has a state that fits: an older version, or another config, may have left one."""
        try:
            key = cell.folder, kept.path_of(cell.folder).stat().st_mtime_ns
        except OSError:
            return False
        if key not in self._said:
            said = kept.said(cell.folder) or {}
            own = {name: value for name, value in said.items() if name not in ("classes", "data")}
            self._said[key] = own == group.deciding | {"world_size": 1}
        return self._said[key]


def groups_of(cells: Sequence[Cell]) -> list[Group]:
    """Return the groups that have several cells. A supervised cell is in the group with the longest burn-in."""
    groups: dict[str, Group] = {}
    rest: list[tuple[Cell, Config]] = []
    for cell in cells:
        cfg = cell.load()
        if burn_in.apart(cfg.method, cfg.train.on_collapse):
            continue
        step = burn_in.ends(cfg.method)
        if step:
            group = Group(step, decided(cfg, step), place(cfg))
            groups.setdefault(json.dumps([group.deciding, group.place], sort_keys=True), group).makers.append(cell)
        elif not find(cfg.method.name).uses_unlabeled:
            rest.append((cell, cfg))
    longest = sorted(groups.values(), key=lambda group: -group.step)
    for cell, cfg in rest:
        group = next((group for group in longest if group.fits(cfg)), None)
        if group is not None:
            group.others.append(cell)
    return [group for group in groups.values() if len(group.cells) > 1]


def decided(cfg: Config, step: int) -> dict[str, Any]:
    """Return what decides the first ``step`` steps of a config."""
    return burn_in.deciding(cfg.dump(), cfg.method, step)


def place(cfg: Config) -> dict[str, Any]:
    """Return the section ``data``, as far as burn-in reads it."""
    leaves = flat({"data": cfg.dump()["data"]})
    return {key: value for key, value in leaves.items() if not key.startswith(UNLABELED)}


def started(cell: Cell) -> bool:
    """Whether a cell has a state of its own, with which it goes on whatever it is told."""
    return checkpoint.exists(cell.folder / "checkpoints")


def last_step(cell: Cell) -> int:
    """Return the step of the last whole line that a cell has logged, 0 if there is none."""
    whole = lines.at_end(cell.folder / "metrics.jsonl")
    step = lines.step_of(whole[-1]) if whole else 0
    return int(step) if step < math.inf else 0
