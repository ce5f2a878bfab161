r"""Expectation maximization for the Gaussian mixture in torch, function by function the twin of ``numpyro_em``.

Pure functions without branches on values, so that ``torch.func.vmap`` can batch them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ppl_gen.models.gmm.pyro_density import (
    as_float,
    component_scale,
    inverse_tril,
    log_weights,
    priors,
    whiten,
)

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.gmm.hyperparameters import Hyperparameters

MIN_WEIGHT = 1e-8
MIN_STICK = 1e-6
EMPTY = 1e-6  # rows
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
        first, second = _moments_missing(hyper, resp, view, y, locs, scale, inverse)
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


def _moments_missing(
    hyper: Hyperparameters, resp: torch.Tensor, view: View, y: torch.Tensor, locs: torch.Tensor, scale: torch.Tensor,
    inverse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Missing entries of a full covariance: regression on the observed ones, pattern by pattern."""
    centre = locs.mean(0)
    seen = view.patterns.to(scale.dtype)[:, None, :]
    covariance = scale @ scale.mT
    weight = covariance * seen[..., None, :] @ inverse.mT  # (P, K, D, D): E[x - mu | observed] = weight @ y
    residual = torch.where(
        view.mask[:, None, :], view.x[:, None, :] - locs, (weight[view.pattern] @ y[..., None])[..., 0]
    )
    filled = locs - centre + residual
    left = (1 - seen)[..., :, None] * (1 - seen)[..., None, :]
    conditional = (covariance - weight @ weight.mT) * left
    empty = torch.zeros(len(view.patterns), resp.shape[1], dtype=resp.dtype)
    per_pattern = empty.index_add(0, view.pattern, resp)
    weighted = resp[:, :, None] * filled
    first = weighted.sum(0)
    if hyper.tied:
        spread = torch.einsum("pk,pij->ij", per_pattern, conditional[:, 0])
        return first, torch.einsum("nki,nkj->ij", weighted, filled) + spread
    spread = torch.einsum("pk,pkij->kij", per_pattern, conditional)
    return first, torch.einsum("nki,nkj->kij", weighted, filled) + spread


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
    return _floor_simplex(weights / weights.sum().clamp(min=tiny))


def _floor_simplex(weights: torch.Tensor) -> torch.Tensor:
    """The nearest point of the simplex in likelihood with no weight below the floor: those at it, the rest in scale."""
    low = weights < MIN_WEIGHT
    rest = torch.where(low, 0.0, weights).sum()
    scaled = torch.where(low, MIN_WEIGHT, weights * (1 - low.sum() * MIN_WEIGHT) / rest.clamp(min=MIN_WEIGHT))
    return torch.where(rest > 0, scaled, 1.0 / weights.shape[0])


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
        variance = _variances(hyper, count, scatter, objective)
        return {"scales": torch.where(count >= enough, variance.sqrt(), old["scales"])}
    count = count.sum() if hyper.tied else count
    if objective == "ml":
        values, vectors = torch.linalg.eigh(scatter / count.clamp(min=EMPTY)[..., None, None])
        factor = _triangular(vectors * values.clamp(min=hyper.floor).sqrt()[..., None, :])
    else:
        factor = _map_factor(hyper, count, scatter, old["scales"], old["corr_cholesky"])
    scales = torch.linalg.vector_norm(factor, dim=-1)
    alive = (count >= enough)[..., None]
    return {
        "scales": torch.where(alive, scales, old["scales"]),
        "corr_cholesky": torch.where(alive[..., None], factor / scales[..., None], old["corr_cholesky"]),
    }


def _variances(hyper: Hyperparameters, count: torch.Tensor, scatter: torch.Tensor, objective: str) -> torch.Tensor:
    """Variances of independent columns: the root of v^2 / tau^2 + N v = S; with no prior S / N."""
    if objective == "ml":
        variance = scatter / count.clamp(min=EMPTY)
    else:
        precision = torch.as_tensor(hyper.scale**-2.0, dtype=count.dtype)
        variance = _positive_root(count, scatter * precision) / precision
    return variance.clamp(min=hyper.floor)


def _positive_root(b: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """The positive root of v^2 + b v = e, without cancellation for either sign of b."""
    root = (b * b + 4 * e).sqrt()
    safe = (b.abs() + root).clamp(min=torch.finfo(root.dtype).tiny)
    return torch.where(b > 0, 2 * e / safe, (root - b) / 2)


def _map_factor(
    hyper: Hyperparameters, count: torch.Tensor, scatter: torch.Tensor, scales: torch.Tensor, corr: torch.Tensor
) -> torch.Tensor:
    """Cholesky factor of the covariance that maximizes the expected log density plus log prior.

    The mathematics stands with the function of the same name in ``numpyro_em``.
    """
    tau = torch.as_tensor(hyper.scale, dtype=count.dtype)
    slope = torch.as_tensor(hyper.correlation_concentration - 1, dtype=count.dtype)[..., None] * 2
    delta = tau**-2 + slope / scales**2
    pull, root = count[..., None] - slope, delta.sqrt()
    scaled = root[..., :, None] * scatter * root[..., None, :]
    values, vectors = torch.linalg.eigh(scaled)
    solution = _positive_root(pull, values.clamp(min=0.0))
    bound = hyper.floor * delta.amax(-1, keepdim=True)
    new = _triangular(vectors * torch.maximum(solution, bound).sqrt()[..., None, :] / root[..., :, None])
    # The objective at both, for the new one in the basis where all is diagonal.
    inside = torch.maximum(solution, bound)
    gain = -0.5 * (pull * inside.log() + values / inside + inside).sum(-1)
    inverse = inverse_tril(root[..., :, None] * scales[..., None] * corr)
    log_det = -2 * inverse.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    fit = ((inverse @ scaled) * inverse).sum((-2, -1))
    gain = gain + 0.5 * (pull[..., 0] * log_det + fit + (delta * scales**2).sum(-1))
    accept = ~(solution < bound).any(-1) | (gain >= 0)
    return torch.where(accept[..., None, None], new, scales[..., None] * corr)


def _triangular(root: torch.Tensor) -> torch.Tensor:
    """The Cholesky factor L of A A^T by the QR decomposition of A^T, which a tiny eigenvalue can't break."""
    upper = torch.linalg.qr(root.mT, mode="r").R
    sign = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    return (upper * sign[..., :, None]).mT


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
