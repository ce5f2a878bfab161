"""Numbers and verdicts as a reader wants them; what is not known reads as a word."""

from __future__ import annotations

import math
import re
from typing import Any

from ppl_gen.html.markup import Markup, tag

UNKNOWN, MISSING = "not known", "missing"
MINUS = "\N{MINUS SIGN}"
MAX_TEXT = 60


def figure(value: Any, decimals: int | None = None) -> str:
    """A number to four significant digits, or to so many decimals; NaN, None and infinity as words."""
    if value is None or isinstance(value, str):
        return value or UNKNOWN
    number = float(value)
    if not math.isfinite(number):
        return UNKNOWN if math.isnan(number) else "infinite" if number > 0 else f"{MINUS} infinite"
    if decimals is None and (abs(number) >= 1e7 or 0 < abs(number) < 1e-4):
        return f"{number:.3e}".replace("-", MINUS)
    if decimals is None:
        whole = number.is_integer()
        decimals = 0 if whole else min(8, max(0, 3 - math.floor(math.log10(abs(number)))))
        text = f"{number:,.{decimals}f}"
        return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)
    return f"{number:,.{decimals}f}".replace("-", MINUS)


def share(part: float, whole: float) -> str:
    """A share in per cent: never rounded to none, or to all, where it is not."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 1:
        return "under 1 %"
    return f"{min(percent, 99) if part < whole else percent:.0f} %"


def duration(seconds: float | None) -> str:
    """Seconds in words."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def several(number: int, what: str) -> str:
    """``3 rows``, ``1 row``."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def shortened(text: Any, limit: int = MAX_TEXT) -> str:
    """One line of text, cut where it is long."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def mark(passed: bool | None, text: str = "") -> Markup:
    """A verdict by sign and word, so that it does not hang on colour."""
    sign, word, kind = {
        True: ("✓", "pass", "good"), False: ("✗", "fail", "bad"), None: ("·", "note", "plain")
    }[passed]  # fmt: skip
    return tag("span", tag("span", sign, aria_hidden="true"), " ", text or word, class_=f"mark {kind}")


def plain(text: str) -> str:
    """The first paragraph of a docstring without its markup."""
    first = " ".join((text or "").strip().split("\n\n")[0].split())
    first = re.sub(r":math:`([^`]*)`", lambda found: found[1].replace("\\", ""), first)
    first = re.sub(r":\w+:`~?(?:[\w.]*\.)?([^`]*)`", r"\1", first)
    return first.replace("``", "").replace("`", "")
