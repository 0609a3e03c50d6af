"""Images that lie elsewhere (``s3://``, ``gs://``, ``http://``, ...), by fsspec, as files of a folder of this machine.

``listed`` makes an empty folder for a remote one and keeps beside it what the other side said that there is. From then
on it is an image folder like any other: ``safe_join``, through which every image is opened, has ``fetch`` copy a file
that is not there yet. So worker processes and threads need to know nothing. A copy is whole or not there, however many
processes ask for it at once.

The copies lie apart, under a digest of address, size and what else tells versions apart (ETag or time). A folder's name
has a digest of the whole list: where an image is replaced or added, the next run gets a new folder, in which the copies
that are still right take their places as second names of the same files.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, unquote

from ssod.data.formats.image import MAX_PIXELS
from ssod.utils import atomic
from ssod.utils.address import plain_url
from ssod.utils.errors import Exit, SsodError

MAX_BYTES = 4 * MAX_PIXELS  # of an image; a larger file is refused before it is read
SUFFIX = ".ssod-remote"  # of the folders made here
LIST = ".ssod-remote.json"  # in such a folder: address, and name -> [bytes or null, mark]
PAUSES = (0.5, 2.0)  # seconds before a second and a third try: a network's fault is no broken image
PIECE = 1 << 20  # bytes

_VERSION = ("ETag", "etag", "md5Hash", "content_md5", "generation", "mtime", "LastModified", "last_modified", "updated")
_locks = [threading.Lock() for _ in range(64)]  # two threads do not write one copy

T = TypeVar("T")


def cache_folder(folder: str | None = None) -> Path:
    """Return where copies are kept: ``folder``, ``$SSOD_CACHE``, or ``ssod`` in the user's cache folder."""
    if folder or os.environ.get("SSOD_CACHE"):
        return Path(folder or os.environ["SSOD_CACHE"]).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "ssod"


