"""From a config's word to a row loss: ``focal``, or ``{name: focal, gamma: 2, weight: 1}``."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from ssod.losses.box import ALIGNED, BOX, BOX_STD, SPREAD
from ssod.losses.sigmoid import QUALITY, SIGMOID, SOFTMAX
from ssod.structures import Formula, Kind
from ssod.utils.errors import SsodError
from ssod.utils.schema import Section, named

TABLES: dict[Kind, dict[str, Formula]] = {
    "sigmoid": SIGMOID,
    "softmax": SOFTMAX,
    "box": BOX,
    "box_std": BOX_STD,
    "aligned": ALIGNED,
    "spread": SPREAD,
    "quality": QUALITY,
}
# What a head needs, for messages.
_HEADS: dict[Kind, str] = {"box_std": "box-with-std", "aligned": "decoded-box"}


class LossSpec(Section):
    """A loss by name; further keys are its parameters."""

    model_config = ConfigDict(extra="allow")

    name: str
    "A row loss; `ssod losses` lists them."
    weight: float = Field(1.0, ge=0)
    "Factor of this loss wherever it is used."


Loss = Annotated[LossSpec, BeforeValidator(named, json_schema_input_type=str | LossSpec)]


def pick(spec: LossSpec, kind: Kind, field: str, *, counted: bool = False) -> Formula:
    """Return the row loss that ``spec`` names, its parameters bound.

    Args:
        spec: the config's words.
        kind: what the head needs.
        field: the key in the config, for messages, e.g. ``detector.loss.cls``.
        counted: whether the caller counts how frequent the classes of these rows are, which ``equalization`` asks for.

    Raises:
        SsodError: the name is unknown, belongs to another kind of head, has no such parameter, a parameter is out of
            range, or the loss needs frequencies that nobody counts here.
    """
    table = TABLES[kind]
    fit = sorted(name for name, loss in table.items() if counted or not needs_frequency(loss))
    if spec.name in fit:
        return bind(table[spec.name], "loss", spec.name, spec.model_extra or {}, field, skip=2)
    if spec.name in table:
        where = "method.loss.sup.cls and method.loss.unsup.cls"
        problem = f"'{spec.name}' needs class frequencies, which are counted for {where} alone"
    else:
        problem = _misnamed(spec.name, kind)
    raise SsodError("config", field, problem, f"those that fit: {', '.join(fit)}")


def needs_frequency(loss: Formula) -> bool:
    """Whether a row loss takes class frequencies, the keyword ``frequency`` [K]."""
    return "frequency" in inspect.signature(loss).parameters


def bind(function: Callable, word: str, name: str, params: Mapping[str, Any], field: str, *, skip: int = 0) -> Callable:
    """Return ``function`` with the parameters of a config bound, each held to its annotation.

    Args:
        function: a row loss, a reweighter or a class.
        word: what it is, for messages.
        name: its name in the config.
        params: names and values from the config.
        field: the key in the config, for messages.
        skip: leading arguments that are no parameters.

    Raises:
        SsodError: an unknown parameter, or a value of the wrong type or out of range.
    """
    allowed = settable(function, skip)
    for key, value in params.items():
        where = f"{field}.{key}"
        if key not in allowed:
            fix = f"it has: {', '.join(allowed)}" if allowed else "it has none"
            raise SsodError("config", where, f"{word} '{name}' has no such parameter", fix)
        kind = type(allowed[key].default)
        if kind is not bool and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise SsodError("config", where, f"{value!r} is not a number", "write one")
        try:
            TypeAdapter(allowed[key].annotation).validate_python(value, strict=True)
        except ValidationError as error:
            message = error.errors()[0]["msg"].replace("Input should be", "should be")
            raise SsodError("config", where, f"{value!r}: {message}", "ssod losses lists what it takes") from None
    return functools.partial(function, **params) if params else function


def settable(function: Callable, skip: int) -> dict[str, inspect.Parameter]:
    """Return the parameters that a config may set: all but the first ``skip`` and those without a default."""
    params = list(inspect.signature(function, eval_str=True).parameters.values())[skip:]
    return {p.name: p for p in params if p.default is not p.empty}


def describe() -> list[tuple[str, str]]:
    """Return each loss's name and one line about it: for what head, and its parameters."""
    own = {kind: table for kind, table in TABLES.items() if kind not in ("box_std", "aligned", "spread")}
    more: dict[Kind, dict[str, Formula]] = {"box_std": {n: loss for n, loss in BOX_STD.items() if n not in BOX}}
    return [
        (name, f"{_HEADS.get(kind, kind)}: {first_line(loss)}{defaults(loss, 2)}")
        for kind, table in (own | more).items()
        for name, loss in table.items()
    ]


def first_line(thing: Callable) -> str:
    """Return the first line of a docstring."""
    return (thing.__doc__ or "").strip().splitlines()[0]


def defaults(function: Callable, skip: int) -> str:
    """Return `` [gamma=2, alpha=0.25]``, empty where there is nothing to set."""

    def shown(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value).lower()

    values = ", ".join(f"{name}={shown(p.default)}" for name, p in settable(function, skip).items())
    return f" [{values}]" if values else ""


def _misnamed(name: str, kind: Kind) -> str:
    for other, table in TABLES.items():
        if name in table:
            return f"'{name}' is a {_HEADS.get(other, other)} loss, and this head needs a {_HEADS.get(kind, kind)} one"
    near = difflib.get_close_matches(name, TABLES[kind], 1)
    return f"unknown loss '{name}'" + (f", did you mean '{near[0]}'?" if near else "")
