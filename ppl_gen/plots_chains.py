"""Pictures of what an engine did: chains, ranks, energy, loss, and the parameters it found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from ppl_gen import plots_style
from ppl_gen.errors import UnsupportedError
from ppl_gen.plots_style import ALARM, CHAINS, LIGHT, MODEL, SHADE, label, styled

if TYPE_CHECKING:
    from ppl_gen.chains import Chains
    from ppl_gen.result import Fit

MAX_QUANTITIES = 8
NO_CHAINS = "trace and rank pictures are of Markov chains (nuts); these draws are independent of one another"
NO_LOSS = "this engine minimises no loss"
NO_ENERGY = "energy belongs to Hamiltonian samplers (nuts)"


def followed(fit: Any, number: int = MAX_QUANTITIES) -> tuple[list[str], np.ndarray, str]:
    """What chain pictures follow: log p(x), which no label switching can touch, and the parameters that mix worst.

    :returns: names, values (chain, draw, at most ``number``), and words for a title.
    """
    from ppl_gen import arviz_bridge
    from ppl_gen.diagnostics import elements
    from ppl_gen.evidence import Evidence

    if not hasattr(fit, "draws"):  # chains in data space
        names, values = fit.quantities
        worst = np.argsort(-np.nan_to_num(arviz_bridge.rhat(values), nan=np.inf), kind="stable")[:number]
        return [names[k] for k in worst], values[:, :, worst], f"{len(worst)} quantities of highest R-hat"
    evidence = Evidence.of(fit)
    probe_names, probes = evidence.probes
    mean, what = probes.mean(-1), "rows" if fit.train.lengths is None else "time steps"
    names, values = elements(fit)
    worst = np.argsort(-np.nan_to_num(arviz_bridge.rhat(values), nan=np.inf), kind="stable")[: number - 1]
    title = f"log p(x) and {'all' if len(worst) == len(names) else 'the'} {len(worst)} parameters"
    if len(worst) < len(names):
        title += f" of {len(names)} with the highest R-hat"
    return (
        [f"log p(x), mean of {len(probe_names)} {what}", *(names[k] for k in worst)],
        np.concatenate([mean[:, :, None], values[:, :, worst]], axis=2), title,
    )  # fmt: skip


def _chains(fit: Any) -> None:
    if hasattr(fit, "draws") and fit.uncertainty != "posterior":
        raise UnsupportedError(NO_CHAINS)


def _of(fit: Any) -> Any:
    return getattr(fit, "draws", fit)


def _name(fit: Any) -> str:
    return f"{fit.family.name} by {fit.engine.name}" if hasattr(fit, "draws") else fit.title.partition(":")[0]


def chain_colour(c: int) -> str:
    return CHAINS[c % len(CHAINS)]


@styled
def plot_trace(
    fit: Fit | Chains, *, fig: Figure | SubFigure | None = None, max_quantities: int = MAX_QUANTITIES
) -> Figure:
    """For each quantity, the distribution of each chain's draws (left) and the draws in order (right); ticks at the
    foot mark divergent draws. Chains that agree lie on one another.

    :param fit: or chains in data space, as :meth:`Fit.chains <ppl_gen.result.Fit.chains>` gives them.
    :raises UnsupportedError: the draws are no Markov chains.
    """
    _chains(fit)
    names, values, title = followed(fit, max_quantities)
    chains, draws, number = values.shape
    fig = plots_style.figure_of(fig, 9.0, 1.02 * number + 1.0)
    grid = fig.add_gridspec(number, 2, width_ratios=[1, 2.4])
    diverging = np.asarray(_of(fit).sample_stats.get("diverging", np.zeros((chains, draws), bool)), bool)
    for q in range(number):
        left, right = fig.add_subplot(grid[q, 0]), fig.add_subplot(grid[q, 1])
        edges = np.histogram_bin_edges(values[:, :, q], bins=int(np.clip(draws / 15, 10, 40)))
        for c in range(chains):
            counts = np.histogram(values[c, :, q], edges, density=True)[0]
            left.stairs(counts, edges, baseline=None, color=chain_colour(c), linewidth=1)
            right.plot(values[c, :, q], color=chain_colour(c), linewidth=0.45, alpha=0.75, label=f"chain {c}")
        where = np.flatnonzero(diverging.any(0))
        if len(where):
            right.plot(where, np.full(len(where), 0.01), "|", color=ALARM, markersize=6, label="divergent",
                       transform=right.get_xaxis_transform())  # fmt: skip
        left.set_yticks([])
        left.set_ylabel("density")
        left.set_ylim(0, None)
        left.spines["left"].set_visible(False)
        left.xaxis.set_major_locator(MaxNLocator(4))
        left.set_title(label(names[q], 44))
        right.yaxis.set_major_locator(MaxNLocator(3))
        right.set_xlim(0, max(draws - 1, 1))
        right.tick_params(labelbottom=q == number - 1)
    left.set_xlabel("value (log p: nats)")
    right.set_xlabel("draw")
    handles, texts = fig.axes[1].get_legend_handles_labels()
    for line in fig.legend(handles, texts, loc="outside lower right", ncols=len(texts)).get_lines():
        line.set_linewidth(2)
    return plots_style.finish(fig, f"{_name(fit)}: {title}")


@styled
def plot_rank(
    fit: Fit | Chains, *, fig: Figure | SubFigure | None = None, max_quantities: int = MAX_QUANTITIES
) -> Figure:
    """How each chain's draws rank among all draws (Vehtari et al. 2021, Bayesian Anal. 16, section 4.3): level for
    chains that explore the same distribution. The band holds 95 % of the heights for draws of that effective size.

    :param fit: or chains in data space, as :meth:`Fit.chains <ppl_gen.result.Fit.chains>` gives them.
    :raises UnsupportedError: the draws are no Markov chains.
    """
    from scipy.stats import binom, rankdata

    from ppl_gen import arviz_bridge

    _chains(fit)
    names, values, title = followed(fit, max_quantities)
    chains, draws, number = values.shape
    sizes = np.clip(np.nan_to_num(arviz_bridge.ess(values), nan=1.0) / chains, 1, draws)
    fig = plots_style.figure_of(fig, 9.0, 1.6 * -(-number // 2) + 1.0)
    bars = int(np.clip(draws // 25, 4, 20))
    edges = np.linspace(0, chains * draws, bars + 1)
    for q, ax in enumerate(plots_style.panels(fig, number, 2)):
        ranks = rankdata(values[:, :, q]).reshape(chains, draws) - 0.5
        low, high = (binom.ppf(p, int(sizes[q]), 1 / bars) * bars / int(sizes[q]) for p in (0.025, 0.975))
        ax.axhspan(low, high, color=LIGHT, alpha=0.7, linewidth=0, label="95 % band")
        ax.axhline(1, color=SHADE, linewidth=0.8)
        for c in range(chains):
            height = np.histogram(ranks[c], edges)[0] * bars / draws
            ax.stairs(height, edges, baseline=None, color=chain_colour(c), label=f"chain {c}", linewidth=1.1)
        ax.set_title(label(names[q], 44))
        ax.set_xlim(0, chains * draws)
        ax.set_ylim(0, max(2.0, ax.get_ylim()[1]))
        ax.yaxis.set_major_locator(MaxNLocator(3))
        ax.tick_params(labelbottom=q >= number - 2)
        if q >= number - 2:
            ax.set_xlabel("rank among all draws")
        if q % 2 == 0:
            ax.set_ylabel("density of ranks")
    handles, texts = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, texts, loc="outside lower center", ncols=len(texts))
    return plots_style.finish(fig, f"{_name(fit)}: ranks of {title}")


@styled
def plot_energy(fit: Fit) -> Figure:
    """ArviZ's energy plot: marginal energy and its changes; where the second is much narrower, E-BFMI is low
    (Betancourt 2016, arXiv:1604.00695).

    :raises UnsupportedError: the engine has no energy.
    """
    if "energy" not in fit.draws.sample_stats:
        raise UnsupportedError(NO_ENERGY)
    title = "Energy of the sampler and its changes: they should look alike"
    figure = _arviz("energy", fit, title)
    for ax in figure.axes:
        ax.set_xlabel("energy less its mean (nats)")
        ax.xaxis.set_major_locator(MaxNLocator(7))
        ax.set_ylabel("density")
    return figure


def _arviz(kind: str, fit: Fit, title: str, **options: Any) -> Figure:
    """One of ArviZ's own pictures, taken away from pyplot, which would show it a second time."""
    import matplotlib
    from matplotlib import pyplot

    from ppl_gen import arviz_bridge

    with matplotlib.rc_context({"text.parse_math": False}):
        figure = arviz_bridge.plot(kind, fit.data, **options)
    pyplot.close(figure)
    assert isinstance(figure, Figure)
    figure.set_layout_engine("constrained")
    return plots_style.finish(figure, title)


