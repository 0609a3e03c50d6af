"""Which files of a folder somebody meant to be there: images, and not what a program left beside them.

Jupyter, file managers, cameras, storage boxes and archives put copies and thumbnails of images into hidden folders and
files. Nobody labels them and nobody means them, so no set picks them up, and how many there are is said.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence

from ssod.data.formats.findings import Context, short
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.paths import IMAGE_SUFFIXES

# Folders of systems whose names do not begin with a dot, in lower case.
SYSTEM = {
    *("__macosx", "__pycache__", "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "lost+found", "found.000"),
    *("network trash folder", "temporary items", "thumbs.db", "ehthumbs.db", "desktop.ini"),
}
# Endings of files that lie beside images and are none.
_BESIDE = {
    *(".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".md", ".rst", ".html", ".pdf"),
    *(".cache", ".npy", ".npz", ".pkl", ".log", ".py", ".ipynb", ".sh", ".zip", ".gz", ".tar", ".tgz", ".7z", ".db"),
    *(".ini", ".cfg", ".names", ".data", ".pt", ".pth", ".safetensors", ".lock", ".sha256", ".md5"),
    *(".doc", ".docx", ".xls", ".xlsx"),
}
_FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def hidden(name: str) -> bool:
    """Whether one part of a path, a folder or a file, is a program's own: ``.ipynb_checkpoints``, ``@eaDir``."""
    return (name.startswith(".") and name not in (".", "..")) or name.casefold() in SYSTEM


def hidden_path(path: str) -> bool:
    """Whether any part of a relative path is ``hidden``."""
    return any(map(hidden, path.split("/")))


def is_image(name: str) -> bool:
    """Whether a file is read as an image, by its ending."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def files_below(root: str) -> Iterator[str]:
    """Yield the paths of the files below ``root`` that are not hidden; links to folders are not followed."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not hidden(name)]
        prefix = _prefix(folder, root)
        yield from (prefix + name for name in files if not hidden(name))


def image_names(root: str, ctx: Context, *, file: str | None = None) -> list[str]:
    """Return the paths of all image files below ``root``, sorted, and record what is left out.

    Hidden and system files are left out, links to folders are not followed, and what ends otherwise is no image.

    Args:
        root: the folder.
        ctx: section and findings.
        file: what messages name; None = ``root``.
    """
    names: list[str] = []
    unseen: list[str] = []
    links: list[str] = []
    others: list[str] = []
    for folder, folders, files in os.walk(root):
        prefix = _prefix(folder, root)
        away = hidden_path(prefix.rstrip("/")) if prefix else False
        links += [prefix + name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in files:
            if away or hidden(name):
                unseen += [prefix + name] if is_image(name) else []
            elif is_image(name):
                names.append(prefix + name)
            elif maybe_image(os.path.join(folder, name)):
                others.append(prefix + name)
    tell_files(unseen, others, file or root, ctx)
    report_left_out("L02", sorted(name for name in links if not hidden_path(name)), file or root, ctx)
    return sorted(names)


def glob_names(root: str, pattern: str, ctx: Context) -> list[str]:
    """Return the images that a pattern below ``root`` fits, sorted, and record what is left out.

    What the pattern itself names with a leading dot was meant.
    """
    meant = any(hidden(part) for part in pattern.split("/"))
    found = sorted(glob.glob(pattern, root_dir=root, recursive=True, include_hidden=not meant))
    unseen = [] if meant else [name for name in found if hidden_path(name)]
    kept = found if not unseen else [name for name in found if not hidden_path(name)]
    others = [name for name in kept if not is_image(name) and maybe_image(os.path.join(root, name))]
    unseen = [name for name in unseen if is_image(name) and os.path.isfile(os.path.join(root, name))]
    tell_files(unseen, others, os.path.join(root, pattern), ctx)
    return [name for name in kept if is_image(name)]


def images_among(names: Sequence[str], pattern: str, file: str, ctx: Context) -> list[str]:
    """Return those names of files that are images' and not hidden, and record what is left out, by the names alone.

    What the pattern, by which they were found, itself names with a leading dot was meant; "" = they are all files.
    """
    meant = any(hidden(part) for part in pattern.split("/"))
    kept = [name for name in names if meant or not hidden_path(name)]
    unseen = [name for name in names if is_image(name) and not meant and hidden_path(name)]
    endings = {name: os.path.splitext(name)[1].lower() for name in kept if not is_image(name)}
    tell_files(unseen, [name for name, end in endings.items() if end and end not in _BESIDE], file, ctx)
    return [name for name in kept if is_image(name)]


def tell_files(unseen: list[str], others: list[str], file: str, ctx: Context) -> None:
    """Record images in hidden places, and files that may be images of other kinds."""
    report_left_out("L01", sorted(unseen), file, ctx)
    endings = Counter(os.path.splitext(name)[1].lower() or "none" for name in others)
    report_left_out("L03", sorted(others), file, ctx, ", ".join(f"{end} {n}" for end, n in endings.most_common(5)))


def maybe_image(path: str) -> bool:
    """Whether a file whose ending is none of an image may be one, or holds some: a GIF, a HEIC, a raw file, a video."""
    name = os.path.basename(path)
    ending = os.path.splitext(name)[1].lower()
    if ending in _BESIDE:
        return False
    try:
        if not os.path.isfile(path):
            return False
        if ending:
            return True
        if os.path.islink(path):  # it may lead out of the folder
            return False
        with open(path, "rb") as file:
            return file.read(8).startswith(_FIRST_BYTES)
    except OSError:
        return False


def warn_of_hidden(names: Sequence[str], file: str, ctx: Context) -> None:
    """Record that a file names images in hidden places: it says so, so they stay."""
    odd = [name for name in names if hidden_path(name)]
    if odd:
        problem = f"{len(odd)} images in hidden or system folders, first {short(odd[0])}"
        ctx.findings.warning("L01", file, ctx.section, problem, "remove them from the file", count=len(odd))


def _prefix(folder: str, root: str) -> str:
    prefix = os.path.relpath(folder, root)
    return "" if prefix == "." else f"{prefix}/"
