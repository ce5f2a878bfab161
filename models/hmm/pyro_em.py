r"""Expectation maximization for the hidden Markov model in torch (Baum & Welch), the twin of ``numpyro_em``.

Pure functions without branches on values, so that ``torch.func.vmap`` can batch them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ppl_gen.backends.pyro_normal import as_float
from ppl_gen.backends.pyro_normal_em import EMPTY, MIN_WEIGHT, floor_simplex, map_factor, ml_factor, variances
from ppl_gen.models.hmm import pyro_chain as chain
from ppl_gen.models.hmm import pyro_switching as switching
from ppl_gen.models.hmm.hyperparameters import Hyperparameters
from ppl_gen.models.hmm.pyro_emission import (
    Sites,
    complete,
    emission_log_prob,
    first_state,
    full_scale,
    has_zeros,
    priors,
    stacked,
    transitions,
)
from ppl_gen.models.hmm.pyro_logit import transition_logit
from ppl_gen.models.hmm.pyro_statistics import block_statistics

if TYPE_CHECKING:
    from ppl_gen.data import View

NEVER = 1e-6  # the probability below which a state counts as never entered
EDGE = torch.finfo(torch.float32).eps  # from 1: a probability nearer to it is 1 in single precision, infinite as logit
STEPS = (1.0, 0.5, 0.25, 0.0625, 0.0)
MAX_ASCENT = 8
Statistics = dict[str, torch.Tensor]


def e_step(hyper: Hyperparameters, parameters: Sites, view: View) -> tuple[torch.Tensor, Statistics]:
    """Log densities of the sequences (N,), and expected statistics, which add up over them (weights multiplied in).

    Statistics: ``initial`` (K,) and ``transition`` (K, K) counts (with covariates those of each step, (N, T - 1, K, K),
    beside the ``context`` (N, T - 1, C), which do not add up), and those of the emissions (``pyro_statistics``).
    Missing entries of independent columns don't count; of normals with correlations they enter by their conditional
    expectation and covariance (Ghahramani & Jordan 1994). Steps after the last observation count nowhere.
    """
    sites = complete(hyper, parameters)
    x = view.x.reshape(-1, view.x.shape[-1])
    table, mask, inside = emission_log_prob(hyper, sites, view), None, None
    if view.mask is not None:
        mask = view.mask.reshape(x.shape)
        inside = view.mask.any(-1).flip(1).cumsum(1).flip(1) > 0
    expectations = switching.expectations if hyper.num_context else chain.expectations
    transition = transitions(hyper, sites, view.context)
    log_prob, first, pairs, smoothed = expectations(
        first_state(hyper, sites), transition, table, view.weights, has_zeros(hyper), inside
    )
    statistics = {"initial": first, "transition": pairs}
    if hyper.num_context:
        statistics["context"] = view.context[:, :-1]
    resp = smoothed.reshape(-1, hyper.num_states)
    for block in hyper.blocks:
        statistics |= block_statistics(block, sites, resp, *stacked(block, x, mask), view)
    return log_prob, statistics


def m_step(hyper: Hyperparameters, parameters: Sites, statistics: Statistics, objective: str) -> Statistics:
    """New values of the inferred sites; never lowers the objective, ``"ml"`` or ``"map"``.

    Each site maximizes the expected log density plus log prior given those before it: exactly, but for the transition
    matrix of a stationary chain (an ascent), for scales given new locations (ECM; Meng & Rubin 1993) and for
    correlations with an LKJ prior (MM; see the mixture's M-step).
    """
    old = complete(hyper, parameters)
    new: dict[str, torch.Tensor] = {}
    for name, (kind, prior) in hyper.sites.items():
        if kind == "dirichlet":
            new[name] = _simplex(statistics[name], prior[0], old[name], objective)
        elif name == "rates":
            new[name] = _rates(statistics, old[name], prior, objective)
        elif name == "probs":
            new[name] = _probs(statistics, old[name], prior, objective)
    if "locs" in old:
        new |= _normals(hyper, old, statistics, objective)
    if hyper.initial == "free":
        concentration, before = hyper.initial_concentration, old["initial_probs"]
        new["initial_probs"] = _simplex(statistics["initial"], concentration, before, objective)
    counts, concentration = statistics["transition"], hyper.transition_concentration
    before = old["transition_matrix"]
    if hyper.num_context:
        new["transition_matrix"], new["transition_coefs"] = transition_logit(hyper, statistics, old, objective)
    elif hyper.initial == "stationary":
        counts = _added(counts, concentration, objective)
        new["transition_matrix"] = _stationary_transition(before, counts, statistics["initial"])
    else:
        new["transition_matrix"] = _simplex(counts, concentration, before, objective)
    return {name: new[name] for name in parameters if name in new}


def _added(counts: torch.Tensor, concentration: Any, objective: str) -> torch.Tensor:
    return counts if objective == "ml" else (counts + as_float(concentration - 1)).clamp(min=0.0)


def _simplex(counts: torch.Tensor, concentration: Any, old: torch.Tensor, objective: str) -> torch.Tensor:
    """Probabilities (..., C): shares of the counts, with the mode of the Dirichlet prior; the old ones of no counts."""
    counts = _added(counts, concentration, objective)
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > EMPTY, floor_simplex(counts / total.clamp(min=EMPTY)), old)


def _stationary_transition(old: torch.Tensor, counts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    r"""Raise :math:`\sum_k c_k \log \delta_k(A) + \sum_{ij} C_{ij} \log A_{ij}`, delta the stationary distribution.

    With :math:`Z = (I - A + 1 1^T)^{-1}` and :math:`h = Z (c / \delta)` the gradient is
    :math:`G_{ij} = C_{ij} / A_{ij} + \delta_i h_j`, where h may be shifted, as rows of A sum to 1. With G >= 0 the step
    to :math:`A_{ij} G_{ij} / \sum_l A_{il} G_{il}` is one of ascent (Baum & Eagon 1967), and EM's own where c is 0; of
    it the best of several fractions is taken, 0 among them.
    """
    eye, fractions = torch.eye(len(old), dtype=old.dtype), torch.tensor(STEPS, dtype=old.dtype)[:, None, None]
    transition = old
    for _ in range(MAX_ASCENT):
        delta = chain.stationary(transition)
        h = torch.linalg.solve(eye - transition + 1.0, (first / delta)[:, None])[:, 0]
        rows = counts + transition * delta[:, None] * (h - h.min())
        total = rows.sum(-1, keepdim=True)
        target = torch.where(total > EMPTY, floor_simplex(rows / total.clamp(min=EMPTY)), transition)
        tried = transition + fractions * (target - transition)
        value = (first * chain.safe_log(chain.stationary(tried))).sum(-1)
        value = value + (counts * chain.safe_log(tried)).sum((-2, -1))
        transition = tried.index_select(0, value.argmax()[None])[0]
    return transition


def _rates(statistics: Statistics, old: torch.Tensor, prior: Any, objective: str) -> torch.Tensor:
    count, total = statistics["rates_count"], statistics["rates_sum"]
    if objective == "map":
        total, count = (total + as_float(prior[0]) - 1).clamp(min=0.0), count + as_float(prior[1])
    return torch.where(count > EMPTY, total / count.clamp(min=EMPTY), old).clamp(min=MIN_WEIGHT)


def _probs(statistics: Statistics, old: torch.Tensor, prior: Any, objective: str) -> torch.Tensor:
    yes, count = statistics["probs_sum"], statistics["probs_count"]
    if objective == "map":
        no = (count - yes + as_float(prior[1]) - 1).clamp(min=0.0)
        yes = (yes + as_float(prior[0]) - 1).clamp(min=0.0)
        count = yes + no
    return torch.where(count > EMPTY, yes / count.clamp(min=EMPTY), old).clamp(EDGE, 1 - EDGE)


def _normals(hyper: Hyperparameters, old: Sites, statistics: Statistics, objective: str) -> Statistics:
    """New locations, then scales (and correlations) given them. A state that holds too few steps keeps its own."""
    count, first, second = statistics["count"], statistics["first"], statistics["second"]
    lift, centre = statistics.get("lift", count), old["locs"].mean(tuple(range(old["locs"].dim() - 1)))
    (_, (loc, loc_scale)), (_, (tau,)) = hyper.sites["locs"], hyper.sites["scales"]
    precision, scale = as_float(loc_scale) ** -2.0, full_scale(old)
    pull = precision * (as_float(loc) - centre)
    full = "corr_cholesky" in old
    locs, new = old["locs"] - centre, {}
    if "locs" not in hyper.fixed:
        alive = (lift > EMPTY)[..., None] if full else lift > EMPTY
        if objective == "ml":
            each = lift[..., None] if full else lift
            locs = torch.where(alive, first / torch.where(alive, each, 1.0), locs)
        elif full:
            covariance, eye = scale @ scale.mT, torch.eye(hyper.num_columns, dtype=scale.dtype)
            left = lift[:, None, None] * eye + covariance * precision[:, None, :]
            locs = torch.linalg.solve(left, first[..., None] + covariance @ pull[..., None])[..., 0]
        else:
            variance = old["scales"] ** 2
            locs = (first + variance * pull) / (lift + variance * precision)
        new["locs"] = locs + centre
    if "scales" in hyper.fixed and not full:
        return new
    prior = as_float(tau) if objective == "map" else None
    enough = 1.0 if objective == "map" else EMPTY
    if not full:
        scatter = (second - 2 * first * locs + lift * locs**2).clamp(min=0.0)
        variance = variances(count, scatter, hyper.floor, prior)
        return new | {"scales": torch.where(count >= enough, variance.sqrt(), old["scales"])}
    cross = first[:, :, None] * locs[:, None, :]
    scatter = second - cross - cross.mT + lift[:, None, None] * locs[:, :, None] * locs[:, None, :]
    return new | _covariances(hyper, count, scatter, old, prior, enough)


def _covariances(
    hyper: Hyperparameters, count: torch.Tensor, scatter: torch.Tensor, old: Sites, prior: Any, enough: float
) -> Statistics:
    scales, corr = old["scales"], old["corr_cholesky"]
    if prior is None:
        factor = ml_factor(count, scatter, hyper.floor)
    else:
        eta = as_float(hyper.sites["corr_cholesky"][1][1])
        factor = map_factor(count, scatter, scales, corr, tau=prior, eta=eta, floor=hyper.floor)
    new, alive = torch.linalg.vector_norm(factor, dim=-1), (count >= enough)[:, None]
    return {
        "scales": torch.where(alive, new, scales),
        "corr_cholesky": torch.where(alive[..., None], factor / new[..., None], corr),
    }


def log_prior(hyper: Hyperparameters, parameters: Sites, objective: str) -> torch.Tensor:
    """The part of the objective that is no likelihood: the log prior density in the coordinates of ``m_step``."""
    total = as_float(0.0)
    if objective == "ml":
        return total
    for name, prior in priors(hyper).items():
        if name in hyper.fixed:
            continue
        value = parameters[name]
        total = total + prior.log_prob(value)
        if name == "corr_cholesky":
            powers = torch.arange(hyper.num_columns - 1, -1, -1)  # |dR / dL| = prod_i L_ii^(D - i)
            total = total - (powers * value.diagonal(dim1=-2, dim2=-1).log()).sum()
    return total


def is_degenerate(hyper: Hyperparameters, parameters: Sites) -> torch.Tensor:
    """Whether a state collapsed (an eigenvalue within twice the floor), or died: it is never entered."""
    sites, k = complete(hyper, parameters), hyper.num_states
    bad = torch.tensor(False)
    if "locs" in sites and "scales" not in hyper.fixed:
        scale = full_scale(sites)
        full = "corr_cholesky" in sites
        least = torch.linalg.svdvals(scale)[..., -1] if full else scale.amin(-1)
        bad = (least**2 <= 2 * hyper.floor).any()
    if k == 1:
        return bad
    entered = (sites["transition_matrix"] * (1 - torch.eye(k, dtype=sites["transition_matrix"].dtype))).amax(0)
    return bad | (torch.maximum(entered, first_state(hyper, sites)) < NEVER).any()
