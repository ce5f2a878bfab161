"""Which columns of a table are modelled, as what kind, and the weights of its rows or sequences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.columns import KINDS
from ppl_gen.errors import DataError
from ppl_gen.padding import starts_of
from ppl_gen.parsing import nearest, read_numbers, show, some
from ppl_gen.readers import Source, read_source
from ppl_gen.sequences import Sequences

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.schema import Schema


def read_weights(
    source: Source, weights: Any, sequences: Sequences | None = None
) -> tuple[np.ndarray | None, str | None]:
    """(n,) float64 weights of the rows, or of the sequences; and the name of the column that held them, if one did.

    :raises DataError: not one number each, negative, infinite or missing, all zero, or a column that gives the steps
        of a sequence different weights.
    """
    if weights is None:
        return None, None
    name, label, where, number = None, "weights", source.where, len(source)
    if isinstance(weights, str):
        fields = {} if sequences is None else sequences.fields
        position = source.position(weights, (fields.get("sequence"), fields.get("order")))
        name = label = source.names[position]
        series = source.column(position)
    else:
        if sequences is not None:
            where, number = sequences.where, len(sequences.lengths)
        given = read_source(weights)
        if len(given.names) != 1 or len(given) != number:
            what = "rows" if sequences is None else "sequences"
            raise DataError(f"There must be one weight for each of the {number} {what}, not {len(given)}.")
        series = given.column(0)
    values = read_numbers(label, series, where).astype(np.float64)
    bad = ~(values >= 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"Weight of {where(row)} in {show(label)} is {values[row]:g}: weights are numbers >= 0.")
    if not 0 < values.sum() < np.inf:
        raise DataError(f"The weights in {show(label)} sum to {values.sum():g}: their sum must be positive and finite.")
    return (values if name is None or sequences is None else _of_sequences(sequences, values, name)), name


def _of_sequences(sequences: Sequences, values: np.ndarray, name: str) -> np.ndarray:
    """(N,) the weight of each sequence from a column (R,) of them."""
    weights = values[starts_of(sequences.lengths)]
    different = values != np.repeat(weights, sequences.lengths)
    if different.any():
        step = int(np.argmax(different))
        i, start = sequences.place(step)
        raise DataError(
            f"The weights in {show(name)} differ within {sequences.where(i)}: {values[start]:g} in "
            f"{sequences.source.where(start)}, {values[step]:g} in {sequences.source.where(step)}. A weight is that "
            "of a whole sequence."
        )
    return weights


def select(source: Source, columns: Any, drop: Any, others: Collection[str | None]) -> list[int]:
    """Positions of the columns to model; ``others`` names those that hold weights, labels of sequences or times."""
    keep = range(len(source.names)) if columns is None else source.positions(columns, "columns", others)
    out = set(source.positions(drop, "drop")) | {source.position(name) for name in others if name is not None}
    positions = [j for j in keep if j not in out]
    if not positions:
        raise DataError("No column is left to model: choose others in columns=, or drop fewer.")
    for j in positions:
        if source.csv_path is not None and source.names[j].startswith("Unnamed: "):
            raise DataError(
                f"Column {j} of {source.csv_path.name} has no name (row numbers, perhaps): name it, "
                f"or drop it with drop=[{show(source.names[j])}]."
            )
    return positions


def check_kinds(source: Source, kinds: Mapping[Any, str] | None, others: Collection[str | None]) -> dict[str, str]:
    """The kinds that were asked for, by the names of the columns; ``others`` as in :func:`select`."""
    chosen = {source.names[source.position(name, others)]: kind for name, kind in (kinds or {}).items()}
    for name, kind in chosen.items():
        if kind not in KINDS:
            raise DataError(f"Column {show(name)}: unknown kind {show(kind)}; {nearest(kind, KINDS)}")
    return chosen


def refuse_missing_rows(mask: np.ndarray | None, source: Source) -> None:
    """Raise a :class:`DataError` for a row without a single value."""
    empty = np.empty(0) if mask is None else ~mask.any(axis=1)
    if empty.any():
        where = source.where(int(np.argmax(empty)))
        raise DataError(f"All values of {where} are missing ({int(empty.sum())} such rows): remove such rows first.")


def known_names(schema: Schema, source: Source) -> tuple[str, ...]:
    """The columns of a new table that may be told by their names: an array's only where it has all of them."""
    by_place = schema.container == "array" and (source.container == "array" or source.integer_names)
    return () if by_place and len(source.names) < schema.num_columns + len(schema.dropped) else source.names


def positions_in(
    schema: Schema, source: Source, left_out: list[int], weight_name: str | None, may_lack: Sequence[str] = ()
) -> list[int | None]:
    """Where each of the schema's columns stands in the table; None of one of ``may_lack`` that it does not have."""
    if schema.container == "dataframe" and source.container == "array":
        raise DataError(
            f"The model was fitted to named columns, this array has none: pass a DataFrame with {some(schema.names)}."
        )
    kept = [j for j in range(len(source.names)) if j not in left_out]
    if schema.container == "array" and (source.container == "array" or source.integer_names):
        return [kept[j] for j in _array_positions(schema, len(kept))]
    where = {source.names[j]: j for j in kept}
    for name in schema.names:
        if name not in where and name not in may_lack:
            known = (*schema.names, *schema.dropped, weight_name)  # among the dropped: labels of sequences, and times
            unused = [other for other in where if other not in known]
            hint = nearest(name, unused) if unused else f"add it; the model has {some(schema.names)}."
            raise DataError(f"Column {show(name)} is missing from the table: {hint}")
    unknown = [n for n in where if n not in schema.names and n not in schema.dropped and n != weight_name]
    if unknown:
        these = f"Column {show(unknown[0])} was"
        if len(unknown) > 1:
            these = f"Columns {', '.join(map(show, unknown[:10]))}{', ...' * (len(unknown) > 10)} were"
        raise DataError(
            f"{these} not in the training table: name rightly what the model has ({some(schema.names)}), or leave "
            f"the rest out with drop=[{', '.join(map(show, unknown))}]."
        )
    return [where.get(name) for name in schema.names]


def _array_positions(schema: Schema, given: int) -> list[int]:
    """Arrays are matched by position: all columns of the training array, or only those that are modelled."""
    if schema.dropped and given == schema.num_columns:
        return list(range(given))
    total = schema.num_columns + len(schema.dropped)
    if given != total:
        raise DataError(f"The table has {given} columns, the array that the model was fitted to had {total}.")
    return [int(name[1:]) for name in schema.names]


def missing_refused(name: str, data: Data) -> DataError:
    """The error for a family that can't integrate missing entries out."""
    from ppl_gen import registry

    row, column = np.argwhere(~np.asarray(data.mask))[0]
    able = ", ".join(each for each in registry.families() if registry.family(each).allows_missing)
    others = int((~np.asarray(data.mask)).sum()) - 1
    where = f"row {row}, column {data.schema.names[column]!r}" + (f", and {others:,} more" if others else "")
    implicit = registry.family(name).density == "implicit"
    what, those = ("reads no row", "read them") if implicit else ("has no density of a row", "have")
    return DataError(
        f"{name} {what} with missing values ({where}); families that {those}: {able}; or drop or fill those rows."
    )
