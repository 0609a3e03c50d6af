"""What ``ssod init`` writes where the data have errors: a config that names them, and is not fitted to them.

It is there for ``ssod check``, and for keys that the data need (``data.labeled.box_format``). The next ``ssod init``
may replace it as long as nobody edited it, which its last line tells.
"""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Any

from ssod.commands.init.text import lines_of
from ssod.utils.errors import Exit, SsodError
from ssod.utils.recipes import Recipe

_SEAL = "# not fitted, not edited: "


def in_the_data(error: SsodError) -> bool:
    """Return whether an error is one of files that people mend, and not of what they asked for."""
    return error.code == Exit.DATA and error.file != "command line"


def compose_unfitted(out: Path, section: dict[str, Any], recipe: Recipe) -> str:
    """Return the text of a config for data that cannot be read yet: the recipe's numbers alone."""
    file = shlex.quote(str(out))
    return f"""\
# {recipe.detector}, {recipe.method}. The data have errors: ssod check {file} lists them all. Once they are mended,
# ssod init writes this anew: sizes, batch, steps and rate are those of configs/data/{recipe.data}.yaml here.
recipe: {{method: {recipe.method}, detector: {recipe.detector}, data: {recipe.data}}}

data:{" # move the folder and only `root` changes" if "root" in section else ""}
{lines_of(section)}
"""


def sealed(text: str) -> str:
    """Return a text with a last line that says what is above it."""
    return f"{text}{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n"


def refuse_taken(out: Path) -> None:
    """Take away a sealed file that nobody edited, and refuse any other.

    Raises:
        SsodError: the file is there, and somebody's.
    """
    if not out.exists():
        return
    text = out.read_text("utf-8", errors="replace") if out.is_file() and out.stat().st_size < 1 << 20 else ""
    body, found, _ = text.rpartition(_SEAL)
    if not found or sealed(body) != text:
        raise SsodError(out, "", "exists", "choose another name, or remove it first")
    out.unlink()
