"""The frame of every page: head, contents, sections, data."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import automix_jax
from automix_jax.report.html.markup import Markup, element, embedded_json, joined
from automix_jax.report.html.script import SCRIPT
from automix_jax.report.html.style import STYLE

MARK = '<meta name="generator" content="automix report">'  # by which a page is known as one
# The browser then loads nothing that is not in the file, whatever the texts hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Section(NamedTuple):
    """A part of a page; without a body it is left out."""

    id: str
    title: str
    body: Markup | None


def document(title: str, heading: Markup, sections: Sequence[Section], data: dict[str, Any]) -> str:
    """A whole page.

    Args:
        title: of the window.
        heading: on top.
        sections: below, in their order.
        data: all numbers, for programs: JSON in the element "data".
    """
    shown = [section for section in sections if section.body is not None]
    links = [element("a", section.title, href=f"#{section.id}") for section in shown]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Markup(MARK),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    body = element(
        "body",
        element("header", heading),
        element("nav", *links, aria_label="contents"),
        element("main", *map(_section, shown)),
        element("footer", f"Written by automix {automix_jax.__version__}."),
        embedded_json({"format": 1, "package": automix_jax.__version__, **data}, "data"),
        element("script", Markup(SCRIPT)),
    )
    page = f"<!DOCTYPE html>\n{element('html', joined([head, body]), lang='en')}\n"
    # In ASCII it is the same page whatever the system's encoding.
    return page.encode("ascii", "xmlcharrefreplace").decode()


def _section(section: Section) -> Markup:
    assert section.body is not None  # those without are left out
    return element("section", element("h2", section.title), section.body, id=section.id)
