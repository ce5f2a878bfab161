"""What pictures of sequences share: the time axis, which sequences and steps are shown, and whether a kind applies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.ticker import MaxNLocator

from ppl_gen import plots_data
from ppl_gen.errors import UnsupportedError
from ppl_gen.padding import starts_of
from ppl_gen.plots_style import colour, label

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.columns import Column
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

MAX_SEQUENCES = 3
MAX_COLUMNS = 4
STEPS = 20_000  # that a picture is computed from
HORIZONTAL = 9  # steps up to which a label for each is readable
UNITS = (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0), ("seconds", 1.0))


class Times(NamedTuple):
    """Where time steps stand on an axis: ``at`` (R,), the axis's name, and whether the numbers are dates."""

    at: np.ndarray
    name: str
    dates: bool

    def set_axis(self, ax: Axes, number: int = 6) -> None:
        """Ticks that suit; no label."""
        if self.dates:
            locator = AutoDateLocator(minticks=2, maxticks=number + 2)
            ax.xaxis.set_major_locator(locator)
            ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        else:
            ax.xaxis.set_major_locator(MaxNLocator(number, integer=bool((self.at == np.rint(self.at)).all())))
            ax.ticklabel_format(axis="x", style="plain", useOffset=False)


def times_of(labels: pd.DataFrame) -> Times:
    """The second column of :meth:`Data.step_labels <ppl_gen.data.Data.step_labels>` as an axis."""
    import pandas as pd

    name, series = str(labels.columns[1]), labels.iloc[:, 1].infer_objects()
    if isinstance(series.dtype, pd.PeriodDtype):
        series = series.dt.start_time
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        series = series.dt.tz_localize(None)  # the clock's own time, as in the table
    if series.dtype.kind == "M":
        return Times(np.asarray(date2num(series.to_numpy())), label(name), True)
    if series.dtype.kind == "m":
        seconds = series.dt.total_seconds().to_numpy()
        unit, size = next((u for u in UNITS if np.ptp(seconds) >= 2 * u[1]), UNITS[-1])
        return Times(seconds / size, f"{label(name)} ({unit})", False)
    return Times(series.to_numpy(np.float64), label(name), False)


def with_future(data: Data, horizon: int) -> tuple[Times, np.ndarray]:
    """The times of all steps, and of ``horizon`` more of each sequence (N * horizon,). Where it is not known how times
    go on, both are numbers of steps."""
    assert data.lengths is not None
    before, after = data.step_labels(), data.future_labels(horizon)
    if before.columns[1] == after.columns[1] and before.dtypes.iloc[1] == after.dtypes.iloc[1]:
        return times_of(before), times_of(after).at
    steps = np.concatenate([np.arange(length) for length in data.lengths])
    ahead = (data.lengths[:, None] + np.arange(horizon)).ravel()
    return Times(steps.astype(float), "step", False), ahead.astype(float)


def stacked_times(data: Data) -> tuple[Times, np.ndarray]:
    """One axis for the steps of all sequences, and where one ends and the next begins: the times of a single sequence,
    else the steps in a row."""
    assert data.lengths is not None
    if len(data) == 1:
        return times_of(data.step_labels()), np.empty(0)
    name = f"time steps of {len(data):,} sequences, one after the other"
    return Times(np.arange(data.num_steps, dtype=float), name, False), starts_of(data.lengths)[1:] - 0.5


def edges_of(at: np.ndarray) -> np.ndarray:
    """(T + 1,): halfway between the steps."""
    if len(at) == 1:
        return at[0] + np.array([-0.5, 0.5])
    middle = (at[1:] + at[:-1]) / 2
    return np.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]])


def chosen_sequences(data: Data, most: int = MAX_SEQUENCES) -> tuple[np.ndarray, str]:
    """The longest sequences, in the table's order, and words for a title (empty where these are all)."""
    assert data.lengths is not None
    if len(data) <= most:
        return np.arange(len(data)), ""
    return np.sort(np.argsort(-data.lengths, kind="stable")[:most]), f"the {most} longest of {len(data):,} sequences"


def windows(data: Data, limit: int, last: bool = False) -> Data:
    """The first (or last) steps of each sequence, at most ``limit``."""
    assert data.lengths is not None
    sizes = np.minimum(data.lengths, limit)
    if (sizes == data.lengths).all():
        return data
    first = starts_of(data.lengths) + (data.lengths - sizes if last else 0)
    rows = np.concatenate([np.arange(start, start + size) for start, size in zip(first, sizes, strict=True)])
    mask, index, order = (None if part is None else part[rows] for part in (data.mask, data.index, data.order))
    return dataclasses.replace(data, x=data.x[rows], lengths=sizes, mask=mask, index=index, order=order)


