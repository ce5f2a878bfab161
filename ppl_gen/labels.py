"""A column that labels some of the rows: which column it is, and how it is read. Rows without a label have a discrete
latent in its place, which is summed out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import DataError
from ppl_gen.parsing import infer_kind, normalise, read_numbers, show
from ppl_gen.readers import Source

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.blocks import Where
    from ppl_gen.columns import Column
    from ppl_gen.data import Data
    from ppl_gen.family import Pair
    from ppl_gen.result import Fit
    from ppl_gen.schema import Schema
    from ppl_gen.view import View

KINDS = ("binary", "categorical")
SHARE = "label_share"  # the parameter that holds which share of the training rows has a label


@dataclasses.dataclass(frozen=True)
class Label:
    """A discrete site of each observation that a column holds where it is known, and that is summed out elsewhere.

    ``size``    C, how many values it has: 0, 1, ... C - 1
    ``column``  its place in ``view.x``
    ``weight``  alpha, of log q(y | x) of a row with a label in the training objective; None is the number of other
                columns over the share of rows that have one
    ``others``  how many other columns there are
    ``site``    its name in model and guide
    """

    size: int
    column: int
    weight: float | None = None
    others: int = 1
    site: str = "y"

    def alpha(self, parameters: Any) -> Any:
        """The weight, given the parameters of one member."""
        return self.others / parameters[SHARE][0] if self.weight is None else self.weight


def joint_sites(pair: Pair) -> tuple[str, ...]:
    """The sites of an observation: its label, its local latents, x, and the factor of an unnormalised density."""
    energy = () if pair.tempered is None else ("energy",)
    return (*(() if pair.label is None else (pair.label.site,)), *pair.local, "x", *energy)


def may_lack(fit: Fit) -> tuple[str, ...]:
    """The columns that a new table may be without: that of the label."""
    label = getattr(fit.family, "label", None)
    return () if label is None else (fit.schema.names[position(fit.schema, label)],)


def position(schema: Schema, name: str | int) -> int:
    """Where the column of this name stands among all.

    :raises DataError: there is none.
    """
    return Source(np.empty((0, schema.num_columns)), schema.names, schema.container).position(name)


def name_of(source: Source, positions: list[int], given: tuple[str, ...], label: Any) -> str | None:
    """The name of the label's column; None where there is none.

    :raises DataError: it is unknown or left out, is conditioned on, or is the only column.
    """
    if label is None:
        return None
    j = source.position(label)
    shown = show(source.names[j])
    if source.names[j] in given:
        raise DataError(f"Column {shown} is the label and conditioned on: leave it out of label= or condition_on=.")
    if j not in positions:
        raise DataError(f"Column {shown} is the label, so it can't be left out with drop or columns, or hold weights.")
    if len(positions) - len(given) == 1:
        raise DataError(f"Column {shown} is the label, and no other column is left to model.")
    known = normalise(source.column(j))[0].dropna()
    if not len(known):
        raise DataError(f"Column {shown} is to be the label, but no row has one: give some rows a label, or leave "
                        "label= out and drop the column.")  # fmt: skip
    if known.nunique() == 1:
        raise DataError(f"Column {shown} is to be the label, but all {len(known):,} labels are {show(known.iloc[0])}: "
                        "give rows of each label one, or leave label= out and drop the column.")  # fmt: skip
    return source.names[j]


def choose_kind(name: str, series: pd.Series, chosen: str | None, where: Where) -> str:
    """As what the label's column is read: the kind asked for, else labels, or numbers that are all 0 or 1.

    :raises DataError: it holds other numbers, or another kind is asked for.
    """
    kind = chosen or infer_kind(name, normalise(series)[0], where)
    if kind in KINDS:
        return kind
    raw = read_numbers(name, normalise(series)[0], where)
    seen = raw[np.isfinite(raw)]
    if not chosen and np.isin(seen, (0, 1)).all():
        return "binary"
    raise _not_a_label(name, kind)


def check_kind(column: Column) -> None:
    """Raise a :class:`DataError` unless a column that was read already can be the label."""
    if column.kind not in KINDS:
        raise _not_a_label(column.name, column.kind)


def _not_a_label(name: str, kind: str) -> DataError:
    held = "counts" if kind == "count" else "real numbers"
    return DataError(
        f"Column {show(name)} is to be the label, but it holds {held}, which are no labels: read it as a category, with"
        f" kinds={{{show(name)}: 'categorical'}}, or name another column."
    )


def check(data: Data, name: str | int) -> None:
    """Raise a :class:`DataError` unless some of the rows have a label, and some have not."""
    if data.schema.image is not None:
        raise DataError("label= is for tables, and images have no column of labels: pass a table of pixels, with the "
                        "label as one of its columns, and network='mlp'.")  # fmt: skip
    j = position(data.schema, name)
    shown, seen = show(data.schema.names[j]), len(data) if data.mask is None else int(data.mask[:, j].sum())
    if not seen:
        raise DataError(f"Column {shown} is to be the label, but no row has one: give some rows a label, or leave "
                        "label= out and drop the column.")  # fmt: skip
    if seen == len(data):
        raise DataError(
            f"Column {shown} is to be the label, but every row has one, so that there is nothing to infer: leave label="
            f" out, and condition on it (condition_on={shown}) or model it as a column like the others."
        )


def starting_logits(view: View, column: int, size: int) -> tuple[np.ndarray, float]:
    """Log frequencies (C,) of the labels that are there, and the share of rows that have one."""
    x = np.asarray(view.x)[:, column]
    weights = np.ones(len(x)) if view.weights is None else np.asarray(view.weights, np.float64)
    seen = weights if view.mask is None else weights * np.asarray(view.mask)[:, column]
    counts = np.array([seen[x == value].sum() for value in range(size)]) + 0.5
    return np.log(counts / counts.sum()), max(float(seen.sum() / weights.sum()), 1e-6)
