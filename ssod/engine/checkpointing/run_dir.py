"""One run's folder: its files by name, and the lock that keeps a second process out."""

import contextlib
import fcntl
import json
import logging
import os
import platform
import socket
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torchvision

from ssod.engine.checkpointing import checkpoint
from ssod.utils import atomic, distributed
from ssod.utils.address import refuse_url
from ssod.utils.errors import Exit, SsodError
from ssod.utils.yaml_io import dump_yaml
from ssod.version import __version__

T = TypeVar("T")


class RunFolder:
    """``runs/<stem>/<name>``, entered for as long as the run lasts.

    Entering takes the lock and leaving releases it. In between, ``begin`` says that the run goes on: only from then on
    does the folder change, ``exit.json`` on leaving included, so that a checkpoint which does not fit costs a finished
    run nothing. A folder without a checkpoint has nothing to keep and begins at once.

    Rank 0 alone touches the disk, but for the ``exit.json`` of a rank that fails: torchrun reports 1 for whatever code
    a process ends with.

    Attributes:
        path: the folder.
        checkpoints, eval, vis, tb: folders inside it, made when first needed (``checkpoints``: at once).
        best: the model file of the best teacher.
        metrics, log, exit: ``metrics.jsonl``, ``train.log``, ``exit.json``.
        burn_in: ``burn_in.json``, whose burn-in the run began with; see ``checkpointing.burn_in``.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.checkpoints, self.eval, self.vis, self.tb = (self.path / n for n in ("checkpoints", "eval", "vis", "tb"))
        self.best, self.report = self.path / "best.safetensors", self.path / "report.html"
        self.metrics, self.log, self.exit = (self.path / n for n in ("metrics.jsonl", "train.log", "exit.json"))
        self.burn_in = self.path / "burn_in.json"
        self._lock: int | None = None
        self._begun = False
        self._found = True  # whether anything was there before it was entered

    @classmethod
    def create(cls, runs: Path | str, stem: str, name: str | None = None) -> Self:
        """Make a new folder ``runs/stem/name``, with ``-2``, ``-3``, ... where the name is taken.

        Args:
            runs: parent of all runs.
            stem: the config file's name without its ending.
            name: the run's name; None = the time.
        """

        def make() -> str:
            parent = Path(runs) / stem
            wanted = name or time.strftime("%Y%m%d-%H%M%S")
            n = 1
            while True:
                path = parent / (wanted if n == 1 else f"{wanted}-{n}")
                try:
                    path.mkdir(parents=True)
                except FileExistsError:
                    n += 1
                except OSError as error:
                    raise atomic.refused(path, error) from error
                else:
                    return str(path)

        return cls(distributed.on_rank_zero(make))

    @property
    def resumable(self) -> bool:
        """Whether a checkpoint is there."""
        return checkpoint.exists(self.checkpoints)

    @property
    def finished(self) -> bool:
        """Whether the last process that trained here ended well."""
        try:
            return json.loads(self.exit.read_text())["code"] == Exit.OK
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False

    def __enter__(self) -> Self:
        self._found = distributed.on_rank_zero(self._take)
        self._begun = False
        if not distributed.on_rank_zero(lambda: self.resumable):
            distributed.on_rank_zero(lambda: self.burn_in.unlink(missing_ok=True))
            self.begin()
        return self

    def begin(self) -> None:
        """Declare the run to be going on: ``exit.json`` of its last end goes, and leaving will write a new one."""
        distributed.on_rank_zero(lambda: self.exit.unlink(missing_ok=True))
        self._begun = True

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if not self._begun:
                return
            if error is None or not distributed.is_lost_peer(error):
                # Any rank that fails by itself says so; one that merely lost another does not talk over it.
                if error is not None or self._lock is not None:
                    self.write_exit(error)
            elif self._lock is not None:
                time.sleep(1.0)
                if not self.exit.exists():
                    self.write_exit(error)
        except SsodError:
            if error is None:
                raise
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def or_discard(self, work: Callable[[], T]) -> T:
        """Do ``work``; where it is refused the run never began, and a folder that held nothing before is not left."""
        try:
            return work()
        except SsodError:
            self._begun = self._begun and self._found
            if not self._found and self._lock is not None:
                for path in (self.checkpoints, self.path / ".lock", self.path):
                    with contextlib.suppress(OSError):  # the shell's own log may lie there
                        path.rmdir() if path.is_dir() else path.unlink()
            raise

    def write_exit(self, error: BaseException | None) -> None:
        """Write ``exit.json``: the exit code that ``error`` means, its name, the message and the time."""
        code = Exit.OK if error is None else getattr(error, "code", Exit.BUG)
        if isinstance(error, KeyboardInterrupt):
            code = Exit.INTERRUPTED
        elif error is not None and distributed.is_lost_peer(error):
            code = Exit.DISTRIBUTED
        line = None if error is None else str(error) or type(error).__name__
        line = "interrupted" if isinstance(error, KeyboardInterrupt) else line
        self.write_json(self.exit, {"code": int(code), "name": Exit(code).name, "error": line, "time": _now()})

    def write_json(self, path: Path, content: object) -> None:
        """Write ``content`` to ``path``, a file of this folder, all or nothing."""
        atomic.write_text(path, json.dumps(content, indent=1) + "\n")

    def write_inputs(
        self,
        config: Mapping[str, Any],
        split: Mapping[str, Any] | None = None,
        libraries: Mapping[str, str] | None = None,
    ) -> None:
        """Write ``config.yaml`` (resolved), ``env.json`` and ``split.json``: all that says what ran.

        Args:
            config: resolved, plain values.
            split: what ``split.json`` says; None = the file is not written.
            libraries: what more ``env.json`` says, use -> name and version.
        """

        def files() -> None:
            atomic.write_text(self.path / "config.yaml", dump_yaml(dict(config)))
            self.write_json(self.path / "env.json", environment() | dict(libraries or {}))
            if split is not None:
                self.write_json(self.path / "split.json", dict(split))

        distributed.on_rank_zero(files)

    def _take(self) -> bool:
        """Make the folder and lock it, or say who has it; return whether it held anything before.

        Raises:
            SsodError: code 6, locked or not to be written; code 2, it holds files and no run, or is an address.
        """
        refuse_url(self.path)
        self._refuse_foreign()
        found = self.path.exists() and any(self.path.iterdir())
        lock = self.path / ".lock"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise atomic.refused(self.path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise SsodError(
                self.path, "", f"locked by {owner}", "wait for it, or use another run name", code=Exit.IO
            ) from None
        except OSError as error:  # a network file system without locks
            reason = os.strerror(error.errno) if error.errno else str(error)
            problem = f"cannot be locked ({reason}); no second process is kept out"
            logging.getLogger("ssod").warning(f"{self.path}: {problem}")
        try:
            os.ftruncate(handle, 0)
            os.write(handle, f"pid {os.getpid()} on host {socket.gethostname()} since {_now()}".encode())
        except OSError as error:
            os.close(handle)
            raise atomic.refused(lock, error) from error
        self._lock = handle
        _close_in_children(self)
        for folder in (self.path, self.checkpoints):
            atomic.sweep(folder)
        return found

    def _refuse_foreign(self) -> None:
        """Leave alone a folder that is neither empty nor a run's; a run has a lock from its first moment on.

        A file that this process's own output goes to (``ssod train ... -o runs/x > runs/x/log``) counts as nothing.
        """
        if self.resumable or any((self.path / name).exists() for name in (".lock", "env.json")):
            return
        files = (*self.path.glob("*"), *self.checkpoints.glob("*"))
        strange = (f for f in files if f != self.checkpoints and not _is_own_output(f))
        found = min((str(f.relative_to(self.path)) for f in strange), default=None)
        if found is not None:
            problem = f"holds {found!r} and is no run folder; nothing is written into it"
            raise SsodError(self.path, "", problem, "name an empty or a new folder with -o")


def _is_own_output(path: Path) -> bool:
    """Return whether standard output or standard error of this process is the file ``path``."""
    for handle in (1, 2):
        try:
            if os.path.samestat(os.fstat(handle), path.stat()):
                return True
        except OSError:  # closed, or a dangling link
            continue
    return False


def _close_in_children(folder: RunFolder) -> None:
    """Let forked data workers drop their copy of the lock, so that it falls with this process, however it ends."""
    owner = weakref.ref(folder)

    def close() -> None:
        folder = owner()
        if folder is not None and folder._lock is not None:
            os.close(folder._lock)
            folder._lock = None

    os.register_at_fork(after_in_child=close)


def environment() -> dict[str, Any]:
    """Return what the numbers of a run may depend on besides its config: versions, machine, devices."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "ssod": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "command": sys.argv,
        "time": _now(),
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
