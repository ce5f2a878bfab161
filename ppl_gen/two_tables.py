"""Two tables with the same columns as points of one space, in which distances mean the same in all directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import DataError, SettingError
from ppl_gen.parsing import normalise, parse_numbers, refuse, show
from ppl_gen.readers import Source, read_source

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data


def points(
    first: Any, second: Any, *, standardize: bool = True, min_rows: int = 2, max_rows: int | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    r"""(n, d) and (m, d) float64. Numbers are divided by the standard deviation of their column in ``first``. A label
    becomes an indicator for each value of its column, so that two labels are :math:`\sqrt 2` apart, as far as two draws
    of a standardized number are in the root mean square; a column of 0 and 1 likewise. Pixels of images have one
    standard deviation together.

    :param first: a table, usually of data: a DataFrame, an array (n, d), images (n, h, w) or (n, h, w, c), or a file's
        path. ``second``: another with the same columns in any order, usually of samples.
    :param standardize: False leaves numbers, 0 and 1 included, as they are.
    :param max_rows: of a longer table, so many random rows are used.
    :raises SettingError: a seed that no generator takes.
    :raises DataError: other columns, too few rows, a missing or infinite entry, dates.
    """
    from ppl_gen.scoring import check_seed

    check_seed(seed)
    sources = _read(first, "first"), _read(second, "second")
    order = _matching(*sources)
    for source, which in zip(sources, ("first", "second"), strict=True):
        if len(source) < min_rows:
            rows = "1 row" if len(source) == 1 else f"{len(source)} rows"
            raise DataError(f"The {which} table has {rows}, and at least {min_rows} are needed.")
    rng = np.random.default_rng(seed)
    kept = [None if max_rows is None or len(s) <= max_rows else rng.permutation(len(s))[:max_rows] for s in sources]
    if all(source.container == "array" and source.values.dtype.kind in "biuf" for source in sources):
        x, y = (_numbers(source, rows) for source, rows in zip(sources, kept, strict=True))
        if not standardize:
            return x, y
        scale = np.full(x.shape[1], x.std()) if sources[0].image is not None else x.std(axis=0)
        binary = ((x == 0) | (x == 1)).all(axis=0) & ((y == 0) | (y == 1)).all(axis=0)
        scale = np.where(binary & (sources[0].image is None), 0.5**0.5, np.where(scale > 0, scale, 1.0))
        return x / scale, y / scale
    parts = [_column(*sources, j, i, standardize) for j, i in enumerate(order)]
    both = tuple(np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    x, y = (found if rows is None else found[rows] for found, rows in zip(both, kept, strict=True))
    return x, y


def _read(table: Any, which: str) -> Source:
    try:
        return read_source(table, images=True)
    except DataError as error:
        raise DataError(f"The {which} table: {error}") from None


def _matching(first: Source, second: Source) -> list[int]:
    """Where each column of the first table stands in the second."""
    if len(first.names) != len(second.names):
        raise DataError(
            f"The first table has {len(first.names)} columns and the second {len(second.names)}: give both the same."
        )
    if "array" in (first.container, second.container):
        return list(range(len(first.names)))
    for one, other, which in ((first, second, "second"), (second, first, "first")):
        lacking = [name for name in one.names if name not in other.names]
        if lacking:
            raise DataError(f"The {which} table has no column {show(lacking[0])}: give both the same columns.")
    return [second.names.index(name) for name in first.names]


def _numbers(source: Source, rows: np.ndarray | None) -> np.ndarray:
    values = np.asarray(source.values if rows is None else source.values[rows], np.float64)
    if not np.isfinite(values).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
        row = row if rows is None else int(rows[row])
        raise _not_finite(source.names[column], source.where(row), missing=bool(np.isnan(values).any()))
    return values


def _not_finite(name: str, where: str, missing: bool) -> DataError:
    what = "missing" if missing else "infinite"
    return DataError(f"Column {show(name)}, {where} is {what}: fill it in, or leave such rows out of the comparison.")


def _column(first: Source, second: Source, j: int, i: int, standardize: bool) -> tuple[np.ndarray, np.ndarray]:
    """The columns of points, (n, c) and (m, c), that a column of the tables becomes."""
    name, series = first.names[j], [normalise(s.column(k))[0] for s, k in ((first, j), (second, i))]
    for each, source in zip(series, (first, second), strict=True):
        refuse(name, each)
        missing = each.isna().to_numpy(dtype=bool)
        if missing.any():
            raise _not_finite(name, source.where(int(missing.argmax())), missing=True)
    numeric = [_is_number(each) for each in series]
    if numeric[0] != numeric[1]:
        which = "first" if numeric[0] else "second"
        raise DataError(f"Column {show(name)} holds numbers in the {which} table and labels in the other.")
    if not numeric[0]:
        labels = [each.astype(str).to_numpy(dtype=object) for each in series]
        known = sorted({*labels[0], *labels[1]})
        x, y = ((each[:, None] == np.array(known, dtype=object)).astype(np.float64) for each in labels)
        return x, y
    values = [np.asarray(parse_numbers(each), np.float64)[:, None] for each in series]
    for each, source in zip(values, (first, second), strict=True):
        if not np.isfinite(each).all():
            raise _not_finite(name, source.where(int(np.isinf(each).argmax())), missing=False)
    scale = 1.0
    if standardize:
        binary = all(((each == 0) | (each == 1)).all() for each in values)
        scale = 0.5**0.5 if binary else float(values[0].std()) or 1.0
    return values[0] / scale, values[1] / scale


def _is_number(series: pd.Series) -> bool:
    return series.dtype.kind in "biuf"


def check_count(name: str, value: Any, low: int = 1) -> None:
    """Raise a :class:`SettingError` unless the value is a whole number of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise SettingError(f"{name} must be a whole number of at least {low}, not {value!r}.")


def refuse_training_rows(known: Data, train: Data, what: str) -> None:
    """Refuse rows that must be new to a fit but are, beyond chance, among those that it was fitted to.

    Rows of labels or of rounded numbers coincide by chance: of new rows as large a share as of training rows that are
    another training row. More than that by 3 standard errors and 5 % of the rows is an overlap.

    :param known: encoded as the training rows are; ``what`` they are, for the message.
    :raises DataError: the tables overlap.
    """
    if known.fingerprint == train.fingerprint:
        unit = train.unit
        raise DataError(f"The {what} holds the training {unit}s: pass {unit}s that the fit has not seen.")
    if train.lengths is not None or not len(known):
        return
    ours, theirs = _hashes(train), _hashes(known)
    values, counts = np.unique(ours, return_counts=True)
    seen = np.isin(theirs, values)
    expected = float(counts[counts > 1].sum()) / len(ours)
    chance = (expected * len(ours) + seen.sum()) / (len(ours) + len(theirs))
    error = np.sqrt(chance * (1 - chance) * (1 / len(ours) + 1 / len(theirs)))
    if seen.mean() > expected + 3 * error + 0.05:
        raise DataError(
            f"{seen.sum():,} of the {len(seen):,} rows of the {what} are training rows: pass rows that the fit has not "
            "seen."
        )


def _hashes(data: Data) -> np.ndarray:
    """(n,) a number for each row, alike for rows that are."""
    import pandas as pd

    mask = np.ones(data.x.shape) if data.mask is None else data.mask
    rows = pd.DataFrame(np.column_stack([np.where(mask, data.x, 0) + 0.0, mask]))  # + 0.0: minus zero is zero
    return np.asarray(pd.util.hash_pandas_object(rows, index=False))
