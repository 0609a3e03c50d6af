"""A folder that a command fills: new, apart from the images that were read, and whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssod.data.formats.folder import before_wildcard
from ssod.data.formats.records import Images
from ssod.utils import atomic
from ssod.utils.errors import Exit, SsodError


def refuse_taken(out: Path) -> None:
    """Refuse anything but a new or an empty folder.

    Raises:
        SsodError: naming it.
    """
    try:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise atomic.refused(out, error) from None
    if taken:
        raise SsodError(out, "", "exists; nothing is written over", "name a new or an empty folder with -o")


def refuse_inside(out: Path, images: str | os.PathLike) -> None:
    """Refuse a folder in which the same search would find what was written there.

    Args:
        out: where pictures are to go.
        images: the image, folder, glob or list that a user named.
    """
    root, pattern = before_wildcard(os.path.abspath(images))
    deep = os.sep in pattern if pattern else os.path.isdir(root)
    root = os.path.realpath(root)
    if deep and os.path.commonpath([root, os.path.realpath(out)]) == root:
        problem = "lies in the image folder: the next run would read what this one writes"
        raise SsodError(out, "", problem, f"name a folder outside {root} with -o")


def refuse_shared(images: Images, name: Callable[[str], str], what: str, fix: str) -> None:
    """Refuse images of which two would be written to one file.

    Args:
        images: all of them.
        name: the file that belongs to a path.
        what: what that file is, for the message.
        fix: what to do.
    """
    counts = Counter(map(name, images.paths))
    shared = next((path for path, key in zip(images.paths, map(name, images.paths)) if counts[key] > 1), None)
    if shared is not None:
        first, second = [path for path in images.paths if name(path) == name(shared)][:2]
        problem = f"{first!r} and {second!r} would share one {what}"
        raise SsodError(images.root, "", problem, fix, code=Exit.DATA)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give a temporary folder below ``folder``; what is written there comes to ``folder`` at the end, or is removed.

    It lies inside, so that a folder that is a mount of its own can be filled by renaming.

    Args:
        folder: made if there is none; what is in it stays as it is.

    Raises:
        SsodError: with code 6 when the disk refuses, also within the block, or a file has come to lie there meanwhile.
    """
    new = not folder.exists()
    stage: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder))
        yield stage
        _publish(stage, folder)
    except OSError as error:
        raise atomic.refused(Path(error.filename or folder), error) from error
    except KeyboardInterrupt:
        print(f"interrupted: nothing was written to {folder}", file=sys.stderr)
        raise
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        if new:
            with suppress(OSError):  # it is filled, or was never made
                folder.rmdir()


def _publish(stage: Path, folder: Path) -> None:
    names = sorted(os.listdir(stage))
    for name in names:
        if os.path.lexists(folder / name):
            raise FileExistsError(errno.EEXIST, "", str(folder / name))
    for name in names:
        os.rename(stage / name, folder / name)
