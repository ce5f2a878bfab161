"""What reports are made of: markup that can't be injected into, colours that stand out, numbers as words."""

from __future__ import annotations

import numpy as np
import pytest
from reports import Page, colours, contrast

from ppl_gen import plots
from ppl_gen.html import pictures
from ppl_gen.html.document import style
from ppl_gen.html.markup import Markup, escape, table, tag
from ppl_gen.html.wording import MINUS, duration, figure, share

PAIRS = [
    *((ink, paper) for ink in ("ink", "soft", "link") for paper in ("paper", "panel")),
    ("good", "good-paper"), ("bad", "bad-paper"), ("soft", "note-paper"), ("caution", "caution-paper"),
    ("ink", "shade"), ("soft", "shade"),
]  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out(theme: str) -> None:
    """At least 4.5 to 1 (WCAG 2.2, AA), and of what is no text but drawn, at least 3 to 1."""
    found = colours(style())[theme == "dark"]
    assert {name: contrast(found[one], found[two]) for name in PAIRS for one, two in [name]
            if contrast(found[one], found[two]) < 4.5} == {}  # fmt: skip
    assert contrast(found["bar"], found["paper"]) >= 3
    assert contrast(found["soft"], found["panel"]) >= 3


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_markup_escapes_all_but_itself() -> None:
    assert tag("p", "a<b", Markup("<b>x</b>"), None, ["&", 3]) == "<p>a&lt;b<b>x</b>&amp;3</p>"
    assert tag("a", href='"x', hidden=True, title=None, class_="c") == '<a href="&quot;x" hidden class="c"></a>'
    assert escape("a\x00b\u202e") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert Markup("<i>") + "<" == "<i>&lt;"
    page = Page(table(("a", "b"), [("<x>", 1.0)], "what", numbers=(1,)))
    assert [element.attributes["scope"] for element in page.all("th")] == ["col", "col", "row"]


def test_what_is_not_known_reads_as_words() -> None:
    assert [figure(value) for value in (None, np.nan, np.inf, -np.inf)] == [
        "not known", "not known", "infinite", f"{MINUS} infinite"
    ]  # fmt: skip
    assert [figure(value) for value in (0, -1.5, 12345.678, 1e-9, 0.012345)] == [
        "0", f"{MINUS}1.5", "12,346", f"1.000e{MINUS}09", "0.01235"
    ]  # fmt: skip
    assert [share(1, 1000), share(999, 1000), share(1, 2), share(0, 0)] == ["under 1 %", "99 %", "50 %", "0 %"]
    assert [duration(value) for value in (None, 1.24, 61, 7260)] == ["not known", "1.2 s", "1 min 1 s", "2 h 1 min"]


def test_every_picture_has_its_place() -> None:
    assert sorted(pictures.ORDER) == sorted(plots.KINDS)
    assert all(kind in plots.KINDS for kinds in pictures.FIRST.values() for kind in kinds)
