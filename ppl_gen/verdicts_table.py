"""A comparison of a table as it is printed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppl_gen.scores import MAX_KHAT

if TYPE_CHECKING:
    from ppl_gen.verdicts import TableComparison

TITLES = ("model", "ELPD ± se", "difference ± se", "density", "error", "in 90 %", "s", "verdict")
RIGHT = (1, 2, 4, 5, 6)  # which of them are numbers
LARGE = 1_000.0  # nats
VERDICT = 25  # characters that a column of verdicts needs: where there are fewer they stand below the table


def cells(comparison: TableComparison) -> list[tuple[str, ...]]:
    """A row of texts for each model."""
    number = len(comparison.pointwise)
    found: list[tuple[str, ...]] = []
    for place, (name, row) in enumerate(comparison.frame.iterrows()):
        elpd = ("≥ " if row["is_bound"] else "") + _with_error(row["elpd"] / number, row["se"] / number)
        difference = "" if place == 0 else _with_error(row["difference"] / number, row["difference_se"] / number)
        found.append((str(name), elpd, difference, str(row["density"]), _error(row), _share(row),
                      f"{row['seconds']:,.0f}", str(row["verdict"])))  # fmt: skip
    return found


def _with_error(value: float, error: float) -> str:
    """Without decimals where the error is so large that they say nothing, and only take room."""
    decimals = 0 if error >= LARGE else 3
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}"


def _error(row: Mapping[str, Any]) -> str:
    if row["error_kind"] == "k-hat":
        return f"k-hat {row['error']:.0%}"
    return "" if row["error_kind"] is None else f"± {row['error']:.2g}"


def _share(row: Mapping[str, Any]) -> str:
    if row["calibration"] is None:
        return ""
    return f"{100 * row['calibration']:.0f} ± {100 * row['calibration_se']:.0f}"


def title(comparison: TableComparison) -> str:
    return f"Held-out ELPD, {comparison.how} (nats per {comparison.unit}, higher is better)"


def legend(comparison: TableComparison) -> str:
    """What the columns are."""
    kinds = set(comparison.frame["error_kind"]) - {None}
    parts = []
    if "mcse" in kinds:
        parts.append("error: Monte Carlo standard error of the number, nats")
    if "k-hat" in kinds:
        parts.append(f"k-hat: share of {comparison.unit}s with k-hat above {MAX_KHAT:g}, whose number is too low")
    if comparison.frame["calibration"].notna().any():
        parts.append(f"in 90 %: per cent of held-out {comparison.unit}s in the model's 90 % region")
    return "; ".join([*parts, "s: seconds to fit and score"]) + "."


def left_out(comparison: TableComparison) -> list[tuple[str, str]]:
    """Names and the reason that they share."""
    return [(", ".join(names), why) for names, why in grouped((e.model, e.why) for e in comparison.left_out)]


def grouped(left_out: Iterable[tuple[str, str]]) -> list[tuple[list[str], str]]:
    """Models that share a reason, and the reason: two that differ in their own names alone are one."""
    found: dict[str, list[str]] = {}
    for model, why in left_out:
        own = re.escape(model.partition(" ")[0])  # the family
        found.setdefault(re.sub(rf"(^|, but ){own} (?=[a-z])", r"\1it ", why), []).append(model)
    return [(names, why) for why, names in found.items()]


def as_text(comparison: TableComparison) -> str:
    rows = [TITLES, *cells(comparison)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(TITLES))]
    lines = [
        "  ".join(cell.rjust(width) if i in RIGHT else cell.ljust(width)
                  for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip
    out = [f"Left out: {names}: {why}" for names, why in left_out(comparison)]
    return "\n".join([title(comparison), *lines, legend(comparison), *out, *comparison.warnings])


class AsRich:
    """For rich: the verdicts in the last column, or below the table where it is narrow."""

    def __init__(self, comparison: TableComparison) -> None:
        self.comparison = comparison

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.measure import Measurement
        from rich.text import Text

        without = _table(self.comparison, wide=False)
        taken = Measurement.get(console, options.update(max_width=10_000), without).maximum
        wide = options.max_width - taken - 1 >= VERDICT
        yield _table(self.comparison, wide=True) if wide else without
        if not wide:
            yield from _pairs("Verdicts", [(row[0], row[-1]) for row in cells(self.comparison)])
        yield Text(legend(self.comparison), style="dim")
        if self.comparison.left_out:
            yield from _pairs("Left out", left_out(self.comparison))
        if self.comparison.warnings:
            yield Text()
        yield from (Text(warning, style="yellow") for warning in self.comparison.warnings)


def _table(comparison: TableComparison, wide: bool) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title(comparison), title_justify="left", title_style="bold", header_style="dim", box=None,
                  pad_edge=False)  # fmt: skip
    for i, name in enumerate(TITLES[: None if wide else -1]):
        last = i == len(TITLES) - 1
        table.add_column(name, justify="right" if i in RIGHT else "left", no_wrap=i in RIGHT or not (last or i == 0),
                         overflow="fold", ratio=1 if last else None)  # fmt: skip
    for place, row in enumerate(cells(comparison)):
        table.add_row(*map(Text, row[: len(table.columns)]), style="bold green" if place == 0 else "")
    return table


def _pairs(heading: str, rows: Sequence[tuple[str, str]]) -> Iterator[Any]:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(ratio=2, overflow="fold")
    grid.add_column(ratio=5)
    for names, words in rows:
        grid.add_row(Text(names), Text(words, style="dim"))
    yield from (Text(), Text(heading, style="bold"), grid)
