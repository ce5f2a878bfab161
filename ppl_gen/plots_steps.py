"""Pictures of time steps: how sequences go on, and how well each step was predicted from the steps before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from ppl_gen import plots_data, plots_style, plots_times
from ppl_gen.conditions_sequences import with_future_context
from ppl_gen.metrics import autocorrelation, envelope
from ppl_gen.plots_style import ALARM, INK, LIGHT, MODEL, SHADE, label, styled

if TYPE_CHECKING:
    from ppl_gen.columns import Column
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

PAST = 2_000  # steps that a future is drawn from: the state forgets what came before
NAMED = 5  # lowest steps that get their time written
FURTHEST = 6.0  # standard deviations at which a residual is drawn at most
LEVEL = 0.95
TITLES = ("pseudo-residual (sd)", "sorted, against normal", "autocorrelation")


@styled
def plot_forecast(
    fit: Fit, *, horizon: int = 24, fig: Figure | SubFigure | None = None, num_draws: int = 1000,
    max_columns: int = plots_times.MAX_COLUMNS,
) -> Figure:  # fmt: skip
    """The end of each sequence and how it goes on: median, 50 and 90 % of futures, each under a draw; of labels, the
    share of futures that have each; of truth values, the share that are true.

    :param horizon: time steps ahead. :param num_draws: futures.
    :param max_columns: of a wider table, the first so many columns.
    :raises UnsupportedError: the family can't be continued.
    """
    plots_times.require(fit, "forecast")
    rows, note = plots_times.chosen_sequences(fit.train)
    data = fit.train.take(rows)
    times, ahead = plots_times.with_future(data, horizon)
    past = plots_times.windows(data, PAST, last=True)
    futures = _futures(fit, past, horizon, num_draws)
    columns = list(fit.schema.target_columns[:max_columns])
    values = plots_data.original_units(fit, data.x[:, fit.schema.is_target], data.target_mask)
    number, across = max(3 * horizon, 48), len(rows)
    heights = [max(1.7, 0.24 * len(c.categories or ())) for c in columns]
    fig = plots_style.figure_of(fig, {1: 7.2, 2: 9.4}.get(across, 11.4), sum(heights) + 1.5)
    grid = fig.add_gridspec(len(columns), across, height_ratios=heights)
    names = plots_times.sequence_names(data)
    for place, whole in enumerate(plots_times.each_sequence(data)):
        steps = slice(max(whole.start, whole.stop - number), whole.stop)
        then = ahead[place * horizon : (place + 1) * horizon]
        axes = [fig.add_subplot(grid[0, place])]
        axes += [fig.add_subplot(grid[j, place], sharex=axes[0]) for j in range(1, len(columns))]
        for j, (ax, column) in enumerate(zip(axes, columns, strict=True)):
            _draw_future(ax, column, times.at[steps], values[steps, j], then, futures[:, place, :, j])
            ax.tick_params(labelbottom=j == len(columns) - 1)
            if place == 0:
                ax.set_ylabel(label(column.name, 20))
        edges = plots_times.edges_of(np.concatenate([times.at[steps], then]))
        axes[0].set_xlim(edges[0], edges[-1])
        times.set_axis(axes[-1])
        axes[-1].set_xlabel(times.name)
        if len(fit.train) > 1:
            axes[0].set_title(names[place])
    _forecast_legend(fig)
    given = [label(name) for name in fit.schema.conditions]
    held = f"{', '.join(given)} as in the last step" if given else ""
    source = "the point estimate" if fit.uncertainty == "point" else plots_style.interval_name(fit)
    more = plots_times.notes_of(note, held, plots_times.column_note(fit, len(columns)))
    title = f"{fit.family.name} by {fit.engine.name}: {horizon} steps ahead, {num_draws:,} futures under {source}"
    return plots_style.finish(fig, title + more)


def _futures(fit: Fit, past: Data, horizon: int, num_draws: int) -> np.ndarray:
    """(S, N, horizon, d): as :meth:`Fit.forecast <ppl_gen.result.Fit.forecast>` draws them, in the table's units, but
    labels as codes; what is conditioned on stays as in the last step."""
    from ppl_gen import backends

    posterior = fit.posterior
    index = np.linspace(0, len(next(iter(posterior.values()))) - 1, num_draws).astype(int)
    found = backends.ops(fit.backend).hook_over_draws(
        fit.pair, "forecast", {name: value[index] for name, value in posterior.items()},
        with_future_context(fit, past, horizon, None, hold=True), seed=fit.seed, horizon=horizon,
    )  # fmt: skip
    return plots_data.original_units(fit, np.asarray(found["x"]), None)


def _draw_future(
    ax: Axes, column: Column, at: np.ndarray, values: np.ndarray, then: np.ndarray, drawn: np.ndarray
) -> None:
    """One column of one sequence: its end (T,), and S futures (S, H)."""
    edges = plots_times.edges_of(np.concatenate([at[-1:], then]))[1:]
    numeric = column.kind in ("real", "count")
    ax.use_sticky_edges = False  # a band's lower edge would be the axis, and cut what is drawn there
    ax.plot(at, values, color=INK, linewidth=0.9 if numeric else 0, marker="o", markersize=2.2, label="the table")
    if column.kind == "categorical":
        size = len(column.categories or ())
        share = np.stack([(drawn == k).mean(0) for k in range(size)])
        blues = LinearSegmentedColormap.from_list("", ["white", MODEL])
        ax.pcolormesh(edges, np.arange(size + 1) - 0.5, share, cmap=blues, vmin=0, vmax=1)
        ax.fill_between([], [], color=MODEL, alpha=0.6, linewidth=0, label="share of futures (darker: larger)")
    elif column.kind == "binary":
        ax.stairs(drawn.mean(0), edges, baseline=None, color=MODEL, linewidth=1.4, linestyle=":",
                  label="share of futures that are 1")  # fmt: skip
    else:
        low, lower, middle, upper, high = np.quantile(drawn, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
        ax.stairs(high, edges, baseline=low, fill=True, color=MODEL, alpha=0.22, linewidth=0, label="90 % of futures")
        ax.stairs(upper, edges, baseline=lower, fill=True, color=MODEL, alpha=0.35, linewidth=0, label="50 %")
        ax.stairs(middle, edges, baseline=None, color=MODEL, linewidth=1.4, label="median")
    ax.axvline(float(edges[0]), color=SHADE, linewidth=0.8, linestyle="--")
    plots_times.set_values_axis(ax, column)
    if column.kind == "count":
        ax.set_ylim(min(0.0, ax.get_ylim()[0]), None)


def _forecast_legend(fig: Figure | SubFigure) -> None:
    entries: dict[str, Any] = {}
    for ax in fig.axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    room = 6 if fig.bbox.width / fig.get_figure(root=True).dpi > 9 else 3
    across = len(entries) if len(entries) <= max(room, 4) else room
    fig.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=across)


@styled
def plot_residuals(
    fit: Fit, *, fig: Figure | SubFigure | None = None, max_columns: int = plots_times.MAX_COLUMNS
) -> Figure:
    """Pseudo-residuals (Zucchini, MacDonald & Langrock 2016, section 6.2): where each value falls in its prediction
    from the steps before it, as a normal quantile; of counts and labels, that of the middle of their step. For each
    column over time, against the normal distribution, and correlated with themselves at later steps.

    The middle panel's band holds all points 95 % of the time if the model is right (found by simulation; Aldor-Noiman
    et al. 2013, Am. Stat. 67); counts and labels are spread over their steps there, since in the middle of them they
    can't be normal (Dunn & Smyth 1996, J. Comput. Graph. Stat. 5).

    :param max_columns: of a wider table, the first so many columns.
    :raises UnsupportedError: the family's predictions have no distribution function.
    """
    from scipy.special import ndtri

    from ppl_gen.one_step_ahead import pseudo_residuals

    plots_times.require(fit, "residuals")
    data, note = plots_times.looked_at(fit)
    cells = pseudo_residuals(plots_data.thinned(fit), data)
    assert cells is not None
    low, high = cells
    spread = low + (high - low) * np.random.default_rng(fit.seed).random(low.shape)
    middle, even = (np.clip(ndtri(u), -FURTHEST, FURTHEST) for u in ((low + high) / 2, spread))
    columns = list(fit.schema.target_columns[:max_columns])
    times, borders = plots_times.stacked_times(data)
    assert data.lengths is not None
    fig = plots_style.figure_of(fig, 10.4, 1.9 * len(columns) + 1.0)
    grid = fig.add_gridspec(len(columns), 3, width_ratios=[2.5, 1, 1.2])
    for j, column in enumerate(columns):
        axes = [fig.add_subplot(grid[j, place]) for place in range(3)]
        _draw_residuals(axes[0], times, borders, middle[:, j])
        _draw_normal_quantiles(axes[1], even[np.isfinite(even[:, j]), j])
        _draw_autocorrelation(axes[2], *autocorrelation(middle[:, j], data.lengths))
        axes[0].set_ylabel(label(column.name, 20))
        if j == 0:
            for ax, text in zip(axes, TITLES, strict=True):
                ax.set_title(text)
    for ax, text in zip(axes, (times.name, "normal quantile", "lag (steps)"), strict=True):
        ax.set_xlabel(text)
    more = plots_times.notes_of(note, plots_times.column_note(fit, len(columns)))
    title = f"{fit.family.name} by {fit.engine.name}: each step predicted from those before it"
    return plots_style.finish(fig, f"{title}; bands hold 95 % if the model is right{more}")


def _draw_residuals(ax: Axes, times: plots_times.Times, borders: np.ndarray, values: np.ndarray) -> None:
    from scipy.special import ndtri

    limit = float(ndtri((1 + LEVEL) / 2))
    ax.axhspan(-limit, limit, color=LIGHT, alpha=0.6, linewidth=0)
    ax.axhline(0, color=SHADE, linewidth=0.8)
    for border in borders if len(borders) <= 60 else ():
        ax.axvline(float(border), color=SHADE, linewidth=0.4, linestyle=":")
    size, far = float(np.clip(2400 / max(len(values), 1), 1, 9)), np.abs(values) >= 3.0
    for some, style in ((~far, {"s": size, "color": MODEL}), (far, {"s": size + 8, "color": ALARM, "marker": "D"})):
        ax.scatter(times.at[some], values[some], linewidths=0, zorder=3, clip_on=False, **style)
    most = max(3.2, float(np.nanmax(np.abs(values), initial=0.0)) + 0.3)
    ax.set_ylim(-most, most)
    edges = plots_times.edges_of(times.at)
    ax.set_xlim(edges[0], edges[-1])
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    times.set_axis(ax)


def _draw_normal_quantiles(ax: Axes, values: np.ndarray) -> None:
    from scipy.special import ndtri

    number = len(values)
    ranks, low, high = envelope(number)
    at = ndtri((ranks - 0.5) / number)
    ax.fill_between(at, ndtri(low), ndtri(high), color=LIGHT, alpha=0.8, linewidth=0)
    ax.plot(at[[0, -1]], at[[0, -1]], color=SHADE, linewidth=0.8)
    found = np.sort(values)[ranks - 1]
    inside = (found >= ndtri(low)) & (found <= ndtri(high))
    ax.scatter(at[inside], found[inside], s=5, color=MODEL, linewidths=0, zorder=3)
    ax.scatter(at[~inside], found[~inside], s=9, color=ALARM, marker="D", linewidths=0, zorder=4)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))


def _draw_autocorrelation(ax: Axes, found: np.ndarray, pairs: np.ndarray) -> None:
    """Bounds of each lag alone: one in twenty lies outside by chance."""
    lags = np.arange(1, len(found) + 1)
    limit = 1.96 / np.sqrt(np.maximum(pairs, 1))
    ax.fill_between(lags, -limit, limit, color=LIGHT, alpha=0.8, linewidth=0, step="mid")
    ax.axhline(0, color=SHADE, linewidth=0.8)
    out = np.abs(found) > limit
    ax.vlines(lags, 0, found, colors=[ALARM if o else MODEL for o in out], linewidth=1.6)
    top = max(0.25, 1.1 * float(np.nanmax(np.abs(found), initial=0.0)), 1.1 * float(np.min(limit)))
    ax.set_ylim(-min(top, 1.05), min(top, 1.05))
    ax.set_xlim(0.3, len(lags) + 0.7)
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def draw_step_score(fit: Fit, data: Data, ax: Axes | None, hdi_prob: float) -> Figure:
    """Log density of each time step given the steps before it, in order; the lowest are named."""
    score = fit.score(data, hdi_prob=hdi_prob, per_step=True)
    times, borders = plots_times.stacked_times(data)
    value, ax = score.log_predictive, plots_style.axes_of(ax, 7.6, 3.8)
    edges = plots_times.edges_of(times.at)
    if fit.uncertainty != "point":
        name = plots_style.score_interval(fit, hdi_prob)
        ax.stairs(score.hdi[:, 1], edges, baseline=score.hdi[:, 0], fill=True, color=SHADE, alpha=0.4, linewidth=0,
                  label=name)  # fmt: skip
    for border in borders:
        ax.axvline(float(border), color=SHADE, linewidth=0.6, linestyle=":")
    ax.plot(times.at, value, "o", color=MODEL, markersize=float(np.clip(600 / len(value), 1.2, 3.5)),
            label="log predictive density", zorder=3, clip_on=False)  # fmt: skip
    _name_lowest(ax, data, times.at, value)
    ax.set_xlim(edges[0], edges[-1])
    times.set_axis(ax, 8)
    ax.set_xlabel(times.name)
    ax.set_ylabel("log p(step | steps before)\n(nats, original units)")
    bottom, top = ax.dataLim.intervaly
    ax.set_ylim(bottom - 0.16 * (top - bottom), top + 0.04 * (top - bottom))  # room for the legend
    ax.legend(loc="lower left", ncols=2)
    return plots_style.finish(
        ax, f"{fit.family.name}: {score.kind} log density of each time step, given those before it"
    )


def _name_lowest(ax: Axes, data: Data, at: np.ndarray, value: np.ndarray) -> None:
    """The times of the lowest steps, but for those that would be written over one another."""
    labels, span = data.step_labels(), (np.ptp(at) or 1.0, np.ptp(value) or 1.0)
    taken: list[np.ndarray] = []
    for step in np.argsort(value, kind="stable")[: min(NAMED, len(value) // 10)]:
        place = np.array([at[step], value[step]]) / span
        if any(abs(place[0] - x) < 0.2 and abs(place[1] - y) < 0.05 for x, y in taken):
            continue
        taken.append(place)
        whose, when = labels.iloc[step, 0], str(labels.iloc[step, 1]).removesuffix(" 00:00:00")
        name, late = when if len(data) == 1 else f"{whose}: {when}", at[step] > at[0] + 0.85 * span[0]
        ax.annotate(label(name, 34), (at[step], value[step]), xytext=(-4 if late else 4, -3), fontsize=7,
                    ha="right" if late else "left", textcoords="offset points", color=INK)  # fmt: skip
