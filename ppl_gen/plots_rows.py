"""Pictures of rows: their densities, their latents, how each is predicted, and how much the fit leans on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from ppl_gen import images, plots_data, plots_style, plots_times
from ppl_gen.errors import UnsupportedError
from ppl_gen.plots_style import ALARM, INK, LIGHT, MODEL, SHADE, colour, label, styled

if TYPE_CHECKING:
    from ppl_gen.columns import Column
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

HIDDEN = "latents are hidden units (see the filters picture)"
OF_NOISE = "latents are the noise that rows come of (see the trajectory picture)"
ALPHA = 0.05  # anomaly p-value below which a row is marked
NAMED = 5  # lowest rows that get their label written
MIN_SHARE = 0.01  # latents' values rarer than this share one grey
MAX_COLUMNS, BANDS = 12, (0.9, 0.5)


@styled
def plot_score(fit: Fit, table: Any = None, *, ax: Axes | None = None, hdi_prob: float = 0.9) -> Figure:
    """Log density of each row, lowest first, with its interval over the draws; rows whose anomaly p-value is below
    0.05 are marked, and the lowest are named. Of fewer than 10 sequences, that of each time step, in order of time.

    :param table: rows to score; the training rows by default.
    """
    from ppl_gen.held_out import MIN_SEQUENCES
    from ppl_gen.plots_steps import draw_step_score
    from ppl_gen.scoring import encode

    rows, note = encode(fit, table), ""
    if rows.lengths is not None and len(rows) < MIN_SEQUENCES:
        return draw_step_score(fit, rows, ax, hdi_prob)
    if table is None:
        _, rows, note = plots_data.subset(fit)
    unit = rows.unit
    score = fit.score(rows, hdi_prob=hdi_prob, keep_draws=False, p_values=fit.uncertainty != "point")
    order = np.argsort(score.log_predictive, kind="stable")
    value, interval = score.log_predictive[order], score.hdi[order]
    rank = np.arange(1, len(order) + 1)
    ax = plots_style.axes_of(ax, 7.0, 4.0)
    if fit.uncertainty != "point":
        name = plots_style.score_interval(fit, hdi_prob)
        if len(rank) <= 300:
            ax.vlines(rank, *interval.T, color=SHADE, linewidth=0.9, alpha=0.6, label=name)
        else:
            ax.fill_between(rank, *interval.T, color=SHADE, alpha=0.4, linewidth=0, label=name)
    odd = np.zeros(len(rank), bool) if score.p_value is None else score.p_value[order] < ALPHA
    size = float(np.clip(2000 / len(rank), 2, 14))
    ax.scatter(rank[~odd], value[~odd], s=size, color=MODEL, linewidths=0, zorder=3, label="log predictive density")
    if odd.any():
        text = f"anomaly p-value below {ALPHA:g} ({odd.sum()} {unit}s)"
        ax.scatter(rank[odd], value[odd], s=size + 6, color=ALARM, marker="D", linewidths=0, zorder=4, label=text)
    _name_lowest(ax, rows, order, value)
    ax.set_xlabel(f"{unit}, lowest density first")
    ax.set_ylabel("log p(x)  (nats, original units)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for handle in ax.legend(loc="lower right").legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([14])
    what = f"{score.kind} log density of {'the training' if table is None else 'new'} {unit}s{_and(note)}"
    title = f"{fit.family.name}: {what}"
    return plots_style.finish(ax, f"{title}\n{score.precision}" if score.precision else title)


def _name_lowest(ax: Axes, rows: Data, order: np.ndarray, value: np.ndarray) -> None:
    """Below a curve that rises steeply at first there is room for a list, on the right, over the legend."""
    names, unit = plots_data.names_of(rows, order[:NAMED]), rows.unit
    lines = [f"{unit} {label(name, 14)}: {density:.4g}" for name, density in zip(names, value, strict=False)]
    paper = {"facecolor": "white", "alpha": 0.8, "linewidth": 0}
    ax.text(0.98, 0.36, "\n".join(["lowest", *lines]), transform=ax.transAxes, va="bottom", ha="right", fontsize=8,
            color=INK, bbox=paper, zorder=1)  # fmt: skip


def _and(note: str) -> str:
    return f"; {note}" if note else ""


@styled
def plot_khat(fit: Fit, *, ax: Axes | None = None) -> Figure:
    """Pareto k-hat of each training row in PSIS leave-one-out; above the line, the row's held-out density is not to be
    trusted, and the fit leans on that row.

    :raises UnsupportedError: the draws of this fit are no posterior.
    """
    from ppl_gen import arviz_bridge
    from ppl_gen.evidence import Evidence

    evidence = Evidence.of(fit)
    if evidence.loo is None:
        raise UnsupportedError(no_khat(fit))
    k, limit = evidence.loo.k, arviz_bridge.min_khat(evidence.loo.log_weights.shape[1])
    finite = np.isfinite(k)
    shown = np.where(finite, k, np.where(k > 0, np.nanmax(k[finite], initial=1.0), 0.0))
    bad = ~(k <= limit)
    ax = plots_style.axes_of(ax, 7.0, 3.6)
    ax.axhline(limit, color=ALARM, linewidth=1, linestyle="--", label=f"limit {limit:.2g}")
    ax.scatter(evidence.rows[~bad], shown[~bad], s=9, color=MODEL, linewidths=0)
    ax.scatter(evidence.rows[bad], shown[bad], s=16, color=ALARM, marker="D", linewidths=0)
    for place in np.flatnonzero(bad)[np.argsort(-shown[bad])][:NAMED]:
        (name,) = plots_data.names_of(evidence.train, [place])
        ax.annotate(label(name, 12), (evidence.rows[place], shown[place]), xytext=(4, 2), textcoords="offset points",
                    fontsize=7, color=INK)  # fmt: skip
    ax.set_ylim(min(shown.min(), 0.0) - 0.05, max(shown.max(), limit) + 0.1)
    unit = fit.train.unit
    ax.set_xlabel(f"{unit} of the training table")
    ax.set_ylabel("Pareto k-hat")
    ax.legend(loc="upper right")
    number = len(fit.train)
    which = f"{number:,} {unit}s" if len(k) == number else f"{len(k):,} random {unit}s of {number:,}"
    return plots_style.finish(ax, f"Leave-one-out: {bad.sum()} of {which} above the limit of {limit:.2g}")


def no_khat(fit: Fit) -> str:
    """Why there is no leave-one-out; an empty string where there is."""
    from ppl_gen.held_out import MIN_SEQUENCES

    if fit.uncertainty not in ("posterior", "guide"):
        return "k-hat of leave-one-out needs draws from a posterior or a guide (nuts, svi)"
    few = fit.train.lengths is not None and len(fit.train) < MIN_SEQUENCES
    return f"fewer than {MIN_SEQUENCES} sequences are not left out one by one" if few else ""


@styled
def plot_latents(fit: Fit, table: Any = None, *, fig: Figure | SubFigure | None = None, max_rows: int = 2000) -> Figure:
    """The discrete latent of each row: probabilities of its values, stacked, rows sorted by the most probable one;
    below, the standard deviation of that probability over the draws.

    :param table: rows to look at; the training rows by default.
    :raises UnsupportedError: the family has no local latents.
    """
    from ppl_gen.scoring import encode

    plots_times.require(fit, "latents")
    rows, note = encode(fit, table), ""
    if table is None:
        _, rows, note = plots_data.subset(fit, max_rows)
    frame = plots_data.thinned(fit, 400).latents(rows)
    if not (sites := plots_data.latent_names(list(frame.columns))):
        codes = OF_NOISE if fit.pair.noising else "latents are codes (see the codes picture)"
        raise UnsupportedError(HIDDEN if fit.pair.features else codes)
    site = sites[0]
    values = [c for c in frame.columns if c.startswith(f"{site}=") and not c.endswith("_sd")]
    mean = frame[values].to_numpy()
    spread = frame[[f"{c}_sd" for c in values]].to_numpy()
    first = mean.argmax(1)
    order = np.lexsort((-mean.max(1), first))
    uncertain = fit.uncertainty != "point"
    fig = plots_style.figure_of(fig, 7.4, 4.4 if uncertain else 3.2)
    grid = fig.add_gridspec(2 if uncertain else 1, 1, height_ratios=[2, 1] if uncertain else [1])
    ax = fig.add_subplot(grid[0])
    _stack(ax, mean[order], site, [label(c.removeprefix(f"{site}="), 14) for c in values])
    ax.set_ylabel(f"p({site} | row)")
    if uncertain:
        ax.tick_params(labelbottom=False)
        ax = fig.add_subplot(grid[1], sharex=ax)
        best = spread[order, first[order]]
        for k in np.unique(first):
            here = first[order] == k
            ax.bar(np.flatnonzero(here), best[here], width=1.0, color=colour(int(k)), linewidth=0)
        ax.set_ylabel("sd of the\nlargest")
        ax.set_ylim(0, max(0.05, 1.05 * best.max()))
    ax.set_xlim(-0.5, len(order) - 0.5)
    ax.set_xlabel(f"rows, sorted by their most probable {site} and how sure it is")
    over = f"; sd over {plots_style.interval_name(fit)}" if uncertain else ""
    return plots_style.finish(fig, f"{fit.family.name}: which {site} each row comes from{over}{_and(note)}")


def _stack(ax: Axes, mean: np.ndarray, site: str, names: list[str]) -> None:
    """Bars of height 1 without gaps: one colour per common value, grey for the rare ones together."""
    share = mean.mean(0)
    common = np.flatnonzero(share >= MIN_SHARE)
    parts: list[tuple[np.ndarray, Any, str]] = [
        (mean[:, k], colour(int(k)), f"{label(site)} = {names[k]}  ({share[k]:.0%})") for k in common
    ]
    rest = np.setdiff1d(np.arange(mean.shape[1]), common)
    if len(rest):
        parts.append((mean[:, rest].sum(1), LIGHT, f"{len(rest)} rare ones  ({share[rest].sum():.1%})"))
    edges = np.arange(len(mean) + 1) - 0.5
    base = np.zeros(len(mean))
    for height, face, name in parts:
        ax.stairs(base + height, edges, baseline=base, fill=True, color=face, label=name, linewidth=0)
        base = base + height
    ax.set_ylim(0, 1)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), ncols=1 + len(parts) // 14, handlelength=1.0)


@styled
def plot_posterior_predictive(
    fit: Fit, *, fig: Figure | SubFigure | None = None, max_columns: int = MAX_COLUMNS
) -> Figure:
    """Per column, how many rows fall where: the table (dots) and tables drawn from the fit (median, 50 and 90 % bands
    of each bar). About one dot in ten should lie outside its 90 % band.

    :param max_columns: of a wider table, the first so many columns.
    """
    from ppl_gen.evidence import Evidence

    evidence = Evidence.of(fit)
    columns = images.named(fit.schema)
    observed = evidence.observed * [c.scale for c in columns] + [c.loc for c in columns]
    replicates = evidence.replicates.reshape(-1, *observed.shape)
    weights = None if evidence.entry_weights is None else np.asarray(evidence.entry_weights, np.float64)
    unit = "rows" if fit.train.lengths is None else "time steps"
    number = min(len(columns), max_columns)
    across = {1: 1, 2: 2, 4: 2}.get(number, 3 if number <= 9 else 4)
    fig = plots_style.figure_of(fig, max(2.9 * across, 5.2), 2.4 * -(-number // across) + 0.8)
    axes = plots_style.panels(fig, number, across)
    for j, ax in enumerate(axes):
        column = columns[j]
        drawn = replicates[:, :, j].astype(np.float64) * column.scale + column.loc
        _draw_counts(ax, column, observed[:, j], drawn, weights)
        ax.set_xlabel(label(column.name))
        if j % across == 0:
            ax.set_ylabel(unit if weights is None else f"{unit}, weighted")
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=len(names))
    drawn_from = evidence.has_posterior or fit.uncertainty == "ensemble"
    source = plots_style.interval_name(fit) if drawn_from else "the point estimate"
    notes = f"{len(replicates)} tables drawn from {source}"
    if number < len(columns):
        notes += f"; first {number} of {len(columns)} columns"
    if len(evidence.rows) < len(fit.train):
        notes += f"; {len(evidence.rows):,} random {fit.train.unit}s of {len(fit.train):,}"
    return plots_style.finish(fig, f"{fit.family.name}: predicted and observed values ({notes})")


def _draw_counts(ax: Axes, column: Column, observed: np.ndarray, drawn: np.ndarray, weights: np.ndarray | None) -> None:
    """One column: observed (n,) with NaN where missing, drawn (R, n), both in the table's units."""
    seen = np.isfinite(observed)
    weight = None if weights is None else weights[seen]
    edges = column_edges(column, observed[seen], drawn[:, seen])
    counts = np.stack([np.histogram(table, edges, weights=weight)[0] for table in drawn[:, seen]])
    for prob, alpha in zip(BANDS, (0.22, 0.35), strict=True):
        low, high = np.quantile(counts, [(1 - prob) / 2, (1 + prob) / 2], axis=0)
        ax.stairs(high, edges, baseline=low, fill=True, color=MODEL, alpha=alpha, linewidth=0, label=f"{prob:.0%} band")
    ax.stairs(np.median(counts, axis=0), edges, baseline=None, color=MODEL, linewidth=1.1, label="median")
    middle, own = (edges[1:] + edges[:-1]) / 2, np.histogram(observed[seen], edges, weights=weight)[0]
    ax.plot(middle, own, "o", color=INK, markersize=3.5, label="the table", clip_on=False, zorder=4)
    ax.set_ylim(0, None)
    ax.set_xlim(edges[0], edges[-1])
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=weights is None))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=column.kind != "real"))
    labels = column.categories or ()
    if 0 < len(labels) <= 8:
        ax.set_xticks(range(len(labels)), [label(text, 10) for text in labels])


