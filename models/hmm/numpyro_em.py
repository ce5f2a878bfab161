r"""Baum-Welch for the hidden Markov model in JAX: pure functions of arrays, to be jitted and vmapped.

The objective of ``"map"`` is the log likelihood plus the log prior density in the coordinates of the sites, with
correlation matrices instead of their Cholesky factors. ``log_prior`` returns it. Of ``"ml"`` it is the log likelihood.
Variances have no eigenvalue below ``covariance_floor``, probabilities none below ``MIN_PROB``, rates ``MIN_RATE``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ppl_gen.backends.numpyro_normal import whiten
from ppl_gen.backends.numpyro_normal_em import conditional_moments
from ppl_gen.models.hmm import numpyro_chain as chain
from ppl_gen.models.hmm import numpyro_switching as switching
from ppl_gen.models.hmm.numpyro_emission import (
    Sites,
    complete,
    emission_log_prob,
    first_state,
    has_zeros,
    mixture_joint,
    priors,
    transitions,
)  # fmt: skip
from ppl_gen.models.hmm.numpyro_logit import transition_logit
from ppl_gen.models.hmm.numpyro_mstep import beta_mode, gamma_mode, normal_sites, simplex_mode, transition_mode

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.hmm.hyperparameters import Block, Hyperparameters

Statistics = dict[str, Any]


def e_step(hyper: Hyperparameters, parameters: Sites, view: View) -> tuple[jax.Array, Statistics]:
    """log p(x) of each sequence (N,), and expected statistics, which add up over sequences (weights multiplied in).

    ``initial`` (K,) and ``pairs`` (K, K): expected first states and transitions (with covariates those of each step,
    (N, T - 1, K, K), beside the ``context`` (N, T - 1, C), which do not add up); of each block of columns counts, sums
    and sums of squares by state. A missing entry of independent columns is left out of all three; of a full covariance
    it enters by its conditional expectation (Ghahramani & Jordan 1994), so EM is exact with missing entries. Without a
    mask nothing is missing, and only the lengths say where a sequence ends.
    """
    sites, steps, inside = complete(hyper, parameters), _time_first(view), None
    table = emission_log_prob(hyper, sites, steps)
    if view.mask is None and view.lengths is not None:
        inside = chain.steps_inside(view.lengths, len(table))
        table = jnp.where(inside[:, :, None], table, 0.0)
    expectations = switching.expectations if hyper.num_context else chain.expectations
    log_prob, first, pairs, smoothed = expectations(
        first_state(hyper, sites), transitions(hyper, sites, view.context), table, view.weights, view.lengths,
        has_zeros(hyper),
    )  # fmt: skip
    x, mask = steps.x.reshape(-1, hyper.num_columns), None
    resp = smoothed.reshape(len(x), -1)
    if steps.mask is not None:
        mask = steps.mask.reshape(x.shape)
        resp = resp * mask.any(-1, keepdims=True)  # without the steps where nothing was observed
    elif inside is not None:
        resp = resp * inside.reshape(-1, 1)
    statistics: Statistics = {"initial": first, "pairs": pairs}
    if hyper.num_context:
        statistics["context"] = view.context[:, :-1]
    for i, block in enumerate(hyper.blocks):
        columns = jnp.array(block.columns)
        seen = None if mask is None else mask[:, columns]
        statistics[f"block_{i}"] = _moments(block, sites, resp, x[:, columns], seen, steps)
    return log_prob, statistics


def _time_first(view: View) -> View:
    """(T, N, ...): time first, so that a step of all sequences lies together."""
    swapped = {name: getattr(view, name) for name in ("x", "mask", "pattern")}
    return view._replace(**{name: None if a is None else jnp.swapaxes(a, 0, 1) for name, a in swapped.items()})


def _moments(block: Block, sites: Sites, resp: jax.Array, x: jax.Array, mask: Any, view: View) -> Statistics:
    """Counts, sums and sums of squares of the block's columns (D) by state, of the observed entries."""
    if block.kind == "categorical":
        return _category_counts(block, sites, resp, x, mask)
    if "corr_cholesky" in sites:
        return _full_moments(sites, resp, x, mask, view)
    seen = jnp.ones_like(x) if mask is None else mask.astype(x.dtype)
    if block.kind in ("poisson", "bernoulli"):
        return {"count": resp.T @ seen, "first": resp.T @ x}
    locs, scales = sites["locs"], sites["scales"]
    if block.kind == "mixture":
        inner = jax.nn.softmax(mixture_joint(sites, x, mask), axis=-1)
        resp = (resp[:, :, None] * inner).reshape(len(x), -1)
        locs = locs.reshape(-1, locs.shape[-1])
    # About the mean of the locations, so that the differences of sums stay accurate.
    x = (x - locs.mean(0)) * seen
    if block.kind == "student_t":  # a normal whose precision is drawn from a gamma: its expectation given x
        df = sites["df"][:, None]
        y = (x[:, None, :] - (locs - locs.mean(0))) / scales
        pull = resp[:, :, None] * seen[:, None, :] * (df + 1) / (df + y * y)
        first, second = ((pull * power[:, None, :]).sum(0) for power in (x, x * x))
        return {"count": resp.T @ seen, "pull": pull.sum(0), "first": first, "second": second}
    count = jnp.broadcast_to(resp.sum(0)[:, None], (resp.shape[1], x.shape[1])) if mask is None else resp.T @ seen
    first, second = jnp.split(resp.T @ jnp.concatenate([x, x * x], axis=1), 2, axis=1)
    result = {"count": count, "pull": count, "first": first, "second": second}
    if block.kind != "mixture":
        return result
    shape = sites["locs"].shape
    result = {name: value.reshape(shape) for name, value in result.items()}
    return {**result, "component": resp.sum(0).reshape(shape[:-1])}


