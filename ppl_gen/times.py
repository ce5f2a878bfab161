"""The column that orders time steps: numbers, dates or durations as an array, and as a column again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.columns import split_dtype
from ppl_gen.errors import DataError
from ppl_gen.padding import starts_of
from ppl_gen.parsing import Where, normalise, show

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data
    from ppl_gen.schema import Schema


def read_times(name: str, series: pd.Series, where: Where) -> tuple[np.ndarray, str]:
    """(n,) whole numbers, floats, datetime64 (in UTC where there is a time zone) or timedelta64; the column's dtype.

    :raises DataError: an entry is missing, or is neither a number nor a date.
    """
    import pandas as pd

    series, dtype = normalise(series)
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.dtype.categories.dtype)
    missing = series.isna().to_numpy(dtype=bool)
    if missing.any():
        raise DataError(f"Column {show(name)}, {where(int(np.argmax(missing)))}: the value is missing. Fill it in.")
    kind = series.dtype.kind
    if kind in "iuf":
        values = series.to_numpy(dtype=np.dtype(f"{kind}{getattr(series.dtype, 'itemsize', 8)}"))
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise DataError(f"Column {show(name)}, {where(row)}: {values[row]} is no time. Correct it.")
        return values, dtype
    if isinstance(series.dtype, pd.PeriodDtype):
        return series.dt.start_time.to_numpy(), dtype
    if kind == "m":
        return pd.to_timedelta(series).to_numpy(), dtype
    if kind in "bc":
        raise DataError(f"Column {show(name)} holds {series.dtype} values, which have no order in time.")
    return _read_dates(name, series, where), dtype


def _read_dates(name: str, series: pd.Series, where: Where) -> np.ndarray:
    import pandas as pd

    text = series.dtype.kind != "M" and pd.api.types.infer_dtype(series) == "string"
    options: dict[str, Any] = {"format": "ISO8601"} if text else {}  # other formats leave day and month open
    try:
        dates = pd.to_datetime(series, errors="coerce", **options)
        if dates.dtype.kind != "M":  # time zones that differ
            dates = pd.to_datetime(series, errors="coerce", utc=True, **options)
    except (TypeError, ValueError, OverflowError):
        dates = pd.to_datetime(series.astype(object), errors="coerce", utc=True, **options)
    bad = dates.isna().to_numpy(dtype=bool)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"Column {show(name)}, {where(row)}: {show(series.iloc[row])} is neither a number nor a date such as "
            "2024-01-31. Convert the column (pandas.to_datetime), or leave order= out: then the table's order counts."
        )
    if getattr(dates.dt, "tz", None) is not None:
        dates = dates.dt.tz_convert("UTC").dt.tz_localize(None)
    return dates.to_numpy()


def times_to_table(values: np.ndarray, dtype: str) -> pd.Series:
    """What :func:`read_times` read, in the dtype of the column where that holds such values; text stays a date."""
    import pandas as pd

    series = pd.Series(values)
    outer, inner = split_dtype(dtype)
    try:
        target = pd.api.types.pandas_dtype(inner or outer)
        if isinstance(target, pd.PeriodDtype) and values.dtype.kind == "M":
            series = series.dt.to_period(target.freq)
        elif isinstance(target, pd.DatetimeTZDtype) and values.dtype.kind == "M":
            series = series.dt.tz_localize("UTC").astype(target)
        elif target.kind == values.dtype.kind or {target.kind, values.dtype.kind} == {"i", "u"}:
            cast = series.astype(target)
            series = cast if target.kind not in "iu" or (cast == series).all() else series  # beyond a narrow dtype
    except (TypeError, ValueError, OverflowError):  # a new table's column of another sort
        return series
    return series.astype(object) if outer == "object" and inner else series


def labels_to_table(ids: Sequence[Any], dtype: str) -> pd.Series:
    """The labels of sequences in the dtype of their column; the categories of a categorical one are these, sorted."""
    import pandas as pd

    series = pd.Series(list(ids), dtype=object)
    outer, inner = split_dtype(dtype)
    try:
        if outer == "category":
            base, _, ordered = inner.partition(",")
            series = series.astype(base).astype("category")
            return series.cat.as_ordered() if ordered else series
        return series if outer == "object" else series.astype(outer)
    except (TypeError, ValueError, OverflowError):
        return series


def label_steps(
    frame: pd.DataFrame | None, schema: Schema, lengths: np.ndarray | None, ids: Sequence[Any] | None,
    order: np.ndarray | None, *, number: bool = False, first: np.ndarray | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The table (R, d) of stacked time steps with the columns first that say whose they are, and which.

    :param order: (R,) the times of the steps, if they are known.
    :param number: where they are not, number the steps, as the training table did or else from 0; and label the only
        sequence as well.
    :param first: (N,) how many steps have gone before in each sequence.
    """
    import pandas as pd

    if lengths is None:
        raise DataError("These rows are no time steps: they were read without sequence= or as_sequence=True.")
    frame = pd.DataFrame(index=pd.RangeIndex(lengths.sum())) if frame is None else frame
    columns: dict[str, Any] = {}
    if number or schema.sequence is not None or len(lengths) > 1:
        labels = labels_to_table(tuple(range(len(lengths))) if ids is None else ids, schema.sequence_dtype)
        whose = labels.take(np.repeat(np.arange(len(lengths)), lengths))
        columns[schema.sequence or _free_name("sequence", frame)] = whose.array
    if order is not None and schema.order is not None:
        columns[schema.order] = times_to_table(order, schema.order_dtype).array
    elif number:
        steps = np.arange(lengths.sum()) - np.repeat(starts_of(lengths) - (0 if first is None else first), lengths)
        named = schema.order if schema.order_start is not None else None
        columns[named or _free_name("step", frame)] = steps + (schema.order_start or 0)
    for place, (name, values) in enumerate(columns.items()):
        frame.insert(place, int(name) if schema.integer_names and name.isdigit() else name, values)
    return frame