@styled
def plot_loss(fit: Fit, *, fig: Figure | SubFigure | None = None) -> Figure:
    """The objective at each step, all of them (left) and the last half closer (right), which should be level. Of an
    ensemble of networks each member's, of the rows that it trains on and of those that it leaves out.

    :raises UnsupportedError: the engine has no loss.
    """
    losses = fit.draws.losses
    if losses is None or len(losses) == 0:
        raise UnsupportedError(NO_LOSS)
    if fit.uncertainty == "ensemble" and "train_loss" in fit.draws.parameters:
        from ppl_gen.plots_networks import draw_losses

        return draw_losses(fit, fig)
    losses = np.asarray(losses, np.float64)
    steps = np.arange(1, len(losses) + 1)
    fig = plots_style.figure_of(fig, 8.0, 3.2)
    start = len(losses) // 2
    window = max(1, len(losses) // 100)
    for ax, first in zip(plots_style.panels(fig, 2, 2), (0, start), strict=True):
        noisy = len(losses) > 200
        ax.plot(steps[first:], losses[first:], color=SHADE if noisy else MODEL, linewidth=0.5 if noisy else 1.2,
                marker="" if noisy else ".", alpha=0.6 if noisy else 1.0, label="each step")  # fmt: skip
        if noisy:
            smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
            at = steps[window - 1 :]
            ax.plot(at[at > first], smooth[at > first], color=MODEL, label=f"mean of {window} steps")
            if first == 0:
                ax.legend(loc="upper right")
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.ticklabel_format(useOffset=False, style="plain", axis="y")
        ax.set_title("all steps" if first == 0 else "the last half")
        finite = losses[first:][np.isfinite(losses[first:])]
        if len(finite):
            low, high = finite.min(), np.quantile(finite, 0.995 if noisy else 1.0)
            gap = 0.05 * (high - low) or 0.5
            ax.set_ylim(low - gap, high + gap)
    fig.axes[0].set_ylabel(f"{_objective(fit)} (nats)")
    return plots_style.finish(fig, f"{fit.family.name} by {fit.engine.name}: loss, model space")


def _objective(fit: Fit) -> str:
    if fit.uncertainty == "guide":
        return "minus ELBO"
    return "minus log likelihood" if getattr(fit.engine, "objective", "") == "ml" else "minus log joint"
