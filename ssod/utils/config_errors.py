"""From pydantic's findings to one line that names the file, the key and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from ssod.utils.errors import Exit, SsodError

SECTIONS = ("data", "views", "detector", "method", "train", "eval")  # of a config
# A section whose value for one of these changes is another kind of section.
KINDS = ("name", "format")
# Keys that other projects have, and why they are not here.
_REMOVED = {"num_classes": "remove it; the data says how many classes there are"}


@dataclass(frozen=True)
class Source:
    """Where keys come from.

    Attributes:
        file: what messages name where nothing better is known.
        origins: dotted key -> the file that set it.
    """

    file: str
    origins: Mapping[str, str]

    def error(self, path: str, problem: str, fix: str, *, code: Exit = Exit.USAGE) -> SsodError:
        """Return the error about the key ``path``."""
        below = [origin for key, origin in self.origins.items() if key.startswith(f"{path}.")]
        origin = self.origins.get(path) or (below[-1] if below else origin_of(path, self.origins))
        return SsodError(origin or self.file, path, problem, fix, code=code)


def origin_of(path: str, origins: Mapping[str, str]) -> str:
    """Return the file that set ``path`` or the nearest key above it; empty if none did."""
    while path and path not in origins:
        path = path.rpartition(".")[0]
    return origins.get(path, "")


def read_section(kind: Any, value: Any, name: str, source: Source, context: dict[str, Any]) -> Any:
    """Turn the plain ``value`` of section ``name`` into the model ``kind``.

    Raises:
        SsodError: code 2, about the first thing that is wrong.
    """
    try:
        return TypeAdapter(kind).validate_python(value, context=context)
    except ValidationError as error:
        raise _explain(error, kind, name, source) from None


def _explain(error: ValidationError, kind: Any, name: str, source: Source) -> SsodError:
    first = error.errors()[0]
    value, message = first["input"], first["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    loc = _keys(kind, first["loc"])
    path = ".".join([name, *map(str, loc)])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    match first["type"]:
        case "extra_forbidden":
            known = sorted({name for model in _open(_at(kind, first["loc"][:-1])) for name in model.model_fields})
            fix = _REMOVED.get(str(loc[-1])) or nearest(str(loc[-1]), known)
            return source.error(path, f"unknown key{more}", fix)
        case "missing":
            return source.error(path, f"missing{more}", "add it")
        case "union_tag_invalid" | "union_tag_not_found":
            found = first["ctx"].get("tag")
            problem = "missing" if found is None else f"unknown '{found}'"
            fix = nearest(str(found), sorted(_tags(_at(kind, first["loc"]))))
            return source.error(f"{path}.{first['ctx']['discriminator'].strip(chr(39))}", f"{problem}{more}", fix)
        case "model_type" | "model_attributes_type" | "dict_type":
            fix = f"write '{path.rpartition('.')[2]}:' and keys below"
            return source.error(path, f"{shown(value)} where keys are due{more}", fix)
        case "value_error" if shown(value) in message:
            problem, fix = _divided(message, name)
            return source.error(path, f"{problem}{more}", fix)
        case "string_type" if isinstance(value, int | float):
            return source.error(path, f"{shown(value)} is no text{more}", "put it in quotes")
    problem, fix = _divided(message, name)
    return source.error(path, f"{shown(value)}: {problem}{more}", fix)


def _divided(message: str, section: str) -> tuple[str, str]:
    """Return problem and fix of what a validator says: where it has no "; what to do", who lists what may be there."""
    problem, _, fix = message.rpartition("; ")
    listed = f"`ssod config --keys {section}` says what it may be" if section in SECTIONS else "mend it"
    return (problem, fix) if problem else (message, listed)


def shown(value: object) -> str:
    """Return ``repr(value)``, cut where it is long."""
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the part of a message that suggests a name."""
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"


# ---- walking through the types of models -------------------------------------------------------------------------


def _keys(kind: Any, loc: tuple) -> list[int | str]:
    """Return pydantic's location as keys of the file, without the tag that stands for the member of a union.

    A word can be both: `iou` is an assigner's name in one place and a key in another.
    """
    here, keys = kind, []
    for part in loc:
        models = _open(here)
        tagged = [model for model in models if part in _own_tags(model)]
        if tagged and len(models) > 1:
            here = tagged[0]
        elif part != "[key]":
            keys.append(part)
            here = _at(here, (part,))
    return keys


def _tags(kind: Any) -> set[str]:
    """Return every word that ``name`` or ``format`` may have, at any depth of ``kind``."""
    return {tag for model in _models(kind) for tag in _own_tags(model)}


def _own_tags(model: type[BaseModel]) -> set[str]:
    """Return the words that ``name`` or ``format`` of this model may have."""
    tags: set[str] = set()
    for key in KINDS:
        info = model.model_fields.get(key)
        if info is not None and get_origin(info.annotation) is Literal:
            tags.update(str(a) for a in get_args(info.annotation))
    return tags


def _models(kind: Any) -> list[type[BaseModel]]:
    """Return every model that ``kind`` can hold, at any depth."""
    found: list[type[BaseModel]] = []
    queue = [kind]
    while queue:
        for model in _open(queue.pop(0)):
            if model not in found:
                found.append(model)
                queue.extend(f.annotation for f in model.model_fields.values())
    return found


def _at(kind: Any, loc: tuple) -> Any:
    """Return the union of what the config may hold at ``loc``."""
    here: Any = kind
    for part in loc:
        found = [m.model_fields[part].annotation for m in _open(here) if part in m.model_fields]
        if found:
            here = Union[tuple(found)]  # type: ignore  # noqa: UP007
    return here


def _open(kind: Any) -> list[type[BaseModel]]:
    """Return the models that ``kind`` names itself: alone, in a union, a list or a dict."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if get_origin(kind) is not None or isinstance(kind, UnionType):
        return [model for part in get_args(kind) for model in _open(part)]
    return []
