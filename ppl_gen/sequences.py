"""Tables of time steps read as sequences: which step is whose, and in which order."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import DataError, warn
from ppl_gen.padding import starts_of
from ppl_gen.parsing import normalise, show
from ppl_gen.readers import Source, read_source
from ppl_gen.times import read_times

if TYPE_CHECKING:
    import pandas as pd


NONE = "The table is empty: pass an array or a table for each sequence, or one table of all time steps."


@dataclasses.dataclass(frozen=True, eq=False)
class StepSource(Source):
    """A table whose rows are taken sequence by sequence.

    ``rows``    (R,) where each time step stands in the table as it came, or None where they stand in this order
    ``starts``  (N,) the first step of each sequence of a list, to say where a step is; None for one table
    """

    rows: np.ndarray | None = None
    starts: np.ndarray | None = None

    @property
    def index(self) -> pd.Index | None:
        import pandas as pd

        if self.rows is None:
            return super().index
        return (pd.RangeIndex(len(self)) if self.container == "array" else self.values.index)[self.rows]

    def column(self, j: int) -> pd.Series:
        series = super().column(j)
        return series if self.rows is None else series.iloc[self.rows].reset_index(drop=True)

    def where(self, row: int) -> str:
        if self.starts is None:
            return super().where(row if self.rows is None else int(self.rows[row]))
        i = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"step {row - self.starts[i]} of sequence {i}"


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """A table in the order of its sequences, and what tells them apart.

    ``lengths``, ``ids``  (N,) steps of each sequence, and its label
    ``order``             (R,) numbers or times of the steps, or None
    ``fields``            what the schema remembers of the two columns, by the names of its fields
    """

    source: StepSource
    lengths: np.ndarray
    ids: tuple[Any, ...]
    order: np.ndarray | None
    fields: dict[str, Any]

    def where(self, row: int) -> str:
        """A sequence, by its number, for a message."""
        return f"sequence {show(self.ids[row])}"

    def place(self, step: int) -> tuple[int, int]:
        """The sequence of a step among all that are stacked, and the first step of that sequence."""
        starts = starts_of(self.lengths)
        i = int(np.searchsorted(starts, step, side="right")) - 1
        return i, int(starts[i])

    def check_training(self) -> None:
        """There must be steps that follow others; a warning says how many sequences have none.

        :raises DataError: every sequence has a single step.
        """
        single, total = int((self.lengths == 1).sum()), len(self.lengths)
        if single == total:
            raise DataError(
                f"Each of the {total:,} sequences has a single time step, so nothing can be learnt of how steps follow "
                "each other: sequence= names the column that holds the same label in all steps of a sequence."
            )
        if single:
            warn(f"{single:,} of {total:,} sequences have a single time step.")


def read_sequences(
    table: Any, sequence: Any = None, order: Any = None, known: Callable[[Source], Sequence[str]] | None = None
) -> Sequences:
    """A table of time steps, or a list of arrays or of tables of which each is a sequence.

    :param sequence: the column that tells the sequences apart, which may be interleaved; without it the table is one.
    :param order: the column of numbers or dates by which the steps of each sequence are in order.
    :param known: the columns of this table, of which those two need not be; by default they must be there.
    :raises DataError: no table, an empty sequence, a missing label, steps that are not in order.
    """
    parts = _parts(table)
    rows: np.ndarray | None = None
    starts: np.ndarray | None = None
    ids: tuple[Any, ...] = (0,)
    fields: dict[str, Any] = {"is_sequence": True}
    if parts is None:
        source = read_source(table)
        lengths = np.array([len(source)])
    else:
        if sequence is not None and known is None:
            raise DataError("Each array of a list is a sequence already: leave sequence= out, or pass one table.")
        source, lengths = _join(parts)
        sequence, ids, starts = None, tuple(range(len(lengths))), starts_of(lengths)
    if known is not None:
        sequence, order = (name if name in known(source) else None for name in (sequence, order))
    if sequence is not None:
        position = source.position(sequence)
        codes, ids, dtype = _labels(source, position)
        lengths = np.bincount(codes)
        if (codes[1:] < codes[:-1]).any():  # interleaved
            rows = np.argsort(codes, kind="stable")
        fields |= {"sequence": source.names[position], "sequence_dtype": dtype}
    plain = {field.name: getattr(source, field.name) for field in dataclasses.fields(Source)}
    found = Sequences(StepSource(**plain, rows=rows, starts=starts), lengths, ids, None, fields)
    return found if order is None else _with_order(found, source.position(order))


def _parts(table: Any) -> Sequence[Any] | None:
    """The sequences of a list, or of a 3-d array; None for one table.

    :raises DataError: lists of plain numbers in a list: rows of one table as well as several sequences.
    """
    if _is_table(table) and getattr(table, "ndim", 2) == 3 and not isinstance(table, np.ndarray):
        table = np.asarray(table)  # of a PPL's own array library
    if isinstance(table, np.ndarray):
        nested = table.dtype == object and table.ndim == 1 and len(table) and all(map(_is_table, table))
        if table.ndim == 3 and not len(table):
            raise DataError(NONE)
        return list(table) if nested or table.ndim == 3 else None
    if isinstance(table, list | tuple) and not any(_is_table(item) or not _is_list(item) or item for item in table):
        raise DataError(NONE)  # [] or [[], []]
    if not isinstance(table, list | tuple) or not any(_is_table(item) or _is_list(item) for item in table):
        return None
    if not any(_is_table(item) or (_is_list(item) and any(map(_is_list, item))) for item in table):
        raise DataError(
            "A list of lists of numbers may be the rows of one table or several sequences: pass a list of arrays for "
            "several sequences, one array for one sequence."
        )
    return table


def _is_list(item: Any) -> bool:
    return isinstance(item, list | tuple)


def _is_table(item: Any) -> bool:
    if isinstance(item, os.PathLike):
        return True
    return (hasattr(item, "__array__") or hasattr(item, "to_pandas")) and getattr(item, "ndim", 2) > 0


def _join(parts: Sequence[Any]) -> tuple[Source, np.ndarray]:
    """The time steps of all sequences as one table, and how many each has.

    :raises DataError: an empty sequence, or sequences that differ in their columns.
    """
    sources = []
    for i, part in enumerate(parts):
        if hasattr(part, "__len__") and len(part) == 0:
            raise DataError(f"Sequence {i} has no time steps: leave it out.")
        try:
            sources.append(read_source(part))
        except DataError as error:
            raise DataError(f"Sequence {i}: {error}") from None
    first = sources[0]
    for i, source in enumerate(sources):
        if source.container != first.container or sorted(source.names) != sorted(first.names):
            raise DataError(f"Sequence {i} has {_columns(source)}, sequence 0 has {_columns(first)}.")
    lengths = np.array([len(source) for source in sources])
    if len(sources) == 1:
        return first, lengths
    values = [source.values for source in sources]
    if first.container == "array":
        if len({array.dtype.kind in "OU" for array in values}) > 1:  # numbers beside text stay numbers
            values = [array.astype(object) for array in values]
        return dataclasses.replace(first, values=np.concatenate(values)), lengths
    import pandas as pd

    unlabelled = all(source.index is None for source in sources)
    return dataclasses.replace(first, values=pd.concat(values, ignore_index=unlabelled)), lengths


def _columns(source: Source) -> str:
    if source.container == "array":
        return f"{len(source.names)} columns without names"
    return f"the columns {', '.join(map(show, source.names[:10]))}" + (", ..." if len(source.names) > 10 else "")


def _labels(source: Source, position: int) -> tuple[np.ndarray, tuple[Any, ...], str]:
    """Which sequence each row belongs to, numbered by first appearance; the labels; the dtype of their column.

    :raises DataError: a label is missing, or is a list or the like.
    """
    import pandas as pd

    name = source.names[position]
    series, dtype = normalise(source.column(position))
    try:
        codes, found = pd.factorize(series)
    except TypeError:
        raise DataError(f"Column {show(name)} holds lists or the like, which are no labels of sequences.") from None
    if (codes < 0).any():
        where = source.where(int(np.argmax(codes < 0)))
        raise DataError(f"Column {show(name)}, {where}: the label of the sequence is missing. Fill it in.")
    return codes, tuple(v.item() if isinstance(v, np.generic) else v for v in found), dtype


def _with_order(found: Sequences, position: int) -> Sequences:
    """The same sequences, checked to be in the order of a column.

    :raises DataError: they are not.
    """
    name = found.source.names[position]
    values, dtype = read_times(name, found.source.column(position), found.source.where)
    starts = starts_of(found.lengths)
    back = values[1:] <= values[:-1]
    back[starts[1:] - 1] = False  # from one sequence to the next
    if back.any():
        raise _disorder(found, name, values, int(np.argmax(back)))
    fields = {**found.fields, "order": name, "order_dtype": dtype}
    if values.dtype.kind in "iu":
        steps = np.arange(len(values)) - np.repeat(starts, found.lengths)
        if (values == steps + int(values[0])).all():
            fields["order_start"] = int(values[0])
    return dataclasses.replace(found, order=values, fields=fields)


def _disorder(found: Sequences, name: str, values: np.ndarray, step: int) -> DataError:
    """What to say of a step that is followed by an earlier one or by itself."""
    i, _ = found.place(step)
    by = found.fields.get("sequence")
    here, there = found.source.where(step), found.source.where(step + 1)
    whose = "" if len(found.lengths) == 1 and by is None else f", {found.where(i)}"
    hint = "" if by is not None or found.source.starts is not None else (
        " (or, if the table holds several sequences, name the column that tells them apart in sequence=)"
    )  # fmt: skip
    if values[step] == values[step + 1]:
        what = f"{there} has the same value as {here}, {values[step]}: drop duplicates"
    else:
        keys = ", ".join(show(key) for key in (by, name) if key is not None)
        what = f"{there} has {values[step + 1]}, after {values[step]} in {here}: sort the table by {keys}"
    return DataError(f"Column {show(name)}{whose}: {what}{hint}.")
