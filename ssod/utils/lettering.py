"""A font for names as their owners write them, in whatever script: on pictures and in charts.

Pillow's own font has the letters of English alone. A name with others is drawn in a font that has them: DejaVu Sans,
which comes with matplotlib, or one that is installed on the machine. Letters that none has are written as their code,
so that two names never look the same, and that is said once.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

from PIL import ImageFont

_told: set[str] = set()


@dataclass(frozen=True)
class Lettering:
    """How some texts are drawn.

    Attributes:
        path: the font's file; None = Pillow's own.
        lacking: what stands for each letter that the font has not.
    """

    path: str | None = None
    lacking: dict[str, str] = field(default_factory=dict)

    def text(self, text: str) -> str:
        """Return ``text`` in letters that the font has."""
        return "".join(self.lacking.get(letter, letter) for letter in text)

    def font(self, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        """Return the font for Pillow, ``size`` pixels high."""
        return ImageFont.load_default(size) if self.path is None else ImageFont.truetype(self.path, size)


def lettering(texts: Iterable[str]) -> Lettering:
    """Return how ``texts`` are drawn: all of them in one font."""
    return _lettering(frozenset(letter for text in texts for letter in text if not " " <= letter <= "~"))


@cache
def _lettering(letters: frozenset[str]) -> Lettering:
    if not letters:
        return Lettering()
    path, had = max(((path, _has(path) & letters) for path in _likely(letters)), key=lambda found: len(found[1]))
    lacking = {letter: _plain(letter) for letter in sorted(letters - had)}
    coded = [letter for letter, text in lacking.items() if text.startswith("<")]
    if coded and not _told:  # once: the fix is the same for all
        _told.update(coded)
        fix = "install one, such as the package fonts-noto-cjk for Chinese, Japanese and Korean"
        text = "no installed font has %s and %d more letters of the names; they are drawn as codes: %s"
        logging.getLogger("ssod").warning(text, coded[0], len(coded) - 1, fix)
    return Lettering(path, lacking)


def _plain(letter: str) -> str:
    """Return a letter without its marks if that is one of English, else its code; nothing for what is not seen."""
    base = unicodedata.normalize("NFKD", letter)
    ascii_ = "".join(part for part in base if " " <= part <= "~")
    if ascii_:
        return ascii_
    return "" if unicodedata.category(letter) in ("Mn", "Cf", "Cc") else f"<{ord(letter):X}>"


def _likely(letters: frozenset[str]) -> Iterable[str]:
    """Give fonts until one has all letters: DejaVu Sans, then those of the machine, the likeliest first."""
    for path in (_dejavu(), *_installed()):
        yield path
        if _has(path) >= letters:
            return


@cache
def _dejavu() -> str:
    from matplotlib import font_manager  # takes half a second to import

    return str(font_manager.findfont("DejaVu Sans"))


@cache
def _installed() -> tuple[str, ...]:
    """Return the font files of the machine: plain sans-serif ones first, bold and slanted ones last."""
    from matplotlib import font_manager

    def rank(path: str) -> tuple[bool, bool, str]:
        name = path.rsplit("/", 1)[-1].lower()
        heavy = any(word in name for word in ("bold", "italic", "oblique", "black", "thin", "light"))
        return heavy, "sans" not in name and "gothic" not in name, name

    return tuple(sorted(font_manager.findSystemFonts(), key=rank))


@cache
def _has(path: str) -> frozenset[str]:
    """Return the letters of a font; none of one that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(path, 10)
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
