r"""The checks of a diffusion model: whether its denoiser is right at every noise level, and what comes out of it.

Rows are looked at under the members that did not train on them, where rows were held out.

=======================  ==========================  ==================================================================
check                    threshold                   source
=======================  ==========================  ==================================================================
prior KL                 0.01 nats a number          Kingma, Salimans, Poole & Ho 2021 (arXiv:2107.00630, eq. 11): what
                                                     the noisiest level still tells of a row, which draws leave out
denoiser calibration     a slope within 0.1 of 1,    E[e | estimate] = estimate of any conditional mean (Mincer &
                         or what chance gives        Zarnowitz 1969): the regression of rows on their estimates, at
                                                     the levels that tell at least 5 % of the rows' variance, and cost
                                                     0.01 nats a number per unit of log signal-to-noise ratio
linear denoiser          0.1 nats a column, or what  the best linear denoiser (Wiener 1949), which mean and covariance
                         chance gives                are enough for; nats of the bound by which the network is above
                                                     its error, of all levels where it is
denoising gap            0.1 nats a column, or what  Kadkhodaie, Guth, Simoncelli & Mallat 2024 (arXiv:2310.02557):
                         chance gives                rows learnt by heart; the threshold is that of the training gap
density against bound    0.1 nats a column, or what  Song, Durkan, Murray & Ermon 2021 (arXiv:2101.09258, theorems 1
                         chance gives                and 3): of the right score function in continuous time both are
                                                     the log density; apart, they show an error of the network
MMD p, classifier        p 0.01                      those of :mod:`ppl_gen.checks_implicit`
two-sample p
Fréchet distance         0.01 a feature, or what     Heusel et al. 2017 (arXiv:1706.08500): a shift of a tenth of a
                         99 % of permutations have   standard deviation in each feature
copies of rows           z -3                        as of a generator; Carlini et al. 2023 (arXiv:2301.13188)
=======================  ==========================  ==================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import checks_implicit, noise_levels
from ppl_gen.checks_networks import CHANCE, GAP, difference
from ppl_gen.diagnostics import Check

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.noise_levels import Levels
    from ppl_gen.result import Fit

Found = tuple[list[Check], dict[str, "pd.DataFrame"]]

PRIOR = 0.01  # nats a number
SLOPE = 0.1  # from 1
TOLD, COSTS = 0.05, 0.01  # of the variance of the rows; nats a number and unit of log SNR: levels of less don't count
LEVEL = 0.01  # of all slopes together
FRECHET = 0.01  # a feature
PERMUTATIONS = 99
LONGER = "train longer (max_steps), or use wider hidden layers"


def of_diffusion(fit: Fit) -> Found:
    """All of them; none where the fit is no diffusion model."""
    if fit.pair.noising is None:
        return [], {}
    levels = noise_levels.of(fit)
    table = by_level(levels)
    found = [_bound(fit, levels), _prior(fit, levels), *_calibration(table), _linear(fit, levels)]
    found += _memory(fit, levels, table)
    found += _density(fit)
    if len(fit.train) < 2 * checks_implicit.MIN_ROWS:
        return found, {"noise_levels": table}
    more, tables = _of_samples(fit)
    return found + more, {"noise_levels": table, **tables}


def by_level(levels: Levels) -> pd.DataFrame:
    """A row for each part of time: ``log_snr`` and ``width`` (units of it), nats a row of the bound's loss
    ``held_out``, its standard error, ``trained`` and ``linear`` (of the best linear denoiser), and ``slope`` of rows on
    their estimates, its standard error, the share of the variance that these have ``told``, and whether the slope is
    ``judged``."""
    import pandas as pd

    found = []
    for k in range(levels.nats.shape[1]):
        mean, error = mean_and_error(levels.nats[:, k], levels.fresh, levels.weights)
        slope, of_slope, told = calibration(levels.encoded, levels.estimates[:, k], levels.fresh, levels.weights)
        found.append({
            "log_snr": levels.log_snr[:, k].mean(), "width": levels.width[:, k].mean(), "held_out": mean,
            "held_out_error": error, "trained": mean_and_error(levels.nats[:, k], levels.seen, levels.weights)[0],
            "linear": mean_and_error(levels.linear[:, k], levels.fresh, levels.weights)[0],
            "slope": slope, "slope_error": of_slope, "told": told,
            "judged": told >= TOLD and mean / levels.width[:, k].mean() >= COSTS * levels.encoded.shape[2],
        })  # fmt: skip
    return pd.DataFrame(found)


def mean_and_error(values: np.ndarray, kept: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Of values (M, n) that are kept, each row's first averaged over its members; NaN of none."""
    number = kept.sum(0)
    if not number.any():
        return np.nan, np.nan
    each = np.where(kept, values, 0.0).sum(0)[number > 0] / number[number > 0]
    share = weights[number > 0] / weights[number > 0].sum()
    mean = float(share @ each)
    return mean, float(np.sqrt(len(each) / max(len(each) - 1, 1) * (share**2 @ (each - mean) ** 2)))


