"""Observations in model space, with the map back to the table that they came from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppl_gen.columns import KINDS, Column
from ppl_gen.errors import DataError, MissingExtraError, SettingError, did_you_mean
from ppl_gen.parsing import moments, nearest, read_numbers, show
from ppl_gen.readers import Source, read_source
from ppl_gen.schema import Block, Schema, choose_kind, fit_column, float_dtype, widen

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "Column", "Data", "Schema", "View", "read_weights"]

_HASH_ROWS = 1 << 16


class View(NamedTuple):
    """The arrays that a model reads, of one backend.

    ``x``         (n, d) model space, 0.0 where missing
    ``mask``      (n, d) True where observed, or None where nothing is missing
    ``weights``   (n,) row weights, or None
    ``patterns``  (P, d) the distinct rows of ``mask``, or None
    ``pattern``   (n,) which of them is each row's, or None
    """

    x: Any
    mask: Any = None
    weights: Any = None
    patterns: Any = None
    pattern: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A table in model space: ``x`` (n, d), 0.0 where ``mask`` (n, d) is False; ``weights`` (n,), ``index`` row labels.

    Made by :meth:`from_table`, or for new rows by :meth:`Schema.encode`.
    """

    schema: Schema
    x: np.ndarray
    mask: np.ndarray | None = None
    weights: np.ndarray | None = None
    index: pd.Index | None = None

    @classmethod
    def from_table(cls, table: Any, *, columns: Any = None, drop: Any = None, kinds: Mapping[Any, str] | None = None,
                   standardize: bool = True, weights: Any = None, accept: Iterable[str] = KINDS,
                   accept_for: str = "") -> Data:  # fmt: skip
        """Read a training table.

        Kinds are inferred unless given in ``kinds``: whole numbers >= 0 are counts, binary if all are 0 or 1 (as are
        truth values); negative whole numbers and floats are real; text and categories are categorical. A numeric kind
        that is not in ``accept`` is read as the next wider one that is (binary -> count -> real).

        :param table: a DataFrame, a 1-d or 2-d array, or the path of a .csv, .parquet, .npy or .npz file
            (``file.npz:name`` picks one array of several).
        :param columns: the columns to model, in this order; all by default. ``drop``: those to leave out.
        :param standardize: real columns have weighted mean 0 and standard deviation 1 (dividing by n) in model space.
        :param weights: (n,) row weights >= 0, or the name of a column that holds them and is not modelled; a weight
            of 2 counts as the row twice.
        :param accept_for: who accepts those kinds, for messages.
        :raises DataError: the table can't be used; the message names column, row and value.
        """
        source = read_source(table)
        row_weights, weight_name = read_weights(source, weights)
        positions = _select(source, columns, drop, weight_name)
        chosen = _check_kinds(source, kinds)
        if len(source) == 1:
            raise DataError("The table has a single row: nothing varies in it, so there is nothing to fit.")
        entries = {source.names[j]: source.column(j) for j in positions}  # these share the table's memory
        kind_of = {
            name: choose_kind(name, series, chosen.get(name), accept, accept_for, source.where)
            for name, series in entries.items()
        }
        block = Block(len(source), len(entries), float_dtype(entries.values(), kind_of.values()))
        fitted = []
        for j, (name, series) in enumerate(entries.items()):
            column, raw = fit_column(name, series, kind_of[name], standardize, row_weights, source.where)
            block.put(j, column, raw, source.where)
            fitted.append(column)
        _refuse_missing_rows(block.mask, source)
        dropped = tuple(name for name in source.names if name not in kind_of)
        schema = Schema(tuple(fitted), source.container, standardize, dropped, source.integer_names)
        return cls(schema, block.x, block.mask, row_weights, source.index)

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def num_columns(self) -> int:
        return self.x.shape[1]

    def promote(self, accept: Iterable[str], accept_for: str = "") -> Data:
        """The same rows with every column of a kind that is accepted; itself where all are.

        :raises DataError: a column's kind is not accepted, nor is a wider one.
        """
        accept = tuple(accept)
        wide = [widen(c.name, c.kind, accept, accept_for) for c in self.schema.columns]
        if tuple(wide) == self.schema.kinds:
            return self
        x, columns = self.x.copy(), []
        for j, (column, kind) in enumerate(zip(self.schema.columns, wide, strict=True)):
            new = dataclasses.replace(column, kind=kind)
            if kind == "real" != column.kind and self.schema.standardize:
                raw = x[:, j] if self.mask is None else np.where(self.mask[:, j], x[:, j], np.nan)
                loc, scale = moments(column.name, raw, self.weights)
                new = dataclasses.replace(new, loc=loc, scale=scale)
                x[:, j] = np.nan_to_num(new.to_model(raw), nan=0.0)
            columns.append(new)
        return Data(dataclasses.replace(self.schema, columns=tuple(columns)), x, self.mask, self.weights, self.index)

    def take(self, rows: Any) -> Data:
        """Some of the rows, by a slice (shares memory) or an array of positions or of truth values."""
        import pandas as pd

        mask = None if self.mask is None else self.mask[rows]
        if mask is not None and mask.all():
            mask = None
        index = pd.RangeIndex(len(self)) if self.index is None else self.index
        weights = None if self.weights is None else self.weights[rows]
        return Data(self.schema, self.x[rows], mask, weights, index[rows])

    def split(self, test_size: float | int = 0.25, seed: int = 0) -> tuple[Data, Data]:
        """(train, test) at random; ``test_size`` is a share of the rows or their number.

        :raises SettingError: there are too few rows for it.
        """
        from sklearn.model_selection import train_test_split

        try:
            train, test = train_test_split(np.arange(len(self)), test_size=test_size, random_state=seed)
        except (ValueError, TypeError) as error:
            raise SettingError(f"Can't split {len(self)} rows with test_size={test_size!r}: {error}") from None
        return self.take(np.sort(train)), self.take(np.sort(test))

    def folds(self, k: int = 5, seed: int = 0) -> Iterator[tuple[Data, Data]]:
        """(train, test) for each of k parts of the rows, drawn at random; each row is in one test part.

        :raises SettingError: k is below 2 or above the number of rows.
        """
        from sklearn.model_selection import KFold

        if not isinstance(k, int) or not 2 <= k <= len(self):
            raise SettingError(f"The number of folds must be from 2 to the number of rows ({len(self)}), not {k!r}.")
        parts = KFold(k, shuffle=True, random_state=seed).split(self.x)
        return ((self.take(train), self.take(test)) for train, test in parts)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the content: columns, values, missing entries and weights, in order; row labels don't count."""
        digest = hashlib.blake2b(json.dumps(self.schema.to_config(), sort_keys=True).encode(), digest_size=16)
        digest.update(f"{self.x.dtype} {self.x.shape} {self.mask is None} {self.weights is None}".encode())
        for start in range(0, len(self), _HASH_ROWS):
            for array in (self.x, self.mask, self.weights):
                if array is not None:
                    digest.update(np.ascontiguousarray(array[start : start + _HASH_ROWS]).data)
        return digest.hexdigest()

    def to_frame(self) -> pd.DataFrame:
        """The rows as a table again: names, dtypes, labels and units as they went in."""
        frame = self.schema.decode(self.x, self.mask)
        if self.index is not None:
            frame.index = self.index
        return frame

    @cached_property
    def _patterns(self) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        """The distinct rows of the mask (P, d), and which of them is each row's (n,)."""
        if self.mask is None:
            return None, None
        packed = np.packbits(self.mask, axis=1)  # eight columns a byte
        if packed.shape[1] <= 8:  # up to 64 columns: one integer a row, which sorts fast
            padded = np.zeros((len(self), 8), dtype=np.uint8)
            padded[:, : packed.shape[1]] = packed
            keys: np.ndarray = padded.view(np.uint64).ravel()
        else:
            keys = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).ravel()
        _, first, pattern = np.unique(keys, return_index=True, return_inverse=True)
        return self.mask[first], pattern.reshape(-1).astype(np.int32)

    def view(self, backend: str = "numpy") -> View:
        """The arrays for a model: ``"numpy"``, or ``"numpyro"`` or ``"pyro"`` in that backend's default float.

        :raises DataError: a value is too large for that float.
        """
        patterns, pattern = self._patterns
        if backend == "numpy":
            return View(self.x, self.mask, self.weights, patterns, pattern)
        floats, others, largest = _backend_arrays(backend)
        if self.x.dtype == np.float64 and largest < np.finfo(np.float64).max:
            for j, column in enumerate(self.schema.columns):
                if np.abs(self.x[:, j]).max(initial=0.0) > largest:
                    raise DataError(f"Column {show(column.name)} is too large for 32-bit floats: rescale the column.")
        arrays = ((self.x, floats), (self.mask, others), (self.weights, floats), (patterns, others), (pattern, others))
        return View(*(None if array is None else convert(array) for array, convert in arrays))


