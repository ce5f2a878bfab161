r"""Expectation maximization for the Gaussian mixture in torch, function by function the twin of ``numpyro_em``.

Pure functions without branches on values, so that ``torch.func.vmap`` can batch them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ppl_gen.backends.pyro_normal import as_float, whiten
from ppl_gen.backends.pyro_normal_em import (
    EMPTY,
    conditional_moments,
    floor_simplex,
    map_factor,
    ml_factor,
    variances,
)
from ppl_gen.models.gmm.pyro_density import component_scale, log_weights, priors

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.gmm.hyperparameters import Hyperparameters

MIN_STICK = 1e-6
Sites = Mapping[str, Any]
Statistics = dict[str, torch.Tensor]


def _complete(hyper: Hyperparameters, sites: Sites) -> dict[str, torch.Tensor]:
    """The sites with the fixed ones among them."""
    dtype = next(iter(sites.values())).dtype if sites else torch.get_default_dtype()
    return {name: torch.as_tensor(value, dtype=dtype) for name, value in {**sites, **hyper.fixed}.items()}


def e_step(hyper: Hyperparameters, parameters: Sites, view: View) -> tuple[torch.Tensor, Statistics]:
    """Row log densities (n,), and expected statistics, which add up over rows (row weights multiplied in).

    Statistics: ``count`` (K,), ``first`` (K, D) and ``second`` moments about the mean of the locations: full
    (K, D, D), tied (D, D), with independent columns squares only (K, D). Missing entries enter by their conditional
    expectation and covariance given the observed ones (Ghahramani & Jordan 1994), so EM is exact with them.
    """
    sites = _complete(hyper, parameters)
    locs, scale = sites["locs"], component_scale(hyper, sites)
    y, peak, inverse = whiten(view.x, locs, scale, view.mask, view.patterns, view.pattern)
    joint = log_weights(sites["weights"]) + peak - 0.5 * (y * y).sum(-1)
    log_prob = torch.logsumexp(joint, -1)
    resp = (joint - log_prob[:, None]).exp()
    if view.weights is not None:
        resp = resp * view.weights[:, None]
    centre = locs.mean(0)
    if view.mask is None:
        first, second = _moments(hyper, resp, view.x - centre)
    elif scale.dim() == 2:
        first, second = _moments_independent(resp, view, locs - centre, scale, centre)
    else:
        first, second = conditional_moments(resp, view, y, locs, scale, inverse, hyper.tied)
    return log_prob, {"count": resp.sum(0), "first": first, "second": second}


def _moments(hyper: Hyperparameters, resp: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nothing missing: products of matrices over rows only, the fast path."""
    if not hyper.dense:
        return resp.mT @ x, resp.mT @ (x * x)
    if hyper.tied:
        return resp.mT @ x, (resp.sum(1)[:, None] * x).mT @ x
    k, d = hyper.num_components, hyper.num_columns
    weighted = (resp[:, :, None] * x[:, None, :]).reshape(-1, k * d)
    return resp.mT @ x, (weighted.mT @ x).reshape(k, d, d)


