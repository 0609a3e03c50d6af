"""Reading ``.npz`` files that may be damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

import numpy as np

from ssod.utils.errors import Exit, SsodError


@contextlib.contextmanager
def reading(path: Path, fix: str) -> Generator[np.lib.npyio.NpzFile, None, None]:
    """Open a file for as long as its content is taken out of it.

    A wrong byte may show itself as nearly any error: of the archive, of zlib, of numpy's header, of JSON, as an entry
    that is not there or that does not fit. Whatever is raised in here is therefore the file's fault.

    Args:
        path: the file.
        fix: what the user can do.

    Raises:
        SsodError: code 3, absent or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except Exception as error:
        problem = f"cannot be read: {type(error).__name__}: {error}"
        raise SsodError(path, "", problem, fix, code=Exit.DATA) from None