def _full_moments(sites: Sites, resp: jax.Array, x: jax.Array, mask: Any, view: View) -> Statistics:
    locs, scale = sites["locs"], sites["scales"][..., None] * sites["corr_cholesky"]
    if mask is None:
        x = x - locs.mean(0)
        second = jnp.einsum("nk,ni,nj->kij", resp, x, x) if x.shape[-1] > 8 else _outer(resp, x)
        return {"count": resp.sum(0), "first": resp.T @ x, "second": second}
    rows = view._replace(x=x, mask=mask, pattern=view.pattern.reshape(-1))
    y, _, inverse = whiten(x, locs, scale, mask, rows.patterns, rows.pattern)
    first, second = conditional_moments(resp, rows, y, locs, scale, inverse)
    return {"count": resp.sum(0), "first": first, "second": second}


def _outer(resp: jax.Array, x: jax.Array) -> jax.Array:
    """(K, D, D) by one product over rows."""
    k, d = resp.shape[-1], x.shape[-1]
    return ((resp[:, :, None] * x[:, None, :]).reshape(-1, k * d).T @ x).reshape(k, d, d)


def _category_counts(block: Block, sites: Sites, resp: jax.Array, x: jax.Array, mask: Any) -> Statistics:
    """{column: (K, C)}: expected counts of each category."""
    result = {}
    for i, j in enumerate(block.columns):
        seen = resp if mask is None else resp * mask[:, i, None]
        one_hot = jax.nn.one_hot(x[:, i].astype(int), sites[f"category_probs_{j}"].shape[-1], dtype=resp.dtype)
        result[f"column_{j}"] = seen.T @ one_hot
    return result


def m_step(hyper: Hyperparameters, parameters: Sites, statistics: Statistics, objective: str) -> dict[str, jax.Array]:
    """New values of the inferred sites; never lowers the objective, ``"ml"`` or ``"map"``."""
    old = complete(hyper, parameters)
    new: dict[str, jax.Array] = {}
    if hyper.initial == "free":
        new["initial_probs"] = simplex_mode(
            statistics["initial"], hyper.initial_concentration, old["initial_probs"], objective
        )
    if hyper.num_context:
        new["transition_matrix"], new["transition_coefs"] = transition_logit(hyper, statistics, old, objective)
    elif "transition_matrix" in parameters:
        new["transition_matrix"] = transition_mode(hyper, statistics, old["transition_matrix"], objective)
    for i, block in enumerate(hyper.blocks):
        new |= _emission_sites(hyper, block, statistics[f"block_{i}"], old, objective)
    return {name: new[name] for name in parameters}


def _emission_sites(
    hyper: Hyperparameters, block: Block, statistics: Statistics, old: Sites, objective: str
) -> dict[str, jax.Array]:
    if block.kind == "poisson":
        return {"rates": gamma_mode(statistics, hyper.sites["rates"][1], old["rates"], objective)}
    if block.kind == "bernoulli":
        return {"probs": beta_mode(statistics, hyper.sites["probs"][1], old["probs"], objective)}
    if block.kind == "categorical":
        names = [f"category_probs_{j}" for j in block.columns]
        counts = [statistics[f"column_{j}"] for j in block.columns]
        return {n: simplex_mode(c, hyper.sites[n][1][0], old[n], objective) for n, c in zip(names, counts, strict=True)}
    new = normal_sites(hyper, statistics, old, objective)
    if block.kind == "mixture":
        concentration = hyper.sites["mixture_weights"][1][0]
        new["mixture_weights"] = simplex_mode(statistics["component"], concentration, old["mixture_weights"], objective)
    return new | ({"df": old["df"]} if block.kind == "student_t" else {})


def log_prior(hyper: Hyperparameters, parameters: Sites, objective: str) -> jax.Array:
    """The part of the objective that is no likelihood: the log prior density in the coordinates of ``m_step``."""
    total = jnp.zeros(())
    if objective == "ml":
        return total
    for name, prior in priors(hyper).items():
        if name in hyper.fixed:
            continue
        value = jnp.asarray(parameters[name])
        total += prior.log_prob(value)
        if name == "corr_cholesky":
            powers = jnp.arange(value.shape[-1] - 1, -1, -1)  # |dR / dL| = prod_i L_ii^(D - i)
            total -= (powers * jnp.log(jnp.diagonal(value, axis1=-2, axis2=-1))).sum()
    return total


def is_degenerate(hyper: Hyperparameters, parameters: Sites) -> jax.Array:
    """Whether the variance of a state collapsed: an eigenvalue within twice the floor."""
    if "scales" not in parameters:
        return jnp.zeros((), bool)
    scales = jnp.asarray(parameters["scales"])
    least = scales
    if "corr_cholesky" in parameters:
        factor = scales[..., None] * jnp.asarray(parameters["corr_cholesky"])
        least = jnp.linalg.svd(factor, compute_uv=False)[..., -1]
    return (least**2 <= 2 * hyper.floor).any()
