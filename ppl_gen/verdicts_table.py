"""A comparison of a table as it is printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ppl_gen.scores import MAX_KHAT

if TYPE_CHECKING:
    from ppl_gen.verdicts import TableComparison

TITLES = ("model", "ELPD ± se", "difference ± se", "density", "error", "in 90 %", "s", "verdict")


def cells(comparison: TableComparison) -> list[tuple[str, ...]]:
    """A row of texts for each model."""
    number = len(comparison.pointwise)
    found: list[tuple[str, ...]] = []
    for place, (name, row) in enumerate(comparison.frame.iterrows()):
        scale = lambda key, row=row: row[key] / number  # noqa: E731
        elpd = f"{'≥ ' if row['is_bound'] else ''}{scale('elpd'):,.3f} ± {scale('se'):.3f}"
        difference = "" if place == 0 else f"{scale('difference'):,.3f} ± {scale('difference_se'):.3f}"
        found.append((str(name), elpd, difference, str(row["density"]), _error(row), _share(row),
                      f"{row['seconds']:,.0f}", str(row["verdict"])))  # fmt: skip
    return found


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


def as_text(comparison: TableComparison) -> str:
    rows = [TITLES, *cells(comparison)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(TITLES))]
    right = (1, 2, 4, 5, 6)
    lines = [
        "  ".join(cell.rjust(width) if i in right else cell.ljust(width)
                  for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip
    out = [f"Left out: {each.model}: {each.why}" for each in comparison.left_out]
    return "\n".join([title(comparison), *lines, legend(comparison), *out, *comparison.warnings])


def as_rich(comparison: TableComparison) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title(comparison), title_justify="left", title_style="bold", header_style="dim", box=None,
                  pad_edge=False)  # fmt: skip
    for i, name in enumerate(TITLES):
        table.add_column(name, justify="right" if i in (1, 2, 4, 5, 6) else "left", overflow="fold",
                         no_wrap=i in (1, 2, 5, 6), ratio=1 if name == "verdict" else None,
                         style="dim" if name == "density" else "")  # fmt: skip
    for place, row in enumerate(cells(comparison)):
        table.add_row(*map(Text, row), style="bold green" if place == 0 else "")
    parts: list[Any] = [table, Text(legend(comparison), style="dim")]
    if comparison.left_out:
        out = Table.grid(padding=(0, 2))
        out.add_column()
        out.add_column(ratio=1)
        for each in comparison.left_out:
            out.add_row(Text(f"  {each.model}"), Text(each.why, style="dim"))
        parts += [Text(), Text("Left out", style="bold"), out]
    return Group(*parts, *([Text()] if comparison.warnings else []),
                 *[Text(warning, style="yellow") for warning in comparison.warnings])  # fmt: skip
