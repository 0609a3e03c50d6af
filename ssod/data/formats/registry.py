"""Where images come from: four formats, one config section each, and the two ways to read any of them.

``read_labeled`` gives images with boxes. ``read_images`` gives images only: of an annotated source it reads the list
of images and never builds an object that holds a box, so that no label of the unlabelled set can reach training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from ssod.data.formats.coco import read_coco, read_coco_images
from ssod.data.formats.findings import Context
from ssod.data.formats.folder import read_folder
from ssod.data.formats.header import turn_upright
from ssod.data.formats.joined import as_one
from ssod.data.formats.records import Images, Labeled
from ssod.data.formats.voc import read_voc, read_voc_images
from ssod.data.formats.yolo import read_yolo, read_yolo_images
from ssod.utils.schema import Section


class CocoSource(Section):
    """A COCO JSON and the folder of its images."""

    format: Literal["coco"]
    ann: str
    "Annotation file."
    images: str
    "Folder that the file's `file_name`s are relative to."
    box_format: Literal["xywh", "xyxy", "cxcywh", "xywh_norm", "xyxy_norm", "cxcywh_norm"] | None = None
    """How the file writes a box. COCO's own, and the default, is xywh in pixels; `_norm`: in shares of the image's
    width and height; `cx`, `cy`: the centre. What is written here is believed; by default boxes that fit another
    reading alone are refused."""


class VocSource(Section):
    """A PASCAL VOC folder: ImageSets/Main, Annotations, JPEGImages."""

    format: Literal["voc"]
    root: str
    "The folder, e.g. voc/VOCdevkit/VOC2007."
    split: str
    "A list in ImageSets/Main, e.g. trainval."


class YoloSource(Section):
    """A YOLO set: data.yaml, which names the images of its parts, and a label file for each image."""

    format: Literal["yolo"]
    root: str
    "The folder that holds data.yaml, or such a file of another name."
    split: str
    """Which part: train, val or test of data.yaml; one that it does not name is images/<part> or <part>/images, and "."
    is images itself."""


class FolderSource(Section):
    """Images without labels."""

    format: Literal["folder"]
    path: str
    "A folder (searched recursively), a glob such as frames/**/*.jpg, or a .txt list with one path a line."
    images: str | None = None
    "Folder that the lines of a .txt list are relative to; by default the list's own."


LabeledSource = Annotated[CocoSource | VocSource | YoloSource, Field(discriminator="format")]


class SeveralSource(Section):
    """Several sets as one, written as a list: `labeled: [{format: coco, ...}, {format: voc, ...}]`."""

    format: Literal["several"]
    sources: list[LabeledSource] = Field(min_length=1)
    """Classes go by name. Of an image that several of them have, the labels of the last count; the images must lie
    below one folder."""

    @property
    def path(self) -> str:
        """The first of them, for messages."""
        first = self.sources[0]
        return first.ann if isinstance(first, CocoSource) else first.root


LabeledSources = Annotated[CocoSource | VocSource | YoloSource | SeveralSource, Field(discriminator="format")]
Source = Annotated[CocoSource | VocSource | YoloSource | FolderSource, Field(discriminator="format")]


def read_labeled(
    source: CocoSource | VocSource | YoloSource | SeveralSource,
    ctx: Context | None = None,
    *,
    classes: Sequence[str] | None = None,
) -> Labeled:
    """Read images with their boxes.

    Args:
        source: one of the annotated formats, or several.
        ctx: data root, rules and findings; None = those of a bare call.
        classes: the class names in the order that labels are to have, the same ones that the file lists; None = the
            file's own order (COCO: ascending id; YOLO: as listed; VOC, which has no list: the names found, sorted).

    Raises:
        SsodError: the first error; all of them are in ``ctx.findings``.
    """
    ctx = ctx or Context()
    match source:
        case SeveralSource():
            parts = [replace(ctx, section=f"{ctx.section}.sources[{i}]") for i in range(len(source.sources))]
            sets = [read_labeled(one, part) for one, part in zip(source.sources, parts)]
            declared = any(isinstance(one, VocSource) for one in source.sources)
            return as_one(sets, ctx, classes=classes, fewer=declared)
        case CocoSource():
            data = read_coco(source.ann, source.images, ctx, box_format=source.box_format, classes=classes)
        case VocSource():
            data = read_voc(source.root, source.split, ctx, classes=classes)
        case YoloSource():
            data = read_yolo(source.root, source.split, ctx, classes=classes)
    return turn_upright(data, ctx) if ctx.rules.exif == "ignore" else data


def read_images(source: CocoSource | VocSource | YoloSource | FolderSource, ctx: Context | None = None) -> Images:
    """Read images without labels, from any format; see ``read_labeled``."""
    ctx = ctx or Context()
    match source:
        case CocoSource():
            return read_coco_images(source.ann, source.images, ctx)
        case VocSource():
            return read_voc_images(source.root, source.split, ctx)
        case YoloSource():
            return read_yolo_images(source.root, source.split, ctx)
        case FolderSource():
            return read_folder(source.path, source.images, ctx)
