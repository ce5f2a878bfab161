"""The columns of a table, read one by one into one array in model space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.columns import WIDER, Column
from ppl_gen.errors import DataError, warn
from ppl_gen.parsing import (
    Where,
    check_kind,
    infer_kind,
    is_narrow,
    moments,
    normalise,
    read_labels,
    read_numbers,
    show,
    some,
)

if TYPE_CHECKING:
    import pandas as pd


class Block:
    """The (n, d) array being filled, column by column, so that a table is copied once; the mask appears when needed."""

    def __init__(self, num_rows: int, num_columns: int, dtype: Any) -> None:
        self.x = np.empty((num_rows, num_columns), dtype=dtype)
        self.mask: np.ndarray | None = None

    def put(self, j: int, column: Column, raw: np.ndarray, where: Where) -> None:
        """Column j in the table's units, NaN where missing, to its place in model space.

        :raises DataError: a value overflows there.
        """
        target = self.x[:, j]
        with np.errstate(over="ignore", invalid="ignore"):
            target[:] = column.to_model(raw)
        if np.isfinite(target).all():
            return
        missing = np.isnan(raw)
        bad = ~np.isfinite(target) & ~missing
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(f"Column {show(column.name)}, {where(row)}: {raw[row]:g} is too large: rescale the column.")
        target[missing] = 0.0
        if self.mask is None:
            self.mask = np.ones(self.x.shape, dtype=bool)
        self.mask[:, j] = ~missing


def fit_column(name: str, series: pd.Series, kind: str, standardize: bool, weights: np.ndarray | None,
               where: Where) -> tuple[Column, np.ndarray, bool]:  # fmt: skip
    """The column as it will be modelled, its values (n,) in the table's units, NaN where missing, and whether it
    :func:`is_constant`.

    :raises DataError: all-missing, constant but neither count nor binary, not of its kind, or too large.
    """
    series, dtype = normalise(series)
    categories = None
    if kind == "categorical":
        raw, categories = read_labels(name, series, None, where)
    else:
        raw = read_numbers(name, series, where)
        check_kind(name, kind, raw, where)
    constant = is_constant(name, kind, raw, weights, categories)
    loc, scale = moments(name, raw, weights) if standardize and kind == "real" else (0.0, 1.0)
    return Column(name, kind, dtype, loc, scale, categories), raw, constant


def is_constant(
    name: str, kind: str, raw: np.ndarray, weights: np.ndarray | None, categories: Sequence[Any] | None = None
) -> bool:
    """Whether a column holds one value only, in the rows that have a weight. A count or a truth value may: its
    probability is then learnt to be near 1.

    :raises DataError: a real column does, which gives it no scale, or a column of labels; or all values are missing.
    """
    counted = raw if weights is None else raw[weights > 0]
    low, high = float(np.fmin.reduce(counted)), float(np.fmax.reduce(counted))
    if np.isnan(low):
        raise DataError(f"Column {show(name)} has no values, all are missing: drop it with drop=[{show(name)}].")
    if low == high and kind not in ("count", "binary"):
        value = categories[int(low)] if categories else low
        raise DataError(f"Column {show(name)} is constant, {show(value)} in every row: drop it, drop=[{show(name)}].")
    return low == high


def tell_constant(names: Sequence[str], number: int) -> None:
    """Warn of the columns, of ``number`` that are modelled, that hold one value only.

    :raises DataError: all do.
    """
    if len(names) == number:
        raise DataError(f"Nothing varies in the table (columns {some(names)}), so there is nothing to fit.")
    if names:
        what = f"Column {some(names)} never varies" if len(names) == 1 else f"Columns {some(names)} never vary"
        warn(f"{what}: only the one value is learnt. Drop what says nothing.")


def choose_kind(name: str, series: pd.Series, chosen: str | None, accept: Iterable[str], accept_for: str,
                where: Where) -> str:  # fmt: skip
    """The kind asked for, or else the one inferred; widened until it is accepted. Where no real numbers are, floats are
    read as counts or as truth values if they all can be; where labels alone are, whole numbers are labels.

    :raises DataError: neither it nor a wider one is accepted.
    """
    if chosen in ("count", "binary"):  # what was asked for must hold, also where it is widened
        check_kind(name, chosen, read_numbers(name, normalise(series)[0], where), where)
    kind = chosen or infer_kind(name, normalise(series)[0], where)
    accept = tuple(accept)
    narrow = next((each for each in ("count", "binary") if each in accept), None)
    if narrow and kind in ("real", "count") and not {kind, "real"} & set(accept):
        # Say which value is none. Whole numbers with gaps come as floats: pandas has no other number for a missing one.
        check_kind(name, narrow, read_numbers(name, normalise(series)[0], where), where)
        kind = kind if chosen else narrow
    if accept == ("categorical",) and kind != "categorical" and not chosen:
        raw = read_numbers(name, normalise(series)[0], where)
        seen = raw[~np.isnan(raw)]
        kind = "categorical" if (seen == np.rint(seen)).all() else kind
    return widen(name, kind, accept, accept_for)


def widen(name: str, kind: str, accept: Iterable[str], accept_for: str) -> str:
    """The first of binary -> count -> real, from ``kind`` on, that is accepted.

    :raises DataError: none is.
    """
    accept, wide = tuple(accept), kind
    while wide not in accept:
        if wide not in WIDER:
            held = {"categorical": "labels", "real": "real numbers"}.get(kind, f"{kind} values")
            raise DataError(
                f"Column {show(name)} holds {held}, but {accept_for or 'this model'} takes {' and '.join(accept)} "
                f"columns only: drop it with drop=[{show(name)}] (or set another kind: kinds={{{show(name)}: ...}})."
            )
        wide = WIDER[wide]
    return wide


def float_dtype(series: Iterable[pd.Series], kinds: Iterable[str]) -> Any:
    """float32 where the table has float32 columns and nothing that needs more, else float64."""
    narrow = False
    for column, kind in zip(series, kinds, strict=True):
        dtype = column.dtype
        if kind == "categorical" or dtype.kind == "b":
            continue
        if is_narrow(dtype):
            narrow = True
        elif not (dtype.kind in "iu" and getattr(dtype, "itemsize", 8) <= 2):
            return np.float64
    return np.float32 if narrow else np.float64