def column_edges(column: Column, observed: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Edges of bins that hold the observed values and all but 1 % of the drawn ones; one bin per label."""
    from ppl_gen.predictive import resolution

    low, high = np.quantile(drawn, [0.005, 0.995])
    low, high = min(low, observed.min()), max(high, observed.max())
    if column.kind in ("binary", "categorical"):
        return np.arange(len(column.levels) + 1) - 0.5
    step = resolution(observed) if column.kind == "real" else 1.0
    return plots_style.bins(observed, step, low, high)


@styled
def plot_pit(fit: Fit, *, ax: Axes | None = None, max_columns: int = MAX_COLUMNS) -> Figure:
    """Where each value falls in its predicted distribution: for each column, the distribution function of the
    (leave-one-out) probability integral transforms less the uniform one, which is that of a calibrated column. All
    curves of a calibrated fit lie in the band 99 % of the time (Kolmogorov-Smirnov, Bonferroni). Below 0 and then
    above it, predictions are too wide; above and then below, too narrow.
    """
    from scipy.stats import kstwo

    plots_times.require(fit, "pit")
    table = fit.diagnose().details["pit"].iloc[:, :max_columns]
    ax = plots_style.axes_of(ax, 6.0, 4.0)
    grid = np.linspace(0, 1, 201)
    fewest = max(1, int(table.notna().sum().min()))
    half = float(kstwo.isf(0.01 / table.shape[1], fewest))
    ax.axhspan(-half, half, color=LIGHT, alpha=0.7, label="holds all calibrated\ncurves, 99 % of times", linewidth=0)
    ax.axhline(0, color=SHADE, linewidth=0.8)
    for j, name in enumerate(table.columns):
        known = np.sort(table[name].dropna().to_numpy())
        share = np.searchsorted(known, grid, side="right") / len(known)
        ax.plot(grid, share - grid, color=colour(j), label=label(name))
    ax.set_xlim(0, 1)
    ax.set_xlabel("u: probability integral transform")
    steps = fit.train.lengths is not None
    ax.set_ylabel(f"share of {'time steps' if steps else 'rows'} below u, minus u")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    loo = "Leave-one-out calibration" if fit.uncertainty in ("posterior", "guide") else "Calibration"
    loo = "One-step-ahead calibration" if steps else loo
    more = "" if table.shape[1] == len(fit.schema.targets) else f"; first {max_columns} columns"
    return plots_style.finish(ax, f"{loo} of each column: curves should stay in the band{more}")