def _moments_independent(
    resp: torch.Tensor, view: View, locs: torch.Tensor, scale: torch.Tensor, centre: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Missing entries of independent columns: expectation mu, second moment mu^2 + sigma^2."""
    seen = view.mask.to(view.x.dtype)
    x, missing = (view.x - centre) * seen, resp.mT @ (1 - seen)
    return resp.mT @ x + missing * locs, resp.mT @ (x * x) + missing * (locs**2 + scale**2)


def m_step(hyper: Hyperparameters, parameters: Sites, statistics: Statistics, objective: str) -> Statistics:
    """New values of the inferred sites; never lowers the objective, ``"ml"`` or ``"map"``.

    Weights, then locations given the covariances, then covariances given the locations (ECM; Meng & Rubin 1993,
    Biometrika 80). The last maximizes the expected log density plus log prior exactly, but for eta > 1, where the
    convex part of the LKJ prior is replaced by its tangent (MM; Hunter & Lange 2004, Am. Stat. 58).
    """
    old, count = _complete(hyper, parameters), statistics["count"]
    centre, scale = old["locs"].mean(0), component_scale(hyper, old)
    new: dict[str, torch.Tensor] = {"weights": _weights(hyper, count, objective)}
    locs = old["locs"] - centre
    if "locs" not in hyper.fixed:
        locs = _locations(hyper, count, statistics["first"], locs, centre, scale, objective)
        new["locs"] = locs + centre
    if "scales" not in hyper.fixed:
        new |= _covariances(hyper, count, _scatter(hyper, count, statistics, locs), old, objective)
    return {name: new[name] for name in parameters if name in new}


def _weights(hyper: Hyperparameters, count: torch.Tensor, objective: str) -> torch.Tensor:
    """New weights: N_k / N, with the mode of the Dirichlet or stick-breaking prior."""
    tiny = torch.finfo(count.dtype).tiny
    if hyper.stick is not None and objective == "map":
        rest = count.flip(0).cumsum(0).flip(0)[1:]
        wins, losses = count[:-1], (rest + hyper.stick - 1).clamp(min=0.0)
        sticks = (wins / (wins + losses).clamp(min=tiny)).clamp(MIN_STICK, 1 - MIN_STICK)
        one = torch.ones(1, dtype=count.dtype)
        return torch.cat([one, (1 - sticks).cumprod(0)]) * torch.cat([sticks, one])
    prior = torch.as_tensor(hyper.concentration - 1, dtype=count.dtype) if objective == "map" else 0.0
    weights = (count + prior).clamp(min=0.0)
    return floor_simplex(weights / weights.sum().clamp(min=tiny))


def _locations(
    hyper: Hyperparameters, count: torch.Tensor, first: torch.Tensor, old: torch.Tensor, centre: torch.Tensor,
    scale: torch.Tensor, objective: str,
) -> torch.Tensor:  # fmt: skip
    """About the centre. MAP solves (N I + Sigma / t^2) mu = sum + Sigma m / t^2."""
    if objective == "ml":
        alive = (count > EMPTY)[:, None]
        return torch.where(alive, first / torch.where(alive, count[:, None], 1.0), old)
    precision = torch.as_tensor(hyper.loc_scale**-2.0, dtype=count.dtype)
    pull = precision * (torch.as_tensor(hyper.loc, dtype=count.dtype) - centre)
    if scale.dim() == 2:
        return (first + scale**2 * pull) / (count[:, None] + scale**2 * precision)
    covariance = scale @ scale.mT
    left = count[:, None, None] * torch.eye(hyper.num_columns, dtype=count.dtype) + covariance * precision[:, None, :]
    return torch.linalg.solve(left, first[..., None] + covariance @ pull[..., None])[..., 0]


def _scatter(hyper: Hyperparameters, count: torch.Tensor, statistics: Statistics, locs: torch.Tensor) -> torch.Tensor:
    """Second moments about the new locations: (K, D, D), tied (D, D); squares (K, D) with independent columns."""
    first, second = statistics["first"], statistics["second"]
    if not hyper.dense:
        return (second - 2 * first * locs + count[:, None] * locs**2).clamp(min=0.0)
    if hyper.tied:
        cross = first.mT @ locs
        return second - cross - cross.mT + (count[:, None] * locs).mT @ locs
    cross = first[:, :, None] * locs[:, None, :]
    return second - cross - cross.mT + count[:, None, None] * locs[:, :, None] * locs[:, None, :]


def _covariances(
    hyper: Hyperparameters, count: torch.Tensor, scatter: torch.Tensor, old: Sites, objective: str
) -> dict[str, torch.Tensor]:
    """New ``scales`` and ``corr_cholesky``. A component that holds too few rows keeps its covariance."""
    enough = 1.0 if objective == "map" else EMPTY
    if not hyper.dense:
        if hyper.tied:
            count, scatter = count.sum(), scatter.sum(0)
        elif hyper.covariance == "spherical":
            count, scatter = count * hyper.num_columns, scatter.sum(1)
        else:
            count = count[:, None]
        variance = variances(count, scatter, hyper.floor, as_float(hyper.scale) if objective == "map" else None)
        return {"scales": torch.where(count >= enough, variance.sqrt(), old["scales"])}
    count = count.sum() if hyper.tied else count
    if objective == "ml":
        factor = ml_factor(count, scatter, hyper.floor)
    else:
        tau, eta = as_float(hyper.scale), as_float(hyper.correlation_concentration)
        factor = map_factor(count, scatter, old["scales"], old["corr_cholesky"], tau=tau, eta=eta, floor=hyper.floor)
    scales = torch.linalg.vector_norm(factor, dim=-1)
    alive = (count >= enough)[..., None]
    return {
        "scales": torch.where(alive, scales, old["scales"]),
        "corr_cholesky": torch.where(alive[..., None], factor / scales[..., None], old["corr_cholesky"]),
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
        if name == "weights" and hyper.stick is not None:
            # The density of the sticks: each 1 - v_k has density alpha (1 - v_k)^(alpha - 1), and their product is w_K.
            alpha = as_float(hyper.stick)
            total = total + (hyper.num_components - 1) * alpha.log() + (alpha - 1) * log_weights(value)[-1]
            continue
        total = total + prior.log_prob(value.clamp(min=torch.finfo(value.dtype).tiny) if name == "weights" else value)
        if name == "corr_cholesky":
            powers = torch.arange(hyper.num_columns - 1, -1, -1)  # |dR / dL| = prod_i L_ii^(D - i)
            total = total - (powers * value.diagonal(dim1=-2, dim2=-1).log()).sum()
    return total


def is_degenerate(hyper: Hyperparameters, parameters: Sites) -> torch.Tensor:
    """Whether a component collapsed (an eigenvalue within twice the floor) or died (holds less than half a row).

    With ``num_components="auto"`` components are meant to die, and dead ones are not looked at.
    """
    sites = _complete(hyper, parameters)
    dead = sites["weights"] * hyper.num_obs < 0.5
    scale = component_scale(hyper, sites)
    least = scale.amin(-1) if scale.dim() == 2 else torch.linalg.svdvals(scale)[..., -1]
    collapsed = least**2 <= 2 * hyper.floor
    if "scales" in hyper.fixed:
        collapsed = torch.zeros_like(collapsed)
    if hyper.stick is not None:
        return (collapsed & ~dead).any()
    return collapsed.any() | dead.any()