def calibration(
    encoded: np.ndarray, estimate: np.ndarray, kept: np.ndarray, weights: np.ndarray
) -> tuple[float, float, float]:
    """Slope of rows (M, n, F) regressed on their estimates, all numbers together, each about its own mean; its standard
    error, of rows that are independent of one another; and which share of the rows' variance the estimates leave no
    error of."""
    weight = (kept * weights)[..., None]
    total = weight.sum((0, 1))
    x, y = (values - (weight * values).sum((0, 1)) / total for values in (estimate, encoded))
    square = float((weight * x**2).sum())
    if square <= 0:
        return np.nan, np.nan, 0.0
    slope = float((weight * x * y).sum()) / square
    influence = (weight * x * (y - slope * x)).sum((0, 2)) / square
    told = 1 - float((weight * (encoded - estimate) ** 2).sum() / (weight * y**2).sum())
    return slope, float(np.sqrt(influence @ influence)), told


def _entries(fit: Fit) -> int:
    return len(fit.schema.targets)


def _limit(error: float, columns: int) -> float:
    return float(f"{max(GAP * columns, CHANCE * error):.3g}")


def _bound(fit: Fit, levels: Levels) -> Check:
    mean, error = mean_and_error(levels.bound, levels.fresh, levels.weights)
    mean += float(np.mean(fit.schema.log_jacobian(None)))
    parts = [mean_and_error(part, levels.fresh, levels.weights)[0]
             for part in (levels.data, levels.nats.sum(1), levels.prior)]  # fmt: skip
    kind = "held-out rows" if not levels.seen.all() else "training rows"
    return Check(
        "ELBO", mean,
        info=f"± {error:.2g} nats {fit.train.a_unit} of {kind}: {parts[0]:.3g} by log p(x given z_0) less "
        f"{parts[1]:.3g} by the steps and {parts[2]:.2g} by the prior",
    )  # fmt: skip


def _prior(fit: Fit, levels: Levels) -> Check:
    size = levels.encoded.shape[2]
    return Check.of(
        "prior KL", mean_and_error(levels.prior, levels.fresh, levels.weights)[0], "at most", PRIOR * size,
        info=f"nats {fit.train.a_unit} that are still to be told at the noisiest level, where draws begin",
        advice="Some values are so far out that the most noise does not hide them: transform the column, or lower the "
        "first of log_snr_range.",
    )  # fmt: skip


def _calibration(table: pd.DataFrame) -> list[Check]:
    from scipy.stats import norm

    known = table[table["judged"]]
    if known.empty:
        return [Check("denoiser calibration", info=f"no level that counts tells {TOLD:.0%} of the rows' variance")]
    limits = np.maximum(SLOPE, norm.isf(LEVEL / (2 * len(known))) * known["slope_error"].to_numpy())
    away = np.abs(known["slope"].to_numpy() - 1)
    worst = int(np.argmax(away / limits))
    at = known.iloc[worst]
    kind = "grow" if at["slope"] > 1 else "shrink"
    return [Check.of(
        "denoiser calibration", away[worst], "at most", float(f"{limits[worst]:.3g}"),
        info=f"from 1: rows on their estimates have slope {at['slope']:.3g} ± {at['slope_error']:.2g} at log SNR "
        f"{at['log_snr']:.2g}, worst of {len(known)} levels",
        advice=f"Estimates would have to {kind} to be right on average at log SNR {at['log_snr']:.2g}: {LONGER}.",
    )]  # fmt: skip


def _linear(fit: Fit, levels: Levels) -> Check:
    """Nats of the levels where the best linear denoiser has less of an error."""
    above, variance, worst = 0.0, 0.0, (0.0, 0.0)
    for k in range(levels.nats.shape[1]):
        mean, error = mean_and_error(levels.nats[:, k] - levels.linear[:, k], levels.fresh, levels.weights)
        if mean > 0:
            above, variance = above + mean, variance + error**2
            worst = max(worst, (mean / float(levels.width[:, k].mean()), float(levels.log_snr[:, k].mean())))
    return Check.of(
        "linear denoiser", above, "at most", _limit(float(np.sqrt(variance)), _entries(fit)),
        info=f"nats {fit.train.a_unit} by which a linear denoiser is better, of the levels where it is"
        + (f"; most at log SNR {worst[1]:.2g}" if above > 0 else ""),
        advice=f"Mean and covariance alone denoise better than the network at log SNR {worst[1]:.2g}: {LONGER}, or a "
        "lower learning_rate.",
    )  # fmt: skip


