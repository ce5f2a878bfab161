"""The data at a glance: each column's kind, what is missing, where its values lie, and a small histogram."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.html.markup import Markup, table, tag
from ppl_gen.html.wording import figure, several, share, shortened

if TYPE_CHECKING:
    from ppl_gen.columns import Column
    from ppl_gen.data import Data

HEADER = ("column", "kind", "missing", "values", "histogram")
MAX_COLUMNS = 60
MAX_LABELS = 4  # of a column of labels, the most frequent
BARS, WIDTH, HEIGHT = 24, 120, 28  # of a histogram; its size in pixels


def glance(data: Data) -> Markup:
    """A line per column of the rows that were fitted to."""
    schema = data.schema
    notes = [f"The {data.unit}s that were fitted to: {data.describe()}."]
    if data.weights is not None:
        low, high = figure(data.weights.min()), figure(data.weights.max())
        notes.append(f"{data.unit.capitalize()}s have weights, from {low} to {high}.")
    if schema.sequence or schema.order:
        of = " and ".join(filter(None, (schema.sequence and f"sequences are told apart by {schema.sequence}",
                                        schema.order and f"ordered by {schema.order}")))  # fmt: skip
        notes.append(f"{of[0].upper()}{of[1:]}.")
    unused = [name for name in schema.dropped if name not in (schema.sequence, schema.order)]
    if unused:
        notes.append(f"Columns that the table has and no model sees: {', '.join(map(shortened, unused))}.")
    text = tag("p", " ".join(notes))
    if schema.image is not None:
        return Markup(text + _pixels(data))
    rows = [_line(data, j, column) for j, column in enumerate(schema.columns[:MAX_COLUMNS])]
    more = schema.num_columns - len(rows)
    shown = table(
        ("column", "kind", "missing", "values", "histogram"), rows, "Columns of the table", numbers=(2,), words=(3,)
    )
    return Markup(text + shown + (tag("p", f"And {several(more, 'column')} more.", class_="note") if more > 0 else ""))


def _entries(data: Data, place: int, column: Column) -> np.ndarray:
    """The entries of a column that are there: in the table's units, of labels their positions."""
    values = np.asarray(data.x[:, place], np.float64)
    present = values if data.mask is None else values[data.mask[:, place]]
    return present * column.scale + column.loc if column.kind == "real" else present


def _line(data: Data, place: int, column: Column) -> tuple[Any, ...]:
    values = _entries(data, place, column)
    lost = data.num_steps - len(values)
    kind = column.kind + (", conditioned on" if column.name in data.schema.conditions else "")
    missing = "none" if not lost else f"{lost:,} ({share(lost, data.num_steps)})"
    if not len(values):
        return shortened(column.name), kind, missing, "all entries are missing", ""
    if column.levels:
        return shortened(column.name), kind, missing, *_labels(column, values)
    return shortened(column.name), kind, missing, *_numbers(column.name, values)


def _numbers(name: str, values: np.ndarray) -> tuple[str, Markup]:
    low, five, median, most, high = map(figure, np.quantile(values, [0, 0.05, 0.5, 0.95, 1]))
    text = f"from {low} to {high}; median {median}; 90 % between {five} and {most}"
    counts, _ = np.histogram(values, bins=min(BARS, max(1, len(np.unique(values)))))
    return text, bars(counts, f"Histogram of {shortened(name)}: {text}.")


def _labels(column: Column, values: np.ndarray) -> tuple[str, Markup]:
    counts = np.bincount(values.astype(int), minlength=len(column.levels))
    order = np.argsort(-counts, kind="stable")
    told = [f"{shortened(column.levels[k], 30)} {share(counts[k], len(values))}" for k in order[:MAX_LABELS]]
    more = len(order) - len(told)
    text = f"{several(len(order), 'label')}: {', '.join(told)}" + (f", and {more:,} more" if more > 0 else "")
    return text, bars(counts[order][:BARS], f"Shares of the labels of {shortened(column.name)}: {text}.")


def _pixels(data: Data) -> Markup:
    """All pixels of images as one column."""
    column = data.schema.columns[0]
    values = np.concatenate([_entries(data, j, c) for j, c in enumerate(data.schema.columns)])
    column = dataclasses.replace(column, name="all pixels")
    line = _labels(column, values) if column.levels else _numbers(column.name, values)
    row = ("all pixels", column.kind, "none", *line)
    return table(
        ("column", "kind", "missing", "values", "histogram"), [row], "Pixels of the images", numbers=(2,), words=(3,)
    )


def bars(counts: np.ndarray, told: str) -> Markup:
    """A small histogram without axes; ``told`` says in words what it shows."""
    most, step = max(int(np.max(counts)), 1), WIDTH / len(counts)
    # Few bars stay narrow and stand together at the left.
    step = min(step, 18.0)
    drawn = []
    for place, count in enumerate(counts):
        height = (HEIGHT - 2) * float(count) / most
        height = max(height, 1.0) if count else 0.0  # a bar of few rows can be seen
        drawn.append(tag("rect", x=f"{place * step:.1f}", y=f"{HEIGHT - 1 - height:.1f}", width=f"{step - 1:.1f}",
                         height=f"{height:.1f}"))  # fmt: skip
    floor = tag("line", x1="0", x2=f"{step * len(counts):.0f}", y1=HEIGHT - 0.5, y2=HEIGHT - 0.5)
    return tag("svg", tag("title", told), *drawn, floor, role="img", aria_label=told, class_="bars",
               viewBox=f"0 0 {WIDTH} {HEIGHT}", width=WIDTH, height=HEIGHT)  # fmt: skip
