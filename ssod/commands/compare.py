"""``ssod compare``: run folders in, tables and one page out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ssod.experiments import tables
from ssod.experiments.bootstrap import RESAMPLES
from ssod.experiments.comparison import Comparison, comparison
from ssod.experiments.records import comma_separated
from ssod.experiments.runs import read_run
from ssod.experiments.sweep.executors import ExecutorConfig, build_executor
from ssod.experiments.sweep.pool import run_cells
from ssod.experiments.sweep.sweep import Sweep, read_sweep
from ssod.utils import atomic, printing
from ssod.utils.address import refuse_url
from ssod.utils.config_errors import Source, read_section
from ssod.utils.errors import Exit, SsodError


def compare(
    runs: Sequence[Path | str] = (),
    *,
    sweep: Path | str | None = None,
    out: Sequence[Path | str] = (),
    resamples: int = RESAMPLES,
    executor: str | None = None,
) -> Comparison:
    """Compare run folders; print the tables and write them.

    Args:
        runs: folders that ``ssod train`` wrote, or folders that hold such folders at any depth.
        sweep: a sweep file; its runs that are not finished are run first.
        out: files to write, by their ending: ``.html``, ``.csv``, ``.md`` or ``.tex``. With a sweep and without
            ``out``: ``compare.html`` in the sweep's folder.
        resamples: of the val images, behind each interval.
        executor: where the sweep's runs are made, ``local``, ``submitit`` or ``ray``; None = as its file says.

    Raises:
        SsodError: code 2 for an unknown ending, an executor without a sweep or a mistake in the sweep, 3 for what is no
            run folder, 6 when the disk refuses, 75 or 130 when a sweep was asked to stop, 1 when runs of a sweep
            failed; the tables come first.
    """
    targets = [Path(path) for path in out]
    for target in targets:
        if target.suffix not in WRITERS:
            known = ", ".join(WRITERS)
            raise SsodError("command line", "-o", f"'{target}' has no known ending", f"use one of {known}")
        refuse_url(target)  # before the runs of a sweep are made for it
    if executor is not None and sweep is None:
        raise SsodError(
            "command line", "--executor", "makes the runs of a sweep, and there is none", "add --sweep FILE"
        )
    console = printing.console(wrap=True)
    if not console.is_terminal:
        console = printing.console(wrap=True, width=max(console.width, 160))
    failures: dict[str, str] = {}
    if sweep is not None:
        plan = read_sweep(sweep)
        made_by = build_executor(_chosen(plan, executor), plan.out)
        failures = run_cells(plan, console, made_by)
        runs = [*runs, *(cell.folder for cell in plan.cells if (cell.folder / "split.json").exists())]
        targets = targets or [plan.out / "compare.html"]
        if not runs:
            raise _failed(failures)
    found = comparison([read_run(path) for path in find(runs)], resamples)
    for line in found.verdicts:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for sheet in found.sheets:
        tables.show(sheet, console)
    for line in found.refusals:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for target in targets:
        atomic.write_text(target, WRITERS[target.suffix](found))
        console.print(f"-> {target}", markup=False, highlight=False)
    if failures:
        raise _failed(failures)
    return found


def _chosen(plan: Sweep, executor: str | None) -> ExecutorConfig:
    """Return the sweep's executor; ``executor`` names another, but one with parameters stays as the file has it."""
    if executor in (None, plan.executor.name):
        return plan.executor
    return read_section(ExecutorConfig, executor, "--executor", Source("command line", {}), {})


def _failed(failures: dict[str, str]) -> SsodError:
    name, reason = next(iter(failures.items()))
    return SsodError("sweep", name, f"{len(failures)} run(s) failed; {reason}", "mend it and run again", code=Exit.BUG)


def find(paths: Sequence[Path | str]) -> list[Path]:
    """Return the run folders that ``paths`` name or hold, each once however it is named, in order.

    A run folder has a ``config.yaml`` and a ``split.json``. A path that neither is one nor holds one comes back as it
    is, for its reader to refuse.

    Raises:
        SsodError: code 2, no path at all.
    """
    found: dict[str, Path] = {}  # as it is named by what it is
    for path in map(Path, paths):
        inside = [] if _is_run(path) else sorted(f.parent for f in path.rglob("split.json") if _is_run(f.parent))
        for folder in inside or [path]:
            found.setdefault(os.path.realpath(folder), folder)
    if not found:
        raise SsodError("command line", "RUN", "no run folder was named", "name run folders, or --sweep sweep.yaml")
    return list(found.values())


def _is_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.yaml", "split.json"))


def _html(found: Comparison) -> str:
    from ssod.report.compare_page import compare_page

    return compare_page(found)


WRITERS = {
    ".html": _html,
    ".csv": lambda found: comma_separated(found.groups, found.rows, found.refusals),
    ".md": lambda found: tables.markdown(found.sheets, found.refusals, found.verdicts),
    ".tex": lambda found: tables.latex(found.sheets, found.refusals, found.verdicts),
}
