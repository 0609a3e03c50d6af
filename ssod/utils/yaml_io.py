"""Reading YAML that a stranger may have written: plain values, every mistake reported with its line; and writing it.

Words and numbers are those of YAML 1.2: ``no``, ``on``, ``010`` and ``2024-01-01`` are what they look like and not
False, True, 8 and a date, and ``1e-3`` is a number.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ssod.utils import untrusted
from ssod.utils.errors import Exit, SsodError
from ssod.utils.untrusted import Source, encodable

MOST_VALUES = 10_000
_MOST_LETTERS = 100  # for each value, on average, comments among them
_TAG = "tag:yaml.org,2002:"
# (tag, what a plain word must look like, with which characters it may begin)
_WORDS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
)


class _Mistake(Exception):
    code = Exit.USAGE

    def __init__(self, node: yaml.Node, problem: str, fix: str) -> None:
        self.line, self.problem, self.fix = node.start_mark.line + 1, problem, fix


class _Unsafe(_Mistake):
    code = Exit.UNSAFE


class _Loader(yaml.SafeLoader):
    """SafeLoader that knows plain values only and refuses duplicate keys and alias bombs."""

    # Resolvers and constructors are the class's own: what is not listed below does not exist.
    yaml_implicit_resolvers: dict[str, list] = {}
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}

    def __init__(self, text: str, most: int, number_keys: bool) -> None:
        super().__init__(text)
        self.most, self.number_keys, self.seen = most, number_keys, 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Stop at the first value too many: reading on takes minutes where somebody wrote millions."""
        self.seen += 1
        if self.seen > 2 * self.most:  # keys are values here, and an alias is one
            raise SsodError("", "", f"more than {self.most} values", "name a smaller file", code=Exit.UNSAFE)
        return super().compose_node(parent, index)

    def get_single_node(self) -> yaml.Node | None:
        """Refuse, before anything is built, what would become too large once its aliases are written out."""
        node = super().get_single_node()
        if node is not None:
            _expanded(node, {}, self.most)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        if not isinstance(node, yaml.MappingNode):
            raise _Mistake(node, "expected a mapping", "write 'key: value'")
        seen: set[str] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str) and not (self.number_keys and type(name) is int):
                raise _Mistake(key, f"key {name!r:.40} is not text", "quote it")
            if str(name) in seen:
                raise _Mistake(key, f"duplicate key '{name}'", "keep one")
            seen.add(str(name))
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise _Mistake(node, "expected a single value", "write one")
        if not encodable(node.value):
            raise _Mistake(node, f"{node.value[:20]!r} holds half a character (a lone surrogate)", "remove it")
        return node.value

    def construct_sequence(self, node: yaml.Node, deep: bool = False) -> list:
        if not isinstance(node, yaml.SequenceNode):
            raise _Mistake(node, "expected a list", "write [one, two]")
        return super().construct_sequence(node, deep=deep)


def _expanded(node: yaml.Node, sizes: dict[yaml.Node, int], most: int) -> int:
    """Return the number of values below ``node`` with every alias written out; each node is counted once."""
    if node in sizes:
        if sizes[node] == 0:
            raise _Unsafe(node, "contains itself", "write the values out")
        return sizes[node]
    sizes[node] = 0  # being counted
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    sizes[node] = 1 + sum(_expanded(child, sizes, most) for child in children)
    if sizes[node] > most:
        raise _Unsafe(node, f"more than {most} values after aliases", "name a smaller file")
    return sizes[node]


def _bool(loader: _Loader, node: yaml.Node) -> bool:
    word = loader.construct_scalar(node).lower()
    if word not in ("true", "false"):
        raise _Mistake(node, f"{word!r} is neither true nor false", "write one of them")
    return word == "true"


def _int(loader: _Loader, node: yaml.Node) -> int:
    word = loader.construct_scalar(node)
    try:
        if word[:2] in ("0o", "0x"):
            return int(word, 0)
        return int(word)
    except ValueError:
        raise _Mistake(node, f"{word[:20]!r} is no integer, or too long a one", "write one, or quote it") from None


