"""Conditional models p(x | y): which columns of a table are conditioned on, and rows of them to draw for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import DataError, SettingError
from ppl_gen.images import refuse_options
from ppl_gen.parsing import show
from ppl_gen.readers import Source

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.result import Fit
    from ppl_gen.schema import Schema
    from ppl_gen.view import View

KINDS = ("real", "binary", "categorical")  # as which a column that is conditioned on is read; counts are real numbers


def add_conditions(
    source: Source, positions: list[int], condition_on: Any, drop: Any
) -> tuple[list[int], tuple[str, ...]]:
    """The positions of the columns to use, those that are conditioned on among them, and the names of the latter.

    :raises DataError: one is unknown or left out, or no other column is left.
    """
    wanted, left_out = source.positions(condition_on, "condition_on"), source.positions(drop, "drop")
    for j in wanted:
        if j in left_out:
            raise DataError(f"Column {show(source.names[j])} is conditioned on, so it can't be left out with drop.")
    positions = positions + [j for j in wanted if j not in positions]
    names = tuple(source.names[j] for j in positions if j in wanted)
    if wanted and len(names) == len(positions):
        raise DataError(f"Every column is conditioned on ({', '.join(map(show, names))}): leave at least one to model.")
    return positions, names


def refuse_missing_conditions(schema: Schema, mask: np.ndarray | None, source: Source | None = None) -> None:
    """Raise a :class:`DataError` for a missing value in a column that is conditioned on."""
    if mask is None or not schema.conditions:
        return
    absent = np.argwhere(~mask & ~schema.is_target)
    if len(absent):
        row, j = absent[0]
        where = f"row {row}" if source is None else source.where(int(row))
        raise DataError(
            f"Column {show(schema.names[j])}, {where}: the value is missing, but the column is conditioned on: fill it "
            "in or leave the row out."
        )


def condition(data: Data, condition_on: Any) -> Data:
    """The same rows with these columns conditioned on, and all others modelled; itself where they are so already.

    :raises DataError: one is unknown, no other column is left, or a value of theirs is missing.
    """
    if data.schema.image is not None:
        refuse_options(condition_on=condition_on)
        return data
    source = Source(data.x, data.schema.names, data.schema.container)
    _, names = add_conditions(source, list(range(data.num_columns)), condition_on, None)
    if names == data.schema.conditions:
        return data
    schema = dataclasses.replace(data.schema, conditions=names)
    refuse_missing_conditions(schema, data.mask)
    return dataclasses.replace(data, schema=schema)


def split(view: View, schema: Schema) -> View:
    """The view of all columns as that of those that are modelled, with the others as its context; itself where none
    is conditioned on."""
    if not schema.conditions:
        return view
    kept = schema.is_target
    mask, patterns = (None if part is None else part[..., kept] for part in (view.mask, view.patterns))
    return view._replace(x=view.x[..., kept], mask=mask, patterns=patterns, context=schema.context(view.x))


def rows_to_draw_for(fit: Fit, num_samples: int, seed: int, given: Any) -> tuple[Any, Any] | None:
    """Conditions of the rows to draw: model-space values (n, number of conditions) and row labels; None where the model
    has none.

    Without ``given``, ``num_samples`` of the training rows at random, in proportion to their weights; else each row
    that is given ``num_samples`` times, in order.

    :raises SettingError: ``given``, but nothing is conditioned on.
    """
    from ppl_gen.data import Data

    schema, kept = fit.schema, ~fit.schema.is_target
    if not schema.conditions:
        if given is not None:
            raise SettingError(
                f"given= is for conditional models; this {fit.family.name} was fitted without condition_on."
            )
        return None
    if given is None:
        weights = fit.train.weights
        share = None if weights is None else weights / weights.sum()
        # A stream of its own: the draws of the parameters, which the seed decides too, stay independent of the rows.
        rows = np.random.default_rng([seed, 1]).choice(len(fit.train), num_samples, p=share)
        return fit.train.x[rows][:, kept], None
    same = isinstance(given, Data) and given.schema == schema
    found = given if same else schema.only_conditions().encode(given)
    refuse_missing_conditions(found.schema, found.mask)
    values = found.x[:, kept] if same else found.x
    index = np.arange(len(values)) if found.index is None else found.index
    return np.repeat(values, num_samples, axis=0), index.repeat(num_samples)


def join(schema: Schema, targets: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    """(n, d) whole rows of model space from the columns that are modelled and those that are conditioned on."""
    rows = np.empty((len(targets), schema.num_columns))
    rows[:, schema.is_target], rows[:, ~schema.is_target] = targets, conditions
    return rows
