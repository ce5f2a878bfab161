"""Pictures of hidden states: when a sequence is in which, and how they follow one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from ppl_gen import plots_data, plots_style, plots_times
from ppl_gen.plots_style import INK, MODEL, SHADE, colour, label, styled
from ppl_gen.scoring import point_draw

if TYPE_CHECKING:
    from ppl_gen.columns import Column
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

MAX_STEPS = 1_000  # of a sequence, in one picture
MAX_STATES = 8
DOTTED = 300  # steps up to which each has a dot of its own
LASTING = 1_000_000  # steps beyond which a visit's expected length is no figure
LARGE = 10  # states beyond which the cells of a matrix have no room for intervals


@styled
def plot_states(
    fit: Fit, *, fig: Figure | SubFigure | None = None, max_columns: int = plots_times.MAX_COLUMNS
) -> Figure:
    """Sequences over time, before the colour of each step's most probable state; below, the probability of each state
    given the whole sequence, with the 90 % band of the draws.

    :param max_columns: of a wider table, the first so many columns.
    :raises UnsupportedError: there are no states.
    """
    plots_times.require(fit, "states")
    rows, note = plots_times.chosen_sequences(fit.train)
    # What comes after a window bears on its last states; from twice as far on it no longer does.
    data = plots_times.windows(fit.train.take(rows), 2 * MAX_STEPS)
    centre, bands = _smoothed(fit, data)
    shown = np.sort(np.argsort(-centre.mean(0), kind="stable")[:MAX_STATES])
    columns = list(fit.schema.columns[:max_columns])
    times = plots_times.times_of(data.step_labels())
    values = plots_data.original_units(fit, data.x, data.mask)
    across, lines = len(rows), len(columns) + len(shown)
    heights = [1.5 if len(columns) == 1 else 1.1] * len(columns) + [0.5] * len(shown)
    fig = plots_style.figure_of(fig, {1: 7.6, 2: 9.4}.get(across, 11.4), sum(heights) + 1.1)
    grid = fig.add_gridspec(lines, across, height_ratios=heights)
    titles = _titles(fit, rows)
    for place, whole in enumerate(plots_times.each_sequence(data)):
        steps = slice(whole.start, min(whole.stop, whole.start + MAX_STEPS))
        own = times._replace(at=times.at[steps])
        axes = [fig.add_subplot(grid[0, place])]
        axes += [fig.add_subplot(grid[line, place], sharex=axes[0]) for line in range(1, lines)]
        for j, column in enumerate(columns):
            draw_series(axes[j], column, own.at, values[steps, j], centre[steps].argmax(-1))
        for ax, k in zip(axes[len(columns) :], shown, strict=True):
            _draw_probability(ax, own.at, centre[steps, k], None if bands is None else bands[:, steps, k], int(k))
        _label_strip(axes, own, [*(label(c.name, 18) for c in columns), *(f"p(z={k})" for k in shown)], place == 0)
        axes[0].set_title(titles[place])
    share = centre.mean(0)
    handles = [Patch(color=colour(int(k)), label=f"state {k}  ({share[k]:.0%} of steps)") for k in shown]
    fig.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), handlelength=1.0)
    over = "" if bands is None else f"; bands: 90 % of {plots_style.interval_name(fit)}"
    few = "" if len(shown) == centre.shape[1] else f"the {len(shown)} commonest of {centre.shape[1]} states"
    more = plots_times.notes_of(note, plots_times.column_note(fit, len(columns)), few)
    return plots_style.finish(fig, f"{fit.family.name} by {fit.engine.name}: most probable state{over}{more}")


def _titles(fit: Fit, rows: np.ndarray) -> list[str]:
    """Which sequence each strip is of, and how much of it is shown, where that is not all there is."""
    data = fit.train.take(rows)
    assert data.lengths is not None
    cuts = ["" if n <= MAX_STEPS else f"first {MAX_STEPS:,} of {n:,} steps" for n in data.lengths]
    if len(fit.train) == 1:
        return cuts
    names = plots_times.sequence_names(data)
    return [f"{name}, {cut}" if cut else name for name, cut in zip(names, cuts, strict=True)]


def _smoothed(fit: Fit, data: Data) -> tuple[np.ndarray, np.ndarray | None]:
    """p(z | whole sequence) of each step (R, K), and its 90 % band over the draws (2, R, K), None for a single draw."""
    from ppl_gen.timeseries import over_draws

    size = fit.family.num_labels
    tables = over_draws(fit, "smoothed", data, plots_data.thinned(fit).posterior, size)
    point = point_draw(fit)
    centre = tables.mean(0, dtype=np.float64) if point is None else over_draws(fit, "smoothed", data, point, size)[0]
    return centre, np.quantile(tables, [0.05, 0.95], axis=0) if len(tables) > 1 else None


def draw_series(ax: Axes, column: Column, at: np.ndarray, values: np.ndarray, states: np.ndarray) -> None:
    """One column of one sequence: a line with gaps where it is missing, dots in the colour of the state."""
    plots_times.shade_states(ax, at, states)
    numeric = column.kind in ("real", "count")
    if numeric:
        ax.plot(at, values, color=INK, linewidth=0.7 if len(at) <= DOTTED else 0.5, alpha=0.8)
    if not numeric or len(at) <= DOTTED or np.isnan(values).any():
        seen = np.isfinite(values)
        size = float(np.clip(1800 / len(at), 3, 14))
        ax.scatter(at[seen], values[seen], s=size, c=[colour(int(k)) for k in states[seen]], linewidths=0.3,
                   edgecolors="white" if numeric else "none", zorder=3, clip_on=False)  # fmt: skip
    plots_times.set_values_axis(ax, column)


def _draw_probability(ax: Axes, at: np.ndarray, centre: np.ndarray, band: np.ndarray | None, k: int) -> None:
    edges = plots_times.edges_of(at)
    ax.stairs(centre, edges, fill=True, color=colour(k), alpha=0.45, linewidth=0)
    ax.stairs(centre, edges, baseline=None, color=colour(k), linewidth=0.9)
    if band is not None:
        ax.stairs(band[1], edges, baseline=band[0], fill=True, color=SHADE, alpha=0.45, linewidth=0, zorder=3)
    ax.set_ylim(-0.05, 1.05)  # a line at the end of the scale is as thick as the others
    ax.set_yticks([0, 1])


def _label_strip(axes: list[Axes], times: plots_times.Times, names: list[str], first: bool) -> None:
    """The panels of one sequence: one time axis at the foot, names at the left of the first strip."""
    for ax, name in zip(axes, names, strict=True):
        ax.tick_params(labelbottom=ax is axes[-1])
        if first:
            ax.set_ylabel(name, rotation=0 if name.startswith("p(z=") else 90,
                          **({"ha": "right", "va": "center"} if name.startswith("p(z=") else {}))  # fmt: skip
    edges = plots_times.edges_of(times.at)
    axes[0].set_xlim(edges[0], edges[-1])
    times.set_axis(axes[-1])
    axes[-1].set_xlabel(times.name)


@styled
def plot_transitions(fit: Fit, *, ax: Axes | None = None) -> Figure:
    """The transition matrix: the probability that the state of a row is followed by that of a column, its mean over
    the draws (or the point estimate) and 90 % interval; at the right, how long a visit lasts on average, 1 / (1 - p).
    Where it depends on what is conditioned on, that at the mean of the training table.

    :raises UnsupportedError: there is no transition matrix.
    """
    plots_times.require(fit, "transitions")
    site = plots_times.transition_site(fit)
    assert site is not None
    draws, point = (_matrices(fit, site, sites) for sites in (fit.posterior, point_draw(fit) or fit.posterior))
    centre = draws.mean(0) if fit.draws.point is None else point[0]
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    size, spread = len(centre), bool(np.ptp(draws, axis=0).any())
    wide = 0.98 if size <= LARGE else 0.52
    ax = plots_style.axes_of(ax, max(wide * size + 2.6, 5.0), max(0.74 * wide * size + 1.5, 2.6))
    blues = LinearSegmentedColormap.from_list("", ["white", MODEL])
    # By square roots: rare transitions differ more than their distance from zero says.
    ax.imshow(centre, cmap=blues, norm=PowerNorm(0.5, 0, 1), aspect="auto")
    for i, j in np.ndindex(*centre.shape):
        text = f"{centre[i, j]:.2f}" if size <= LARGE else f"{centre[i, j]:.2f}".removeprefix("0")
        if spread and size <= LARGE:
            text += f"\n[{low[i, j]:.2f}, {high[i, j]:.2f}]"
        ax.text(j, i, text, ha="center", va="center", fontsize=7.5 if size <= LARGE else 6,
                color="white" if centre[i, j] > 0.35 else INK)  # fmt: skip
    ax.set_xticks(range(size), [str(k) for k in range(size)])
    ax.set_yticks(range(size), [str(k) for k in range(size)])
    ax.spines[:].set_visible(False)
    ax.set_xlabel("next state")
    ax.set_ylabel("state")
    _label_visits(ax, centre, draws if spread else None)
    over = f": mean and 90 % of {plots_style.interval_name(fit)}" if spread else ""
    if spread and fit.draws.point is not None:
        over = f": estimate and 90 % of {plots_style.interval_name(fit)}"
    given = [label(name) for name in fit.schema.conditions]
    at = f", {', '.join(given)} at the mean" if given else ""
    figure = plots_style.finish(ax, f"{fit.family.name} by {fit.engine.name}: transitions between states{at}{over}")
    for axis in (ax.xaxis, ax.yaxis):
        for k, tick in enumerate(axis.get_ticklabels()):
            tick.set(color=colour(k), fontweight="bold", fontsize=9)
    return figure


def _matrices(fit: Fit, site: str, posterior: dict[str, np.ndarray]) -> np.ndarray:
    """(S, K, K): the transition matrices under draws, at the mean of what is conditioned on."""
    context = fit.schema.context(fit.train.x)
    found = None if context is None else fit.family.step_transitions(posterior, context.mean(0, keepdims=True))
    return np.asarray(posterior[site] if found is None else found[:, 0], np.float64)


def _label_visits(ax: Axes, centre: np.ndarray, draws: np.ndarray | None) -> None:
    """At the right of each row, the expected length of a visit."""
    with np.errstate(divide="ignore"):
        own = 1 / (1 - np.diag(centre))
        ends = None if draws is None else np.quantile(1 / (1 - np.diagonal(draws, axis1=1, axis2=2)), [0.05, 0.95], 0)
    texts = [_steps(number) for number in own]
    if ends is not None:
        texts = [f"{text} [{_steps(a)}, {_steps(b)}]" for text, a, b in zip(texts, *ends, strict=True)]
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(own)), texts)
    ax.annotate("mean visit (steps)", (1, 1), xytext=(5, 3), xycoords="axes fraction", textcoords="offset points",
                fontsize=8)  # fmt: skip
    right.spines["right"].set_visible(False)
    right.tick_params(length=0)


def _steps(number: float) -> str:
    """An expected number of steps; of a state that is next to never left, how many they are is not known."""
    if number >= LASTING:
        return f"> {LASTING:,}"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
