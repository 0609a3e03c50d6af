"""File names found in data files: which are refused, and how one becomes a path that cannot leave its folder.

Data sets are downloaded from strangers. A name in them may be ``../../etc/passwd``, ``/dev/zero``, a URL or a symbolic
link to anywhere. Names are checked as text when a data set is read, a million of them in a second and without touching
the disk; the file itself is checked by ``safe_join`` when it is opened.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Sequence

from ssod.data.formats import remote
from ssod.data.formats.findings import Context, short
from ssod.utils.errors import Exit, SsodError

# Longest path and longest single name that common file systems take, in bytes.
MAX_PATH, MAX_NAME = 4095, 255
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def name_problem(name: str, root: str) -> tuple[str, str, str] | None:
    """Say why ``name`` must not be opened below ``root``: (id, problem, fix), or None for a plain relative name."""
    if "\0" in name:
        return "S05", "illegal file name (NUL byte)", "fix the name"
    if not _encodable(name):
        return "S05", "illegal file name (not valid Unicode)", "fix the name"
    if len(name.encode()) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in name.split("/")):
        return "S05", f"illegal file name ({len(name)} characters)", "fix the name"
    if re.match(r"[A-Za-z]:[\\/]", name) or "\\" in name:
        return "S07", "backslash or drive in the path; refused", "use '/' and paths relative to the image folder"
    if _SCHEME.match(name):
        return "S04", "URL not allowed; ssod opens local files only", "download it and use its relative path"
    if name.startswith("/"):
        return "S02", "absolute path not allowed; refused", "use paths relative to the image folder"
    if ".." in name.split("/"):
        return "S01", f"leaves root {short(root)}; refused", "use paths below the image folder"
    return None


def plain_name(name: str, root: str = "") -> str:
    """Return a file's name as it is written everywhere here: relative to ``root`` where it lies below, without ``./``.

    ``..`` stays: whoever opens the file refuses it.
    """
    if root and name.startswith("/"):
        name = name.removeprefix(os.path.join(root, ""))
    if "./" not in name and "//" not in name:
        return name
    parts = name.split("/")
    return "/".join(part for i, part in enumerate(parts) if part not in ("", ".") or (i == 0 and part == ""))


def same_text(text: str) -> str:
    """Return a name in the one form in which Unicode's several spellings of the same letters are equal (NFC)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def unsafe_names(names: Sequence[str], root: str) -> dict[int, tuple[str, str, str]]:
    """Return what ``name_problem`` says of each name that must not be opened, by its number."""
    text = "\n".join(names)
    suspicious = ("\0", "\\", "..", ":/", "\n/")
    plain = not text.startswith("/") and not any(mark in text for mark in suspicious) and _encodable(text)
    if plain and max(map(len, names), default=0) <= MAX_NAME // 4:  # UTF-8 takes up to 4 bytes a character
        return {}
    problems = ((row, name_problem(name, root)) for row, name in enumerate(names))
    return {row: problem for row, problem in problems if problem is not None}


def refuse_unsafe(names: Sequence[str], root: str, file: str, field: str, ctx: Context) -> None:
    """Record an error for every name that is refused; ``field`` is a pattern such as ``images[{}].file_name``."""
    for row, (id, text, fix) in unsafe_names(names, root).items():
        ctx.findings.error(id, file, field.format(row), f"{short(names[row])}: {text}", fix, code=Exit.UNSAFE)


def safe_join(root: str, name: str, *, allow_symlinks: bool = False) -> str:
    """Return the path of the regular file ``name`` below ``root``; call it whenever an image is opened.

    ``root`` itself may be a symbolic link. With ``allow_symlinks`` links below it may lead out of it. Where ``root``
    stands for a folder that lies elsewhere, the file is fetched first (``ssod.data.formats.remote``).

    Raises:
        SsodError: exit 7 if the name is not a plain relative one, resolves outside ``root``, or is no regular file (a
            FIFO, a device, a folder: opening one could block for ever); exit 3 if there is no such file or it must
            not be read.
    """
    problem = name_problem(name, root)
    if problem is not None:
        raise SsodError(root, short(name), problem[1], problem[2], code=Exit.UNSAFE)
    if remote.is_remote(root):
        return remote.fetch(root, name)
    path = os.path.join(root, name)
    if not allow_symlinks and not inside(root, path):
        raise SsodError(
            root, short(name), "resolves outside root", "set data.allow_symlinks=true to accept it", code=Exit.UNSAFE
        )
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        raise SsodError(root, short(name), "permission denied", "chmod it", code=Exit.DATA) from None
    except OSError:
        raise SsodError(root, short(name), *absent(root, name), code=Exit.DATA) from None
    if not stat.S_ISREG(mode):
        raise SsodError(root, short(name), "not a regular file; refused", "remove it", code=Exit.UNSAFE)
    return path


def inside(root: str, path: str) -> bool:
    """Return whether ``path`` lies below ``root`` once links are resolved; it need not exist."""
    base = os.path.realpath(root)
    return os.path.realpath(path).startswith(os.path.join(base, ""))


class Opener:
    """Gives the paths of many files below ``root`` that may be opened: what ``safe_join`` says, for a fraction of it.

    Args:
        root: the folder.
        allow_symlinks: whether links below it may lead out of it.
    """

    def __init__(self, root: str, *, allow_symlinks: bool) -> None:
        self.root, self.allow_symlinks = root, allow_symlinks
        self.remote = remote.is_remote(root)
        self._plain: dict[str, bool] = {}  # folder -> whether no link leads to it

    def path(self, name: str) -> str | None:
        """Return the path of the regular file ``name``; None where it is absent or must not be opened."""
        folder = name.rpartition("/")[0]
        if folder not in self._plain:
            target = os.path.normpath(os.path.join(os.path.realpath(self.root), folder))
            self._plain[folder] = (
                name_problem(f"{folder}/x" if folder else "x", self.root) is None
                and os.path.realpath(os.path.join(self.root, folder)) == target
            )
        path = os.path.join(self.root, name)
        try:
            if (
                not self.remote
                and self._plain[folder]
                and name_problem(name, self.root) is None
                and stat.S_ISREG(os.lstat(path).st_mode)
            ):
                return path
            return safe_join(self.root, name, allow_symlinks=self.allow_symlinks)
        except (OSError, ValueError, SsodError):
            return None


def absent(root: str, name: str) -> tuple[str, str]:
    """Say that a file is not there, and name one that differs only in case."""
    folder, _, base = name.rpartition("/")
    try:
        same = same_text(base).casefold()
        twins = [other for other in os.listdir(os.path.join(root, folder)) if same_text(other).casefold() == same]
    except OSError:
        twins = []
    if twins:
        return f"not found, but {short(twins[0])} exists (case)", "rename one of them"
    return f"not found under {short(root)}", "fix the path or fetch the file"
