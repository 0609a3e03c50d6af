"""Reading text and JSON that someone else wrote: what can be wrong with the file as a whole."""

from __future__ import annotations

import codecs
import difflib
import gc
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ssod.data.formats.findings import Context, short
from ssod.data.formats.paths import inside
from ssod.utils.errors import Exit

# What an integer beyond the interpreter's digit limit is read as: out of range for every column.
TOO_LONG = 1 << 63

# COCO's masks are most of a file and no detector here reads them; they are dropped object by object while parsing,
# which halves the memory. Where the area beside a mask is odd the mask is kept, for its own, and where there is no box.
UNREAD = ("segmentation", "keypoints", "caption", "imageData")


def nearest(path: str) -> str:
    """Return ``; nearest match 'x'`` for a missing path, or nothing."""
    folder, name = os.path.split(path)
    try:
        close = difflib.get_close_matches(name, os.listdir(folder or "."), n=1)
    except OSError:
        return "; its folder does not exist either"
    return f"; nearest match {short(close[0])}" if close else ""


def read_bytes(path: str, ctx: Context, field: str, root: str | None = None) -> bytes:
    """Read a whole regular file, or raise one SsodError that says why not.

    Args:
        path: the file.
        ctx: rules and findings.
        field: what of the config led to it, for messages.
        root: folder of the data set that says where the file is; no link may lead out of it. None = the user named it.
    """
    fatal = ctx.findings.fatal
    try:
        if root is not None and not ctx.rules.allow_symlinks and not inside(root, path):
            fix = "set data.allow_symlinks=true to accept it"
            raise fatal("S03", path, field, f"resolves outside {short(root)}; refused", fix, code=Exit.UNSAFE)
        if not stat.S_ISREG(os.stat(path).st_mode):
            code = Exit.DATA if os.path.isdir(path) else Exit.UNSAFE
            raise fatal("S06", path, field, "not a regular file; refused", f"fix {field}", code=code)
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise fatal("D01", path, field, f"not found{nearest(path)}", f"fix {field}") from None
    except (OSError, ValueError) as error:
        raise fatal("D01", path, field, f"cannot be read ({error})", f"fix {field}") from None
    if not data:
        raise fatal("D02", path, field, "empty file", "download or copy it again")
    return data


def read_text(path: str, ctx: Context, field: str, root: str | None = None) -> str:
    """Read UTF-8 text, with or without a byte-order mark; arguments as of ``read_bytes``."""
    data = read_bytes(path, ctx, field, root)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:4]:
        raise ctx.findings.fatal("D05", path, field, "UTF-16 or UTF-32 is not supported", "save it as UTF-8")
    if data.startswith(codecs.BOM_UTF8):
        ctx.findings.repaired("D05", path, field, "UTF-8 byte-order mark ignored")
        data = data[len(codecs.BOM_UTF8) :]
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: byte 0x{data[error.start]:02x} at {error.start}"
        raise ctx.findings.fatal("D05", path, field, problem, "save it as UTF-8") from None


def read_json(path: str, ctx: Context, field: str) -> dict[str, Any]:
    """Read a JSON object; keypoints are left out, and masks unless the area beside them is odd.

    Raises:
        SsodError: no such file, empty, not JSON, cut off, nested too deep, a key twice, or not an object.
    """
    top = read_any_json(path, ctx, field)
    if isinstance(top, dict):
        return top
    if isinstance(top, list) and top and isinstance(top[0], dict) and "score" in top[0]:
        problem = "is a COCO results list, expected an object with images, annotations and categories"
        raise ctx.findings.fatal("D06", path, field, problem, "give the annotation file")
    raise ctx.findings.fatal("D06", path, field, f"top level is {kind(top)}, expected an object", "give a COCO file")


