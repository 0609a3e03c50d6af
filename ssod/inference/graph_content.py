"""What the file of an exported graph holds, judged before anything of it runs: it may be a stranger's."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssod.methods.registry import ALLOWED
from ssod.utils import graph_file, model_file, untrusted
from ssod.utils.errors import Exit, SsodError
from ssod.utils.untrusted import MB, Source

DIVISOR = 32  # as in evaluation: padded sides are multiples of it
INPUTS, OUTPUTS = ("images", "sizes"), ("boxes", "scores", "labels")
LARGEST = 2048 * MB  # no ONNX file in one part is larger
AGAIN = "export the weights again: ssod export best.safetensors"

# Element type, as onnx numbers them, and shape; None is free.
_FLOAT, _INT64 = 1, 7
_PORTS: dict[str, tuple[int, tuple[int | None, ...]]] = {
    "images": (_FLOAT, (None, 3, None, None)),
    "sizes": (_INT64, (None, 2)),
    "boxes": (_FLOAT, (None, None, 4)),
    "scores": (_FLOAT, (None, None)),
    "labels": (_INT64, (None, None)),
}
_FREE_INSIDE = ("boxes", "scores", "labels")  # how many detections a graph has is its own affair


@dataclass(frozen=True)
class Content:
    """A graph's file, as it was read.

    Attributes:
        path: the file.
        data: all of it; what is judged is what runs.
        format: ``onnx`` or ``pt2``.
        card: that of the weights.
        decode: the section ``detector.decode`` that is part of the graph.
    """

    path: Path
    data: bytes
    format: str
    card: model_file.Card
    decode: Any


def read(path: Path) -> Content:
    """Read a graph that ``ssod export`` wrote.

    Raises:
        SsodError: code 2, a package is missing; code 4, the file is damaged, of another kind, or of another program;
            code 7, it keeps weights in other files, or is a .pt2 that nobody said to trust.
    """
    graph_file.need_packages(path)
    source = Source(path, AGAIN, Exit.CHECKPOINT)
    format = path.suffix.lower().removeprefix(".")
    if format == "pt2":
        _refuse_code(path)
    data = untrusted.read_bytes(source, LARGEST)
    said = _of_onnx(source, data) if format == "onnx" else _of_pt2(source, data)
    for key in ("card", "names", "divisor"):
        if key not in said:
            raise source.error(f"metadata.{key}", "missing: not written by ssod")
    card = model_file.card_of(path, said["card"], AGAIN)
    if _plain(source, said, "names") != card["classes"]["names"]:
        raise source.error("metadata.names", "are others than those of its card")
    if said["divisor"] != str(DIVISOR):
        raise source.error("metadata.divisor", f"'{said['divisor']:.20}', this version pads to {DIVISOR}")
    decode = _plain(source, said, "decode") if "decode" in said else card["detector"].get("decode", {})
    return Content(path, data, format, card, decode)


def _plain(source: Source, said: Mapping[str, str], key: str) -> Any:
    """Return the plain value of a metadata entry."""
    if len(said[key]) > model_file.CARD_LIMIT:
        raise source.error(f"metadata.{key}", f"more than {model_file.CARD_LIMIT // MB} MB")
    return untrusted.parse_json(source, f"metadata.{key}", said[key])


# ---- ONNX --------------------------------------------------------------------------------------------------------


def _of_onnx(source: Source, data: bytes) -> dict[str, str]:
    """Return the metadata of an ONNX file, which nothing of a graph runs for."""
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # the parser's own, whose words say nothing to a user
        raise source.error("", "damaged: no ONNX file, or cut off") from None
    outside = next(_outside(source, model), None)
    if outside is not None:
        fix = "export the weights again, into one file"
        problem = f"the tensor {outside!r:.40} lies in another file, which is not opened"
        raise SsodError(source.path, "graph", problem, fix, code=Exit.UNSAFE)
    for what, names, ports in (("inputs", INPUTS, model.graph.input), ("outputs", OUTPUTS, model.graph.output)):
        own = [port.name for port in ports]
        if own != list(names):
            problem = f"are {', '.join(own) or 'none'}, must be {', '.join(names)}"
            raise source.error(f"graph.{what}", f"{problem:.150}")
        for port in ports:
            _check_port(source, port)
    return {entry.key: entry.value for entry in model.metadata_props}


def _outside(source: Source, message: Any) -> Iterator[str]:
    """Yield the names of the tensors, wherever in a model, whose values lie in other files.

    Raises:
        SsodError: code 4, a sparse one, which grows when it is loaded.
    """
    if message.DESCRIPTOR.name == "SparseTensorProto":
        raise source.error("graph", "has a sparse tensor, and ssod writes none")
    if message.DESCRIPTOR.name == "TensorProto":
        if message.data_location == message.EXTERNAL or len(message.external_data):
            yield message.name
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if hasattr(value, "DESCRIPTOR") else value:
                yield from _outside(source, inner)


def _check_port(source: Source, port: Any) -> None:
    """Refuse an input or output of another type or shape, or an input whose size is fixed."""
    kind, wanted = _PORTS[port.name]
    tensor = port.type.tensor_type
    shape = [dim.dim_value or None for dim in tensor.shape.dim]
    if port.name in _FREE_INSIDE and len(shape) > 1:
        shape[1] = None
    if tensor.elem_type != kind or tuple(shape) != wanted:
        text = "[" + ", ".join("free" if side is None else str(side) for side in shape) + "]"
        free = "[" + ", ".join("free" if side is None else str(side) for side in wanted) + "]"
        problem = f"is of type {tensor.elem_type} and shape {text:.60}, must be of type {kind} and shape {free}"
        raise source.error(f"graph.{port.name}", problem)


# ---- .pt2 --------------------------------------------------------------------------------------------------------


def _refuse_code(path: Path) -> None:
    """Refuse a .pt2 unless somebody says to trust it.

    ``torch.export.load`` cannot be told to open data alone: it unpickles what the archive marks as pickled with
    ``weights_only=False``, unpickles example inputs so where the safe way fails, hands the expressions of its shapes to
    ``sympy.sympify``, which evaluates them, and looks up any function of torch that the graph names as an operator. No
    list of ours would hold against all that in each version of torch.
    """
    if os.environ.get(ALLOWED) != "*":
        problem = "a .pt2 can run any code when torch opens it"
        fix = f"use an .onnx, or if you trust it pass --allow-code (in Python: {ALLOWED}=*)"
        raise SsodError(path, "", problem, fix, code=Exit.UNSAFE)


def _of_pt2(source: Source, data: bytes) -> dict[str, str]:
    """Return the metadata of a .pt2 archive, which is read without torch."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            if sum(sizes.values()) > len(data):  # torch packs nothing, so that nothing can grow
                problem = f"{len(data) / MB:.0f} MB that unpack to {sum(sizes.values()) / MB:.0f} MB; refused"
                raise SsodError(source.path, "", problem, AGAIN, code=Exit.UNSAFE)
            extra = [name for name in sizes if name.startswith("archive/extra/")]
            return {name.removeprefix("archive/extra/"): archive.read(name).decode() for name in extra}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise source.error("", f"damaged: {error}") from None
