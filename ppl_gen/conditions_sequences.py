"""Sequences that are conditioned on columns: which are drawn for what, and what is known of those ahead."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.conditions import join
from ppl_gen.errors import DataError, SettingError
from ppl_gen.padding import pad, starts_of
from ppl_gen.parsing import show
from ppl_gen.view import backend_arrays

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data, View
    from ppl_gen.result import Fit


def sequences_to_draw_for(fit: Fit, num_samples: int, length: int | None, seed: int, given: Any) -> Data | None:
    """The columns that are conditioned on, of the sequences to draw; None where the model has none.

    Without ``given``, those of ``num_samples`` training sequences at random, in proportion to their weights; else of
    each sequence that is given, ``num_samples`` times in order.

    :raises SettingError: ``given``, but nothing is conditioned on; or ``length``, though they have lengths.
    """
    conditions = _given(fit, given)
    if not fit.schema.conditions:
        return None
    if length is not None:
        raise SettingError("length has no effect with condition_on: sequences are as long as what they are drawn for.")
    if conditions is not None:
        return conditions.take(np.repeat(np.arange(len(conditions)), num_samples))
    weights = fit.train.weights
    share = None if weights is None else weights / weights.sum()
    # A stream of its own: the draws of the parameters, which the seed decides too, stay independent of the sequences.
    chosen = np.random.default_rng([seed, 1]).choice(len(fit.train), num_samples, p=share)
    return _only_conditions(fit.train.take(chosen))


def _given(fit: Fit, given: Any) -> Data | None:
    """What is given, read under the schema of the columns that are conditioned on."""
    from ppl_gen.data import Data

    if given is None:
        return None
    if not fit.schema.conditions:
        raise SettingError(f"given= is for conditional models; this {fit.family.name} was fitted without condition_on.")
    if isinstance(given, Data) and given.schema == fit.schema:
        return _only_conditions(given)
    return fit.schema.only_conditions().encode(given)


def _only_conditions(data: Data) -> Data:
    return dataclasses.replace(
        data, schema=data.schema.only_conditions(), x=data.x[:, ~data.schema.is_target], mask=None, weights=None
    )


def sample_given(fit: Fit, conditions: Data, seed: int) -> pd.DataFrame:
    """A sequence for each of these, which hold the columns that are conditioned on."""
    from ppl_gen.scoring import point_draw
    from ppl_gen.timeseries import require_room, sample_sequences

    lengths, posterior = conditions.lengths, point_draw(fit) or fit.posterior
    context = conditions.schema.context(conditions.x)
    assert lengths is not None
    assert context is not None
    require_room(conditions.num_steps, fit.schema.num_columns, f"{conditions.num_steps:,} time steps", "columns")
    index = np.random.default_rng(seed).integers(len(next(iter(posterior.values()))), size=len(lengths))
    found = np.concatenate(sample_sequences(fit, posterior, index, lengths, seed, pad(context, lengths)))
    steps = join(fit.schema, found, conditions.x)
    return fit.schema.decode_sequences(np.split(steps, np.cumsum(lengths)[:-1]))


def with_future_context(fit: Fit, data: Data, horizon: int, given: Any, hold: bool = False) -> View:
    """The view of these sequences whose context, (N, T + horizon, c), goes on as given: that of the steps ahead follows
    that of each sequence's own.

    :param given: a table of the columns that are conditioned on: at least ``horizon`` time steps of each sequence.
    :param hold: without it, they stay as in the last step.
    :raises SettingError: nothing is given though something is conditioned on, or the other way round.
    :raises DataError: a sequence is missing from it, has too few time steps, or starts before the end of what is known.
    """
    view, ahead = data.view(fit.backend), _given(fit, given)
    if not fit.schema.conditions:
        return view
    past, lengths = fit.schema.context(data.x), data.lengths
    assert past is not None
    assert lengths is not None
    starts = starts_of(lengths)
    if ahead is not None:
        future = ahead.schema.context(ahead.x)
        assert future is not None
        rows = _steps_ahead(data, ahead, horizon)
        parts = [future[each] for each in rows]
    elif hold:
        parts = [np.repeat(past[[start + n - 1]], horizon, axis=0) for start, n in zip(starts, lengths, strict=True)]
    else:
        raise SettingError(
            f"How sequences go on depends on {', '.join(map(show, fit.schema.conditions))}: pass given=, a table of "
            f"{horizon} time steps of that to come."
        )
    whole = [part for i, new in enumerate(parts) for part in (past[starts[i] : starts[i] + lengths[i]], new)]
    context = pad(np.concatenate(whole), lengths + horizon)
    return view._replace(context=backend_arrays(fit.backend)[0](context))


def _steps_ahead(data: Data, ahead: Data, horizon: int) -> list[slice]:
    """Where the next steps of each sequence are in what is given: by its label, or of a single one that."""
    lengths, ids = ahead.lengths, list(ahead.sequence_ids or range(len(ahead)))
    assert lengths is not None
    wanted = list(data.sequence_ids or range(len(data)))
    if len(ids) == len(wanted) == 1:
        wanted = ids
    starts, found = starts_of(lengths), []
    for whose, label in enumerate(wanted):
        if label not in ids:
            raise DataError(f"given= has no time steps of sequence {show(label)}: add the {horizon} that are to come.")
        i = ids.index(label)
        if lengths[i] < horizon:
            raise DataError(
                f"given= has {lengths[i]:,} time steps of sequence {show(label)}, but the horizon is {horizon:,}: add "
                "the others, or look less far ahead."
            )
        _require_later(data, whose, ahead, int(starts[i]), label)
        found.append(slice(int(starts[i]), int(starts[i]) + horizon))
    return found


def _require_later(data: Data, i: int, ahead: Data, first: int, label: Any) -> None:
    """Time steps ahead come right after the last one of their sequence, where both have times that can be told
    apart."""
    if data.order is None or ahead.order is None or data.lengths is None:
        return
    end = int(data.lengths[: i + 1].sum())
    times = data.order[end - int(data.lengths[i]) : end]
    start, last = ahead.order[first], times[-1]
    sorts = {"number" if time.dtype.kind in "iuf" else time.dtype.kind for time in (start, last)}
    if len(sorts) == 1 and not start > last:
        raise DataError(
            f"given= is of the time steps to come, but of sequence {show(label)} it starts at {start}, and the "
            f"sequence ends at {last}: leave out what is over."
        )
    gaps = np.diff(times)
    if len(sorts) == len(gaps[:1]) == 1 and (gaps == gaps[0]).all() and start > last + gaps[0] * 1.5:
        raise DataError(
            f"given= is of the time steps to come, but of sequence {show(label)} it starts at {start}, not at "
            f"{last + gaps[0]}: add what is between."
        )
