r"""The M-step of transitions that depend on covariates, in JAX: a step of Newton's method on the multinomial logit of
each state, which brings EM along as the maximum itself would (Lange 1995, J. R. Stat. Soc. B 57).

Given the expected transitions :math:`\xi_t(k, j)` of each step, :math:`n_t(k)` their sum over j, state k's row has

.. math:: Q_k(a, b) = \sum_{t, j} \xi_t(k, j) \log p_t(j), \quad p_t(j) = \mathrm{softmax}_j(a_j + b_j \cdot y_t)

with gradient :math:`\sum_t (\xi_t - n_t p_t) \otimes (1, y_t)` and curvature
:math:`\sum_t n_t (\mathrm{diag}\, p_t - p_t p_t^\top) \otimes (1, y_t) (1, y_t)^\top` (Agresti 2013, *Categorical
Data Analysis*, section 8.1). Under a prior, the Dirichlet density of A counts as :math:`\alpha - 1` transitions at
y = 0, and b has its normal density. A number that is the same for all j changes nothing: coefficients are centred
over j.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.models.hmm.numpyro_chain import exact_log
from ppl_gen.models.hmm.numpyro_mstep import MIN_PROB, floored

if TYPE_CHECKING:
    from ppl_gen.models.hmm.hyperparameters import Hyperparameters

STEPS = (1.0, 0.5, 0.25, 0.0625, 2.0**-8, 0.0)  # fractions of a Newton step, of which each row takes the best


def transition_logit(
    hyper: Hyperparameters, statistics: Mapping[str, Any], old: Mapping[str, Any], objective: str
) -> tuple[jax.Array, jax.Array]:
    """New ``transition_matrix`` (K, K) and ``transition_coefs`` (K, K, C); never lowers Q, plus the log prior of
    ``"map"``. A matrix that the prior fixes stays."""
    counts, context = _design(hyper, statistics, objective)
    free = "transition_matrix" not in hyper.fixed
    fractions = jnp.asarray(STEPS[:-1], counts.dtype)[:, None, None]
    matrix, coefs = old["transition_matrix"], old["transition_coefs"]
    step = _newton_step(hyper, counts, context, matrix, coefs, objective, free)
    moved = coefs + fractions[..., None] * step[..., 1:]
    tried = moved - moved.mean(-2, keepdims=True)
    matrices = jnp.broadcast_to(matrix, (len(fractions), *matrix.shape))
    if free:
        matrices = floored(jax.nn.softmax(exact_log(matrix) + fractions * step[..., 0], axis=-1))
    # A fraction of 0 is the old value itself, which the floor and the centring must not make worse.
    matrices, tried = jnp.concatenate([matrices, matrix[None]]), jnp.concatenate([tried, coefs[None]])
    values = jax.vmap(lambda a, b: _value(hyper, counts, context, a, b, objective))(matrices, tried)
    best, rows = jnp.argmax(jnp.where(jnp.isnan(values), -jnp.inf, values), axis=0), jnp.arange(len(matrix))
    matrix, coefs = matrices[best, rows], tried[best, rows]
    return _identified(hyper, matrix, coefs) if free and objective == "ml" else (matrix, coefs)


def _identified(hyper: Hyperparameters, matrix: jax.Array, coefs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same probabilities with coefficients that sum to 0 over the labels of a categorical covariate, whose
    indicators sum to 1: their mean goes to the matrix, unless that would take it to its floor."""
    for begin, end in hyper.indicators:
        mean = coefs[..., begin:end].mean(-1)
        moved = jax.nn.softmax(exact_log(matrix) + mean, axis=-1)
        fits = (moved >= MIN_PROB).all()
        coefs = jnp.where(fits, coefs.at[..., begin:end].add(-mean[..., None]), coefs)
        matrix = jnp.where(fits, moved, matrix)
    return matrix, coefs


def _design(hyper: Hyperparameters, statistics: Mapping[str, Any], objective: str) -> tuple[jax.Array, jax.Array]:
    """Expected transitions (R, K, K) and covariates (R, C) of all steps; the last row is the prior's, at y = 0."""
    k = hyper.num_states
    counts = statistics["pairs"].reshape(-1, k, k)
    prior = np.asarray(hyper.transition_concentration - 1) * (objective == "map")
    context = statistics["context"].reshape(-1, hyper.num_context).astype(counts.dtype)
    return (
        jnp.concatenate([counts, jnp.asarray(prior, counts.dtype)[None]]),
        jnp.concatenate([context, jnp.zeros((1, hyper.num_context), counts.dtype)]),
    )


def _log_probs(matrix: jax.Array, coefs: jax.Array, context: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(exact_log(matrix) + jnp.einsum("rc,kjc->rkj", context, coefs), axis=-1)


def _value(
    hyper: Hyperparameters, counts: jax.Array, context: jax.Array, matrix: jax.Array, coefs: jax.Array, objective: str
) -> jax.Array:
    """(K,): each row's part of the objective."""
    log_probs = _log_probs(matrix, coefs, context)
    total = jnp.where(counts == 0, 0.0, counts * jnp.where(counts == 0, 0.0, log_probs)).sum((0, 2))
    if objective == "map":
        total -= 0.5 * ((coefs / jnp.asarray(hyper.coef_scale, coefs.dtype)) ** 2).sum((1, 2))
    return total


def _newton_step(
    hyper: Hyperparameters, counts: jax.Array, context: jax.Array, matrix: jax.Array, coefs: jax.Array, objective: str,
    free: bool,
) -> jax.Array:  # fmt: skip
    """(K, K, 1 + C): steps of the logarithms of the matrix (0 where it is fixed) and of the coefficients."""
    k, width = hyper.num_states, 1 + hyper.num_context
    probs = jnp.exp(_log_probs(matrix, coefs, context))
    number = counts.sum(-1)
    inputs = jnp.concatenate([jnp.full((len(context), 1), float(free), context.dtype), context], axis=1)
    gradient = jnp.einsum("rkj,rc->kjc", counts - number[..., None] * probs, inputs)
    # Pseudo-counts may be negative (a concentration below 1): they are left out of the curvature, which stays positive.
    weighted = jnp.maximum(number, 0.0)[..., None] * probs
    both = jnp.einsum("rc,rd->rcd", inputs, inputs)
    own = jnp.einsum("rkj,rcd->kjcd", weighted, both)
    cross = jnp.einsum("rkj,rki,rcd->kjcid", weighted, probs, both)
    curvature = jnp.einsum("kjcd,ji->kjcid", own, jnp.eye(k, dtype=own.dtype)) - cross
    curvature = curvature.reshape(k, k * width, k * width)
    diagonal = jnp.zeros((k, k, width), own.dtype)
    if objective == "map":
        precision = jnp.asarray(hyper.coef_scale, own.dtype) ** -2.0
        gradient = gradient.at[..., 1:].add(-precision * coefs)
        diagonal = diagonal.at[..., 1:].set(precision)
    # A little more in every direction: shifts that are common to all j, indicators that sum to 1, rows without data.
    size = jnp.trace(curvature, axis1=1, axis2=2)[:, None] / (k * width)
    ridge = jnp.finfo(own.dtype).eps ** 0.5 * (size + 1.0)
    curvature += (diagonal.reshape(k, -1) + ridge)[..., None] * jnp.eye(k * width, dtype=own.dtype)
    step = jnp.linalg.solve(curvature, gradient.reshape(k, -1, 1)).reshape(k, k, width)
    return step * jnp.asarray([float(free)] + [1.0] * hyper.num_context, own.dtype)
