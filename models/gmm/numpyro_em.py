r"""Expectation maximization for the Gaussian mixture in JAX: pure functions of arrays, to be jitted and vmapped.

The objective of ``"map"`` is the log likelihood plus the log prior density in the coordinates (weights, locations,
standard deviations, correlation matrices): the LKJ density is that of the matrix R, not of its Cholesky factor, and
"auto" weights are measured by their sticks. ``log_prior`` returns it. Of ``"ml"`` it is the log likelihood.
Covariances have no eigenvalue below ``covariance_floor``, weights none below ``MIN_WEIGHT``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ppl_gen.backends.numpyro_normal import whiten
from ppl_gen.backends.numpyro_normal_em import conditional_moments, map_factor, positive_root, triangular
from ppl_gen.models.gmm.numpyro_density import component_scale, log_weights, priors

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.gmm.hyperparameters import Hyperparameters

MIN_WEIGHT = 1e-8
MIN_STICK = 1e-6
EMPTY = 1e-6  # rows
Sites = Mapping[str, Any]
Statistics = dict[str, jax.Array]


def _complete(hyper: Hyperparameters, sites: Sites) -> dict[str, jax.Array]:
    """The sites with the fixed ones among them."""
    dtype = jnp.asarray(next(iter(sites.values()))).dtype if sites else float
    return {name: jnp.asarray(value, dtype) for name, value in {**sites, **hyper.fixed}.items()}


def e_step(hyper: Hyperparameters, parameters: Sites, view: View) -> tuple[jax.Array, Statistics]:
    """Row log densities (n,), and expected statistics, which add up over rows (row weights multiplied in).

    Statistics: ``count`` (K,), ``first`` (K, D) and ``second`` moments about the mean of the locations: full
    (K, D, D), tied (D, D), with independent columns squares only (K, D). Missing entries enter by their conditional
    expectation and covariance given the observed ones (Ghahramani & Jordan 1994), so EM is exact with them.
    """
    sites = _complete(hyper, parameters)
    locs, scale = sites["locs"], component_scale(hyper, sites)
    y, peak, inverse = whiten(view.x, locs, scale, view.mask, view.patterns, view.pattern)
    joint = log_weights(sites["weights"]) + peak - 0.5 * (y * y).sum(-1)
    log_prob = jax.nn.logsumexp(joint, axis=-1)
    resp = jnp.exp(joint - log_prob[:, None])
    if view.weights is not None:
        resp = resp * view.weights[:, None]
    centre = locs.mean(0)
    if view.mask is None:
        first, second = _moments(hyper, resp, view.x - centre)
    elif scale.ndim == 2:
        first, second = _moments_independent(resp, view, locs - centre, scale, centre)
    else:
        first, second = conditional_moments(resp, view, y, locs, scale, inverse, hyper.tied)
    return log_prob, {"count": resp.sum(0), "first": first, "second": second}


def _moments(hyper: Hyperparameters, resp: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nothing missing: products of matrices over rows only, the fast path."""
    if not hyper.dense:
        return resp.T @ x, resp.T @ (x * x)
    if hyper.tied:
        return resp.T @ x, (resp.sum(1)[:, None] * x).T @ x
    k, d = hyper.num_components, hyper.num_columns
    weighted = (resp[:, :, None] * x[:, None, :]).reshape(-1, k * d)
    return resp.T @ x, (weighted.T @ x).reshape(k, d, d)


