"""What the tests of reports share: a report as its elements, the contrast of colours, and a comparison's folder."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import ppl_gen as pg
from ppl_gen.html.markup import VOID


@dataclasses.dataclass
class Element:
    """A name, attributes, the text within (that of elements within it too), and the names of what it is in."""

    name: str
    attributes: dict[str, str]
    within: tuple[str, ...]
    text: str = ""


class Page(HTMLParser):
    """The elements of a page in order; a page whose elements are not closed in order is refused."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {[element.name for element in self.open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        assert len(values) == len(attrs), f"<{tag}> has an attribute twice"
        element = Element(tag, values, tuple(outer.name for outer in self.open))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, *names: str) -> list[Element]:
        return [element for element in self.elements if element.name in names]


def colours(style: str) -> tuple[dict[str, str], dict[str, str]]:
    """The colour variables of the light theme and of the dark one."""
    light, dark = (dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6});", part)) for part in
                   re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2])  # fmt: skip
    return light, light | dark


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours (WCAG 2.2, section 1.4.3 and "relative luminance")."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def write_comparison(folder: Path, fits: dict[str, pg.Fit], **changes: Any) -> Path:
    """A comparison's folder of these fits, as ``ppl-gen compare`` writes it, with figures that are made up."""
    folder.mkdir()
    models = []
    for place, (name, fit) in enumerate(fits.items()):
        fit.save(folder / "fits" / f"m{place}")
        models.append({
            "model": name, "family": fit.family.name, "options": fit.family.to_config(), "engine": fit.engine.name,
            "backend": fit.backend, "elpd": -1.5 - place, "se": 0.2, "difference": -1.0 * place,
            "difference_se": 0.25 * place, "weight": 1.0 if place == 0 else 0.0, "density": "exact",
            "is_bound": place == 1, "error_kind": None, "error": None, "calibration": 0.88, "seconds": 2.0,
            "checks_failed": place, "checks": 5, "verdict": "trust it" if place == 0 else "look at its checks",
            "run": f"fits/m{place}",
        })  # fmt: skip
    document = {
        "format": 1, "table": "tables/<b>cells</b>.csv", "rows": 150, "columns": ["height", "mass"], "unit": "row",
        "how": "30 rows held out", "seed": 0, "budget_seconds": 300.0, "seconds": 41.0, "best": next(iter(fits)),
        "models": models,
        "left_out": [{"model": "hmm", "why": "name the column that orders them (order=, sequence=)."}],
        "warnings": ["With 30 rows the standard errors are themselves uncertain."],
        "next": [{"command": "ppl-gen diagnose fits/m0", "what": "the checks of the best"}],
    }  # fmt: skip
    (folder / "comparison.json").write_text(json.dumps(document | changes), encoding="utf-8")
    lines = [",".join(["row", *(f'"{name}"' for name in fits)])]
    lines += [",".join(map(str, [row, *(-1.5 - place for place in range(len(fits)))])) for row in range(30)]
    (folder / "held_out.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
