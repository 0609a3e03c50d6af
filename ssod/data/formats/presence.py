"""Whether the files of a data set are there, by listing folders: one system call per folder, not one per image."""

from __future__ import annotations

import os
from dataclasses import replace

from ssod.data.formats import remote
from ssod.data.formats.findings import Context, short
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.paths import absent, safe_join, same_text
from ssod.data.formats.records import Images
from ssod.utils.errors import Exit, SsodError


def check_files(images: Images, file: str, ctx: Context, *, needed: bool = True) -> list[int]:
    """Record an error if image files are missing, lead out of their folder, or are no regular files.

    Args:
        images: what must be there.
        file: the file that names them; for messages.
        ctx: rules and findings.
        needed: False = missing files are skipped, and recorded as that.

    Returns:
        The rows of the images that are missing.
    """
    if not os.path.isdir(images.root):
        ctx.findings.error("I01", file, ctx.section, f"image folder {short(images.root)} not found", "fix the path")
        return list(range(len(images)))
    listed: dict[str, dict[str, bool]] = {}
    missing, odd = [], []
    elsewhere = remote.sizes_of(images.root) if remote.is_remote(images.root) else None
    for row, name in enumerate(images.paths):
        if elsewhere is not None:
            missing += [row] if name not in elsewhere else []
            continue
        folder, _, base = name.rpartition("/")
        if folder not in listed:
            listed[folder] = _list(images, folder)
        plain = listed[folder].get(base)
        if plain is None:
            missing.append(row)
        elif not plain:
            odd.append(row)
    for row in odd:
        try:
            safe_join(images.root, images.paths[row], allow_symlinks=ctx.rules.allow_symlinks)
        except SsodError as error:
            if error.code == Exit.DATA:  # a link to nothing
                missing.append(row)
                continue
            id = "S06" if "regular" in error.problem else "S03"
            place = f"images[{row}] {short(images.paths[row])}"
            ctx.findings.error(id, file, place, error.problem, error.fix, code=error.code)
    if missing:
        missing.sort()
        row = missing[0]
        problem, fix = absent(images.root, images.paths[row])
        if elsewhere is not None:
            problem, fix = f"not found under {short(remote.url_of(images.root))}", "fix the path or put the file there"
        id = "I14" if "(case)" in problem else "I01"
        place = f"images[{row}] {short(images.paths[row])}"
        record = ctx.findings.error if needed else ctx.findings.skipped
        record(id, file, place, f"{problem} ({len(missing)} missing)", fix, count=len(missing))
    return missing


def as_spelled(images: Images, file: str, ctx: Context) -> Images:
    """Return the images under the names that the disk has for them, where it spells letters in another Unicode form.

    ``é`` is one code point or two (NFC, NFD): they look alike, archives and file systems change one into the other, and
    some disks tell them apart. Only names outside ASCII are looked up.
    """
    paths = list(images.paths)
    odd = [row for row, name in enumerate(paths) if not name.isascii()]
    listed: dict[str, dict[str, str]] = {}
    moved = []
    for row in odd:
        folder, _, base = paths[row].rpartition("/")
        if folder not in listed:
            listed[folder] = _spellings(os.path.join(images.root, folder))
        there = listed[folder].get(same_text(base), base)
        if there != base:
            paths[row] = f"{folder}/{there}" if folder else there
            moved.append(images.paths[row])
    report_left_out("L16", moved, file, ctx)
    return replace(images, paths=paths) if moved else images


def spelled(folder: str, name: str) -> str:
    """Return the name that a folder has for ``name`` in whatever Unicode form; ``name`` itself if it has none."""
    if name.isascii():
        return name
    base = os.path.basename(name)
    there = _spellings(os.path.join(folder, os.path.dirname(name))).get(same_text(base), base)
    return os.path.join(os.path.dirname(name), there)


def _spellings(folder: str) -> dict[str, str]:
    """Return {name in NFC: name as it is}; where both are there, each stays itself."""
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError):
        return {}
    return {same_text(name): name for name in names} | {name: name for name in names}


def _list(images: Images, folder: str) -> dict[str, bool]:
    """Return {name: whether it is a plain file}; in a folder reached by a link nothing is plain."""
    path = os.path.join(images.root, folder)
    inside = os.path.realpath(path) == os.path.normpath(os.path.join(os.path.realpath(images.root), folder))
    try:
        with os.scandir(path) as entries:
            return {entry.name: inside and entry.is_file(follow_symlinks=False) for entry in entries}
    except OSError:
        return {}
