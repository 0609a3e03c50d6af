"""``ssod init --weights RUN``: the detector of a run, and its teacher to begin with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from ssod.detectors.build import DetectorConfig
from ssod.inference.weights_file import weights_file
from ssod.utils import graph_file, model_file, recipes
from ssod.utils.errors import Exit, SsodError
from ssod.utils.recipes import Recipe


def begin_with(weights: str | os.PathLike, method: str, detector: str | None) -> tuple[str, dict[str, Any]]:
    """Return the recipe of the detector that a trained model is of, and what a config changes in its section.

    Args:
        weights: a run folder, or its ``best.safetensors``.
        method: a file of ``configs/methods``.
        detector: a file of ``configs/detectors`` of the same name and backbone; None = the one that is most like it.

    Raises:
        SsodError: no weights, or a detector that is another.
    """
    file = weights_file(weights)
    graph_file.refuse(file, "trained on")
    own = dict(model_file.read_card(file)["detector"]) | {"weights": os.path.abspath(file)}
    names = recipes.names("detector") if detector is None else [detector]
    sections = {name: _section(name, method, skip=detector is None) for name in names}
    found = {name: section for name, section in sections.items() if section and _alike(section, own)}
    if not found:
        kind = f"{own.get('name')} on {own.get('backbone')}"
        if detector is None:
            problem = f"is of {kind}, which no file of configs/detectors is"
            raise SsodError(file, "card.detector", problem, "write the config by hand", code=Exit.CHECKPOINT)
        raise SsodError("command line", "--detector", f"'{detector}' is no {kind}, as the weights are", "leave it out")
    changes = {name: _changes(section, own) for name, section in found.items()}
    best = min(changes, key=lambda name: len(changes[name]))
    return best, changes[best]


def _section(name: str, method: str, *, skip: bool) -> dict[str, Any] | None:
    """Return the detector section of a recipe, defaults included; where ``skip``, None if the method refuses it."""
    try:
        tree, _ = recipes.compose(Recipe(method=method, detector=name, data=recipes.OWN))
    except SsodError:
        if skip:
            return None
        raise
    return TypeAdapter(DetectorConfig).validate_python(tree["detector"]).model_dump(mode="json")


def _alike(section: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    return all(section.get(key) == own.get(key) for key in ("name", "backbone"))


def _changes(section: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that make ``own`` of ``section``; a card leaves out nulls."""
    changed = {key: value for key, value in own.items() if _known(section.get(key)) != _known(value)}
    return changed | {key: None for key, value in section.items() if key not in own and value is not None}


def _known(value: Any) -> Any:
    """Return a value without its nulls."""
    if not isinstance(value, dict):
        return value
    return {key: _known(inner) for key, inner in value.items() if inner is not None}
