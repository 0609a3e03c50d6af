"""``ssod methods``, ``detectors`` and ``losses``, as the command line declares them."""

from __future__ import annotations

from ssod.commands import options as option
from ssod.commands.json_output import answered
from ssod.commands.known import Listed, list_detectors, list_losses, list_methods


def methods(json: option.Json = False) -> None:
    """The methods a config can name."""
    _tell(json, answered(json, list_methods))


def detectors(json: option.Json = False) -> None:
    """The detectors a config can name, and the recipes of them that --detector takes."""
    _tell(json, answered(json, list_detectors))


def losses(json: option.Json = False) -> None:
    """The losses and weightings a config can name."""
    _tell(json, answered(json, list_losses))


def _tell(json: bool, found: Listed) -> None:
    if not json:
        print(found)
