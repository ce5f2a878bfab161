"""What the columns of a table are: the map from a table's units to model space and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.columns import KINDS, WIDER, Column
from ppl_gen.errors import DataError
from ppl_gen.parsing import (
    Where,
    check_kind,
    infer_kind,
    is_narrow,
    moments,
    nearest,
    normalise,
    read_labels,
    read_numbers,
    show,
)
from ppl_gen.readers import Source, read_source

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of the training table, in order, and how it was read.

    ``container``      ``"dataframe"`` (named columns) or ``"array"`` (columns x0, x1, ...)
    ``standardize``    whether real columns have mean 0 and standard deviation 1 in model space
    ``dropped``        columns of the training table that are not modelled; new tables may have them or not
    ``integer_names``  the table's column names were integers: they are given back as such
    """

    columns: tuple[Column, ...]
    container: str
    standardize: bool
    dropped: tuple[str, ...] = ()
    integer_names: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(c.kind for c in self.columns)

    @property
    def num_columns(self) -> int:
        return len(self.columns)

    @property
    def scales(self) -> np.ndarray:
        """(d,): one unit of model space in the units of the table; 1 for columns that are not real."""
        return np.array([c.scale for c in self.columns])

    def without_units(self) -> Schema:
        """What a pair may depend on: the kinds and categories of the columns, not their names or units."""
        columns = tuple(Column(f"x{j}", c.kind, c.dtype, categories=c.categories) for j, c in enumerate(self.columns))
        return Schema(columns, "array", standardize=False)

    def to_config(self) -> dict[str, Any]:
        """The schema as plain JSON values."""
        config = dataclasses.asdict(self)
        for column in config["columns"]:
            column["categories"] = None if column["categories"] is None else list(column["categories"])
        return {**config, "columns": list(config["columns"]), "dropped": list(self.dropped)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schema:
        """The inverse of :meth:`to_config`.

        :raises DataError: the configuration is none of a schema (a damaged file, say).
        """
        try:
            columns = []
            for entry in config["columns"]:
                labels = entry["categories"]
                columns.append(Column(**{**entry, "categories": None if labels is None else tuple(labels)}))
            schema = cls(**{**config, "columns": tuple(columns), "dropped": tuple(config["dropped"])})
        except (KeyError, TypeError) as error:
            raise DataError(f"The description of the columns is damaged: {show(error)}.") from None
        for c in schema.columns:
            if c.kind not in KINDS or not np.isfinite([c.loc, c.scale]).all() or c.scale <= 0:
                raise DataError(f"The description of column {show(c.name)} is damaged.")
        return schema

    def encode(self, table: Any, *, weights: Any = None, drop: Any = None) -> Data:
        """New rows in the model space of the training table. A row may be missing altogether here.

        :param table: whatever :meth:`Data.from_table <ppl_gen.data.Data.from_table>` reads.
        :param weights: (n,) row weights, or the name of a column that holds them.
        :param drop: columns to leave out that the training table did not have.
        :raises DataError: a column is missing, unknown or of another kind, or a label was never seen; no rows.
        """
        from ppl_gen.data import Data, read_weights

        if isinstance(table, Data):
            if table.schema != self:
                raise DataError("These rows were read under another schema: pass the table itself.")
            return table
        source = read_source(table)
        values, weight_name = read_weights(source, weights)
        positions = self._positions(source, source.positions(drop, "drop"), weight_name)
        series = [normalise(source.column(j))[0] for j in positions]
        block = Block(len(source), self.num_columns, float_dtype(series, self.kinds))
        for j, (column, entries) in enumerate(zip(self.columns, series, strict=True)):
            if column.kind == "categorical":
                raw = read_labels(column.name, entries, column.categories, source.where)[0]
            else:
                raw = read_numbers(column.name, entries, source.where, may_relabel=False)
                check_kind(column.name, column.kind, raw, source.where)
            block.put(j, column, raw, source.where)
        return Data(self, block.x, block.mask, values, source.index)

    def _positions(self, source: Source, left_out: list[int], weight_name: str | None) -> list[int]:
        """Where each of this schema's columns stands in the table."""
        if self.container == "dataframe" and source.container == "array":
            raise DataError(
                f"The model was fitted to named columns, this array has none: pass a DataFrame with {some(self.names)}."
            )
        kept = [j for j in range(len(source.names)) if j not in left_out]
        if self.container == "array" and (source.container == "array" or source.integer_names):
            return [kept[j] for j in self._array_positions(len(kept))]
        where = {source.names[j]: j for j in kept}
        for name in self.names:
            if name not in where:
                unused = [other for other in where if other not in self.names]
                hint = nearest(name, unused) if unused else f"the model has {some(self.names)}."
                raise DataError(f"Column {show(name)} is missing from the table: {hint}")
        unknown = [n for n in where if n not in self.names and n not in self.dropped and n != weight_name]
        if unknown:
            these = f"Column {show(unknown[0])} was"
            if len(unknown) > 1:
                these = f"Columns {', '.join(map(show, unknown[:10]))}{', ...' * (len(unknown) > 10)} were"
            raise DataError(
                f"{these} not in the training table: name rightly what the model has ({some(self.names)}), or leave "
                f"the rest out with drop=[{', '.join(map(show, unknown))}]."
            )
        return [where[name] for name in self.names]

    def _array_positions(self, given: int) -> list[int]:
        """Arrays are matched by position: all columns of the training array, or only those that are modelled."""
        if self.dropped and given == self.num_columns:
            return list(range(given))
        total = self.num_columns + len(self.dropped)
        if given != total:
            raise DataError(f"The table has {given} columns, the array that the model was fitted to had {total}.")
        return [int(name[1:]) for name in self.names]

    def decode(self, x: Any, mask: Any = None) -> pd.DataFrame:
        """Rows of model space (n, d) as a table: the names, units, dtypes and labels of the training table.

        Whole-number columns are rounded, counts are at least 0; where ``mask`` (n, d) is False, or x is NaN, the
        entry is missing (a plain integer column then becomes a float one, as in pandas).

        :raises DataError: x has another number of columns.
        """
        import pandas as pd

        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.num_columns:
            raise DataError(f"Expected rows of {self.num_columns} columns, not an array of shape {x.shape}.")
        parts = []
        for j, column in enumerate(self.columns):
            values = x[:, j] if mask is None else np.where(np.asarray(mask)[:, j], x[:, j], np.nan)
            parts.append(column.to_table(values))
        frame = pd.concat(parts, axis=1) if parts else pd.DataFrame()
        frame.columns = [int(n) for n in self.names] if self.integer_names else list(self.names)
        return frame

    def log_jacobian(self, mask: Any = None) -> Any:
        """What to ADD to a log density of model space to have it in the units of the table, in nats.

        For y = (x - loc) / scale, log p(x) = log p(y) - sum_j log scale_j over the real columns; (n,) with a mask
        (n, d), where a missing column counts for nothing, else one float.
        """
        logs = -np.log(self.scales)
        return float(logs.sum()) if mask is None else np.asarray(mask, dtype=np.float64) @ logs


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
               where: Where) -> tuple[Column, np.ndarray]:  # fmt: skip
    """The column as it will be modelled, and its values (n,) in the table's units, NaN where missing.

    :raises DataError: all-missing, constant, not of its kind, or too large.
    """
    series, dtype = normalise(series)
    categories = None
    if kind == "categorical":
        raw, categories = read_labels(name, series, None, where)
    else:
        raw = read_numbers(name, series, where)
        check_kind(name, kind, raw, where)
    counted = raw if weights is None else raw[weights > 0]
    low, high = float(np.fmin.reduce(counted)), float(np.fmax.reduce(counted))
    if np.isnan(low):
        raise DataError(f"Column {show(name)} has no values, all are missing: drop it with drop=[{show(name)}].")
    if low == high:
        value = categories[int(low)] if categories else low
        raise DataError(f"Column {show(name)} is constant, {show(value)} in every row: drop it, drop=[{show(name)}].")
    loc, scale = moments(name, raw, weights) if standardize and kind == "real" else (0.0, 1.0)
    return Column(name, kind, dtype, loc, scale, categories), raw


def choose_kind(name: str, series: pd.Series, chosen: str | None, accept: Iterable[str], accept_for: str,
                where: Where) -> str:  # fmt: skip
    """The kind asked for, or else the one inferred; widened until it is accepted.

    :raises DataError: neither it nor a wider one is accepted.
    """
    if chosen in ("count", "binary"):  # what was asked for must hold, also where it is widened
        check_kind(name, chosen, read_numbers(name, normalise(series)[0], where), where)
    kind = chosen or infer_kind(name, normalise(series)[0], where)
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


def some(names: Iterable[str]) -> str:
    """Names for a message: the first ten of them."""
    shown = [show(name) for name in names]
    return ", ".join(shown[:10]) + (f", ... ({len(shown)} in all)" if len(shown) > 10 else "")
