"""A folder that a command fills: new, apart from the images that were read, and whole or not there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssod.data.formats.folder import before_wildcard
from ssod.data.formats.records import Images
from ssod.utils import atomic
from ssod.utils.address import refuse_url
from ssod.utils.errors import Exit, SsodError
from ssod.utils.signals import Ended, ended_by_sigterm

_PREFIX = ".tmp-ssod-"  # of folders that a command fills; whole names are taken from them at its end
_MOVING = ".moving.json"


def refuse_taken(out: Path) -> None:
    """Refuse anything but a new or an empty folder; what a killed command left in it goes.

    Raises:
        SsodError: naming it.
    """
    try:
        sweep(out)
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

    It lies inside, so that a folder that is a mount of its own can be filled by renaming. Ctrl-C and SIGTERM remove it;
    what a kill leaves is removed by the next call.

    Args:
        folder: made if there is none; what is in it stays as it is.

    Raises:
        SsodError: with code 6 when the disk refuses, also within the block, or a file has come to lie there meanwhile;
            code 130 or 75: the process was interrupted, or ended by a scheduler (SIGTERM); code 2, it is an address.
    """
    refuse_url(folder)
    new = not folder.exists()
    stage: Path | None = None
    handle: int | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        stage = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        handle = os.open(stage, os.O_RDONLY)
        atomic.lock(handle)  # whoever sweeps sees that somebody works here
        with ended_by_sigterm():
            yield stage
        _publish(stage, folder)
    except OSError as error:
        raise atomic.refused(Path(error.filename or folder), error) from error
    except KeyboardInterrupt:
        raise SsodError(folder, "", "interrupted, nothing was written", "run it again", code=Exit.INTERRUPTED) from None
    except Ended:
        raise SsodError(folder, "", "stopped, nothing was written", "run it again", code=Exit.PREEMPTED) from None
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        if handle is not None:
            os.close(handle)
        if new:
            with suppress(OSError):  # it is filled, or was never made
                folder.rmdir()


def _publish(stage: Path, folder: Path) -> None:
    """Move what is in ``stage``; a list in it says what, for ``sweep``, if the process is killed half way."""
    names = sorted(os.listdir(stage))
    for name in names:
        if os.path.lexists(folder / name):
            raise FileExistsError(errno.EEXIST, "", str(folder / name))
    atomic.write_text(stage / _MOVING, json.dumps({name: os.lstat(stage / name).st_ino for name in names}))
    for name in names:
        os.rename(stage / name, folder / name)


def sweep(folder: Path) -> None:
    """Remove what killed commands left in a folder: their temporary folders, and what they had not yet moved whole."""
    for stage in folder.glob(f"{_PREFIX}*") if folder.is_dir() else ():
        if stage.is_symlink() or not atomic.is_abandoned(stage):
            continue
        with suppress(OSError, ValueError, AttributeError):  # it was killed before it moved anything
            for name, inode in json.loads((stage / _MOVING).read_text()).items():
                there = folder / os.path.basename(name)
                if os.lstat(there).st_ino == inode:  # it is what was moved, whoever wrote the list
                    shutil.rmtree(there) if there.is_dir() and not there.is_symlink() else there.unlink(missing_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
