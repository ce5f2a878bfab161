"""Tables of the pages that a program makes: between ``<!-- made: NAME -->`` and ``<!-- end: NAME -->``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path


def put(page: Path, name: str, text: str) -> None:
    """Write the text between the marks of this name."""
    before = page.read_text(encoding="utf-8")
    marks = re.compile(rf"(<!-- made: {re.escape(name)} -->\n).*?(<!-- end: {re.escape(name)} -->)", re.DOTALL)
    if not marks.search(before):
        raise LookupError(f"{page.name} has no place for {name}")
    page.write_text(marks.sub(lambda found: f"{found[1]}\n{text.strip()}\n\n{found[2]}", before), encoding="utf-8")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown, the first column as text and the others as they come."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])
