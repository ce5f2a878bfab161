"""The picture of visits: how long a sequence stays in each hidden state, against what the transition matrix implies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, NullLocator

from ppl_gen import plots_style, plots_times
from ppl_gen.padding import starts_of, unpad
from ppl_gen.plots_style import INK, SHADE, colour, styled

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

MAX_PANELS = 12
BANDS = (0.9, 0.5)


@styled
def plot_durations(fit: Fit, *, fig: Figure | SubFigure | None = None, max_draws: int = 100) -> Figure:
    """How many visits to each state last how long: in paths drawn from their posterior given the sequences (dots: the
    mean of paths; bars: 90 %), and in chains drawn from the same transition matrices alone, whose visits are
    geometric (bands), unless the matrices depend on covariates. Visits that the end of a sequence cuts short are
    counted as they are in both.

    More short and more long visits than the bands allow: staying is not memoryless, as a hidden Markov model has it.

    :raises UnsupportedError: there is no transition matrix.
    """
    plots_times.require(fit, "durations")
    data, note = plots_times.looked_at(fit)
    found, implied = _visits_found_and_implied(fit, data, max_draws)
    size = fit.family.num_labels
    number = min(size, MAX_PANELS)
    across = {1: 1, 2: 2, 4: 2}.get(number, 3 if number <= 9 else 4)
    fig = plots_style.figure_of(fig, max(3.0 * across, 6.4), 2.4 * -(-number // across) + 0.9)
    for k, ax in enumerate(plots_style.panels(fig, number, across)):
        _draw_visits(ax, k, found, implied, "such" if fit.schema.conditions else "geometric")
        if k >= number - across:
            ax.set_xlabel("length of a visit (steps)")
        if k % across == 0:
            ax.set_ylabel("visits")
    handles, names = next((found for ax in fig.axes if (found := ax.get_legend_handles_labels())[0]), ([], []))
    fig.legend(handles, names, loc="outside lower center", ncols=len(names) if across > 2 else 2)
    source = "the point estimate" if fit.draws.point is not None else plots_style.interval_name(fit)
    few = "" if number == size else f"first {number} of {size} states"
    more = plots_times.notes_of(f"under {source}", note, few)
    return plots_style.finish(fig, f"{fit.family.name} by {fit.engine.name}: how long visits to a state last{more}")


class Visits(NamedTuple):
    """Visits in S paths: of which path, to which state, for how many steps."""

    path: np.ndarray
    state: np.ndarray
    length: np.ndarray
    number: int

    @classmethod
    def of(cls, paths: np.ndarray, lengths: np.ndarray) -> Visits:
        """Of paths (S, R), stacked steps."""
        change = np.ones(paths.shape, bool)
        change[:, 1:] = paths[:, 1:] != paths[:, :-1]
        change[:, starts_of(lengths)] = True
        start = np.flatnonzero(change)  # the first step of each path is one, so that no visit spans two
        flat = paths.ravel()
        return cls(start // paths.shape[1], flat[start], np.diff(start, append=len(flat)), len(paths))

    def counts(self, k: int, edges: np.ndarray) -> np.ndarray:
        """(S, bins): visits to state k by length."""
        own = self.state == k
        paths = np.arange(self.number + 1) - 0.5
        return np.histogram2d(self.path[own], self.length[own], bins=[paths, edges])[0]


def _visits_found_and_implied(fit: Fit, data: Data, max_draws: int) -> tuple[Visits, Visits]:
    """In paths given the data, each under a draw (or the point estimate), and in chains that the draw alone implies,
    as long as the sequences and from the same first states."""
    from ppl_gen.scoring import point_draw
    from ppl_gen.timeseries import over_draws

    lengths, site = data.lengths, plots_times.transition_site(fit)
    assert lengths is not None
    assert site is not None
    posterior = point_draw(fit) or fit.posterior
    total = len(posterior[site])
    chosen = np.linspace(0, total - 1, max_draws).astype(int)
    draws = {name: value[chosen] for name, value in posterior.items()}
    paths = over_draws(fit, "sample_paths", data, draws, seed=fit.seed)
    context, first = fit.schema.context(data.x), paths[:, starts_of(lengths)]
    if context is None:
        chains = markov_chains(np.asarray(draws[site]), first, lengths, fit.seed)
    else:
        chains = switching_chains(fit, draws, context, first, lengths)
    return Visits.of(paths, lengths), Visits.of(chains, lengths)


def markov_chains(transition: np.ndarray, first: np.ndarray, lengths: np.ndarray, seed: int) -> np.ndarray:
    """(S, R) paths of N chains under each of S matrices (S, K, K), stacked, from their first states (S, N)."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(transition, axis=-1)[..., :-1]  # without the last, which rounding may leave below 1
    paths = np.empty((lengths.max(), *first.shape), np.int64)
    paths[0], each = first, np.arange(len(first))[:, None]
    for t in range(1, len(paths)):
        paths[t] = (rng.random(first.shape)[..., None] >= ends[each, paths[t - 1]]).sum(-1)
    return unpad(np.moveaxis(paths, (2, 0), (0, 1)), lengths).T