def _moments_independent(
    resp: jax.Array, view: View, locs: jax.Array, scale: jax.Array, centre: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Missing entries of independent columns: expectation mu, second moment mu^2 + sigma^2."""
    seen = view.mask.astype(view.x.dtype)
    x, missing = (view.x - centre) * seen, resp.T @ (1 - seen)
    return resp.T @ x + missing * locs, resp.T @ (x * x) + missing * (locs**2 + scale**2)


def m_step(hyper: Hyperparameters, parameters: Sites, statistics: Statistics, objective: str) -> dict[str, jax.Array]:
    """New values of the inferred sites; never lowers the objective, ``"ml"`` or ``"map"``.

    Weights, then locations given the covariances, then covariances given the locations (ECM; Meng & Rubin 1993,
    Biometrika 80). The last maximizes the expected log density plus log prior exactly, but for eta > 1, where the
    convex part of the LKJ prior is replaced by its tangent (MM; Hunter & Lange 2004, Am. Stat. 58).
    """
    old, count = _complete(hyper, parameters), statistics["count"]
    centre, scale = old["locs"].mean(0), component_scale(hyper, old)
    new: dict[str, jax.Array] = {"weights": _weights(hyper, count, objective)}
    locs = old["locs"] - centre
    if "locs" not in hyper.fixed:
        locs = _locations(hyper, count, statistics["first"], locs, centre, scale, objective)
        new["locs"] = locs + centre
    if "scales" not in hyper.fixed:
        new |= _covariances(hyper, count, _scatter(hyper, count, statistics, locs), old, objective)
    return {name: new[name] for name in parameters if name in new}


def _weights(hyper: Hyperparameters, count: jax.Array, objective: str) -> jax.Array:
    """New weights: N_k / N, with the mode of the Dirichlet or stick-breaking prior."""
    tiny = jnp.finfo(count.dtype).tiny
    if hyper.stick is not None and objective == "map":
        rest = jnp.flip(jnp.cumsum(jnp.flip(count)))[1:]
        wins, losses = count[:-1], jnp.maximum(rest + hyper.stick - 1, 0.0)
        sticks = jnp.clip(wins / jnp.maximum(wins + losses, tiny), MIN_STICK, 1 - MIN_STICK)
        left = jnp.concatenate([jnp.ones(1, count.dtype), jnp.cumprod(1 - sticks)])
        return left * jnp.concatenate([sticks, jnp.ones(1, count.dtype)])
    prior = jnp.asarray(hyper.concentration - 1, count.dtype) if objective == "map" else 0.0
    weights = jnp.maximum(count + prior, 0.0)
    return _floor_simplex(weights / jnp.maximum(weights.sum(), tiny))


def _floor_simplex(weights: jax.Array) -> jax.Array:
    """The nearest point of the simplex in likelihood with no weight below the floor: those at it, the rest in scale."""
    low = weights < MIN_WEIGHT
    rest = jnp.where(low, 0.0, weights).sum()
    scaled = jnp.where(low, MIN_WEIGHT, weights * (1 - low.sum() * MIN_WEIGHT) / jnp.maximum(rest, MIN_WEIGHT))
    return jnp.where(rest > 0, scaled, 1.0 / weights.shape[0])


def _locations(
    hyper: Hyperparameters, count: jax.Array, first: jax.Array, old: jax.Array, centre: jax.Array, scale: jax.Array,
    objective: str,
) -> jax.Array:  # fmt: skip
    """About the centre. MAP solves (N I + Sigma / t^2) mu = sum + Sigma m / t^2."""
    if objective == "ml":
        alive = (count > EMPTY)[:, None]
        return jnp.where(alive, first / jnp.where(alive, count[:, None], 1.0), old)
    precision = jnp.asarray(hyper.loc_scale**-2.0, count.dtype)
    pull = precision * (jnp.asarray(hyper.loc, count.dtype) - centre)
    if scale.ndim == 2:
        return (first + scale**2 * pull) / (count[:, None] + scale**2 * precision)
    covariance = scale @ jnp.swapaxes(scale, -1, -2)
    left = count[:, None, None] * jnp.eye(hyper.num_columns, dtype=count.dtype) + covariance * precision[:, None, :]
    return jnp.linalg.solve(left, first[..., None] + covariance @ pull[..., None])[..., 0]


def _scatter(hyper: Hyperparameters, count: jax.Array, statistics: Statistics, locs: jax.Array) -> jax.Array:
    """Second moments about the new locations: (K, D, D), tied (D, D); squares (K, D) with independent columns."""
    first, second = statistics["first"], statistics["second"]
    if not hyper.dense:
        return jnp.maximum(second - 2 * first * locs + count[:, None] * locs**2, 0.0)
    if hyper.tied:
        cross = first.T @ locs
        return second - cross - cross.T + (count[:, None] * locs).T @ locs
    cross = first[:, :, None] * locs[:, None, :]
    outer = count[:, None, None] * locs[:, :, None] * locs[:, None, :]
    return second - cross - jnp.swapaxes(cross, -1, -2) + outer


def _covariances(
    hyper: Hyperparameters, count: jax.Array, scatter: jax.Array, old: Sites, objective: str
) -> dict[str, jax.Array]:
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
        return {"scales": jnp.where(count >= enough, jnp.sqrt(variance), old["scales"])}
    count = count.sum() if hyper.tied else count
    if objective == "ml":
        values, vectors = jnp.linalg.eigh(scatter / jnp.maximum(count, EMPTY)[..., None, None])
        factor = triangular(vectors * jnp.sqrt(jnp.maximum(values, hyper.floor))[..., None, :])
    else:
        factor = map_factor(
            count, scatter, old["scales"], old["corr_cholesky"], tau=hyper.scale,
            eta=hyper.correlation_concentration, floor=hyper.floor,
        )  # fmt: skip
    scales = jnp.linalg.norm(factor, axis=-1)
    alive = (count >= enough)[..., None]
    return {
        "scales": jnp.where(alive, scales, old["scales"]),
        "corr_cholesky": jnp.where(alive[..., None], factor / scales[..., None], old["corr_cholesky"]),
    }


def _variances(hyper: Hyperparameters, count: jax.Array, scatter: jax.Array, objective: str) -> jax.Array:
    """Variances of independent columns: the root of v^2 / tau^2 + N v = S; with no prior S / N."""
    if objective == "ml":
        variance = scatter / jnp.maximum(count, EMPTY)
    else:
        precision = jnp.asarray(hyper.scale**-2.0, count.dtype)
        variance = positive_root(count, scatter * precision) / precision
    return jnp.maximum(variance, hyper.floor)


def log_prior(hyper: Hyperparameters, parameters: Sites, objective: str) -> jax.Array:
    """The part of the objective that is no likelihood: the log prior density in the coordinates of ``m_step``."""
    total = jnp.zeros(())
    if objective == "ml":
        return total
    for name, prior in priors(hyper).items():
        if name in hyper.fixed:
            continue
        value = jnp.asarray(parameters[name])
        if name == "weights" and hyper.stick is not None:
            # The density of the sticks: each 1 - v_k has density alpha (1 - v_k)^(alpha - 1), and their product is w_K.
            total += (hyper.num_components - 1) * jnp.log(hyper.stick) + (hyper.stick - 1) * log_weights(value)[-1]
            continue
        total += prior.log_prob(jnp.maximum(value, jnp.finfo(value.dtype).tiny) if name == "weights" else value)
        if name == "corr_cholesky":
            powers = jnp.arange(hyper.num_columns - 1, -1, -1)  # |dR / dL| = prod_i L_ii^(D - i)
            total -= (powers * jnp.log(jnp.diagonal(value, axis1=-2, axis2=-1))).sum()
    return total


def is_degenerate(hyper: Hyperparameters, parameters: Sites) -> jax.Array:
    """Whether a component collapsed (an eigenvalue within twice the floor) or died (holds less than half a row).

    With ``num_components="auto"`` components are meant to die, and dead ones are not looked at.
    """
    sites = _complete(hyper, parameters)
    dead = sites["weights"] * hyper.num_obs < 0.5
    scale = component_scale(hyper, sites)
    least = scale.min(-1) if scale.ndim == 2 else jnp.linalg.svd(scale, compute_uv=False)[..., -1]
    collapsed = least**2 <= 2 * hyper.floor
    if "scales" in hyper.fixed:
        collapsed = jnp.zeros_like(collapsed)
    if hyper.stick is not None:
        return (collapsed & ~dead).any()
    return collapsed.any() | dead.any()
