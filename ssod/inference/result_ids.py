"""By which ids results name images and classes: those of a user's own file, or such as are no numbers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssod.data.formats.classlists import read_categories
from ssod.data.formats.coco import read_coco_images, read_table
from ssod.data.formats.cocoimages import Names
from ssod.data.formats.findings import Context, short
from ssod.data.formats.infer import unlabeled_source
from ssod.data.formats.jsonfile import read_json
from ssod.data.formats.records import Classes, Images
from ssod.data.stored import places
from ssod.utils.errors import Exit, SsodError

COCO_NAME = re.compile(r"[0-9]{12}")  # of COCO's own images, whose ids are these numbers


@dataclass(frozen=True)
class ResultIds:
    """Ids of images, in their order, and of classes by name.

    Attributes:
        images: one for each image.
        file: the file that they are of; None = of none.
        classes: ids of that file by class name.
    """

    images: Sequence[int | str]
    file: str | None = None
    classes: dict[str, int] | None = None

    def with_classes(self, known: Classes) -> tuple[Sequence[int | str], Classes, str]:
        """Return ids of images, the classes of a model with their ids, and a few words that say whose both are.

        Raises:
            SsodError: the file lacks a class of the model.
        """
        if self.classes is None:
            kind = "names of files" if any(isinstance(id, str) for id in self.images) else "COCO's own"
            return self.images, known, f"image_id: {kind} (--ids JSON gives that file's)"
        lacking = [name for name in known.names if name not in self.classes]
        if lacking:
            problem = f"has no {short(lacking[0])}, which the model detects"
            raise SsodError(self.file, "categories", problem, "add it, or leave the file out", code=Exit.DATA)
        classes = Classes(known.names, tuple(self.classes[name] for name in known.names))
        return self.images, classes, f"ids are those of {self.file}"


def is_coco(path: str | os.PathLike) -> bool:
    """Whether a command was given a JSON in the place of images."""
    return Path(path).suffix.lower() == ".json" and Path(path).is_file()


def images_of(file: str | os.PathLike) -> Images:
    """Return the images that a COCO JSON lists, from where they usually lie beside it.

    Raises:
        SsodError: no COCO file, or its images are not found.
    """
    source = unlabeled_source(os.fspath(file), "--unlabeled", {})
    if source["format"] != "coco":
        raise SsodError(os.fspath(file), "", "is no COCO JSON", "give one, or a folder of images")
    names: Names = "last" if source.get("names") == "last" else "path"
    return read_coco_images(source["ann"], source["images"], Context("", "images"), names=names)


def of_file(file: str | os.PathLike | None, found: Images) -> ResultIds:
    """Return the ids that a COCO JSON gives images and classes; without one such as cannot be taken for its.

    Args:
        file: the JSON, or None.
        found: the images. They are known by path, by name, or by that without its ending.

    Raises:
        SsodError: no COCO file, or an image that it does not list, or lists twice.
    """
    if file is None:
        stems = [Path(path).stem for path in found.paths]
        if all(COCO_NAME.fullmatch(stem) for stem in stems) and len(set(stems)) == len(stems):
            return ResultIds([int(stem) for stem in stems])
        return ResultIds(list(found.paths))
    ctx = Context("", "--ids")
    data = read_json(os.fspath(file), ctx, "--ids")
    listed = read_coco_images(os.fspath(file), found.root, ctx)
    categories = read_categories(read_table(data, "categories", os.fspath(file), ctx), ctx)
    ctx.findings.raise_first()
    known = {name: place for name, place in places(listed).items() if isinstance(name, str)}
    ids = []
    for path in found.paths:
        name = os.path.basename(path)
        place = next((known[key] for key in (path, name, os.path.splitext(name)[0]) if known.get(key, -1) != -1), -1)
        if place < 0:
            problem = f"{short(path)} is not in it" if place == -1 else f"{short(path)} may be several of its images"
            fix = "name the images that it lists, or leave it out"
            raise SsodError(os.fspath(file), "images[].file_name", problem, fix, code=Exit.DATA)
        ids.append(listed.ids[place])
    return ResultIds(ids, os.fspath(file), dict(zip(*categories)))