def switching_chains(
    fit: Fit, draws: dict[str, np.ndarray], context: np.ndarray, first: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """The same where each step has a transition matrix of its own, by the ``context`` (R, C) of the step before it."""
    rng, starts, number = np.random.default_rng(fit.seed), starts_of(lengths), np.arange(len(lengths))
    paths = np.empty((lengths.max(), *first.shape), np.int64)
    paths[0], each = first, np.arange(len(first))[:, None]
    for t in range(1, len(paths)):
        before = context[starts + np.minimum(t, lengths) - 1]
        matrices = fit.family.step_transitions(draws, before)
        assert matrices is not None
        ends = np.cumsum(matrices, axis=-1)[..., :-1]
        paths[t] = (rng.random(first.shape)[..., None] >= ends[each, number, paths[t - 1]]).sum(-1)
    return unpad(np.moveaxis(paths, (2, 0), (0, 1)), lengths).T


def _draw_visits(ax: Axes, k: int, found: Visits, implied: Visits, what: str) -> None:
    own = found.length[found.state == k]
    share = len(own) / found.number
    ax.set_title(f"state {k}: {share:,.1f} visits of {own.mean() if len(own) else 0:,.1f} steps")
    both = np.concatenate([own, implied.length[implied.state == k]])
    if not len(both):
        ax.text(0.5, 0.5, "never visited", transform=ax.transAxes, ha="center", color=SHADE)
        return
    edges = duration_edges(both, implied.number)
    counts = implied.counts(k, edges)
    for prob, alpha in zip(BANDS, (0.22, 0.35), strict=True):
        low, high = np.quantile(counts, [(1 - prob) / 2, (1 + prob) / 2], axis=0)
        ax.stairs(high, edges, baseline=low, fill=True, color=SHADE, alpha=alpha, linewidth=0,
                  label=f"{100 * prob:.0f} % of chains with {what} visits")  # fmt: skip
    ax.stairs(counts.mean(0), edges, baseline=None, color=SHADE, linewidth=1.1)
    seen, at = found.counts(k, edges), np.sqrt((edges[1:] - 0.5) * (edges[:-1] + 0.5))
    ax.vlines(at, *np.quantile(seen, [0.05, 0.95], axis=0), color=colour(k), linewidth=1.1, zorder=3)
    ax.plot(at, seen.mean(0), "o", color=colour(k), markersize=3.5, zorder=4, clip_on=False)
    ax.plot([], [], "o-", color=INK, markersize=3.5, label="visits given the data, 90 %")
    ax.set_xscale("log")
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, max(1.05, ax.get_ylim()[1]))
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ticks = [t for power in range(8) for t in (10**power, 2 * 10**power, 5 * 10**power) if t < edges[-1]]
    ax.set_xticks(ticks[:: 1 if len(ticks) <= 9 else 3], [f"{t:,}" for t in ticks[:: 1 if len(ticks) <= 9 else 3]])
    ax.xaxis.set_minor_locator(NullLocator())


def duration_edges(lengths: np.ndarray, paths: int) -> np.ndarray:
    """Edges of bins of whole numbers, each wider than the last: twice as wide where visits are few."""
    growth = 2.0 if len(lengths) < 80 * paths else np.sqrt(2.0)
    most = max(int(lengths.max()), 4)
    starts = np.unique(np.rint(growth ** np.arange(np.ceil(np.log(most + 1) / np.log(growth)) + 1)))
    last = int(np.searchsorted(starts, most, side="right"))
    return np.append(starts[:last], starts[last] if last < len(starts) else most + 1) - 0.5
