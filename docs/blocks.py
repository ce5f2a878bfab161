"""The parts of the pages that are copies: of source files, of options, of what a program printed.

A comment in a page says what follows it: ``<!-- excerpt: FILE [NAME] -->`` a file, or a function or class of it;
``<!-- options: NAME -->`` the options of a family or engine; ``<!-- printed: NAME -->`` a text of make_pictures.py.
``python docs/blocks.py`` brings excerpts and options up to date; tests/test_docs.py holds that they are.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
HEAD = r"(?P<head><!-- (?P<kind>%s): (?P<what>[^>]+?) -->\n)"
TABLE = re.compile(HEAD % "options" + r"(?:\|.*(?:\n|\Z))*")
FENCE = re.compile(HEAD % "excerpt|printed" + r"```\w+\n(?:(?!```).*\n)*```$", re.MULTILINE)


def excerpt(what: str) -> str:
    """``FILE`` or ``FILE NAME``: the file's text, or that of the named function or class at its top level."""
    path, _, name = what.partition(" ")
    text = (ROOT / path).read_text(encoding="utf-8")
    if not name:
        return text.strip()
    for node in ast.parse(text).body:
        if getattr(node, "name", None) == name:
            return str(ast.get_source_segment(text, node))
    raise LookupError(f"{path} has no {name}")


def options(name: str) -> str:
    """The options of a family or engine as a table."""
    from ppl_gen.cli.listing import find, options_frame

    rows = ["| option | default | meaning |", "|---|---|---|"]
    for _, row in options_frame(find(name)).iterrows():
        default = "none" if row["default"] is None or row["default"] != row["default"] else f"`{row['default']!r}`"
        rows.append(f"| `{row['option']}` | {default} | {row['meaning'].replace('|', '&#124;')} |")
    return "\n".join(rows)


def filled(page: str, printed: Mapping[str, str]) -> str:
    """The page with every copy up to date; a printed text that is not given stays."""

    def fence(match: re.Match[str]) -> str:
        if match["kind"] == "excerpt":
            return f"{match['head']}```python\n{excerpt(match['what'])}\n```"
        text = printed.get(match["what"])
        return match[0] if text is None else f"{match['head']}```text\n{text}\n```"

    def table(match: re.Match[str]) -> str:
        return f"{match['head']}{options(match['what'])}\n"

    return TABLE.sub(table, FENCE.sub(fence, page))


def refresh(printed: Mapping[str, str] | None = None) -> None:
    """Rewrite the pages."""
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        after = filled(before, printed or {})
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} is up to date again")


if __name__ == "__main__":
    refresh()
