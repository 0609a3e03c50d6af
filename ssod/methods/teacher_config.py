"""Who labels unlabelled images in the place of the average: a trained detector, or a file of boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ssod.utils import graph_file
from ssod.utils.schema import Duration, Section


class FrozenTeacher(Section):
    """A trained detector labels, and never changes."""

    name: Literal["frozen"] = "frozen"
    "The kind of teacher."
    weights: str
    """A run folder (its best.safetensors), or a file of weights of a detector as the run's own, that knows the run's
    classes. It is read when a run starts; a checkpoint has the weights."""


class FileTeacher(Section):
    """A file of boxes labels."""

    name: Literal["file"] = "file"
    "The kind of teacher."
    results: str
    """COCO results or a COCO annotation file of the unlabelled images, with boxes in pixels of the upright image. The
    path is relative to the current folder; the file is read when a run starts and when it goes on."""
    until: Duration | None = None
    "Before this step the file labels, from it on the average does; null = the file labels to the end."


def _model_file(value: object) -> object:
    """Read the path of a model file or run folder as the frozen teacher of these weights."""
    if not isinstance(value, str):
        return value
    # A graph is named here like weights, so that those who read them say what is wrong with it.
    if value.endswith((".safetensors", ".pt")) or graph_file.is_graph(value) or Path(value).is_dir():
        return {"name": "frozen", "weights": value}
    fix = "write {name: frozen, weights: RUN} or {name: file, results: boxes.json}"
    raise ValueError(f"{value!r} is neither a model file nor a run folder that is there; {fix}")


# A path is short for ``{name: frozen, weights: PATH}``.
TeacherConfig = Annotated[
    Annotated[FrozenTeacher | FileTeacher, Field(discriminator="name")],
    BeforeValidator(_model_file, json_schema_input_type=str | FrozenTeacher | FileTeacher),
]
