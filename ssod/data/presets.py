"""Lists of operations that papers share, by name; a config writes the name where it would write the list.

Resizing depends on the data set and is never part of a strong preset: write ``[{resize: ...}, flip, <preset>]``, or
``{start: weak, ops: [<preset>]}`` for a strong view that is pixel-aligned with the weak one.
"""

from typing import Any

PRESETS: dict[str, list[Any]] = {
    # Soft Teacher (arXiv:2106.09018) and its family on COCO: short side 400..1200, long side at most 1333.
    "weak": [{"resize": {"short": [400, 1200], "long": 1333}}, "flip"],
}
