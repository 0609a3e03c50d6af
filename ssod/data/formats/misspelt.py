"""Keys of COCO entries that nearly are one of those that are read: what is misspelt says nothing, and nobody notices.

Other tools write keys of their own, which are no mistake: a key counts as misspelt where it is one letter, or two of a
long word, from a key that is read, and that key is missing in the same entry.
"""

from __future__ import annotations

from collections import Counter

from ssod.data.formats.columns import Rows
from ssod.data.formats.findings import Context

# The keys that are read, of each list of the file.
READ: dict[str, tuple[str, ...]] = {
    "images": ("file_name", "width", "height", "incomplete", "neg_category_ids", "not_exhaustive_category_ids"),
    "annotations": ("image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"),
    "categories": ("name", "supercategory"),
}
# Words of their own, near as they are.
OTHER_WORDS = {"complete", "weight", "box", "rbox", "obox", "hbox", "bboxes", "names", "category_ids", "image_ids"}
LONG = 8  # letters from which on a word may have two mistakes


def warn_of_misspelt(table: Rows, ctx: Context) -> None:
    """Record each misspelt key once, with the key that is meant and how many entries have it.

    Args:
        table: one of the lists of ``READ``.
        ctx: section and findings.
    """
    read = READ[table.name]
    known = {"id", *read}
    meant: dict[str, str] = {}  # key -> the one that is meant; empty where it is a word of its own
    found: Counter[str] = Counter()
    first: dict[str, int] = {}
    for i, row in enumerate(table.rows):
        for key in row.keys() - known:
            if key not in meant:
                meant[key] = near(key, read)
            if meant[key] and meant[key] not in row:
                found[key] += 1
                first.setdefault(key, i)
    for key, count in found.items():
        problem = f"is no key that is read; {count} entries have it, and no '{meant[key]}'"
        fix = f"did you mean '{meant[key]}'?"
        ctx.findings.warning("D49", table.file, table.place(first[key], key), problem, fix, count=count)


def near(key: str, read: tuple[str, ...]) -> str:
    """Return the key that a word is a misspelling of; empty where it is another word."""
    plain = key.lower()
    if plain in OTHER_WORDS:
        return ""
    return next((one for one in read if edits(plain, one, most := 1 + (len(one) >= LONG)) <= most), "")


def edits(a: str, b: str, most: int) -> int:
    """Return how many letters to add, to take out, to change, or to swap with the next make ``b`` of ``a``.

    Above ``most`` any number above it may be returned: words of other lengths are not looked at.
    """
    if abs(len(a) - len(b)) > most:
        return most + 1
    before, row = [], list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        last, before, row = before, row, [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
