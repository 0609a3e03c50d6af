"""Reading what ``torch.save`` wrote: tensors and plain values; no code in the file can run."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from ssod.utils import untrusted
from ssod.utils.errors import Exit, SsodError
from ssod.utils.untrusted import MB, Source


def read(path: Path, fix: str) -> Any:
    """Return what a file holds, on the CPU.

    A wrong byte may show itself as nearly any error of torch's unpickler: whatever it raises is the file's fault.

    Args:
        path: a file of torch's, in its zip format or the older one.
        fix: what to do about a file that wants more than tensors.

    Raises:
        SsodError: code 4, it is absent or damaged; code 7, it wants more than tensors, or unpacks to more than it is.
    """
    damaged = Source(path, "copy it again", Exit.CHECKPOINT)
    try:
        size = untrusted.regular_size(damaged)
        if zipfile.is_zipfile(path):  # torch packs nothing, so that nothing can grow
            with zipfile.ZipFile(path) as archive:
                whole = sum(member.file_size for member in archive.infolist())
            if whole > size:
                problem = f"{size / MB:.0f} MB that unpack to {whole / MB:.0f} MB; refused"
                raise SsodError(path, "", problem, "name a file that torch wrote: it packs nothing", code=Exit.UNSAFE)
        return torch.load(path, map_location="cpu", weights_only=True)
    except SsodError:
        raise
    except OSError as error:
        raise damaged.error("", f"cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        # torch's own message advises to load the file all the same.
        needs = re.search(r"GLOBAL ([\w.]+)", str(error))
        problem = f"not a weights-only file: needs {needs[1]!r}" if needs else "not a file of weights"
        raise SsodError(path, "", problem, fix, code=Exit.UNSAFE) from error
    except Exception as error:
        problem = f"cannot be read: {type(error).__name__}: {str(error).strip()[:100]}"
        raise damaged.error("", problem) from error
