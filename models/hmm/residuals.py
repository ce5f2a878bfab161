"""One-step-ahead distribution functions of a hidden Markov model: numpy and scipy, for both backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from scipy.special import ndtr, softmax

from ppl_gen.data import starts_of

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.models.hmm import HMM
    from ppl_gen.models.hmm.hyperparameters import Block

Sites = Mapping[str, np.ndarray]
Cell = tuple[np.ndarray, np.ndarray]


def one_step_cdf(family: HMM, posterior: Sites, filtered: np.ndarray, data: Data) -> Cell:
    r""":math:`F(x_{td}^- \mid x_{<t})` and :math:`F(x_{td} \mid x_{<t})`, (R, d), NaN where missing.

    .. math:: F(x_{td} \mid x_{<t}) = \frac1S \sum_s \sum_k p(z_t = k \mid x_{<t}, \theta_s)\,
              F_{kd}(x_{td} \mid \theta_s)

    with the predicted states :math:`p(z_t = j \mid x_{<t}) = \sum_k p(z_{t-1} = k \mid x_{<t}) A_{kj}`, A being that of
    the step from t - 1.

    :param posterior: flat draws {site: (S, *event shape)}. :param filtered: (S, R, K).
    """
    from ppl_gen.models.hmm.hyperparameters import resolve

    hyper = resolve(family, data.schema)
    x, mask = data.x[:, data.schema.is_target], data.target_mask
    low, high = np.zeros(x.shape), np.zeros(x.shape)
    number = len(filtered)
    for s in range(number):
        sites = {**{name: value[s] for name, value in posterior.items()}, **hyper.fixed}
        weights = _predicted(family, sites, np.asarray(filtered[s], np.float64), data)
        for block in hyper.blocks:
            columns = list(block.columns)
            below, up_to = _CELLS[block.kind](block, sites, np.asarray(x[:, columns], np.float64))
            low[:, columns] += np.einsum("rk,rkd->rd", weights, below) / number
            high[:, columns] += np.einsum("rk,rkd->rd", weights, up_to) / number
    if mask is not None:
        low[~mask] = high[~mask] = np.nan
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


def _predicted(family: HMM, sites: Sites, filtered: np.ndarray, data: Data) -> np.ndarray:
    """(R, K): probabilities of each step's state given the steps before it."""
    assert data.lengths is not None
    context = data.schema.context(data.x)
    if context is None:
        result = np.roll(filtered, 1, axis=0) @ sites["transition_matrix"]
    else:
        one = {name: sites[name][None] for name in ("transition_matrix", "transition_coefs")}
        result = np.roll(np.einsum("rk,rkj->rj", filtered, step_transitions(one, context)[0]), 1, axis=0)
    result[starts_of(data.lengths)] = first_state(family, sites)
    return result


def step_transitions(posterior: Sites, context: np.ndarray) -> np.ndarray:
    r"""(S, R, K, K): :math:`A_r(k, j) = \mathrm{softmax}_j (\log A_{kj} + B_{kj} \cdot y_r)` of covariates y (R, C)."""
    with np.errstate(divide="ignore"):
        log_matrix = np.log(np.asarray(posterior["transition_matrix"], np.float64))
    return softmax(log_matrix[:, None] + np.einsum("rc,skjc->srkj", context, posterior["transition_coefs"]), axis=-1)


def first_state(family: HMM, sites: Sites) -> np.ndarray:
    """(K,): the distribution of the first state; uniform where the model gives it none."""
    k = family.num_states
    if family.initial == "free":
        return np.asarray(sites["initial_probs"], np.float64)
    if family.initial == "stationary":
        transition = np.asarray(sites["transition_matrix"], np.float64)
        equations = np.concatenate([np.eye(k) - transition.T, np.ones((1, k))])
        return np.linalg.lstsq(equations, np.append(np.zeros(k), 1.0), rcond=None)[0]
    return np.full(k, 1 / k)


def _both(values: np.ndarray) -> Cell:
    return values, values


def _gaussian(block: Block, sites: Sites, x: np.ndarray) -> Cell:
    return _both(ndtr((x[:, None] - sites["locs"]) / sites["scales"]))


def _student_t(block: Block, sites: Sites, x: np.ndarray) -> Cell:
    return _both(stats.t.cdf((x[:, None] - sites["locs"]) / sites["scales"], sites["df"][:, None]))


def _mixture(block: Block, sites: Sites, x: np.ndarray) -> Cell:
    each = ndtr((x[:, None, None] - sites["locs"]) / sites["scales"])
    return _both(np.einsum("km,rkmd->rkd", sites["mixture_weights"], each))


def _poisson(block: Block, sites: Sites, x: np.ndarray) -> Cell:
    counts = x[:, None]
    return stats.poisson.cdf(counts - 1, sites["rates"]), stats.poisson.cdf(counts, sites["rates"])


def _bernoulli(block: Block, sites: Sites, x: np.ndarray) -> Cell:
    zero, one = 1 - sites["probs"], x[:, None] > 0
    return np.where(one, zero, 0.0), np.where(one, 1.0, zero)


def _categorical(block: Block, sites: Sites, x: np.ndarray) -> Cell:
    ends = []
    for place, j in enumerate(block.columns):
        cumulative = np.cumsum(sites[f"category_probs_{j}"], axis=-1)
        edges = np.concatenate([np.zeros((len(cumulative), 1)), cumulative], axis=1)
        codes = x[:, place].astype(int)
        ends.append((edges[:, codes].T, edges[:, codes + 1].T))
    low, high = zip(*ends, strict=True)
    return np.stack(low, axis=-1), np.stack(high, axis=-1)


_CELLS: dict[str, Callable[[Block, Sites, np.ndarray], Cell]] = {
    "gaussian": _gaussian, "gaussian_full": _gaussian, "student_t": _student_t, "mixture": _mixture,
    "poisson": _poisson, "bernoulli": _bernoulli, "categorical": _categorical,
}  # fmt: skip
