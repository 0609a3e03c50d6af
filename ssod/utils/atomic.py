"""Files that are either whole or not there: the one way in which anything a run depends on is written.

``SSOD_FAILPOINT=name:count:kill|raise`` is a test aid: the ``count``-th time the process passes the failpoint ``name``
it dies by SIGKILL, or meets an ``OSError``. Names are ``<label>.<point>`` with the points of ``POINTS`` in their order;
checkpoints have the label ``ckpt``, model files ``model``.
"""

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ssod.utils.address import refuse_url
from ssod.utils.errors import Exit, SsodError

POINTS = (
    "before_open", "after_open", "before_write", "after_write", "after_flush", "after_fsync", "after_keep",
    "before_replace", "after_replace", "after_dir_fsync",
)  # fmt: skip
_PREFIX = ".tmp-"
_passed: Counter[str] = Counter()  # how often each failpoint was met; only ever touched while SSOD_FAILPOINT is set


def write(
    path: Path,
    fill: Callable[[BinaryIO], object],
    *,
    previous: Path | None = None,
    new: bool = False,
    label: str = "file",
) -> None:
    """Replace ``path`` by what ``fill`` writes, or leave it as it was, whatever happens in between.

    The bytes go to a temporary file in the same folder, are forced to the disk, and only then take the name. What a
    killed process left of the same name goes first.

    Args:
        path: the file; its folder is made if there is none.
        fill: writes the content to an open binary file; what it returns is not looked at.
        previous: where the old content of ``path`` goes; None = it is given up.
        new: refuse a ``path`` that is there, also one that came meanwhile.
        label: the first part of the failpoints' names.

    Raises:
        SsodError: with code 6 when the disk refuses (full, read-only, too large); code 2, ``path`` is an address.
    """
    refuse_url(path)
    temporary = path.with_name(f"{_PREFIX}{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f"{_PREFIX}{glob.escape(path.name)}-*"):
            if is_abandoned(leftover):
                _remove(leftover)
        failpoint(f"{label}.before_open")
        with open(temporary, "wb") as file:
            lock(file.fileno())
            failpoint(f"{label}.after_open")
            failpoint(f"{label}.before_write")
            fill(file)
            failpoint(f"{label}.after_write")
            file.flush()
            failpoint(f"{label}.after_flush")
            os.fsync(file.fileno())
        failpoint(f"{label}.after_fsync")
        if previous is not None and path.exists():
            # Between these two renames `path` is absent, but `previous` is whole: a reader finds it.
            os.replace(path, previous)
            failpoint(f"{label}.after_keep")
        failpoint(f"{label}.before_replace")
        _take_new_name(temporary, path) if new else os.replace(temporary, path)
        failpoint(f"{label}.after_replace")
        _sync_folder(path.parent)
        failpoint(f"{label}.after_dir_fsync")
    except OSError as error:
        raise refused(path, error) from error
    finally:
        _remove(temporary)


def write_text(path: Path, text: str, *, new: bool = False) -> None:
    """Write UTF-8 text as ``write`` does."""
    write(path, lambda file: file.write(text.encode()), new=new)


def _take_new_name(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without second names
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "", str(path)) from None
        os.replace(temporary, path)


def lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed; False where somebody else has, or the disk knows no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_abandoned(path: Path) -> bool:
    """Return whether no process has locked a temporary file or folder any more; False where that cannot be known."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return lock(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> int:
    """Remove the temporary files that a killed process left in ``folder``; return how many."""
    leftovers = list(folder.glob(f"{_PREFIX}*"))
    for leftover in leftovers:
        _remove(leftover)
    return len(leftovers)


def refused(path: Path, error: OSError) -> SsodError:
    """Say why the disk did not take ``path``, and how much room there is."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    try:
        free = f"; {shutil.disk_usage(path.parent).free / 1e6:.0f} MB free"
    except OSError:
        free = ""
    fix = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "make the folder writable"
    return SsodError(path, "", f"cannot be written: {reason}{free}", fix, code=Exit.IO)


def failpoint(name: str) -> None:
    """Die or fail here if the environment asks for it; see the module's docstring."""
    wanted = os.environ.get("SSOD_FAILPOINT")
    if not wanted:
        return
    point, count, action = wanted.split(":")
    _passed[name] += 1
    if name != point or _passed[name] != int(count):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(errno.EIO, f"failpoint {name}")


def _sync_folder(folder: Path) -> None:
    """Force the folder's entries to the disk, so that a rename survives a power cut; some file systems cannot."""
    with contextlib.suppress(OSError):  # the file is whole and in its place all the same
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a read-only disk: the error that led here is the one to report
        path.unlink(missing_ok=True)
