"""Observations in model space, with the map back to the table that they came from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import conditions, images, labels
from ppl_gen.blocks import Block, choose_kind, fit_column, float_dtype, tell_constant
from ppl_gen.columns import KINDS, Column
from ppl_gen.errors import DataError, SettingError
from ppl_gen.padding import distinct_rows, pad, pad_patterns, starts_of, steps_of
from ppl_gen.parsing import show
from ppl_gen.readers import read_source
from ppl_gen.schema import Schema
from ppl_gen.selection import check_kinds, read_weights, refuse_missing_rows, select
from ppl_gen.sequences import read_sequences
from ppl_gen.times import label_future, label_steps
from ppl_gen.view import View, backend_arrays

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "Column", "Data", "Schema", "View", "starts_of"]

_HASH_ROWS = 1 << 16


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A table in model space: ``x`` (n, d), 0.0 where ``mask`` (n, d) is False; ``weights`` (n,), ``index`` row labels.

    Sequences lie one after the other: sequence i is ``lengths[i]`` rows of ``x``, which are its time steps. Of N
    sequences, ``lengths``, ``weights`` and the labels ``sequence_ids`` are (N,); ``order`` (R,) are the times of all
    R steps where the table has them. An observation, which ``len`` counts and :meth:`take` takes, is then a sequence.

    Made by :meth:`from_table`, or for new rows by :meth:`Schema.encode`.
    """

    schema: Schema
    x: np.ndarray
    mask: np.ndarray | None = None
    weights: np.ndarray | None = None
    index: pd.Index | None = None
    lengths: np.ndarray | None = None
    sequence_ids: tuple[Any, ...] | None = None
    order: np.ndarray | None = None

    @classmethod
    def from_table(cls, table: Any, *, columns: Any = None, drop: Any = None, kinds: Mapping[Any, str] | None = None,
                   standardize: bool = True, weights: Any = None, accept: Iterable[str] = KINDS,
                   accept_for: str = "", sequence: Any = None, order: Any = None,
                   as_sequence: bool = False, condition_on: Any = None, label: Any = None) -> Data:  # fmt: skip
        """Read a training table.

        Kinds are inferred unless given in ``kinds``: whole numbers >= 0 are counts, binary if all are 0 or 1 (as are
        truth values); negative whole numbers and floats are real; text and categories are categorical. A numeric kind
        that is not in ``accept`` is read as the next wider one that is (binary -> count -> real). A column that holds
        one value only is refused, or if it ends as count or binary warned of.

        :param table: a DataFrame, a 1-d or 2-d array, or the path of a .csv, .parquet, .npy or .npz file
            (``file.npz:name`` picks one array of several). An array (n, h, w) or (n, h, w, c) is n images: the columns
            are their pixels, all of one kind (``kinds={"pixel": ...}``), see :func:`ppl_gen.images.read`.
        :param columns: the columns to model, in this order; all by default. ``drop``: those to leave out.
        :param standardize: real columns have weighted mean 0 and standard deviation 1 (dividing by n) in model space.
        :param weights: (n,) row weights >= 0, or the name of a column that holds them and is not modelled; a weight
            of 2 counts as the row twice.
        :param accept_for: who accepts those kinds, for messages.
        :param sequence: the column whose labels tell sequences apart: the rows of a label, which need not follow each
            other, are the time steps of one. Weights are then (N,), or a column that is constant in each sequence.
        :param order: the column of numbers or dates by which time steps must be in order; without it the table's order
            counts.
        :param as_sequence: read sequences in any case: a table without ``sequence`` is one, a list of arrays or of
            tables (or an (N, T, d) array) is several.
        :param condition_on: columns that are conditioned on, not modelled; they may be of any kind, and of these counts
            are read as real numbers.
        :param label: a column of labels, of kind binary or categorical whatever ``accept`` says.
        :raises DataError: the table can't be used; the message names column, row and value.
        """
        is_sequence = as_sequence or sequence is not None or order is not None
        sequences = read_sequences(table, sequence, order) if is_sequence else None
        source = read_source(table, images=True) if sequences is None else sequences.source
        each, weight_name = read_weights(source, weights, sequences)
        fields = {} if sequences is None else sequences.fields
        others = (weight_name, fields.get("sequence"), fields.get("order"))
        if source.image is not None:
            images.refuse_options(columns=columns, drop=drop, condition_on=condition_on, weights=weight_name)
            pixels, x = images.read(source, kinds, standardize, each, tuple(accept), accept_for)
            return cls(Schema(pixels, "array", standardize, image=source.image), x, None, each)
        positions, chosen = select(source, columns, drop, others), check_kinds(source, kinds, others)
        positions, given = conditions.add_conditions(source, positions, condition_on, drop)
        labelled = labels.name_of(source, positions, given, label)
        if len(source) == 1:
            raise DataError("The table has a single row: nothing varies in it, so there is nothing to fit.")
        if sequences is not None:
            sequences.check_training()
        entries = {source.names[j]: source.column(j) for j in positions}  # these share the table's memory
        kind_of = {
            name: labels.choose_kind(name, series, chosen.get(name), source.where) if name == labelled
            else choose_kind(name, series, chosen.get(name), conditions.KINDS if name in given else accept, accept_for,
                             source.where)
            for name, series in entries.items()
        }  # fmt: skip
        block = Block(len(source), len(entries), float_dtype(entries.values(), kind_of.values()))
        row_weights = each if each is None or sequences is None else np.repeat(each, sequences.lengths)
        fitted, constant = [], []
        for j, (name, series) in enumerate(entries.items()):
            column, raw, same = fit_column(name, series, kind_of[name], standardize, row_weights, source.where)
            block.put(j, column, raw, source.where)
            fitted.append(column)
            constant += [name] * same
        tell_constant(constant, len(fitted))
        dropped = tuple(name for name in source.names if name not in kind_of)
        schema = Schema(tuple(fitted), source.container, standardize, dropped, source.integer_names, conditions=given,
                        **fields)  # fmt: skip
        conditions.refuse_missing_conditions(schema, block.mask, source)
        if sequences is None:
            refuse_missing_rows(block.mask if block.mask is None else block.mask[:, schema.is_target], source)
            return cls(schema, block.x, block.mask, each, source.index)
        return cls(schema, block.x, block.mask, each, source.index, sequences.lengths, sequences.ids, sequences.order)

    def __len__(self) -> int:
        return self.x.shape[0] if self.lengths is None else len(self.lengths)

    @property
    def num_steps(self) -> int:
        """The rows of ``x``: the time steps of all sequences."""
        return self.x.shape[0]

    @property
    def target_mask(self) -> np.ndarray | None:
        """The mask of the columns that are modelled."""
        return self.mask if self.mask is None else self.mask[:, self.schema.is_target]

    @property
    def num_columns(self) -> int:
        return self.x.shape[1]

    def promote(self, accept: Iterable[str], accept_for: str = "", label: Any = None) -> Data:
        """The same rows with every column (but the ``label``) of a kind that is accepted; itself where all are.

        :raises DataError: a column's kind is not accepted, nor is a wider one.
        """
        from ppl_gen.widening import promote

        return promote(self, tuple(accept), accept_for, label)

    def take(self, rows: Any) -> Data:
        """Some of the rows or sequences, by a slice (shares memory) or an array of positions or of truth values."""
        import pandas as pd

        weights = None if self.weights is None else self.weights[rows]
        lengths, ids = self.lengths, self.sequence_ids
        if lengths is not None:
            chosen = np.arange(len(lengths))[rows]
            rows = steps_of(lengths, chosen)
            lengths, ids = lengths[chosen], None if ids is None else tuple(ids[i] for i in chosen)
        mask = None if self.mask is None else self.mask[rows]
        if mask is not None and mask.all():
            mask = None
        index = pd.RangeIndex(self.num_steps) if self.index is None else self.index
        order = None if self.order is None else self.order[rows]
        return Data(self.schema, self.x[rows], mask, weights, index[rows], lengths, ids, order)

    def split(self, test_size: float | int = 0.25, seed: int = 0) -> tuple[Data, Data]:
        """(train, test) at random; ``test_size`` is a share of the rows or their number.

        :raises SettingError: there are too few rows for it.
        """
        from sklearn.model_selection import train_test_split

        try:
            train, test = train_test_split(np.arange(len(self)), test_size=test_size, random_state=seed)
        except (ValueError, TypeError) as error:
            raise SettingError(f"Can't split {len(self)} {self.unit}s with test_size={test_size!r}: {error}") from None
        return self.take(np.sort(train)), self.take(np.sort(test))

    def folds(self, k: int = 5, seed: int = 0) -> Iterator[tuple[Data, Data]]:
        """(train, test) for each of k parts of the rows, drawn at random; each row is in one test part.

        :raises SettingError: k is below 2 or above the number of rows.
        """
        from sklearn.model_selection import KFold

        if not isinstance(k, int) or not 2 <= k <= len(self):
            number = f"the number of {self.unit}s ({len(self)})"
            raise SettingError(f"The number of folds must be from 2 to {number}, not {k!r}.")
        parts = KFold(k, shuffle=True, random_state=seed).split(np.arange(len(self)))
        return ((self.take(train), self.take(test)) for train, test in parts)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the content: columns, values, missing entries and weights, in order, and what the sequences are;
        row labels and times don't count."""
        digest = hashlib.blake2b(json.dumps(self.schema.to_config(), sort_keys=True).encode(), digest_size=16)
        digest.update(f"{self.x.dtype} {self.x.shape} {self.mask is None} {self.weights is None}".encode())
        if self.lengths is not None:
            digest.update(f"{self.lengths.tolist()} {[str(label) for label in self.sequence_ids or ()]}".encode())
        for start in range(0, self.num_steps, _HASH_ROWS):
            for array in (self.x, self.mask, self.weights):
                if array is not None:
                    digest.update(np.ascontiguousarray(array[start : start + _HASH_ROWS]).data)
        return digest.hexdigest()

    def describe(self) -> str:
        """How many rows or sequences, and columns, in words."""
        if self.schema.image is not None:
            return f"{len(self):,} images of {images.describe(self.schema.image)}"
        width = f"{self.num_columns} column{'s' * (self.num_columns != 1)}"
        width += f" ({len(self.schema.conditions)} conditioned on)" if self.schema.conditions else ""
        if self.lengths is None:
            return f"{len(self):,} rows x {width}"
        return f"{len(self):,} sequence{'s' * (len(self) != 1)} ({self.num_steps:,} time steps) x {width}"

    def sequence_labels(self) -> pd.DataFrame | None:
        """Which sequence each is: the column of the sequences' labels, or numbers; None of rows."""
        if self.lengths is None:
            return None
        import pandas as pd

        ids = self.sequence_ids or range(len(self))
        return pd.DataFrame({self.schema.sequence or "sequence": list(ids)})

    def step_labels(self) -> pd.DataFrame:
        """Whose each time step is, and which: a table (R, 2) of the labels and the times, or else numbers from 0."""
        return label_steps(None, self.schema, self.lengths, self.sequence_ids, self.order, number=True)

    def future_labels(self, horizon: int) -> pd.DataFrame:
        """The same for ``horizon`` steps after the end of each sequence; times go on where they are evenly spaced."""
        return label_future(self.schema, self.lengths, self.sequence_ids, self.order, horizon)

    def to_frame(self) -> pd.DataFrame:
        """The rows as a table again: names, dtypes, labels and units as they went in; the columns of the sequences'
        labels and of the times come first."""
        frame = self.schema.decode(self.x, self.mask)
        if self.lengths is not None:
            frame = label_steps(frame, self.schema, self.lengths, self.sequence_ids, self.order)
        if self.index is not None:
            frame.index = self.index
        return frame

    @cached_property
    def _patterns(self) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        """The distinct rows of the mask (P, d), and which of them is each row's (n,)."""
        return (None, None) if self.mask is None else distinct_rows(self.mask)

    def view(self, backend: str = "numpy") -> View:
        """The arrays for a model: ``"numpy"``, or ``"numpyro"`` or ``"pyro"`` in that backend's default float.
        Sequences are padded.

        :raises DataError: a value is too large for that float.
        """
        view = self._padded()
        if backend == "numpy":
            return view
        floats, others, largest = backend_arrays(backend)
        if self.x.dtype == np.float64 and largest < np.finfo(np.float64).max:
            for j, column in enumerate(self.schema.columns):
                if np.abs(self.x[:, j]).max(initial=0.0) > largest:
                    raise DataError(f"Column {show(column.name)} is too large for 32-bit floats: rescale the column.")
        convert = {"x": floats, "weights": floats, "context": floats}
        arrays = view._asdict().items()
        return View(**{name: None if array is None else convert.get(name, others)(array) for name, array in arrays})

    def _padded(self) -> View:
        """The view, in numpy."""
        patterns, pattern = self._patterns
        if self.lengths is None:
            return conditions.split(View(self.x, self.mask, self.weights, patterns, pattern), self.schema)
        lengths, mask, ragged = self.lengths, self.mask, len(np.unique(self.lengths)) > 1
        if ragged:
            patterns, pattern = pad_patterns(patterns, pattern, lengths, self.num_columns)
            mask = pad(np.ones(self.x.shape, dtype=bool) if mask is None else mask, lengths)
        elif mask is not None and pattern is not None:
            mask, pattern = pad(mask, lengths), pad(pattern, lengths)
        steps = lengths.astype(np.int32) if ragged else None
        return conditions.split(View(pad(self.x, lengths), mask, self.weights, patterns, pattern, steps), self.schema)

    def log_jacobian(self) -> np.ndarray:
        """(n,) what to ADD to a log density of each row or sequence in model space to have it in the table's units."""
        logs = np.broadcast_to(self.schema.log_jacobian(self.mask), self.num_steps)
        return np.array(logs) if self.lengths is None else np.add.reduceat(logs, starts_of(self.lengths))

    @property
    def unit(self) -> str:
        """What an observation is called."""
        return "image" if self.schema.image is not None else "row" if self.lengths is None else "sequence"

    @property
    def a_unit(self) -> str:
        """One of them, for a message."""
        return f"{'an' if self.unit == 'image' else 'a'} {self.unit}"
