"""Every key of a config file: as a JSON schema that editors read, and as text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from ssod import config
from ssod.methods.registry import find, names
from ssod.utils.config_errors import nearest
from ssod.utils.errors import SsodError
from ssod.utils.recipes import Recipe
from ssod.utils.yaml_io import dump_yaml

Schema = dict[str, Any]
WIDTH = 100
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def show(places: list[str], *, schema: bool = False) -> None:
    """Print the keys below some places, or the JSON schema; see ``keys_text`` and ``config_schema``."""
    print(json.dumps(config_schema(), indent=1) if schema else keys_text(places))


def config_schema() -> Schema:
    """Return the JSON schema of a config file.

    A file is merged over what it is based on, so that no key of it must be there; a method's section is judged by the
    ``name`` that it states, and not at all where another file states it.
    """
    kinds: dict[str, Any] = {"recipe": Recipe, **config.section_types()}
    adapters = {name: TypeAdapter(kind) for name, kind in kinds.items()}
    adapters |= {f"method {name}": TypeAdapter(find(name).Config) for name in names()}
    found, shared = TypeAdapter.json_schemas([(name, "validation", adapter) for name, adapter in adapters.items()])
    parts = {name: found[name, "validation"] for name in adapters}
    properties = {name: parts[name] for name in kinds} | {
        "base": {"type": "string", "description": "Another file that this one is merged over, beside it."},
        "method": by_name({name: parts[f"method {name}"] for name in names()}),
    }
    whole = {"$schema": _DRAFT, "type": "object", "additionalProperties": False, "properties": properties}
    return without_required(whole | {"$defs": shared.get("$defs", {})})


def by_name(sections: Mapping[str, Schema]) -> Schema:
    """Return the schema of a section whose ``name`` says which of ``sections`` it is."""
    rules = [
        {"if": {"properties": {"name": {"const": name}}, "required": ["name"]}, "then": section}
        for name, section in sections.items()
    ]
    return {"type": "object", "properties": {"name": {"type": "string", "examples": list(sections)}}, "allOf": rules}


def without_required(schema: Any) -> Any:
    """Return a schema in which keys may be absent; of several forms any may fit, as without them some are the same."""
    if isinstance(schema, list):
        return [without_required(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "if":  # it asks whether a name is stated
            kept[key] = value
        elif key in ("required", "discriminator"):
            # A property of that name is a schema, and no list of keys or table.
            if isinstance(value, dict) and "type" in value:
                kept[key] = without_required(value)
        else:
            kept["anyOf" if key == "oneOf" else key] = without_required(value)
    return kept


# ---- as text -------------------------------------------------------------------------------------------------------


def keys_text(places: list[str]) -> str:
    """Return each key below some places with its default, its kind and its help.

    Args:
        places: sections or keys, such as ``train``, ``train.optimizer`` or ``method.mean_teacher``; none = all.

    Raises:
        SsodError: code 2, an unknown place.
    """
    schema = config_schema()
    entries = list(entries_of(schema))
    known = [path for path, _ in entries]
    for place in places:
        if not any(path == place or path.startswith(f"{place}.") for path in known):
            raise SsodError("command line", place, "no such key", nearest(place, known))
    chosen = [
        entry for entry in entries if not places or any(f"{entry[0]}.".startswith(f"{place}.") for place in places)
    ]
    return "\n".join(line for path, key in chosen for line in lines_of(path, key, schema))


def entries_of(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield the path of each key and its schema, sections before what is in them."""
    for section, part in schema["properties"].items():
        named = {rule["if"]["properties"]["name"]["const"]: rule["then"] for rule in part.get("allOf", [])}
        if named:
            for name, own in named.items():
                yield from below(f"{section}.{name}", own, schema, ())
        elif list(sections_in(part, schema)):
            yield from below(section, part, schema, ())
        else:
            yield section, part


def below(path: str, part: Schema, schema: Schema, seen: tuple[str, ...]) -> Iterator[tuple[str, Schema]]:
    """Yield the keys of a section, and of the sections in it, each kind of a union by its name."""
    sections = dict(sections_in(part, schema))
    for reference, section in sections.items():
        if reference in seen:
            continue
        properties = section["properties"]
        name = properties.get("name", properties.get("format", {})).get("const")
        own = f"{path}.{name}" if name and len(sections) > 1 else path
        defaults = part.get("default")  # of the section as a whole: they win over those of its keys
        for key, value in properties.items():
            if isinstance(defaults, dict) and key in defaults and defaults.get("name", name) == name:
                value = value | {"default": defaults[key]}
            yield f"{own}.{key}", value
            yield from below(f"{own}.{key}", value, schema, (*seen, reference))


def sections_in(part: Schema, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield the sections that a value may be, or that the items of a list or the values of a table are."""
    if "$ref" in part:
        name = part["$ref"].removeprefix("#/$defs/")
        found = schema["$defs"][name]
        if "properties" in found:
            yield name, found
        else:
            yield from sections_in(found, schema)
        return
    for form in part.get("anyOf", []):
        yield from sections_in(form, schema)
    for inner in ("items", "additionalProperties"):
        if isinstance(part.get(inner), dict):
            yield from sections_in(part[inner], schema)


def lines_of(path: str, key: Schema, schema: Schema) -> list[str]:
    """Return the lines about a key."""
    default, kind = "", kind_of(key, schema)
    if "default" in key and (kind != "section" or not key["default"]):  # the keys of a section have their own
        default = (
            f": {dump_yaml(key['default'], default_flow_style=True, width=10_000).strip().removesuffix('...').strip()}"
        )
    head = f"{path}{default}" + (f"   ({kind})" if kind else "")
    text = " ".join(key.get("description", "").split())
    return [head, *textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")]


def kind_of(part: Schema, schema: Schema) -> str:
    """Return in words what a value may be."""
    if "$ref" in part:
        found = schema["$defs"][part["$ref"].removeprefix("#/$defs/")]
        return "section" if "properties" in found else kind_of(found, schema)
    if "enum" in part or "const" in part:
        return " | ".join(str(value) for value in part.get("enum", [part.get("const")]))
    if "anyOf" in part:
        return " or ".join(dict.fromkeys(filter(None, (kind_of(form, schema) for form in part["anyOf"]))))
    kind = part.get("type", "")
    if kind == "array":
        places = part.get("prefixItems")
        if places:
            return f"[{', '.join(kind_of(place, schema) for place in places)}]"
        inner = kind_of(part.get("items", {}), schema)
        return f"list of {inner}" if inner else "list"
    if kind == "object":
        inner = (
            kind_of(part["additionalProperties"], schema) if isinstance(part.get("additionalProperties"), dict) else ""
        )
        return f"name -> {inner}" if inner else "section"
    word = {"integer": "whole number", "string": "text", "boolean": "true | false"}.get(kind, kind)
    return ", ".join([word, *limits(part)]) if word else ""


def limits(part: Schema) -> list[str]:
    """Return in words between what a number must lie, and an example of a text."""
    words = {"minimum": "{} or more", "exclusiveMinimum": "above {}", "maximum": "at most {}"}
    words |= {"exclusiveMaximum": "below {}"}
    found = [text.format(f"{part[key]:g}") for key, text in words.items() if key in part]
    return found + [f"like {example}" for example in part.get("examples", [])]