def _float(loader: _Loader, node: yaml.Node) -> float:
    word = loader.construct_scalar(node).lower()
    try:
        return float(word.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        raise _Mistake(node, f"{word[:20]!r} is no number", "write one, or quote it") from None


def _refuse(loader: _Loader, node: yaml.Node) -> None:
    raise _Unsafe(node, f"tag {node.tag!r} not allowed", "write plain values only")


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes text which this reader would take for something else: ``08``, ``1e3``."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """Quote Unicode's own line breaks, which pyyaml would write as they are and read as blanks."""
    return dumper.represent_scalar(f"{_TAG}str", text, style='"' if set("\x85\u2028\u2029") & set(text) else None)


_Dumper.add_representer(str, _text)
for _name, _pattern, _first in _WORDS:
    _Dumper.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)
for _name, _make in {
    "null": lambda loader, node: None,
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": lambda loader, node: loader.construct_scalar(node),
    "seq": yaml.SafeLoader.construct_yaml_seq,
    "map": yaml.SafeLoader.construct_yaml_map,
}.items():
    _Loader.add_constructor(_TAG + _name, _make)
# type: ignore because the stubs of PyYAML say a string; None is every tag that is not named.
_Loader.add_constructor(None, _refuse)  # type: ignore


def read_yaml(path: Path) -> Any:
    """Read one YAML file as plain values.

    Raises:
        SsodError: code 2, the file is absent or not valid; code 7, it wants more than plain values, or too many.
    """
    if not path.exists():
        near = difflib.get_close_matches(path.name, os.listdir(path.parent) if path.parent.is_dir() else [], 1)
        raise SsodError(path, "", "not found", f"did you mean '{near[0]}'?" if near else "check the path")
    most = MOST_VALUES * _MOST_LETTERS
    content = untrusted.read_bytes(Source(path, "name a config", Exit.USAGE), most)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise SsodError(path, "", f"cannot be read ({error})", "save it as UTF-8 text") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str, *, most: int = MOST_VALUES, number_keys: bool = False) -> Any:
    """Parse YAML text.

    Args:
        text: what was read.
        source: what messages name.
        most: values that it may have once aliases are written out, keys among them.
        number_keys: whether keys may be integers; else they are text.

    Raises:
        SsodError: as ``read_yaml`` does.
    """
    if len(text) > most * _MOST_LETTERS:
        problem = f"{len(text)} letters > {most * _MOST_LETTERS} limit"
        raise SsodError(source, "", problem, "name a smaller file", code=Exit.UNSAFE)
    loader = None
    try:
        loader = _Loader(text, most, number_keys)
        return loader.get_single_data()
    except _Mistake as error:
        raise SsodError(source, f"line {error.line}", error.problem, error.fix, code=error.code) from None
    except SsodError as error:
        raise SsodError(source, "", error.problem, error.fix, code=error.code) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark else ""
        raise SsodError(source, line, f"not valid YAML ({getattr(error, 'problem', error)})", "mend it") from None
    except (RecursionError, ValueError, OverflowError) as error:  # of pyyaml's own: an escape beyond Unicode, say
        reason = "nested too deeply" if isinstance(error, RecursionError) else f"not valid YAML ({error})"
        code = Exit.UNSAFE if isinstance(error, RecursionError) else Exit.USAGE
        raise SsodError(source, "", reason, "flatten it" if code == Exit.UNSAFE else "mend it", code=code) from None
    finally:
        if loader is not None:
            loader.dispose()


def dump_yaml(value: Any, **style: Any) -> str:
    """Write plain values, keys in their order, so that this reader and others read the same; ``style`` as in pyyaml.

    Letters of any language stay letters: a file for the text is to be written as UTF-8, as ``read_yaml`` reads it.
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style)
