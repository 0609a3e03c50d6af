"""Where images come from: the formats, one config section each, and the two ways to read any of them.

``read_labeled`` gives images with boxes. ``read_images`` gives images only: of an annotated source it reads the list
of images and never builds an object that holds a box, so that no label of the unlabelled set can reach training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ssod.data.formats.coco import read_coco, read_coco_images
from ssod.data.formats.cocoimages import Names
from ssod.data.formats.findings import Context
from ssod.data.formats.folder import read_folder
from ssod.data.formats.header import turn_upright
from ssod.data.formats.incomplete import Incomplete, mark, warn_of_lacking, with_classes
from ssod.data.formats.joined import as_one
from ssod.data.formats.labelme import read_labelme, read_labelme_images
from ssod.data.formats.labelstudio import read_labelstudio, read_labelstudio_images
from ssod.data.formats.marked import Which
from ssod.data.formats.records import Images, Labeled
from ssod.data.formats.voc import read_voc, read_voc_images
from ssod.data.formats.yolo import read_yolo, read_yolo_images
from ssod.utils.schema import Section


class _Annotated(Section):
    """Images with labels."""

    which: Which | None = None
    """Which of its images: `all`; `labeled`: those with labels; `bare`: the others, as data.unlabeled. An image without
    a label file is bare; where none lacks one, and in a JSON, one without a box. By default images without a label file
    are left out of a labelled set, and every other image without a box shows no object."""
    incomplete: Incomplete = None
    """Whether its labels are incomplete, so that what is not labelled is ignored instead of background: `true`: objects
    of any class may be missing; a list of classes; or `{images: list.txt, classes: [...]}`: of these images alone."""


class CocoSource(_Annotated):
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
    names: Names | None = None
    """What of a `file_name` counts: `path`, the default: all of it; `last`: its longest end that is a file in `images`,
    as where a tool wrote the place of a file on its server."""


class VocSource(_Annotated):
    """A PASCAL VOC folder: ImageSets/Main, Annotations, JPEGImages; or XML files in Annotations or beside images."""

    format: Literal["voc"]
    root: str
    "The folder, e.g. voc/VOCdevkit/VOC2007."
    split: str
    'A list in ImageSets/Main, e.g. trainval; ".": all annotations.'


class YoloSource(_Annotated):
    """A YOLO set: data.yaml, which names the images of its parts, and a label file for each image."""

    format: Literal["yolo"]
    root: str
    "The folder that holds data.yaml, or such a file by any name."
    split: str
    """Which part: train, val or test of data.yaml; one that it does not name is images/<part> or <part>/images, and "."
    is images itself."""


class LabelmeSource(_Annotated):
    """labelme's files: a JSON beside each image."""

    format: Literal["labelme"]
    root: str
    "The folder, which is searched recursively."


class LabelStudioSource(_Annotated):
    """Label Studio's own JSON, and the folder of its images."""

    format: Literal["labelstudio"]
    ann: str
    "The JSON."
    images: str
    "Folder of the images, under the names that the tasks give them."


class FolderSource(Section):
    """Images without labels."""

    format: Literal["folder"]
    path: str
    """A folder (searched recursively), a glob such as frames/**/*.jpg, or a .txt list with one path a line; or the
    address of one, such as s3://bucket/frames/, whose images are copied to `data.cache` when they are opened."""
    images: str | None = None
    "Folder that the lines of a .txt list are relative to, or its address; by default the list's own."

    @model_validator(mode="after")
    def _images_of_a_list(self) -> FolderSource:
        if self.images is not None and not self.path.rstrip("/").lower().endswith(".txt"):
            raise ValueError("images: is where the lines of a .txt list lie, and `path` is none; remove it")
        return self


AnnotatedSource = CocoSource | VocSource | YoloSource | LabelmeSource | LabelStudioSource
AnySource = AnnotatedSource | FolderSource
LabeledSource = Annotated[AnnotatedSource, Field(discriminator="format")]
Source = Annotated[AnySource, Field(discriminator="format")]
NAMES_FOUND = (VocSource, LabelmeSource, LabelStudioSource)  # without a list of classes: they are those found


