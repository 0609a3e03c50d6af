"""What is labelled already: by the run that is asked, and in sets that a user names; nobody needs to label it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from ssod.data import datasets
from ssod.data.data_config import DataConfig
from ssod.data.formats.findings import Context
from ssod.data.formats.infer import unlabeled_source
from ssod.data.formats.records import Images
from ssod.data.formats.registry import Source, read_images
from ssod.experiments import run_files
from ssod.inference.label_parts import Wanted
from ssod.inference.weights_file import weights_file
from ssod.utils import config_errors
from ssod.utils.config_errors import read_section
from ssod.utils.errors import SsodError


def parts(weights: Path, *, next: int = 0, audit: int = 0, labeled: Sequence[str] = ()) -> Wanted:
    """Return what parts of the labels to write for a person.

    A line says so where the run cannot tell what it was taught.

    Args:
        weights: a run folder or its model file. Of its config's ``data``, the labelled images and those of val are
            labelled already; its ``split.json`` counts their boxes.
        next, audit: as ``Wanted`` has them.
        labeled: more sets that are labelled already: whatever ``ssod init --labeled`` takes, a folder or a list.

    Raises:
        SsodError: sets without a part, or one of them cannot be read.
    """
    if not next and not audit:
        if labeled:
            raise SsodError("command line", "--labeled", "nothing is chosen", "give --next or --audit, too")
        return Wanted()
    named = [_named(path) for path in labeled]
    folder = weights_file(weights).parent
    try:
        own = taught(folder / "config.yaml")
    except SsodError as error:
        print(f"the images that the run was taught are not left out: {error.line()}")
        own = []
    counts: dict[str, int] = {}
    if (folder / "split.json").is_file():
        counts = run_files.json_object(folder / "split.json", run_files.SPLIT)["boxes"]
    return Wanted(next=next, audit=audit, labelled=[*own, *named], counts=counts)


def taught(config: Path) -> list[Images]:
    """Return the images that a run knows the labels of: those of ``data.labeled`` that its split keeps, and ``val``.

    Raises:
        SsodError: no config, or its data cannot be read.
    """
    section = run_files.config(config)["data"]
    cfg = read_section(DataConfig, section, "data", config_errors.Source(str(config), {}), {})
    keeps = datasets.kept(cfg)
    val = datasets.load_val(cfg, keeps.classes, datasets.context(cfg)("val"))
    return [part.images for part in (keeps, val) if part is not None]


def _named(path: str) -> Images:
    try:
        source = TypeAdapter(Source).validate_python(unlabeled_source(path, "--unlabeled", {}))
    except SsodError as error:  # it speaks of the option that such sets have in other commands
        raise SsodError(error.file, "--labeled", error.problem, error.fix, code=error.code) from None
    ctx = Context("", "--labeled")
    found = read_images(source, ctx)
    ctx.findings.raise_first()
    return found
