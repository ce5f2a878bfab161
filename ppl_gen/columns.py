"""One column of a table: what kind it is, and its way into model space and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("real", "count", "binary", "categorical")
WIDER = {"binary": "count", "count": "real"}  # the next wider kind that holds the same numbers


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table as it went in.

    ``dtype``       the pandas dtype; ``category[str]`` and ``object[Int64]`` also say what it holds
    ``loc, scale``  a real column's model-space value is (value - loc) / scale, in the units of the table
    ``categories``  a categorical column's labels; its model-space value is the label's position
    """

    name: str
    kind: str
    dtype: str
    loc: float = 0.0
    scale: float = 1.0
    categories: tuple[Any, ...] | None = None

    @property
    def levels(self) -> tuple[Any, ...]:
        """The labels of a categorical column, False and True or 0 and 1 of a binary one; of others ()."""
        if self.categories is not None or self.kind != "binary":
            return self.categories or ()
        return (False, True) if "bool" in self.dtype else (0, 1)

    def to_model(self, raw: np.ndarray) -> np.ndarray:
        """(n,) values in the table's units -> model space; NaN stays."""
        if self.kind != "real" or (self.loc == 0.0 and self.scale == 1.0):
            return raw
        with np.errstate(over="ignore", invalid="ignore"):
            values = raw.astype(np.float64)  # one temporary, then in place
            values -= self.loc
            values /= self.scale
        return values

    def to_table(self, values: np.ndarray) -> pd.Series:
        """(n,) model-space values, NaN where missing -> the table's units, dtype and labels."""
        import pandas as pd

        values = np.array(values, dtype=np.float64)
        if self.kind == "categorical":
            return self._labelled(values)
        if self.kind == "real":
            values = values * self.scale + self.loc
        else:
            values = np.clip(np.rint(values), 0.0, 1.0 if self.kind == "binary" else None)
        outer, inner = split_dtype(self.dtype)
        series = _cast_numbers(pd.Series(values), inner or outer)
        return _with_none(series) if inner else series

    def _labelled(self, values: np.ndarray) -> pd.Series:
        import pandas as pd

        labels = self.categories or ()
        missing = np.isnan(values)
        codes = np.clip(np.rint(np.where(missing, 0, values)), 0, len(labels) - 1).astype(np.intp)
        codes[missing] = -1
        outer, inner = split_dtype(self.dtype)
        if outer == "category":
            base, _, ordered = inner.partition(",")
            dtype = pd.CategoricalDtype(_index(labels, base), ordered=bool(ordered))
            return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype))
        looked_up = np.array([*labels, np.nan], dtype=object)[codes]  # code -1 reads the last entry: missing
        series = pd.Series(looked_up, dtype=object)
        return _with_none(series) if outer == "object" else _try_cast(series, self.dtype)


def split_dtype(dtype: str) -> tuple[str, str]:
    """``category[str,ordered]`` -> (``category``, ``str,ordered``); other dtypes have an empty second part."""
    outer, bracket, rest = dtype.partition("[")
    return (outer, rest[:-1]) if bracket and outer in ("category", "object") else (dtype, "")


def _index(labels: Sequence[Any], dtype: str) -> pd.Index:
    import pandas as pd

    try:
        return pd.Index(labels, dtype=dtype)
    except (TypeError, ValueError):
        return pd.Index(labels)


def _with_none(series: pd.Series) -> pd.Series:
    """A column of Python objects, None where missing."""
    objects = series.astype(object)
    objects[series.isna()] = None
    return objects


def _try_cast(series: pd.Series, dtype: Any) -> pd.Series:
    """The series in its old dtype, or as it is where this pandas can't make that dtype from its values."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return series.astype(dtype)
    except (TypeError, ValueError, NotImplementedError):
        return series


def _cast_numbers(series: pd.Series, name: str) -> pd.Series:
    """Floats, NaN where missing, as the named dtype; whole numbers are rounded and kept within its range."""
    import pandas as pd

    try:
        dtype = pd.api.types.pandas_dtype(name)
    except TypeError:
        return series
    if dtype.kind == "f":
        return _try_cast(series, dtype)
    if dtype.kind not in "biu":
        return series
    limits = (0, 1) if dtype.kind == "b" else _integer_limits(dtype)
    missing = series.isna().to_numpy()
    whole = np.clip(np.rint(series.to_numpy()), *limits)
    if missing.any():
        if isinstance(dtype, np.dtype):  # plain integers and truth values have no missing value
            return pd.Series(whole) if dtype.kind != "b" else pd.Series(whole).map({0.0: False, 1.0: True})
        whole[missing] = 0
    cast = _try_cast(pd.Series(whole).astype(f"{dtype.kind}{dtype.itemsize}"), dtype)
    if missing.any():
        cast[missing] = pd.NA
    return cast


def _integer_limits(dtype: Any) -> tuple[float, float]:
    limits = np.iinfo(f"{dtype.kind}{dtype.itemsize}")
    high = float(limits.max)  # for 64 bits this rounds up, out of range
    return float(limits.min), high if int(high) <= limits.max else np.nextafter(high, 0.0)
