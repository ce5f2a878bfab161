"""A hook of ``mkdocs build``: files outside ``docs/`` are not part of the site, so links to them become their names."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """``[Contributing](../CONTRIBUTING.md)`` -> ``Contributing (`CONTRIBUTING.md`)``."""
    return OUTSIDE.sub(r"\1 (`\2`)", markdown)