def looked_at(fit: Fit) -> tuple[Data, str]:
    """Random training sequences of about ``STEPS`` steps in all, or the start of a long one; words for a title."""
    from ppl_gen.evidence import Evidence

    train, data = fit.train, Evidence.of(fit).train
    assert data.lengths is not None
    if len(data) < len(train):
        return data, f"{len(data):,} random sequences of {len(train):,}"
    short = windows(data, max(STEPS // len(data), 1000))
    return short, "" if short is data else f"the first {short.lengths.max():,} steps"  # type: ignore[union-attr]


def sequence_names(data: Data) -> list[str]:
    """Each sequence's label after the name of its column."""
    ids = range(len(data)) if data.sequence_ids is None else data.sequence_ids
    return [f"{label(data.schema.sequence or 'sequence', 16)} {label(value, 16)}" for value in ids]


def each_sequence(data: Data) -> list[slice]:
    """Where the steps of each sequence are among all steps, stacked."""
    assert data.lengths is not None
    return [slice(int(a), int(a + n)) for a, n in zip(starts_of(data.lengths), data.lengths, strict=True)]


def shade_states(ax: Axes, at: np.ndarray, states: np.ndarray, alpha: float = 0.22) -> None:
    """A background in the colour of each step's state."""
    edges = edges_of(at)
    ends = np.stack([edges[:-1], edges[1:]], axis=1).ravel()
    for k in np.unique(states):
        ax.fill_between(ends, 0, 1, where=np.repeat(states == k, 2).tolist(), color=colour(int(k)), alpha=alpha,
                        linewidth=0, transform=ax.get_xaxis_transform(), zorder=0)  # fmt: skip


def set_values_axis(ax: Axes, column: Column) -> None:
    """Ticks of an axis of this column's values: whole numbers, or labels."""
    labels = column.categories or ()
    if 0 < len(labels) <= HORIZONTAL:
        ax.set_yticks(range(len(labels)), [label(text, 12) for text in labels])
        ax.set_ylim(-0.6, len(labels) - 0.4)
    elif column.kind == "binary":
        ax.set_yticks([0, 1])
        ax.set_ylim(-0.15, 1.15)
    else:
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=column.kind != "real"))


def notes_of(*notes: str) -> str:
    """Words for the end of a title."""
    return "".join(f"; {note}" for note in notes if note)


def column_note(fit: Fit, number: int) -> str:
    total = fit.schema.num_columns if number > len(fit.schema.targets) else len(fit.schema.targets)
    return "" if number == total else f"first {number} of {total} columns"


def transition_site(fit: Fit) -> str | None:
    """The site that holds the transition matrix of the states."""
    dims = fit.family.site_dims()
    return next((name for name in fit.posterior if dims.get(name) == ("state", "next_state")), None)


STATES: Sequence[str] = ("states", "transitions", "durations")
KINDS: Sequence[str] = (*STATES, "forecast", "residuals")
INSTEAD = {
    "latents": "rows have latents of their own, time steps have states (see the states picture)",
    "pairs": "a time step is no independent point of a scatter matrix (see the states picture)",
}


def why_not(fit: Fit, kind: str) -> str:
    """Why a fit has no picture of this kind, as far as sequences and images are concerned; an empty string where it may
    have."""
    if fit.schema.image is not None and kind == "pairs":
        return "single pixels say little (see the images picture)"
    if not fit.family.sequences:
        return f"{fit.family.name} models rows, which have no order in time" if kind in KINDS else ""
    if kind in INSTEAD:
        return INSTEAD[kind]
    if kind in STATES:
        if fit.family.num_labels < 2:
            return "there are no two states to tell apart"
        return "" if kind == "states" or transition_site(fit) else f"{fit.family.name} has no transition matrix"
    if kind == "forecast" and fit.pair.forecast is None:
        return f"{fit.family.name} can't be continued"
    if kind in ("residuals", "pit") and not _has_cdf(fit):
        return f"the one-step-ahead predictions of {fit.family.name} have no distribution function"
    return ""


def _has_cdf(fit: Fit) -> bool:
    """Asked of one draw at the first two steps, the states being anything."""
    if fit.pair.to_uniform is not None:
        return True
    data, posterior = windows(fit.train.take([0]), 2), plots_data.thinned(fit, 1).posterior
    size = fit.family.num_labels
    filtered = np.full((1, data.num_steps, size), 1 / max(size, 1))
    return fit.family.one_step_cdf(posterior, filtered, data) is not None


def require(fit: Fit, kind: str) -> None:
    """Raise an :class:`UnsupportedError` that says why this fit has no such picture."""
    reason = why_not(fit, kind)
    if reason:
        raise UnsupportedError(reason)
