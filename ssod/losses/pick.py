"""From a config's word to a row loss: ``focal``, or ``{name: focal, gamma: 2, weight: 1}``."""

import difflib
import functools
import inspect
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from ssod.errors import SsodError
from ssod.losses.box import BOX
from ssod.losses.classify import QUALITY, SIGMOID, SOFTMAX
from ssod.schema import Section
from ssod.structures import RowLoss

Kind = Literal["sigmoid", "softmax", "box", "quality"]
TABLES: dict[Kind, dict[str, RowLoss]] = {"sigmoid": SIGMOID, "softmax": SOFTMAX, "box": BOX, "quality": QUALITY}


class LossSpec(Section):
    """A loss by name; further keys are its parameters."""

    model_config = ConfigDict(extra="allow")

    name: str
    "A function of ssod/losses/classify.py or box.py; `ssod losses` lists them."
    weight: float = Field(1.0, ge=0)
    "Factor of this loss wherever the detector is trained."


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


# ``giou`` is short for ``{name: giou}``.
Loss = Annotated[LossSpec, BeforeValidator(_named)]


def pick(spec: LossSpec, kind: Kind, field: str) -> RowLoss:
    """Return the row loss that ``spec`` names, its parameters bound.

    Args:
        spec: the config's words.
        kind: what the head needs.
        field: the key in the config, for messages, e.g. ``detector.loss.cls``.

    Raises:
        SsodError: the name is unknown, belongs to another kind of head, or has no such parameter.
    """
    table = TABLES[kind]
    if spec.name not in table:
        raise SsodError("config", field, _misnamed(spec.name, kind), f"those that fit: {', '.join(sorted(table))}")
    loss = table[spec.name]
    allowed = list(inspect.signature(loss).parameters)[2:]
    params = spec.model_extra or {}
    for key, value in params.items():
        if key not in allowed:
            fix = f"it has: {', '.join(allowed)}" if allowed else "it has none"
            raise SsodError("config", f"{field}.{key}", f"loss '{spec.name}' has no such parameter", fix)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SsodError("config", f"{field}.{key}", f"{value!r} is not a number", "")
    return functools.partial(loss, **params) if params else loss


def describe() -> list[tuple[str, str]]:
    """Return each loss's name and one line about it: for what head, and its parameters."""
    lines = []
    for kind, table in TABLES.items():
        for name, loss in table.items():
            params = list(inspect.signature(loss).parameters.values())[2:]
            values = ", ".join(f"{p.name}={p.default:.4g}" for p in params)
            first = (loss.__doc__ or "").strip().splitlines()[0]
            lines.append((name, f"{kind}: {first}" + (f" [{values}]" if values else "")))
    return lines


def _misnamed(name: str, kind: Kind) -> str:
    for other, table in TABLES.items():
        if name in table:
            return f"'{name}' is a {other} loss, and this head needs a {kind} one"
    near = difflib.get_close_matches(name, TABLES[kind], 1)
    return f"unknown loss '{name}'" + (f", did you mean '{near[0]}'?" if near else "")