def read_weights(source: Source, weights: Any) -> tuple[np.ndarray | None, str | None]:
    """(n,) float64 row weights, and the name of the column that held them, if one did.

    :raises DataError: not one number a row, negative, infinite or missing, or all zero.
    """
    if weights is None:
        return None, None
    name, label = None, "weights"
    if isinstance(weights, str):
        position = source.position(weights)
        name = label = source.names[position]
        series = source.column(position)
    else:
        given = read_source(weights)
        if len(given.names) != 1 or len(given) != len(source):
            raise DataError(f"There must be one weight for each of the {len(source)} rows, not {len(given)}.")
        series = given.column(0)
    values = read_numbers(label, series, source.where).astype(np.float64)
    bad = ~(values >= 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"Weight of {source.where(row)} in {show(label)} is {values[row]:g}: weights are numbers >= 0.")
    if not 0 < values.sum() < np.inf:
        raise DataError(f"The weights in {show(label)} sum to {values.sum():g}: their sum must be positive and finite.")
    return values, name


def _select(source: Source, columns: Any, drop: Any, weight_name: str | None) -> list[int]:
    """Positions of the columns to model."""
    keep = range(len(source.names)) if columns is None else source.positions(columns, "columns")
    out = set(source.positions(drop, "drop"))
    if weight_name is not None:
        out.add(source.position(weight_name))
    positions = [j for j in keep if j not in out]
    if not positions:
        raise DataError("No column is left to model: choose others in columns, or drop fewer.")
    for j in positions:
        if source.csv_path is not None and source.names[j].startswith("Unnamed: "):
            raise DataError(
                f"Column {j} of {source.csv_path.name} has no name (row numbers, perhaps): name it, "
                f"or drop it with drop=[{show(source.names[j])}]."
            )
    return positions


