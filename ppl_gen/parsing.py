"""Reading one column: its kind, its numbers or its labels, and an error that says where one of them is wrong."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

Where = Callable[[int], str]  # a row's position -> "row 3 (line 5 of table.csv)"

_REFUSED = {
    "c": "complex numbers: keep the real and imaginary parts as two columns",
    "M": "dates: turn them into numbers first, such as days since a start, or drop the column",
    "m": "durations: turn them into numbers first, such as column.dt.total_seconds(), or drop the column",
}
_REFUSED_OBJECTS = {
    "complex": "c", "datetime": "M", "datetime64": "M", "date": "M", "time": "M", "period": "M",
    "timedelta": "m", "timedelta64": "m",
}  # fmt: skip


def normalise(series: pd.Series) -> tuple[pd.Series, str]:
    """A column of Python objects that are all numbers or truth values as what they are, and the dtype to remember."""
    import pandas as pd

    if isinstance(series.dtype, pd.CategoricalDtype):
        ordered = ",ordered" if series.dtype.ordered else ""
        return series, f"category[{series.dtype.categories.dtype}{ordered}]"
    if series.dtype != np.dtype(object):
        return _native(series), str(series.dtype)
    try:
        series.isna()
    except ArithmeticError:  # a signalling Decimal raises whatever one asks of it: take it as missing
        quiet = [None if isinstance(value, Decimal) and value.is_nan() else value for value in series]
        series = pd.Series(quiet, index=series.index, dtype=object)
    found = pd.api.types.infer_dtype(series, skipna=True)
    if found == "boolean":
        series = series.astype("boolean")
    elif found in ("integer", "floating", "mixed-integer-float", "decimal", "empty"):
        try:
            series = series.astype("Int64" if found == "integer" else "float64")
        except (TypeError, ValueError, OverflowError):  # a whole number beyond 64 bits, Decimal beside None
            series = pd.Series(parse_numbers(series), index=series.index)
    else:
        return series, "object"
    return series, f"object[{series.dtype}]"


def infer_kind(name: str, series: pd.Series, where: Where) -> str:
    """real, count, binary or categorical, from dtype and values (the rules: :meth:`Data.from_table`).

    :raises DataError: dates, complex numbers, or text among numbers.
    """
    import pandas as pd

    refuse(name, series)
    code = series.dtype.kind
    if isinstance(series.dtype, pd.CategoricalDtype):
        return "categorical"
    if code == "b":
        return "binary"
    if code == "f":
        return "real"
    if code in "iu":
        low, high = series.min(), series.max()
        if pd.isna(low) or low < 0:
            return "real"
        return "binary" if high <= 1 else "count"
    present = ~series.isna().to_numpy(dtype=bool)
    numeric = ~np.isnan(parse_numbers(series))
    if 2 * numeric.sum() >= present.sum() and not numeric[present].all():
        raise _not_a_number(name, series, present & ~numeric, where)
    return "categorical"


def refuse(name: str, series: pd.Series) -> None:
    """Raise a :class:`DataError` for a column of dates, durations or complex numbers."""
    import pandas as pd

    code = series.dtype.kind
    if series.dtype == np.dtype(object) or isinstance(series.dtype, pd.PeriodDtype):
        code = _REFUSED_OBJECTS.get(pd.api.types.infer_dtype(series, skipna=True), "")
    if code in _REFUSED:
        raise DataError(f"Column {show(name)} holds {_REFUSED[code]}.")


def read_numbers(name: str, series: pd.Series, where: Where, may_relabel: bool = True) -> np.ndarray:
    """(n,) float32 where the column is that narrow, else float64; NaN where missing. Shares memory where it can.

    :param may_relabel: the column's kind is still open, so the message may advise to read it as labels.
    :raises DataError: text that is no number, infinities.
    """
    refuse(name, series)
    dtype = series.dtype
    if dtype.kind in "biuf":
        target = np.float32 if is_narrow(dtype) else np.float64
        with np.errstate(over="ignore"):  # an extended float beyond float64 becomes infinite: said below
            if isinstance(dtype, np.dtype):
                values = series.to_numpy().astype(target, copy=False)
            else:
                values = series.to_numpy(dtype=target, na_value=np.nan)
    else:
        values = parse_numbers(series)
        bad = np.isnan(values) & ~series.isna().to_numpy(dtype=bool)
        if bad.any():
            raise _not_a_number(name, series, bad, where, may_relabel)
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.argmax(infinite))
        value = f"{values[row]} is infinite or too large for a float"
        raise DataError(f"Column {show(name)}, {where(row)}: {value}. Correct it, or leave it empty if it is missing.")
    return values


def read_labels(name: str, series: pd.Series, known: Sequence[Any] | None, where: Where) -> tuple[np.ndarray, tuple]:
    """(n,) positions among the labels as floats, NaN where missing; and the labels (``known`` where given).

    :raises DataError: a label that is not among those known, or is no text, number or truth value.
    """
    import pandas as pd

    refuse(name, series)
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes, found = series.cat.codes.to_numpy(), [_plain(v) for v in series.cat.categories]
    else:
        try:
            codes, uniques = pd.factorize(series)
        except TypeError:  # lists, dictionaries and the like can't be told apart
            row = next((i for i, value in enumerate(series) if not isinstance(value, Hashable)), 0)
            raise _bad_label(name, series.iloc[row], row, where) from None
        found = [_plain(v) for v in uniques]
    positions = _match(found, known) if known is not None else _sorted_positions(found, series)
    for code, (value, position) in enumerate(zip(found, positions, strict=True)):
        rows = np.flatnonzero(codes == code) if position < 0 or not _is_label(value) else np.empty(0)
        if not _is_label(value):
            raise _bad_label(name, value, int(rows[0]) if len(rows) else 0, where)
        if len(rows):
            hint = nearest(value, known or ())
            raise DataError(f"Column {show(name)}, {where(int(rows[0]))}: unknown category {show(value)}; {hint}")
    table = np.array([*positions, np.nan])  # code -1 reads the last entry: missing
    ordered = known if known is not None else [v for _, v in sorted(zip(positions, found, strict=True), key=_first)]
    return table[codes], tuple(ordered)


def check_kind(name: str, kind: str, raw: np.ndarray, where: Where) -> None:
    """Raise a :class:`DataError` unless every value is one that the kind allows; NaN is."""
    if kind == "count":
        bad, rule = (raw < 0) | (raw != np.floor(raw)), "a count (0, 1, 2, ...)"
    elif kind == "binary":
        bad, rule = (raw != 0) & (raw != 1), "0 or 1"
    else:
        return
    bad &= ~np.isnan(raw)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"Column {show(name)}, {where(row)}: {raw[row]:g} is not {rule}, which this column must hold.")


def moments(name: str, raw: np.ndarray, weights: np.ndarray | None) -> tuple[float, float]:
    """Mean and standard deviation (dividing by n) of the values that are present, weighted: weight 2 is the row twice.

    :raises DataError: they overflow.
    """
    present = ~np.isnan(raw)
    values = raw[present].astype(np.float64, copy=False)
    share = None if weights is None else weights[present] / weights[present].max()
    with np.errstate(over="ignore", invalid="ignore"):
        loc = float(np.average(values, weights=share))
        values = values - loc
        peak = np.abs(values).max()  # divided out, so that no square over- or underflows
        scale = float(peak * np.sqrt(np.average((values / peak) ** 2, weights=share))) if peak > 0 else 0.0
    if not (np.isfinite(loc) and np.isfinite(scale) and scale > 0):
        raise DataError(f"Column {show(name)}: values too large or too close to standardize: rescale the column.")
    return loc, scale


def parse_numbers(series: pd.Series) -> np.ndarray:
    """(n,) float64: each entry as a number, NaN where it is missing or is none."""
    import pandas as pd

    try:
        parsed = pd.to_numeric(series, errors="coerce")
        if parsed.dtype.kind != "c":  # a complex entry would lose its imaginary part in silence
            return parsed.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError, AttributeError):  # odd objects, or numbers beyond a float
        pass
    return np.array([_parse(v) for v in series.astype(object)], dtype=np.float64)


def is_narrow(dtype: Any) -> bool:
    """Whether a float dtype has 32 bits or fewer."""
    return dtype.kind == "f" and getattr(dtype, "itemsize", 8) <= 4


def show(value: Any, limit: int = 60) -> str:
    """A value for a message: on one line, and short."""
    try:
        text = repr(_plain(value))
    except Exception as error:  # a stranger's __repr__ may do anything, and must not hide the message
        text = f"<{type(value).__name__}: {type(error).__name__} in repr>"
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def some(names: Iterable[str]) -> str:
    """Names for a message: the first ten of them."""
    shown = [show(name) for name in names]
    return ", ".join(shown[:10]) + (f", ... ({len(shown)} in all)" if len(shown) > 10 else "")


def nearest(name: Any, valid: Sequence[Any]) -> str:
    """:func:`did_you_mean` for names and labels that users made: many, long, with line breaks."""
    shown = [show(v).strip("'") for v in valid]
    hint = did_you_mean(show(name).strip("'"), shown)
    return hint if len(shown) <= 10 or hint.startswith("did") else f"choose one of {', '.join(shown[:10])}, ..."


def _native(series: pd.Series) -> pd.Series:
    """Numbers in a byte order and a width that pandas works with."""
    dtype = series.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        width = dtype.itemsize if dtype.kind == "f" else 0
        target = np.dtype({2: np.float32, 16: np.float64}.get(width, dtype)).newbyteorder("=")
        if target != dtype:
            with np.errstate(over="ignore"):  # becomes infinite, which is said when the numbers are read
                return series.astype(target)
    return series


def _parse(value: Any) -> float:
    try:
        return np.nan if np.iscomplexobj(value) else float(value)
    except OverflowError:
        return np.inf
    except (TypeError, ValueError):
        return np.nan


def _not_a_number(name: str, series: pd.Series, bad: np.ndarray, where: Where, may_relabel: bool = True) -> DataError:
    row = int(np.argmax(bad))
    advice = "Correct it, or leave it empty if it is missing."
    if may_relabel:
        advice = (
            "Correct it, leave it empty if it is missing, or read the column as labels with "
            f"kinds={{{show(name)}: 'categorical'}}."
        )
    return DataError(f"Column {show(name)}, {where(row)}: {show(series.iloc[row])} is not a number. {advice}")


def _bad_label(name: str, value: Any, row: int, where: Where) -> DataError:
    return DataError(
        f"Column {show(name)}, {where(row)}: {show(value)} is no label: labels are text, finite numbers or truth "
        "values. Convert the column, or drop it."
    )


def _is_label(value: Any) -> bool:
    return isinstance(value, str | bool | int) or (isinstance(value, float) and np.isfinite(value))


def _match(found: Sequence[Hashable], known: Sequence[Hashable]) -> list[int]:
    """Where each label stands among those known, by value, else by its text (a file may read '1' as 1); else -1."""
    by_value = {label: i for i, label in enumerate(known)}
    by_text = {str(label): i for i, label in enumerate(known)}
    return [by_value.get(v, by_text.get(str(v), -1)) for v in found]


def _sorted_positions(found: list[Any], series: pd.Series) -> list[int]:
    """Labels in their sorted order, or in the order of a pandas categorical, whose unused labels stay."""
    if hasattr(series, "cat"):
        return list(range(len(found)))
    order = sorted(range(len(found)), key=lambda i: (isinstance(found[i], str), found[i] if _is_label(found[i]) else 0))
    positions = [0] * len(found)
    for position, i in enumerate(order):
        positions[i] = position
    return positions


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