def _memory(fit: Fit, levels: Levels, table: pd.DataFrame) -> list[Check]:
    if levels.seen.all():
        return []
    gap, error = difference(-levels.nats.sum(1), levels.seen, levels.weights)
    steepest = table.iloc[int(((table["held_out"] - table["trained"]) / table["width"]).argmax())]
    return [Check.of(
        "denoising gap", gap, "at most", _limit(error, _entries(fit)),
        info=f"± {error:.2g} nats {fit.train.a_unit} less loss under members that saw it; most at log SNR "
        f"{steepest['log_snr']:.2g}",
        advice="The network has learnt rows by heart, and draws come close to them: use smaller hidden layers, fewer "
        "steps (max_steps), or more rows.",
    )]  # fmt: skip


def _density(fit: Fit) -> list[Check]:
    """The density of the probability flow, less the bound."""
    from ppl_gen.evidence import Evidence

    score = Evidence.of(fit).score
    if score.elbo is None or score.kind == "bound":
        return []
    gap = np.asarray(score.log_predictive - score.elbo, np.float64)
    mean, error = mean_and_error(gap[None], np.ones((1, len(gap)), bool), _weights(fit))
    info = f"± {error:.2g} nats {fit.train.a_unit} that log p(x) is {'above' if mean >= 0 else 'BELOW'} the ELBO"
    if any(column.kind == "count" for column in fit.schema.target_columns):
        low = "which is low of counts: a network does not round to whole numbers"
        return [Check("density against bound", abs(mean), info=f"{info}, {low}")]
    return [Check.of(
        "density against bound", abs(mean), "at most", _limit(error, _entries(fit)), info=info,
        advice=f"Flow and bound disagree on the density, so that neither is to be trusted to that many nats: {LONGER}"
        + (", or raise num_steps." if fit.pair.noising and fit.pair.noising.num_steps else "."),
    )]  # fmt: skip


def _weights(fit: Fit) -> np.ndarray:
    from ppl_gen.evidence import Evidence

    train = Evidence.of(fit).train
    return np.ones(len(train)) if train.weights is None else np.asarray(train.weights, np.float64)


def _of_samples(fit: Fit) -> Found:
    """Whether samples can be told from rows that their members did not see, and whether they are copies."""
    more = f"draw with more steps, {LONGER}"
    found, there = checks_implicit.told_apart(fit, more, more), checks_implicit.material(fit)
    some = there.samples[: len(there.fresh)]
    figure, usual, limit = frechet(there.fresh, there.others, some, fit.schema.image is not None, fit.seed)
    found.append(Check.of(
        "Fréchet distance", figure, "at most", float(f"{limit:.3g}"),
        info=f"of samples and {'held-out rows' if there.held_out else 'rows'}; of other rows {usual:.3g}",
        advice=f"Samples have another mean or covariance than rows: {more}.",
    ))  # fmt: skip
    copies, table = checks_implicit.of_members(fit, "use smaller hidden layers, fewer max_steps, or more rows")
    return found + [check for check in copies if check.name == "copies of rows"], {"generators": table}


def frechet(fresh: Any, others: Any, samples: Any, images: bool, seed: int) -> tuple[float, float, float]:
    """Fréchet distance of samples and rows, that of other rows, and the limit of the first: what is small, or what 99
    of a hundred random divisions of both have. Of images in their first principal components."""
    from ppl_gen.frechet import NUM_FEATURES, gaussian_frechet
    from ppl_gen.two_tables import points

    x, y = points(fresh, samples)
    w = points(fresh, others)[1]
    if images:
        from sklearn.decomposition import PCA

        pca = PCA(min(NUM_FEATURES, *w.shape), svd_solver="full").fit(w)
        x, y, w = (pca.transform(part) / np.sqrt(pca.explained_variance_[0]) for part in (x, y, w))
    keep = w.std(0) > 0
    x, y, w = (part[:, keep] for part in (x, y, w))

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        moments = [(part.mean(0), np.atleast_2d(np.cov(part.T))) for part in (first, second)]
        return gaussian_frechet(*moments[0], *moments[1])

    rng, whole = np.random.default_rng(seed), np.concatenate([x, y])
    chance = []
    for _ in range(PERMUTATIONS):
        order = rng.permutation(len(whole))
        chance.append(distance(whole[order[: len(x)]], whole[order[len(x) :]]))
    return distance(x, y), distance(x, w), max(FRECHET * x.shape[1], *chance)