def _check_kinds(source: Source, kinds: Mapping[Any, str] | None) -> dict[str, str]:
    chosen = {source.names[source.position(name)]: kind for name, kind in (kinds or {}).items()}
    for name, kind in chosen.items():
        if kind not in KINDS:
            raise DataError(f"Column {show(name)}: unknown kind {show(kind)}; {nearest(kind, KINDS)}")
    return chosen


def _refuse_missing_rows(mask: np.ndarray | None, source: Source) -> None:
    empty = np.empty(0) if mask is None else ~mask.any(axis=1)
    if empty.any():
        where = source.where(int(np.argmax(empty)))
        raise DataError(f"All values of {where} are missing ({int(empty.sum())} such rows): remove such rows first.")


def _backend_arrays(backend: str) -> tuple[Callable[[np.ndarray], Any], Callable[[np.ndarray], Any], float]:
    """How to make a backend's float arrays and its other arrays, and the largest float that it holds."""
    if backend == "numpyro":
        import jax.numpy as jnp

        dtype = jnp.result_type(float)
        return (lambda a: jnp.asarray(a, dtype=dtype)), jnp.asarray, float(jnp.finfo(dtype).max)
    if backend != "pyro":
        raise SettingError(f"Unknown backend {backend!r}: {did_you_mean(backend, ('numpy', 'numpyro', 'pyro'))}")
    try:
        import torch
    except ModuleNotFoundError:
        message = "The pyro backend needs torch, which is not installed: pip install 'ppl_gen[pyro]'"
        raise MissingExtraError(message) from None
    default = torch.get_default_dtype()
    return (
        lambda a: torch.as_tensor(np.ascontiguousarray(a)).to(default),
        lambda a: torch.as_tensor(np.ascontiguousarray(a)).to(torch.bool if a.dtype == bool else torch.int64),
        float(torch.finfo(default).max),
    )
