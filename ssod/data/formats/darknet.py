"""What stands in the place of data.yaml in older YOLO folders: Darknet's ``obj.data``, or a bare ``classes.txt``.

``obj.data`` has a line for each key: ``classes``, ``train``, ``valid``, ``names`` (a file with a name a line). A
``classes.txt`` beside ``images`` and ``labels`` names the classes and nothing else.
"""

from __future__ import annotations

import os
from typing import Any

from ssod.data.formats.findings import Context, short
from ssod.data.formats.jsonfile import read_text

OBJ_DATA, CLASSES = "obj.data", "classes.txt"


def read_obj_data(file: str, ctx: Context) -> dict[str, Any]:
    """Return what ``obj.data`` says, under the keys of data.yaml.

    Raises:
        SsodError: a line without ``=``, a number of classes that is none, or a file of names that is not there.
    """
    said: dict[str, str] = {}
    for number, line in enumerate(
        read_text(file, ctx, f"{ctx.section}.root", os.path.dirname(file)).split("\n"), start=1
    ):
        key, equals, value = map(str.strip, line.partition("="))
        if line.strip() and not equals:
            problem = f"{short(line.strip())}, expected key = value"
            raise ctx.findings.fatal("Y04", file, f"line {number}", problem, "mend the line")
        said[key] = value
    tree: dict[str, Any] = {"train": said.get("train"), "val": said.get("valid")}
    if "classes" in said:
        tree["nc"] = int(said["classes"]) if said["classes"].isdecimal() else said["classes"]
    if said.get("names"):
        places = [os.path.join(os.path.dirname(file), said["names"].removeprefix(cut)) for cut in ("", "data/")]
        there = [place for place in places if os.path.isfile(place)]
        if not there:
            problem = f"{short(said['names'])} not found below {short(os.path.dirname(file))}"
            raise ctx.findings.fatal("Y01", file, "names", problem, "mend the line, or put the file there")
        tree["names"] = read_names(there[0], ctx, os.path.dirname(file))
    return tree


def read_names(file: str, ctx: Context, root: str) -> list[str]:
    """Return the names of a file below ``root`` with a name a line; the last line may end or not."""
    lines = [line.strip() for line in read_text(file, ctx, f"{ctx.section}.root", root).rstrip().split("\n")]
    for number, line in enumerate(lines, start=1):
        if not line:
            ctx.findings.error("D16", file, f"line {number}", "no name", "every line is a class: name it")
    ctx.findings.raise_first()
    return lines
