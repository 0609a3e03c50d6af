"""Where annotations and images of a VOC set lie: in VOC's own folders, or as labelling tools export them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ssod.data.formats.listing import files_below

IMAGES, ANNOTATIONS = "JPEGImages", "Annotations"
ALL = "."  # the split of a set without lists: all annotations


@dataclass(frozen=True)
class Layout:
    """The folders of a VOC set.

    Attributes:
        base: the set's folder.
        annotations: folder of the XML files relative to ``base``; "" = ``base`` itself.
        images: folder of the images, likewise.
    """

    base: str
    annotations: str
    images: str

    def file(self, stem: str) -> str:
        """Return the annotation file of that name, relative to ``base``."""
        return os.path.join(self.annotations, f"{stem}.xml")

    def folder(self) -> str:
        """Return the folder of the annotations."""
        return os.path.join(self.base, self.annotations) if self.annotations else self.base

    def image_folder(self) -> str:
        """Return the folder of the images."""
        return os.path.join(self.base, self.images) if self.images else self.base

    def stems(self) -> list[str]:
        """Return the names of all annotation files without ``.xml``, sorted; hidden ones are a program's own."""
        return sorted(name[:-4] for name in files_below(self.folder()) if name.lower().endswith(".xml"))


def find_layout(base: str) -> Layout:
    """Return the layout of a set: annotations beside their images where none of VOC's own folders is there."""
    own = (ANNOTATIONS, IMAGES, "ImageSets")
    if not any(os.path.isdir(os.path.join(base, name)) for name in own):
        return Layout(base, "", "")
    names = (IMAGES, "images", "Images")
    images = next((name for name in names if os.path.isdir(os.path.join(base, name))), IMAGES)
    return Layout(base, ANNOTATIONS, images)
