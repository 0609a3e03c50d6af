"""The config's ``data`` section."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from ssod.data.formats.findings import Rules, default_root
from ssod.data.formats.image import MAX_PIXELS, Alpha, Pixels
from ssod.data.formats.registry import AnnotatedSource, LabeledSource, LabeledSources, Source
from ssod.data.splits import SplitConfig
from ssod.utils.address import is_url
from ssod.utils.schema import Section

if TYPE_CHECKING:
    from ssod.data.loading.reader import Reader


class DataConfig(Section):
    """Which images, and which of them keep their labels."""

    root: str = Field(default_factory=default_root)
    "Folder that relative paths below lie under; by default $SSOD_DATASETS, or datasets."
    labeled: LabeledSources
    "Images with boxes; a list of such sources is one set."
    unlabeled: Source | None = None
    """Images whose labels, if any, are never read. None = what `split` takes the labels from. `frames/` or
    `s3://bucket/frames/` is short for `{format: folder, path: ...}`."""
    val: LabeledSource | None = None
    "Images with boxes to measure AP on."
    held_out: str | None = None
    """A .txt list of images of `labeled`, by their paths below the image folder, that are measured on and not learnt
    from; `val` is the same source then. `ssod init --val 20%` writes one."""
    split: SplitConfig | None = None
    "Keep the labels of a part of `labeled` only."
    classes: list[str] | None = None
    """Class names in the order of labels; COCO and YOLO files must list these, and others only if no box has them. None
    = their order; of formats without a list: sorted names."""
    strict: bool = False
    "Make boxes without area, and images that are both labelled and unlabelled, errors instead of warnings."
    max_boxes_per_image: int = Field(1000, ge=1)
    "An image with more boxes is an error: the file is damaged, or the image needs tiling."
    max_pixels: int = Field(MAX_PIXELS, ge=1)
    "An image with more pixels is refused before it is decoded."
    exif: Literal["apply", "ignore"] = "apply"
    "What boxes refer to in images with an EXIF rotation: `apply`: the upright image; `ignore`: the stored pixels."
    levels: tuple[float, float] | None = None
    """Values that become black and white in grey images of more than 8 bits: [0, 4095] for 12 bits stored in 16. None =
    0 and 65535; images that use little of that are refused, for nobody could tell what is white in them."""
    alpha: Alpha | None = None
    "What an alpha channel means: `blend`: transparent pixels are laid over white; `ignore`: the colours alone count."
    max_clip: float = Field(0.1, ge=0)
    "Share of an image's width or height by which a box may reach beyond it and is cut off; by more is an error."
    allow_symlinks: bool = False
    "Let symbolic links below an image folder lead out of it."
    cache: str | None = None
    "Folder of copies of images that lie elsewhere (`s3://`); by default $SSOD_CACHE, or ssod in the user's cache."

    def rules(self) -> Rules:
        """Return what the readers need to know."""
        return Rules(
            strict=self.strict,
            max_boxes_per_image=self.max_boxes_per_image,
            max_pixels=self.max_pixels,
            exif=self.exif,
            allow_symlinks=self.allow_symlinks,
            max_clip=self.max_clip,
            cache=self.cache,
            pixels=self.pixels(),
        )

    def pixels(self) -> Pixels:
        """Return how pixels of more than 8-bit RGB are read."""
        return Pixels(self.levels, self.alpha)

    def reader(self) -> Reader:
        """Return what opens an image."""
        from ssod.data.loading.reader import Reader  # brings torch, which reading a list does not need

        return Reader(self.max_pixels, self.allow_symlinks, self.pixels())

    @field_validator("labeled", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        return {"format": "several", "sources": value} if isinstance(value, list) else value

    @field_validator("root", "labeled", "val")
    @classmethod
    def _on_this_machine(cls, value: str | Section | None) -> str | Section | None:
        for key, text in _texts(value):
            if is_url(text):
                raise ValueError(f"{key}{text} is an address; only unlabelled images may lie at one: copy the others")
        return value

    @field_validator("unlabeled", mode="before")
    @classmethod
    def _folder(cls, value: object) -> object:
        return {"format": "folder", "path": value} if isinstance(value, str) else value

    @field_validator("unlabeled")
    @classmethod
    def _no_labels_no_gaps(cls, source: Source | None) -> Source | None:
        if isinstance(source, AnnotatedSource) and source.incomplete is not None:
            raise ValueError("incomplete: labels of unlabelled images are never read; remove it")
        return source

    @field_validator("levels")
    @classmethod
    def _black_before_white(cls, levels: tuple[float, float] | None) -> tuple[float, float] | None:
        if levels is not None and not levels[0] < levels[1]:
            raise ValueError("needs the value that is black, and then a higher one that is white")
        return levels

    @model_validator(mode="after")
    def _held_out_of_one_set(self) -> DataConfig:
        if self.held_out is not None and (self.val is None or _place(self.val) != _place(self.labeled)):
            raise ValueError("held_out: divides one source, and `labeled` and `val` are two; write one, or remove it")
        return self

    @field_validator("classes")
    @classmethod
    def _names_differ(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and (not names or not all(names) or len(set(names)) < len(names)):
            raise ValueError("needs at least one name, none empty and none twice")
        return names


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts in a value, each with the key that it stands at."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Section):
        yield from _texts(value.model_dump())
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _texts(one, f"{name}: ")
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one, key)


def _place(source: Section) -> dict[str, Any]:
    """Return what a source is read from; which of its labels are incomplete may be said at either of two."""
    return source.model_dump(exclude={"incomplete": True, "sources": {"__all__": {"incomplete"}}})
