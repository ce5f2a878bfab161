"""What a fit to sequences says of each time step given the steps before it: leave-future-out and pseudo-residuals."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from ppl_gen.scoring import point_draw
from ppl_gen.timeseries import MAX_DRAWS, over_draws, spread, step_log_prob

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

MAX_BACK = 100  # steps that the future is left out of, at most, in each sequence


def beginnings(data: Data, lengths: np.ndarray) -> Data:
    """The first ``lengths[i]`` steps of each sequence."""
    assert data.lengths is not None
    kept = np.concatenate([np.arange(whole) < some for whole, some in zip(data.lengths, lengths, strict=True)])
    return dataclasses.replace(
        data, x=data.x[kept], mask=None if data.mask is None else data.mask[kept], lengths=np.asarray(lengths),
        index=None if data.index is None else data.index[kept], order=None if data.order is None else data.order[kept],
    )  # fmt: skip


def leave_future_out(fit: Fit, data: Data) -> tuple[np.ndarray, np.ndarray]:
    r"""(R,) log density of time steps given the steps before them only, and Pareto k-hat; NaN where it can't be had.

    .. math:: p(x_t \mid x_{<t}) = \sum_s w_s\, p(x_t \mid x_{<t}, \theta_s), \quad
              w_s \propto 1 / p(x_{t:T} \mid x_{<t}, \theta_s)

    Draws from the posterior given everything are reweighted, by Pareto smoothed importance sampling, to what they
    would be had step t and all after it not been seen. It goes back from the end of each sequence until k-hat says
    that the draws no longer bear it, at most ``MAX_BACK`` steps (Bürkner, Gabry & Vehtari 2020, J. Stat. Comput.
    Simul. 90: their backward mode, without refits).
    """
    from ppl_gen import arviz_bridge as az

    values = step_log_prob(fit, data, fit.posterior).astype(np.float64)
    elpd, khat = np.full(data.num_steps, np.nan), np.full(data.num_steps, np.nan)
    assert data.lengths is not None
    limit, start = az.min_khat(len(values)), 0
    for length in data.lengths:
        steps = np.arange(start, start + length)[max(1, length - MAX_BACK) :]
        start += length
        if not len(steps):
            continue
        future = np.cumsum(values[:, steps][:, ::-1], axis=1)[:, ::-1].T  # (steps, draws): log p of all from there on
        weights, k = az.psis(-future)
        within = np.flip(np.logical_and.accumulate(np.flip(k <= limit)))
        found = logsumexp(weights + values[:, steps].T, axis=1)
        elpd[steps], khat[steps] = np.where(within, found, np.nan), np.where(within, k, np.nan)
    return elpd, khat


def pseudo_residuals(fit: Fit, data: Data) -> tuple[np.ndarray, np.ndarray] | None:
    r"""Ends (R, d) of the cell that each entry takes of its one-step-ahead predictive distribution, NaN where missing.

    :math:`u = F(x_t \mid x_{<t})` averaged over draws, and for counts and labels the step of F there, from
    :math:`F(x^-)` to :math:`F(x)` (Zucchini, MacDonald & Langrock 2016, section 6.2). Uniform if the model is right.
    A pair with the hook ``to_uniform`` gives those ends itself. None where the family has no distribution function.
    """
    draws = spread(fit, MAX_DRAWS) if fit.draws.point is None else point_draw(fit)
    assert draws is not None
    if fit.pair.to_uniform is not None:
        ends = over_draws(fit, "to_uniform", data, draws, 2 * len(fit.schema.targets)).mean(0, dtype=np.float64)
        return ends[..., 0], ends[..., 1]
    if fit.pair.filtered is None:
        return None
    filtered = over_draws(fit, "filtered", data, draws, fit.family.num_labels)
    return fit.family.one_step_cdf(draws, filtered, data)


def forward_scores(data: Data, folds: int, refit: Callable[[Data], Fit]) -> np.ndarray:
    """(steps,) one-step-ahead log density of the second half of each sequence, window by window."""
    from ppl_gen.timeseries import score_steps

    assert data.lengths is not None
    half = np.maximum(data.lengths // 2, 1)
    ends = [half + (data.lengths - half) * i // folds for i in range(folds + 1)]
    result = []
    for before, after in itertools.pairwise(ends):
        if (after == before).all():
            continue
        scored = score_steps(refit(beginnings(data, before)), beginnings(data, after), 0.9).log_predictive
        new = np.concatenate([np.arange(a) >= b for b, a in zip(before, after, strict=True)])
        result.append(scored[new])
    return np.concatenate(result)
