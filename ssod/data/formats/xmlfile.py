"""XML that someone else wrote, read by expat with document types refused: no entity is ever defined or fetched."""

from __future__ import annotations

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ssod.data.formats.findings import short

# Deeper than any annotation, shallow enough for every recursive walk over the tree.
MAX_DEPTH = 50


class XmlProblem(Exception):
    """What is wrong with a document: (id, place, problem, fix)."""


def parse_xml(data: bytes) -> Element:
    """Return the root element.

    Raises:
        XmlProblem: a DTD (and with it every kind of entity), a document that is not well-formed or nested absurdly.
    """
    builder, parser, opened = TreeBuilder(), expat.ParserCreate(), []

    def start(tag: str, attributes: dict[str, str]) -> None:
        opened.append(tag)
        if len(opened) > MAX_DEPTH:
            raise XmlProblem("V02", f"line {parser.CurrentLineNumber}", f"nested deeper than {MAX_DEPTH}", "mend it")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        opened.pop()
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise XmlProblem("S12", "DOCTYPE", "DTD not allowed", "remove the declaration")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        problem = f"not closed tag <{short(opened[-1])[1:-1]}>, or" if opened else "not XML:"
        raise XmlProblem(
            "V02", f"line {error.lineno}", f"{problem} {expat.ErrorString(error.code)}", "mend it"
        ) from None
    except (LookupError, ValueError) as error:  # an encoding that Python does not have, or that is wider than a byte
        raise XmlProblem("V02", "line 1", f"cannot be read ({error})", "save it as UTF-8") from None
    return builder.close()