def read_any_json(path: str, ctx: Context, field: str) -> Any:
    """Read JSON, whatever its top level is; else as ``read_json``."""
    text = read_text(path, ctx, field)
    repeated: list[tuple[dict, str, Any, Any]] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) != len(pairs):
            repeated.append((row, *_first_repeated(pairs)))
        mask = row.get("segmentation") if _needs_mask(row) else None
        for key in UNREAD:
            row.pop(key, None)
        if mask is not None:
            row["segmentation"] = mask
        return row

    top = _parse(text, build, path, ctx, field)
    for row, key, first, second in repeated:
        ctx.findings.error(
            "D13",
            path,
            _locate(top, row),
            f"duplicate key {short(key)} ({short(first, 20)}, {short(second, 20)})",
            "keep one",
        )
    ctx.findings.raise_first()
    return top


def _needs_mask(row: dict[str, Any]) -> bool:
    """Return whether an annotation has no box, or states an area that it hardly has: its mask may tell a better one."""
    area, box = row.get("area"), row.get("bbox")
    if box is None or box == []:
        return True
    try:
        return not max(box[2], box[3], 2) / 2 <= area <= 1.1 * (box[2] + 1) * (box[3] + 1)
    except (
        TypeError,
        IndexError,
        KeyError,
        OverflowError,
    ):  # no annotation, or one that is told when its numbers are read
        return False


def _parse(text: str, build: Any, path: str, ctx: Context, field: str) -> Any:
    fatal = ctx.findings.fatal
    try:
        with _no_garbage_collection():
            try:
                return json.loads(text, object_pairs_hook=build)
            except json.JSONDecodeError:
                raise
            except ValueError:  # an integer with more digits than the interpreter converts; rare, so parsed twice
                return json.loads(text, object_pairs_hook=build, parse_int=_bounded_int)
    except RecursionError:
        problem = f"nesting deeper than 100 at byte {_depth_exceeded(text)}"
        raise fatal("D10", path, field, problem, "this is not a COCO file") from None
    except json.JSONDecodeError as error:
        raise fatal(*_not_json(text, error, path, field)) from None


def _not_json(text: str, error: json.JSONDecodeError, path: str, field: str) -> tuple[str, str, str, str, str]:
    head = text[:200].lstrip()
    if head.startswith("version https://git-lfs"):
        return "D04", path, field, "not JSON: looks like a Git LFS pointer", "run git lfs pull"
    if head.startswith("<"):
        return "D04", path, field, "not JSON: looks like an HTML page", "download the file itself"
    place = f"invalid JSON at line {error.lineno} col {error.colno}"
    if (
        error.msg.startswith("Unterminated")
        or error.pos >= len(text.rstrip())
        or not text.rstrip().endswith(("}", "]"))
    ):
        return "D03", path, field, f"{place}, end of file reached", "truncated? copy it again"
    return "D03", path, field, f"{place}: {error.msg}", "mend or write it again"


def _bounded_int(digits: str) -> int:
    return int(digits) if len(digits) <= 20 else TOO_LONG


def _first_repeated(pairs: list[tuple[str, Any]]) -> tuple[str, Any, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            return key, seen[key], value
        seen[key] = value
    raise AssertionError("called for repeated keys only")


def _locate(top: Any, row: dict) -> str:
    """Name the place of an object inside the file, e.g. ``images[3]``."""
    for name, value in top.items() if isinstance(top, dict) else [("top level", top)]:
        if isinstance(value, list):
            for i, item in enumerate(value):
                if item is row:
                    return f"{name}[{i}]"
        elif value is row:
            return name
    return "top level" if top is row else "inner object"


def _depth_exceeded(text: str, limit: int = 100) -> int:
    """Return the position of the bracket that first nests deeper than ``limit``; brackets in strings do not count."""
    depth, quoted, escaped = 0, False, False
    for position, char in enumerate(text):
        if quoted:
            quoted, escaped = escaped or char != '"', char == "\\" and not escaped
        elif char == '"':
            quoted = True
        elif char in "[{":
            depth += 1
            if depth > limit:
                return position
        elif char in "]}":
            depth -= 1
    return len(text)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A million new objects and no cycles: the collector would only walk them over and over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def kind(value: Any) -> str:
    """Return JSON's name of a value's type."""
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "list", dict: "object"}
    return names.get(type(value), type(value).__name__)
