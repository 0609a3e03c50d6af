"""Which images of a set are decoded before training: only that finds those that are truncated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from ssod.data.checks.images import check_images
from ssod.data.formats.findings import Context
from ssod.data.formats.records import Images
from ssod.utils.errors import SsodError

Decode = Literal["none", "sample", "all"]
SAMPLE = 1000  # images of a set, evenly spread
MOST = 20_000  # images of a set that are decoded unless somebody says otherwise; larger ones are sampled


def chosen(rows: Sequence[int], decode: Decode | None) -> Sequence[int]:
    """Return which of ``rows`` to decode; None = all of up to ``MOST``, and a sample of more."""
    if decode == "none":
        return []
    sampled = decode == "sample" or (decode is None and len(rows) > MOST)
    return rows[:: max(1, -(-len(rows) // SAMPLE)) if sampled else 1]


def check_word(decode: str | None) -> None:
    """Raise ``SsodError`` for a word that is none of ``Decode``."""
    if decode not in (None, *get_args(Decode)):
        raise SsodError("command line", "--decode", f"'{decode}' is unknown", f"use {', '.join(get_args(Decode))}")


def refuse_undecodable(images: Images, rows: range, file: str, ctx: Context, decode: Decode | None) -> None:
    """Decode images whose files are known to be there.

    Args:
        images: those that a run is measured on, say.
        rows: this process's share of them.
        file: the file that names them; for messages.
        ctx: rules and findings.
        decode: which of them.

    Raises:
        SsodError: code 3, the first that cannot be read.
    """
    wanted = chosen(rows, decode)
    check_images(images, wanted, file, ctx, decoded=wanted)
    ctx.findings.raise_first()
