"""Posterior predictive checks: replicated tables against the observed one, and where each entry falls among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Column

CHUNK_VALUES = 4_000_000  # values of the replicated tables worked on at once
INTERVAL = 0.9  # of the replicated statistics, shown beside the observed one


class PredictiveCheck(NamedTuple):
    """``p_value``: how often a replicated table is as far out on any statistic as the observed one is on its worst.

    ``table`` has a row per statistic, worst first: observed, the replicates' 90 % interval, the two-sided posterior
    predictive p-value of that statistic alone, and its distance from the median in robust standard deviations.
    """

    p_value: float
    table: pd.DataFrame


def check(observed: np.ndarray, replicates: np.ndarray, columns: tuple[Column, ...],
          weights: np.ndarray | None = None) -> PredictiveCheck:  # fmt: skip
    r"""Posterior predictive check of many statistics at once (Gelman et al. 2013, Bayesian Data Analysis, section 6.3).

    The statistics: mean, sd, skewness, min and max of each column, shares of zeros or categories where those are
    what a column has, and every correlation. So many p-values would raise false alarms, and a fixed correction can't
    be resolved with some hundred replicates. So each replicate is judged as the data are: with

    .. math:: m_r = \max_t |T_t(y_r) - \mathrm{med}_t| / s_t, \qquad
              p = \frac{1 + \#\{r: m_r \ge m_{\mathrm{obs}}\}}{R + 1}

    one p-value holds for all statistics together, whatever their correlation (maxT; Westfall & Young 1993,
    Resampling-Based Multiple Testing). s is the distance from the median to the 16 % or the 84 % quantile, or the
    standard deviation where that is 0.

    :param observed: (n, d), NaN where missing; replicates are masked alike.
    :param replicates: (R, n, d). :param weights: (n,) row weights.
    """
    import pandas as pd

    present = np.isfinite(observed)
    names = statistic_names(columns)
    truth = statistics(observed[None], present, columns, weights)[0]
    size = max(1, CHUNK_VALUES // max(observed.size, 1))
    parts = [replicates[start : start + size] for start in range(0, len(replicates), size)]
    drawn = np.concatenate([statistics(part, present, columns, weights) for part in parts])
    low, centre, high = np.quantile(drawn, [0.16, 0.5, 0.84], axis=0)
    tiny, sd = 1e-9 * (1.0 + np.abs(centre)), drawn.std(0)

    def distance(values: np.ndarray) -> np.ndarray:
        spread = np.where(values >= centre, high - centre, centre - low)
        # The same in most replicates, as of a column that hardly varies: quantiles then have no width.
        return (values - centre) / np.maximum(np.where(spread > tiny, spread, sd), tiny)

    worst, worst_drawn = np.abs(distance(truth)).max(), np.abs(distance(drawn)).max(1)
    above, below = (drawn >= truth).sum(0), (drawn <= truth).sum(0)
    ends = np.quantile(drawn, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    table = pd.DataFrame({
        "statistic": names, "observed": truth, "low": ends[0], "high": ends[1],
        "p_value": np.minimum(1.0, 2 * (1 + np.minimum(above, below)) / (len(drawn) + 1)), "distance": distance(truth),
    })  # fmt: skip
    table = table.sort_values("distance", key=np.abs, ascending=False, ignore_index=True)
    return PredictiveCheck(float((1 + (worst_drawn >= worst).sum()) / (len(drawn) + 1)), table)


def statistic_names(columns: tuple[Column, ...]) -> list[str]:
    """Names of what :func:`statistics` computes, in its order."""
    names = []
    for column in columns:
        names += [f"{what} of {column.name}" for what in _statistics_of(column)]
    numeric = [column.name for column in columns if column.kind != "categorical"]
    return names + [f"correlation of {a} and {b}" for i, a in enumerate(numeric) for b in numeric[i + 1 :]]


def _statistics_of(column: Column) -> list[str]:
    if column.kind == "categorical":
        return [f"share of {label!r}" for label in column.categories or ()]
    if column.kind == "binary":
        return ["mean"]
    return ["mean", "sd", "skewness", "min", "max"] + (["share of zeros"] if column.kind == "count" else [])


def statistics(values: np.ndarray, present: np.ndarray, columns: tuple[Column, ...],
               weights: np.ndarray | None = None) -> np.ndarray:  # fmt: skip
    """(R, number of statistics) of tables (R, n, d); only the entries that are ``present`` (n, d) count."""
    values = np.where(present, np.asarray(values, np.float64), 0.0)
    share = present * (1.0 if weights is None else np.asarray(weights, np.float64)[:, None])
    share = share / np.maximum(share.sum(0), 1e-300)
    mean = np.einsum("rnd,nd->rd", values, share)
    centred = (values - mean[:, None]) * present
    centred[np.abs(centred) <= 1e-12 * (1 + np.abs(mean[:, None]))] = 0.0  # rounding, of a column that does not vary
    sd = np.sqrt(np.einsum("rnd,rnd,nd->rd", centred, centred, share))
    scaled = centred / np.maximum(sd, 1e-300)[:, None]
    results: list[np.ndarray] = []
    for j, column in enumerate(columns):
        x, p = values[:, :, j], share[:, j]
        if column.kind == "categorical":
            results += [(x == code) @ p for code in range(len(column.categories or ()))]
            continue
        results.append(mean[:, j])
        if column.kind == "binary":
            continue
        seen = present[:, j]
        results += [sd[:, j], scaled[:, :, j] ** 3 @ p, x.min(1, where=seen, initial=np.inf),
                    x.max(1, where=seen, initial=-np.inf)]  # fmt: skip
        if column.kind == "count":
            results.append((x == 0) @ p)
    return np.concatenate([np.stack(results, axis=1), _correlations(centred, share, columns)], axis=1)


def _correlations(centred: np.ndarray, share: np.ndarray, columns: tuple[Column, ...]) -> np.ndarray:
    """(R, pairs): correlations over the rows where both entries are present."""
    numeric = [j for j, column in enumerate(columns) if column.kind != "categorical"]
    root = np.sqrt(share[:, numeric])
    weighted = centred[:, :, numeric] * root
    covariance = np.einsum("rni,rnj->rij", weighted, weighted, optimize=True)
    seen = root**2 > 0
    # sqrt(share_i share_j) weights the rows that both columns have; each variance is taken over those rows too.
    variance = np.einsum("rni,nj->rij", weighted**2, seen.astype(float), optimize=True)
    scale = np.sqrt(variance * np.swapaxes(variance, 1, 2))
    first, second = np.triu_indices(len(numeric), k=1)
    return (covariance / np.maximum(scale, 1e-300))[:, first, second]


def pit(observed: np.ndarray, replicates: np.ndarray, weights: np.ndarray | None, seed: int = 0) -> np.ndarray:
    r"""(n, d): probability integral transform of each entry under its column's marginal predictive distribution.

    .. math:: u_{ij} = \sum_r w_{ir}\, F_{rj}(x_{ij})

    with :math:`F_{rj}` the distribution function of column j under draw r, from the n rows of that draw's replicate.
    PSIS weights :math:`w_{ir}` leave row i out of its own prediction (LOO-PIT; Gelfand, Dey & Chang 1992; Vehtari,
    Gelman & Gabry 2017); None is equal weights. A table records values to some resolution (its smallest gap), so
    each entry is a cell of that width and u is drawn uniformly between the cell's ends (Czado, Gneiting & Held 2009,
    Biometrics 65): without it, ties alone would look like a misfit, and counts could not be judged at all.

    :param observed: (n, d), NaN where missing. :param replicates: (R, n, d). :param weights: (n, R), rows sum to 1.
    """
    rng = np.random.default_rng(seed)
    number, length = len(replicates), replicates.shape[1]
    result = np.full(observed.shape, np.nan)
    for j in range(observed.shape[1]):
        rows = np.flatnonzero(np.isfinite(observed[:, j]))
        x = observed[rows, j]
        half = resolution(x) / 2
        below, above = np.zeros((len(rows), number)), np.zeros((len(rows), number))
        for r in range(number):
            ordered = np.sort(replicates[r, :, j])
            below[:, r] = np.searchsorted(ordered, x - half, side="left")
            above[:, r] = np.searchsorted(ordered, x + half, side="right")
        share = np.full((len(rows), number), 1 / number) if weights is None else weights[rows]
        low, high = ((share * counts).sum(1) / length for counts in (below, above))
        result[rows, j] = low + rng.random(len(rows)) * (high - low)
    return result


def resolution(values: np.ndarray) -> float:
    """The smallest gap between distinct values (gaps of rounding error aside); 0 for fewer than two."""
    if not len(values):
        return 0.0
    gaps = np.diff(np.unique(values))
    gaps = gaps[gaps > 1e-6 * max(np.ptp(values), 1e-300)]
    return float(gaps.min()) if len(gaps) else 0.0
