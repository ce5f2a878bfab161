"""The only module that imports ArviZ, and the only one that knows its two lives: 0.23 (Python 3.11) and 1.x (>= 3.12).

Statistics take and give plain arrays, (chain, draw, *shape) -> (*shape), so that no caller meets a container, a field
name or a sign that differs between the two. ArviZ is imported on first use: it takes longer than the rest of ppl_gen.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppl_gen.arviz_groups import dataset, groups, tree
from ppl_gen.metrics import highest_density_interval

if TYPE_CHECKING:
    from ppl_gen.result import Fit

PLOTS = {  # our name: the function's name in 0.23, in 1.x
    "trace": ("plot_trace", "plot_trace_dist"), "rank": ("plot_rank", "plot_rank"), "pair": ("plot_pair", "plot_pair"),
    "energy": ("plot_energy", "plot_energy"), "forest": ("plot_forest", "plot_forest"),
    "autocorr": ("plot_autocorr", "plot_autocorr"), "ess": ("plot_ess", "plot_ess"),
}  # fmt: skip


@cache
def _arviz() -> Any:
    """ArviZ itself; 0.23 announces the refactoring that 1.x is with a FutureWarning at each import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz
    return arviz


@cache
def is_classic() -> bool:
    """Whether the installed ArviZ is 0.x."""
    return int(_arviz().__version__.partition(".")[0]) < 1


def _statistic(name: str, values: np.ndarray, **options: Any) -> np.ndarray:
    """One of ArviZ's statistics for every quantity of (chain, draw, *shape); NaN where it is undefined."""
    values = np.asarray(values, np.float64)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if is_classic():
            dataset = _arviz().convert_to_dataset({"value": values})
            return getattr(_arviz(), name)(dataset, **options)["value"].to_numpy()
        from arviz_stats.base import array_stats

        return np.asarray(getattr(array_stats, name)(values, chain_axis=0, draw_axis=1, **options))


def rhat(values: np.ndarray) -> np.ndarray:
    """Rank-normalised split R-hat (Vehtari et al. 2021, Bayesian Anal. 16). Chains that each stand still at values of
    their own give infinity; a quantity that is constant altogether gives NaN."""
    values = np.asarray(values, np.float64)
    result = np.asarray(_statistic("rhat", values), np.float64)
    still = (np.ptp(values, axis=1) == 0).all(0)
    return np.where(still, np.where(np.ptp(values, axis=(0, 1)) > 0, np.inf, np.nan), result)


def ess(values: np.ndarray, method: str = "bulk") -> np.ndarray:
    """Effective sample size, ``"bulk"``, ``"tail"`` or ``"mean"`` (Vehtari et al. 2021, sections 3.2 and 4)."""
    # 1.x has no default for the tails of "tail"; these are those of the paper and of 0.23.
    tails = {"prob": (0.05, 0.95)} if method == "tail" else {}
    return np.asarray(_statistic("ess", values, method=method, **tails), np.float64)


def mcse(values: np.ndarray) -> np.ndarray:
    """Monte Carlo standard error of the posterior mean, in the quantity's own units."""
    return np.asarray(_statistic("mcse", values, method="mean"), np.float64)


def bfmi(energy: np.ndarray) -> np.ndarray:
    """(chain,): energy Bayesian fraction of missing information (Betancourt 2016, arXiv:1604.00695, eq. 6)."""
    energy = np.asarray(energy, np.float64)
    with np.errstate(all="ignore"):
        return np.square(np.diff(energy, axis=1)).mean(1) / energy.var(axis=1, ddof=0)


def hdi(values: np.ndarray, prob: float) -> np.ndarray:
    """(*shape, 2): the narrowest interval that holds ``prob`` of the draws in (chain, draw, *shape)."""
    values = np.asarray(values, np.float64)
    flat = values.reshape(values.shape[0] * values.shape[1], -1)
    return highest_density_interval(flat, prob).reshape(*values.shape[2:], 2)


