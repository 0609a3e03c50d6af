"""One of several equal parts of a folder of images, for processes that share the work."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ssod.data.formats.records import Images
from ssod.utils.errors import Exit, SsodError


@dataclass(frozen=True)
class Shard:
    """Every ``of``-th image, from number ``number`` on, which counts from 1."""

    number: int
    of: int

    def part(self, images: Images) -> Images:
        """Return the images of this part, in their order.

        Raises:
            SsodError: code 3, there are fewer images than parts.
        """
        rows = range(self.number - 1, len(images), self.of)
        if not rows:
            problem = f"{len(images)} images make no {self.of} parts"
            raise SsodError("command line", "--shard", problem, "give fewer parts", code=Exit.DATA)
        return images.subset(rows)


def read_shard(text: str) -> Shard:
    """Return the part that ``text`` names, as in ``3/8``.

    Raises:
        SsodError: code 2, it names none.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    number, of = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= of:
        raise SsodError(
            "command line", "--shard", f"'{text}' names no part", "write 1/8 for the first of eight, to 8/8"
        )
    return Shard(number, of)
