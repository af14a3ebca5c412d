"""HTML as strings: every text on a page is escaped here, and nowhere else."""

import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

Number = int | float
Attribute = str | Number | bool | None
ABSENT = "\N{EN DASH}"  # where there is no value
_VOID = ("br", "img", "input", "link", "meta")


class Markup(str):
    """HTML, of which all text is escaped."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """A text as HTML, also within quotes; what is HTML stays as it is.

    What no page can hold, as control characters and names of files that are not UTF-8, is written
    as escapes.
    """
    if isinstance(text, Markup):
        return text
    shown = "".join(c if c.isprintable() or c in "\n\t" else _unprintable(c) for c in text)
    return Markup(html.escape(shown, quote=True))


def _unprintable(character: str) -> str:
    """A space stays one; others become escapes of Python."""
    return " " if character.isspace() else character.encode("unicode_escape").decode()


def element(name: str, /, *children: str, **attributes: Attribute) -> Markup:
    """An element.

    Args:
        name: of the element, as in "p".
        children: text, which is escaped, and elements.
        attributes: by name, where "_" stands for "-" and a last one is dropped, as in "class_".
            None and False leave one out; True gives no value.
    """
    opening = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{opening}>")
    return Markup(f"<{name}{opening}>{''.join(map(escape, children))}</{name}>")


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.removesuffix("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def joined(parts: Iterable[str]) -> Markup:
    """Text and elements one after the other."""
    return Markup("".join(map(escape, parts)))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> Markup:
    """A table, which scrolls where it is wider than the page.

    Args:
        head: names of the columns; none for a table of names and values.
        rows: cells, as text or elements.
        texts: how many of the first columns are text; the others are numbers, to the right.
    """

    def line(kind: str, cells: Sequence[str]) -> Markup:
        sides = [None if i < texts else "number" for i in range(len(cells))]
        return element(
            "tr",
            *(element(kind, cell, class_=side) for cell, side in zip(cells, sides, strict=True)),
        )

    top = [element("thead", line("th", head))] if head else []
    body = element("tbody", *(line("td", row) for row in rows))
    return element("div", element("table", *top, body), class_="wide")


def folded(summary: str, *content: str, open_: bool = False) -> Markup:
    """Content under a line that shows and hides it."""
    return element("details", element("summary", summary), *content, open=open_)


def embedded_json(value: Any, id_: str) -> Markup:
    """Data for programs; what is not finite is null, as JSON has no word for it."""
    text = json.dumps(finite(value), allow_nan=False, separators=(",", ":"))
    # Within a script nothing is escaped: "</script>" and "<!--" must not come up.
    return element("script", Markup(text.replace("<", "\\u003c")), type="application/json", id=id_)


def finite(value: Any) -> Any:
    """The same with None for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