def psis(log_ratios: np.ndarray, r_eff: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Pareto-smoothed importance sampling (Vehtari, Simpson, Gelman, Yao & Gabry 2024, JMLR 25).

    :param log_ratios: (..., draw), log of target over proposal, up to a constant.
    :param r_eff: relative efficiency of the draws (effective size over number), which sets the length of the tail.
    :returns: log weights (..., draw) that sum to 1, and Pareto k-hat (...). Ratios that are all alike (to rounding)
        have weights 1/S and k-hat minus infinity: nothing is lost. So is k-hat where the largest are all alike, a tail
        that has an end; the weights are then as they came.
    """
    log_ratios = np.asarray(log_ratios, np.float64)
    flat = log_ratios.reshape(-1, log_ratios.shape[-1])
    number, shapes = flat.shape[1], np.full(len(flat), -np.inf)
    weights, size = np.full_like(flat, -np.log(number)), tail_size(number, r_eff)
    varies = np.ptp(flat, axis=1) > 1e-10 if number > 1 else np.zeros(len(flat), bool)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if varies.any():
            weights[varies] = flat[varies] - np.logaddexp.reduce(flat[varies], axis=1, keepdims=True)
        if size <= 4:  # too few draws for a tail: 0.23 leaves such ratios as they are, 1.x raises
            shapes[varies] = np.inf
        else:
            largest = np.partition(flat, (number - size, number - 1), axis=1)
            varies &= largest[:, -1] - largest[:, -size] > 1e-10
            if varies.any():
                weights[varies], shapes[varies] = _psislw(flat[varies], r_eff)
    return weights.reshape(log_ratios.shape), shapes.reshape(log_ratios.shape[:-1])


def tail_size(number: int, r_eff: float = 1.0) -> int:
    """How many of the largest ratios are the tail that k-hat is the shape of; 1.x rounds down."""
    return int((np.ceil if is_classic() else np.floor)(min(number / 5, 3 * np.sqrt(number / r_eff))))


def _psislw(log_ratios: np.ndarray, r_eff: float) -> tuple[np.ndarray, np.ndarray]:
    if is_classic():
        weights, shapes = _arviz().psislw(log_ratios, reff=r_eff)
        return np.asarray(weights), np.asarray(shapes)
    from arviz_stats.base import array_stats

    # 1.x takes the log likelihood whose inverse is the ratio: the other sign.
    weights, shapes = array_stats.psislw(-log_ratios, r_eff=r_eff, axis=-1)
    weights = np.asarray(weights)
    return weights - np.logaddexp.reduce(weights, axis=-1, keepdims=True), np.asarray(shapes)


class Loo(NamedTuple):
    """PSIS leave-one-out: ``elpd`` (obs,) in nats, Pareto ``k`` (obs,), ``log_weights`` (obs, draw), and ``p`` (obs,),
    how much each row's own log density owes to its having been seen (the sum is the effective number of parameters)."""

    elpd: np.ndarray
    k: np.ndarray
    log_weights: np.ndarray
    p: np.ndarray


def loo(log_likelihood: np.ndarray, weights: np.ndarray | None = None) -> Loo:
    r"""log p(x_i | x_{-i}) by Pareto-smoothed importance sampling (Vehtari, Gelman & Gabry 2017, Stat. Comput. 27).

    .. math:: \mathrm{elpd}_i = \log \sum_s w_{is}\, p(x_i \mid \theta_s), \; w_{is} \propto p(x_i \mid \theta_s)^{-1}

    :param log_likelihood: (chain, draw, obs), nats.
    :param weights: (obs,) row weights; a row of weight m entered the likelihood to the power m, so m is left out.
    """
    log_likelihood = np.asarray(log_likelihood, np.float64)
    flat = log_likelihood.reshape(-1, log_likelihood.shape[2])
    log_weights, k = psis((-flat if weights is None else -weights * flat).T, _relative_efficiency(log_likelihood))
    elpd = np.logaddexp.reduce(log_weights + flat.T, axis=1)
    return Loo(elpd, k, log_weights, np.logaddexp.reduce(flat, axis=0) - np.log(len(flat)) - elpd)


def _relative_efficiency(log_likelihood: np.ndarray, rows: int = 100) -> float:
    """Mean effective size of p(x_i | theta) over the number of draws, from at most ``rows`` rows."""
    chains, draws, obs = log_likelihood.shape
    if draws < 4:
        return 1.0
    some = log_likelihood[:, :, np.linspace(0, obs - 1, min(rows, obs)).astype(int)]
    sizes = ess(np.exp(some - some.max((0, 1))), "mean") / (chains * draws)
    return float(np.clip(np.nanmean(sizes), 0.05, 1.0)) if np.isfinite(sizes).any() else 1.0


def min_khat(num_draws: int) -> float:
    """The k-hat above which an estimate from this many draws is not to be trusted: min(1 - 1/log10 S, 0.7)
    (Vehtari et al. 2024, section 3.2.4)."""
    return 0.7 if num_draws < 2 else float(np.clip(1.0 - 1.0 / np.log10(num_draws), 0.0, 0.7))


def loo_pointwise(
    log_likelihood: np.ndarray, num_chains: int = 1, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(elpd, Pareto k-hat), each (obs,), from (chain * draw, obs) log densities; see :func:`loo`."""
    chains = np.reshape(log_likelihood, (num_chains, -1, np.shape(log_likelihood)[1]))
    result = loo(chains, weights)
    return result.elpd, result.k


def to_arviz(fit: Fit) -> Any:
    """The ArviZ object of the :func:`~ppl_gen.arviz_groups.groups` of a fit: InferenceData in 0.23, else DataTree."""
    return _container(*groups(fit))


def from_dictionaries(arrays: Mapping[str, Mapping[str, np.ndarray]], attributes: Mapping[str, Any]) -> Any:
    """The ArviZ object of {group: {variable: (chain, draw, *shape)}}."""
    return _container({group: dataset(variables, {}, {}, True) for group, variables in arrays.items()}, attributes)


def _container(datasets: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    if is_classic():
        data = _arviz().InferenceData(**datasets)
        data.attrs.update(attributes)
        return data
    return tree(datasets, attributes)


def from_netcdf(path: str | Path) -> Any:
    """The ArviZ object in a file of :func:`ppl_gen.arviz_groups.to_netcdf`, read into memory: the file may be moved or
    replaced then."""
    data = _arviz().from_netcdf(str(path), engine="h5netcdf")
    return data.load()


def plot(kind: str, data: Any, **options: Any) -> Any:
    """One of ArviZ's own plots (a key of :data:`PLOTS`) as a matplotlib figure."""
    function = getattr(_arviz(), PLOTS[kind][0 if is_classic() else 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not is_classic():
            collection = function(data, backend="matplotlib", **options)
            return collection.viz["figure"].item()
        axes = function(data, backend="matplotlib", **options)
    return np.ravel(np.asarray(axes))[0].figure


def ecdf_difference(ranks: np.ndarray, prob: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What tells ranks (R,) in [0, 1] from uniform ones (Säilynoja, Bürkner & Vehtari 2022, Stat. Comput. 32):
    points z, the empirical distribution function less z, and the band (lower, upper) that a uniform sample's whole
    curve stays in with this probability."""
    ranks = np.sort(np.asarray(ranks, np.float64))
    points, lower, upper = _uniform_band(len(ranks), prob)
    ecdf = np.searchsorted(ranks, points, side="right") / len(ranks)
    ecdf[[0, -1]] = 0.0, 1.0
    return points, ecdf - points, lower - points, upper - points


@cache
def _uniform_band(number: int, prob: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points from 0 to 1, and the band of the distribution function of so many uniform numbers at them."""
    if not is_classic():
        from arviz_stats.ecdf_utils import ecdf_pit

        points, _, lower, upper = ecdf_pit(np.arange(number) / number, prob, 1000)
        return points, lower, upper
    _arviz()
    from arviz.stats.ecdf_utils import ecdf_confidence_band

    points = np.linspace(0, 1, number + 1)
    edges = ecdf_confidence_band(number, points[1:-1], points[1:-1], prob, method="optimized")
    lower, upper = (np.concatenate([[0.0], edge, [1.0]]) for edge in edges)
    return points, lower, upper
