"""The commands that look at runs, as the command line declares them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssod.commands import options as option
from ssod.commands.json_output import answered
from ssod.experiments.run_folder import run_folder


def compare(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders, or folders of run folders.")] = None,
    sweep: Annotated[Path | None, typer.Option(help="A sweep file; what is missing of it is run first.")] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option("-o", "--out", help="File to write: .html, .csv, .md or .tex; may be repeated."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=10, help="Resamples of the val images behind an interval.")] = 1000,
    executor: Annotated[str | None, typer.Option(help="Where a sweep's runs are made: local, submitit or ray.")] = None,
    json: option.Json = False,
) -> None:
    """Several runs side by side: AP over folds and seeds, gain over the baseline, cost; refuses unlike ones."""
    for absent in (path for path in runs or [] if not path.exists()):
        run_folder(absent)  # before torch is imported
    if sweep is not None and not sweep.exists():
        from ssod.utils.yaml_io import read_yaml

        read_yaml(sweep)
    from ssod.commands.compare import compare

    how = {"sweep": sweep, "out": out or [], "resamples": resamples, "executor": executor}
    answered(json, lambda: compare(runs or [], **how))


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.", callback=run_folder)],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; default report.html in it.")] = None,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", "--twin", help="The supervised run to compare with.")
    ] = None,
) -> None:
    """One offline HTML page about a run: curves, pseudo-labels, pictures, alarms."""
    from ssod.report.run_page import report

    report(run, out=out, baseline=baseline)
