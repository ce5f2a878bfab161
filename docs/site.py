"""Hooks of ``mkdocs build``: files outside ``docs/`` are not part of the site, so links to them become their names; and
the same function of both pairs stands side by side where the screen is wide enough (see site.css)."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)")
_BLOCK = (
    r"(?:[^\n]+\n)+\n<!-- excerpt: models/(?P<{family}>\w+)/{twin}_\w+\.py (?P<{name}>\w+) -->\n```python\n.*?^```\n"
)
TWINS = re.compile(
    f"(?<=\n\n)(?P<one>{_BLOCK.format(family='family', twin='numpyro', name='name')})\n"
    f"(?P<other>{_BLOCK.format(family='family_2', twin='pyro', name='name_2')})",
    re.DOTALL | re.MULTILINE,
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """``[Contributing](../CONTRIBUTING.md)`` -> ``Contributing (`CONTRIBUTING.md`)``, and twins into two columns."""
    return TWINS.sub(_columns, OUTSIDE.sub(r"\1 (`\2`)", markdown))


def _columns(found: re.Match[str]) -> str:
    if (found["family"], found["name"]) != (found["family_2"], found["name_2"]):
        return found[0]
    parts = (f'<div markdown="1">\n\n{found[part]}\n</div>' for part in ("one", "other"))
    return '<div class="twins" markdown="1">\n' + "\n".join(parts) + "\n</div>\n"