def label_future(
    schema: Schema, lengths: np.ndarray | None, ids: Sequence[Any] | None, order: np.ndarray | None, horizon: int
) -> pd.DataFrame:
    """The labels and times of ``horizon`` steps after the end of each sequence (N * horizon, 2)."""
    future = None if lengths is None else np.full(len(lengths), horizon)
    if order is not None and lengths is not None and len(lengths):
        last, order = order[starts_of(lengths) + lengths - 1], _continue(order, lengths, horizon)
        if order is not None:
            whole = np.concatenate([last[:, None].astype(order.dtype), order.reshape(-1, horizon)], axis=1)
            order = order if (whole[:, 1:] > whole[:, :-1]).all() else None  # times beyond what the dtype holds
    return label_steps(None, schema, future, ids, order, number=True, first=lengths)


def _continue(order: np.ndarray, lengths: np.ndarray, horizon: int) -> np.ndarray | None:
    """(N * horizon,) the times that follow; None where they are not evenly spaced, be it in calendar months."""
    starts = starts_of(lengths)
    order = order.astype(np.int64) if order.dtype.kind in "iu" else order  # differences may leave a narrow dtype

    def go_on(times: np.ndarray) -> np.ndarray | None:
        gaps = np.delete(np.diff(times), starts[1:] - 1)
        even = len(gaps) and (np.allclose(gaps, gaps[0], rtol=1e-3) if gaps.dtype.kind == "f" else not np.ptp(gaps))
        ahead = np.arange(1, horizon + 1) * gaps[0] if even else None
        return None if ahead is None else (times[starts + lengths - 1][:, None] + ahead).ravel()

    found = go_on(order)
    if found is not None or order.dtype.kind != "M":
        return found
    months = order.astype("datetime64[M]")
    after, before = order - months.astype(order.dtype), (months + 1).astype(order.dtype) - order
    following = go_on(months)
    if following is None:
        return None
    if (after == after[0]).all():  # a day of the month
        return following.astype(order.dtype) + after[0]
    return (following + 1).astype(order.dtype) - before[0] if (before == before[0]).all() else None  # or its end


def _free_name(name: str, frame: pd.DataFrame) -> str:
    """The name, or one like it where the table has a column of that name."""
    while name in frame.columns:
        name += "_"
    return name


def sequences_to_config(data: Data) -> dict[str, Any]:
    """What arrays of numbers can't hold of the sequences, as plain JSON values; {} for a plain table."""
    if data.lengths is None:
        return {}
    ids = data.sequence_ids
    numbered = ids is None or ids == tuple(range(len(data)))
    labels = None if numbered or ids is None else [v if isinstance(v, str | int | float) else str(v) for v in ids]
    order = None if data.order is None else str(data.order.dtype)
    return {"sequences": {"ids": labels, "order": order}}


def sequences_from_config(
    config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], schema: Schema
) -> dict[str, Any]:
    """The inverse, as fields of :class:`~ppl_gen.data.Data`, from ``arrays`` that hold its others by name.

    :raises ValueError: the parts contradict each other.
    """
    if not schema.is_sequence:
        return {}
    lengths, order, found = arrays["lengths"], arrays.get("order"), config["sequences"]
    labels = range(len(lengths)) if found["ids"] is None else found["ids"]
    if schema.sequence_dtype.startswith(("datetime64", "timedelta64", "period")):  # they were written as text
        labels = labels_to_table(labels, schema.sequence_dtype)
    steps, fit = len(arrays["x"]), lengths.ndim == 1 and len(labels) == len(lengths)
    if not fit or (lengths < 1).any() or lengths.sum() != steps or (order is not None and order.shape != (steps,)):
        raise ValueError(f"the sequences do not fit the {steps} time steps.")
    return {"sequence_ids": tuple(labels), "order": None if order is None else order.view(found["order"])}