def listed(url: str, cache: str | None, pattern: str = "") -> tuple[str, list[str]]:
    """Ask what files there are below an address.

    Args:
        url: of a folder.
        cache: see ``cache_folder``.
        pattern: a glob below it; "" = all files, at any depth.

    Returns:
        The folder of this machine that stands for it, and the names of the files, sorted.

    Raises:
        SsodError: code 3, it cannot be asked; code 2, fsspec, or what it needs for this protocol, is not installed;
            code 6, the disk refuses.
    """
    url = plain_url(url).rstrip("/")

    def ask() -> dict[str, Any]:
        files, path = _open_side(url)
        files.invalidate_cache()  # this process may have asked before
        base = path.rstrip("/") + "/"
        found = _asked(files, base, pattern, web=_is_web(url))
        rows = {str(name): info for name, info in found.items() if info.get("type") == "file"}
        if _is_web(url):
            base, rows = unquote(base), {unquote(name): info for name, info in rows.items()}
        return {name.removeprefix(base): _told(info) for name, info in rows.items() if name.startswith(base)}

    table = dict(sorted(_tried(url, ask).items()))
    digest = hashlib.sha256(json.dumps([url, table]).encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", url.rpartition("/")[2])[:60]
    root = cache_folder(cache) / f"{name}-{digest}{SUFFIX}"
    if not (root / LIST).exists():
        atomic.write_text(root / LIST, json.dumps({"url": url, "files": table}))
    return str(root), list(table)


def _asked(files: Any, base: str, pattern: str, *, web: bool) -> dict[str, dict[str, Any]]:
    """Return what the other side has below ``base`` that fits a pattern; of a web server, by its names as they read."""
    if not pattern:
        return files.find(base.rstrip("/"), detail=True)
    if not web:
        return files.glob(base + pattern, detail=True)
    from fsspec.utils import glob_translate

    depth = None if "**" in pattern else pattern.count("/") + 1
    found = files.find(base.rstrip("/"), maxdepth=depth, detail=True)
    fits = re.compile(glob_translate(glob.escape(unquote(base)) + unquote(pattern)))
    return {name: info for name, info in found.items() if fits.match(unquote(name))}


def _is_web(url: str) -> bool:
    """Whether names at an address are written as in links: ``a%20b.jpg`` for ``a b.jpg``."""
    return url.lower().startswith(("http://", "https://"))


def is_remote(root: str) -> bool:
    """Whether a folder is one that stands for a remote one."""
    return root.endswith(SUFFIX) and os.path.exists(os.path.join(root, LIST))


def sizes_of(root: str) -> Mapping[str, int]:
    """Return {name: bytes} of the files that a remote folder had when it was listed; 0 where that is not told."""
    with open(os.path.join(root, LIST), encoding="utf-8") as file:
        return {name: size or 0 for name, (size, _) in json.load(file)["files"].items()}


def url_of(root: str) -> str:
    """Return the address that a folder stands for."""
    with open(os.path.join(root, LIST), "rb") as file:  # which may be long, and begins with the address
        return json.loads(file.read(1 << 14).partition(b', "files": ')[0] + b"}")["url"]


def fetch(root: str, name: str) -> str:
    """Return the path of a remote folder's file, copied there if it is not there yet.

    Raises:
        SsodError: code 3, it is not there, too large, or does not come; code 6, the disk refuses.
    """
    target = os.path.join(root, name)
    if os.path.isfile(target):
        return target
    cache, url = Path(root).parent, url_of(root)
    url = f"{url}/{quote(name) if _is_web(url) else name}"
    with _locks[hash(url) % len(_locks)]:
        if not os.path.isfile(target):
            copy = fetched(url, cache)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            _link(copy, target)
    return target


def fetched(url: str, cache: Path) -> Path:
    """Return the copy of a file, made if there is none of this version; see ``fetch``."""
    info = _tried(url, lambda: _info(url))
    size, mark = _told(info)
    if size is not None and size > MAX_BYTES:
        raise _too_large(url, size)
    if size == 0:
        raise _bad(url, "empty file", "copy it there again")
    key = hashlib.sha256(json.dumps([url, size, mark]).encode()).hexdigest()
    copy = cache / "copies" / key[:2] / key
    if not copy.exists():
        _tried(url, lambda: atomic.write(copy, lambda file: _copy(url, file, size), label="copy"))
    return copy


def _copy(url: str, into: BinaryIO, size: int | None) -> None:
    """Copy a file piece by piece.

    Raises:
        SsodError: it is too large; ``_Trouble``: it does not come whole. An ``OSError`` is that of the disk.
    """
    files, path = _open_side(url)
    done = 0
    try:
        source = files.open(path, "rb", cache_type="none") if size else files.open(path, "rb")
    except Exception as error:
        raise _Trouble(error) from None
    with source:
        while True:
            try:
                piece = source.read(PIECE)
            except Exception as error:
                raise _Trouble(error) from None
            if not piece:
                break
            done += len(piece)
            if done > MAX_BYTES:
                raise _too_large(url, done)
            into.write(piece)
    if size is not None and done != size:
        raise _Trouble(EOFError(f"{done} of {size} bytes came"))
    if not done:
        raise _bad(url, "empty file", "copy it there again")


class _Trouble(Exception):
    """What another side, or the way to it, did: never the disk's fault."""


def _tried(url: str, ask: Callable[[], T]) -> T:
    """Return what ``ask`` does, asked again where the fault may pass."""
    for pause in (*PAUSES, None):
        try:
            return ask()
        except SsodError:
            raise
        except Exception as error:
            reason = error.args[0] if isinstance(error, _Trouble) else error
            if isinstance(reason, FileNotFoundError | IsADirectoryError | NotADirectoryError):
                raise _bad(url, "not found", "fix the address, or put the file there") from None
            if isinstance(reason, PermissionError):
                raise _bad(url, "permission denied", "see that your credentials may read it") from None
            if pause is None:
                text = (str(reason).strip() or type(reason).__name__).splitlines()[0]
                raise _bad(url, f"cannot be fetched ({text})", "try again, or copy it to this machine") from None
            time.sleep(pause)
    raise AssertionError("unreachable")


def _open_side(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path there."""
    try:
        import fsspec
    except ImportError:
        problem = "fsspec is not installed, which opens addresses"
        raise SsodError(url, "", problem, "pip install 'ssod[remote]'") from None
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise SsodError(url, "", f"fsspec cannot open it: {error}", "install what it names") from None
    except ValueError as error:
        raise SsodError(url, "", f"fsspec cannot open it: {error}", "fix the address") from None


def _info(url: str) -> dict[str, Any]:
    files, path = _open_side(url)
    return files.info(path)


def _told(info: Mapping[str, Any]) -> tuple[int | None, str]:
    """Return bytes, where they are told, and what tells versions of a file apart; "" where nothing does."""
    size = info.get("size")
    mark = next((str(info[key]) for key in _VERSION if info.get(key) is not None), str(info.get("created", "")))
    return (int(size) if size is not None else None), mark


def _link(copy: Path, target: str) -> None:
    """Give a copy its place: a second name for the same file, or one more copy where the disk has no second names."""
    try:
        os.link(copy, target)
    except FileExistsError:
        pass  # another process was first
    except OSError:
        with open(copy, "rb") as file:
            atomic.write(Path(target), lambda into: shutil.copyfileobj(file, into))


def _too_large(url: str, size: int) -> SsodError:
    problem = f"{size / 1e6:.0f} MB > {MAX_BYTES / 1e6:.0f} MB; refused"
    return _bad(url, problem, "shrink or tile the image")


def _bad(url: str, problem: str, fix: str) -> SsodError:
    return SsodError(url, "", problem, fix, code=Exit.DATA)
