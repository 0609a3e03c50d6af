"""Reading YAML that a stranger may have written: plain values only, and every mistake told with its line."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

import yaml

from ssod.errors import Exit, SsodError

_MAX_NODES = 10_000


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, foreign tags and alias bombs, and reads 1e-3 as a number."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.nodes = 0

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise _Unsafe(node, f"more than {_MAX_NODES} values after aliases")
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            raise _Unsafe(node, f"tag {node.tag!r} not allowed; only plain values")
        return super().construct_object(node, deep=deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise _Mistake(key, f"key {name!r} is not text; quote it")
            if name in seen:
                raise _Mistake(key, f"duplicate key '{name}'")
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


class _Mistake(Exception):
    code = Exit.USAGE

    def __init__(self, node: yaml.Node, problem: str) -> None:
        self.line, self.problem = node.start_mark.line + 1, problem


class _Unsafe(_Mistake):
    code = Exit.UNSAFE


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(  # YAML 1.2's floats: 1e-3 needs no dot
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> Any:
    """Read one YAML file as plain values."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, os.listdir(path.parent) if path.parent.is_dir() else [], 1)
        raise SsodError(path, "", "not found", f"did you mean '{near[0]}'?" if near else "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SsodError(path, "", f"cannot be read ({error})", "save it as UTF-8 text") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML text; ``source`` is what messages name."""
    try:
        return yaml.load(text, Loader=_Loader)
    except _Mistake as error:
        raise SsodError(source, f"line {error.line}", error.problem, code=error.code) from None
    except yaml.constructor.ConstructorError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SsodError(source, line, f"{error.problem}", "only plain values", code=Exit.UNSAFE) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark else ""
        raise SsodError(source, line, f"not valid YAML ({getattr(error, 'problem', error)})", "mend it") from None
    except RecursionError:
        raise SsodError(source, "", "nested too deeply", "flatten it", code=Exit.UNSAFE) from None
