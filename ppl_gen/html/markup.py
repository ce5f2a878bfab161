"""HTML that can't be injected into: all text is escaped, and only :func:`tag` makes what is not."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

VOID = frozenset({"img", "meta", "rect", "line", "path", "ellipse", "polygon"})  # without content
# What HTML can't hold, and marks that turn the direction of the text after them around.
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]")


class Markup(str):
    """HTML as it stands; any other text is escaped where it is put in."""

    __slots__ = ()

    def __add__(self, other: Any) -> Markup:
        return Markup(str.__add__(self, escape(other)))


def escape(content: Any) -> Markup:
    """Text for HTML, also within an attribute. :class:`Markup` stays; of a sequence all its parts; None is nothing."""
    if isinstance(content, Markup):
        return content
    if content is None:
        return Markup("")
    if isinstance(content, Iterable) and not isinstance(content, str):
        return Markup("".join(escape(part) for part in content))
    return Markup(html.escape(CONTROLS.sub("\N{REPLACEMENT CHARACTER}", str(content)), quote=True))


def tag(name: str, /, *content: Any, **attributes: Any) -> Markup:
    """An element. ``class_`` stands for ``class``, ``aria_label`` for ``aria-label``; an attribute that is None or
    False is left out, one that is True has no value."""
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        own = key.rstrip("_").replace("_", "-")
        words.append(own if value is True else f'{own}="{escape(value)}"')
    if name in VOID:  # closed at once, which SVG needs
        return Markup(f"<{' '.join(words)} />")
    return Markup(f"<{' '.join(words)}>{escape(content)}</{name}>")


def table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], caption: str, *, numbers: Iterable[int] = (),
    words: Iterable[int] = (), kind: str = "",
) -> Markup:  # fmt: skip
    """A table in a box of its own that scrolls sideways; the first cell of a row is its heading.

    :param caption: what it is, also the name of the box.
    :param numbers: the columns whose cells are numbers, which stand to the right.
    :param words: the columns whose cells are sentences, which are not squeezed.
    :param kind: a class of the table.
    """
    right, wide = frozenset(numbers), frozenset(words)

    def style(place: int) -> str | None:
        return "number" if place in right else "words" if place in wide else None

    head = tag("tr", [tag("th", text, scope="col", class_=style(j)) for j, text in enumerate(header)])
    body = [
        tag("tr", [tag("th", cell, scope="row", class_=style(0)) if j == 0 else tag("td", cell, class_=style(j))
                   for j, cell in enumerate(row)])
        for row in rows
    ]  # fmt: skip
    whole = tag(
        "table", tag("caption", tag("span", caption)), tag("thead", head), tag("tbody", body), class_=kind or None
    )
    return tag("div", whole, class_="scroll", role="region", aria_label=caption, tabindex="0")


def facts(items: Iterable[tuple[str, Any]]) -> Markup:
    """Names and what they are."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in items])


def bullets(items: Iterable[Any], kind: str | None = None) -> Markup:
    """A list of sentences."""
    return tag("ul", [tag("li", item) for item in items], class_=kind)


def folded(title: Any, *content: Any, is_open: bool = False) -> Markup:
    """Content behind a line that opens it; print has it open."""
    return tag("details", tag("summary", title), *content, open=is_open)


def command(line: str, purpose: str) -> Markup:
    """A command line and what it gives."""
    return tag("li", tag("code", line), tag("span", purpose, class_="purpose"))


def commands(items: Iterable[tuple[str, str]]) -> Markup:
    """Command lines, each with what it gives."""
    return tag("ul", [command(line, purpose) for line, purpose in items], class_="commands")