class SeveralSource(Section):
    """Several sets as one, written as a list: `labeled: [{format: coco, ...}, {format: voc, ...}]`."""

    format: Literal["several"]
    sources: list[LabeledSource] = Field(min_length=1)
    """Classes go by name. Of an image that several of them have, the labels of the last count; the images must lie
    below one folder."""

    @property
    def path(self) -> str:
        """The first of them, for messages."""
        return file_of(self.sources[0])


def file_of(source: AnnotatedSource | SeveralSource) -> str:
    """Return the file or folder that messages about a source name."""
    if isinstance(source, SeveralSource):
        return source.path
    return source.ann if isinstance(source, CocoSource | LabelStudioSource) else source.root


LabeledSources = Annotated[AnnotatedSource | SeveralSource, Field(discriminator="format")]


def read_labeled(
    source: AnnotatedSource | SeveralSource,
    ctx: Context | None = None,
    *,
    classes: Sequence[str] | None = None,
) -> Labeled:
    """Read images with their boxes.

    Args:
        source: one of the annotated formats, or several.
        ctx: data root, rules and findings; None = those of a bare call.
        classes: the class names in the order that labels are to have, the same ones that the file lists; None = the
            file's own order (COCO: ascending id; YOLO: as listed; others, which have no list: the names found, sorted).
            Classes that a file lists and no box has may be left out.

    Raises:
        SsodError: the first error; all of them are in ``ctx.findings``.
    """
    ctx = ctx or Context()
    match source:
        case SeveralSource():
            return _several(source, ctx, classes)
        case CocoSource():
            data = read_coco(
                source.ann,
                source.images,
                ctx,
                box_format=source.box_format,
                classes=classes,
                names=source.names or "path",
                which=source.which,
            )
        case VocSource():
            data = read_voc(source.root, source.split, ctx, classes=classes, which=source.which)
        case YoloSource():
            data = read_yolo(source.root, source.split, ctx, classes=classes, which=source.which)
        case LabelmeSource():
            data = read_labelme(source.root, ctx, classes=classes, which=source.which)
        case LabelStudioSource():
            data = read_labelstudio(source.ann, source.images, ctx, classes=classes, which=source.which)
    data = mark(data, source.incomplete, ctx.path(file_of(source)), ctx)
    return turn_upright(data, ctx) if ctx.rules.exif == "ignore" else data


def _several(source: SeveralSource, ctx: Context, classes: Sequence[str] | None) -> Labeled:
    """Read several sources as one set; what one of them calls incomplete may be a class of another."""
    parts = [replace(ctx, section=f"{ctx.section}.sources[{i}]") for i in range(len(source.sources))]
    said = [one.incomplete for one in source.sources]
    files = [ctx.path(file_of(one)) for one in source.sources]
    plain = [one.model_copy(update={"incomplete": None}) for one in source.sources]
    sets = [read_labeled(one, part) for one, part in zip(plain, parts)]
    warn_of_lacking(sets, files, said, ctx)
    every = list(dict.fromkeys([*(name for one in sets for name in one.classes.names), *(classes or ())]))
    sets = [
        mark(with_classes(one, names, every), names, file, part, every)
        for one, names, file, part in zip(sets, said, files, parts)
    ]
    declared = any(isinstance(one, NAMES_FOUND) for one in source.sources)
    return as_one(sets, ctx, classes=classes, fewer=declared)


def read_images(source: AnySource, ctx: Context | None = None) -> Images:
    """Read images without labels, from any format; see ``read_labeled``."""
    ctx = ctx or Context()
    match source:
        case CocoSource():
            return read_coco_images(source.ann, source.images, ctx, names=source.names or "path", which=source.which)
        case VocSource():
            return read_voc_images(source.root, source.split, ctx, which=source.which)
        case YoloSource():
            return read_yolo_images(source.root, source.split, ctx, which=source.which)
        case LabelmeSource():
            return read_labelme_images(source.root, ctx, which=source.which)
        case LabelStudioSource():
            return read_labelstudio_images(source.ann, source.images, ctx, which=source.which)
        case FolderSource():
            return read_folder(source.path, source.images, ctx)
