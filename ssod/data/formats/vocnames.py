"""Which image and which annotation a line of a VOC list means; without a list, all annotations are lines.

A line may have the image's ending or not; ``a.jpg`` is that file and no other. Without an ending, the annotation's
``<filename>`` says which image it is about, if there is such a one, and else its own name does.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from ssod.data.formats.findings import Context, short
from ssod.data.formats.jsonfile import nearest, read_text
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.listing import hidden, is_image
from ssod.data.formats.paths import plain_name, refuse_unsafe, same_text
from ssod.data.formats.voclayout import ALL, Layout


@dataclass(frozen=True)
class Line:
    """One image of a list.

    Attributes:
        number: of the line.
        stem: the annotation's name without ``.xml``, and the image's id.
        file: the image, where the line says it with its ending.
    """

    number: int
    stem: str
    file: str | None


class Folder:
    """The images of ``JPEGImages``, folder by folder as they are asked for."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._stems: dict[str, dict[str, list[str]]] = {}

    def spelled(self, name: str) -> str | None:
        """Return a file's name as the disk has it, in whatever Unicode form; None if it is not there."""
        same = [other for other in self.of_stem(os.path.splitext(name)[0]) if same_text(other) == same_text(name)]
        return name if name in same else next(iter(same), None)

    def of_stem(self, stem: str) -> list[str]:
        """Return the images that are called ``stem``, whatever their endings."""
        folder, _, base = stem.rpartition("/")
        if folder not in self._stems:
            path = os.path.join(self.root, folder)
            found: dict[str, list[str]] = defaultdict(list)
            for name in sorted(os.listdir(path)) if os.path.isdir(path) else ():
                if is_image(name) and not hidden(name):
                    found[same_text(os.path.splitext(name)[0])].append(name)
            self._stems[folder] = found
        return [f"{folder}/{name}" if folder else name for name in self._stems[folder].get(same_text(base), [])]


def read_list(layout: Layout, split: str, ctx: Context) -> list[Line]:
    """Return the lines of ``ImageSets/Main/<split>.txt`` that have a name, or one for each annotation.

    Raises:
        SsodError: there is no such list, it is empty, or names an image twice or one outside its folder.
    """
    base = layout.base
    if not os.path.isdir(base):
        raise ctx.findings.fatal("D01", base, f"{ctx.section}.root", f"not found{nearest(base)}", "fix the path")
    if split == ALL:
        return _all_annotations(layout, ctx)
    file, place = os.path.join(base, "ImageSets", "Main", f"{split}.txt"), f"{ctx.section}.split"
    folder = layout.image_folder()
    text = read_text(file, ctx, place, base).split("\n")
    names = [(number, plain_name(name)) for number, line in enumerate(text, start=1) if (name := _name(line))]
    if not names:
        raise ctx.findings.fatal("D08", file, place, "0 images", "check the list")
    refuse_unsafe([name for _, name in names], folder, file, "name {}", ctx)
    ctx.findings.raise_first()
    images = Folder(folder)
    lines = [_line(number, name, layout, images) for number, name in names]
    stems = Counter(line.stem for line in lines)
    if len(stems) < len(lines):
        twice = stems.most_common(1)[0][0]
        problem = f"{len(lines) - len(stems)} repeated lines, first {short(twice)}"
        ctx.findings.error("D14", file, place, problem, "names must be unique")
    ctx.findings.raise_first()
    return lines


def _name(line: str) -> str:
    """Return the name of a line; the second column of VOC's per-class lists (1, 0 or -1) is left out."""
    parts = line.split()
    if len(parts) > 1 and parts[-1] in ("1", "0", "-1"):
        return line.strip()[: -len(parts[-1])].strip()
    return line.strip()


def _all_annotations(layout: Layout, ctx: Context) -> list[Line]:
    stems = layout.stems()
    if not stems:
        problem, place = "0 annotations (.xml)", f"{ctx.section}.root"
        raise ctx.findings.fatal("D08", layout.folder(), place, problem, "fix the path")
    refuse_unsafe(stems, layout.folder(), layout.folder(), "name {}", ctx)
    ctx.findings.raise_first()
    return [Line(number, stem, None) for number, stem in enumerate(stems, start=1)]


def _line(number: int, name: str, layout: Layout, images: Folder) -> Line:
    if not is_image(name) or images.of_stem(name):
        return Line(number, name, None)
    if os.path.lexists(os.path.join(layout.base, layout.file(name))):  # some tools keep the ending: a.jpg.xml
        return Line(number, name, name)
    return Line(number, os.path.splitext(name)[0], name)


@dataclass
class Chooser:
    """Chooses each line's image, and keeps what is to be said about the choices.

    Attributes:
        images: those that are there.
        place: the folder of the annotations.
        list: the list, for messages.
        ctx: section and findings.
        lost: annotations whose ``<filename>`` is no image.
        other: annotations whose ``<filename>`` is another image than the one with their own name.
        taken: image -> the annotation that it belongs to.
    """

    images: Folder
    place: str
    list: str
    ctx: Context
    lost: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)

    def choose(self, line: Line, filename: str | None) -> str:
        """Return the path of a line's image below ``JPEGImages``; one that is not there is said to be missing later.

        Args:
            line: the line.
            filename: what the annotation says; None = nothing, or it is not read.
        """
        exact = None if line.file is None else self.images.spelled(line.file) or line.file
        own = self.images.of_stem(line.stem) if exact is None else [exact]
        said = self._said(line, filename)
        if line.file is None and said:
            if own and said[0] not in own:
                self.other.append(f"{line.stem}.xml: {said[0]}")
            own = said
        elif filename and not said:
            self.lost.append(f"{line.stem}.xml: {filename}")
        elif exact is not None and said and exact not in said:
            self._error(line, f"<filename> is {short(said[0])}, line {line.number} of the list says {short(line.file)}")
        if len(own) > 1:
            self._error(line, f"{short(own[0])} and {short(own[1])} are there", "write the ending in the list")
        image = own[0] if own else f"{line.stem}.jpg"
        first = self.taken.setdefault(image, line.stem)
        if first != line.stem:
            self._error(line, f"belongs to {short(image)}, as {first}.xml does")
        return image

    def _said(self, line: Line, filename: str | None) -> list[str]:
        """Return the images that are called what ``<filename>`` says; the folder before it says where it once lay."""
        if not filename:
            return []
        folder, base = line.stem.rpartition("/")[0], filename.replace("\\", "/").rpartition("/")[2]
        name = f"{folder}/{base}" if folder else base
        if is_image(name):
            there = self.images.spelled(name)
            return [] if there is None else [there]
        return self.images.of_stem(name)

    def _error(self, line: Line, problem: str, fix: str = "mend <filename>") -> None:
        file = os.path.join(self.place, f"{line.stem}.xml")
        self.ctx.findings.error("D14", file, self.ctx.section, problem, fix)

    def report(self) -> None:
        """Record what was found out about all of them."""
        report_left_out("L13", self.lost, self.place, self.ctx)
        report_left_out("L14", self.other, self.place, self.ctx)
