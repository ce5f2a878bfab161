"""The M-steps of the sites of a hidden Markov model in JAX: each the mode given expected statistics.

A site of which the statistics say nothing (an empty state under maximum likelihood) keeps its old value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.backends.numpyro_normal_em import map_factor, positive_root, triangular
from ppl_gen.models.hmm import numpyro_chain as chain

if TYPE_CHECKING:
    from ppl_gen.models.hmm.hyperparameters import Hyperparameters

MIN_PROB = 1e-8
MIN_RATE = 1e-8
EDGE = float(np.finfo(np.float32).eps)  # from 1: a probability nearer to it is 1 in single precision, infinite as logit
EMPTY = 1e-6  # time steps
ROUNDS = 4  # of the M-step with a stationary start
Statistics = Mapping[str, Any]


def simplex_mode(counts: jax.Array, concentration: np.ndarray, old: jax.Array, objective: str) -> jax.Array:
    """(..., C): counts + concentration - 1 over their sum, no entry below the floor."""
    prior = jnp.asarray(concentration - 1, counts.dtype) if objective == "map" else 0.0
    mass = jnp.maximum(counts + prior, 0.0)
    total = mass.sum(-1, keepdims=True)
    return jnp.where(total > EMPTY, floored(mass / jnp.maximum(total, EMPTY)), old)


def floored(probs: jax.Array) -> jax.Array:
    """The nearest point of the simplex in likelihood with no entry below the floor: those at it, the rest in scale."""
    low = probs < MIN_PROB
    rest = jnp.where(low, 0.0, probs).sum(-1, keepdims=True)
    share = 1 - low.sum(-1, keepdims=True) * MIN_PROB
    return jnp.where(low, MIN_PROB, probs * share / jnp.maximum(rest, MIN_PROB))


def transition_mode(hyper: Hyperparameters, statistics: Statistics, old: jax.Array, objective: str) -> jax.Array:
    r"""Rows of expected transitions, normalized; with a stationary start the first state has its say in them.

    Then :math:`Q(A) = \sum_{kj} N_{kj} \log A_{kj} + \sum_k n_k \log \pi_k(A)` has no closed mode. At it
    :math:`A_{kj} \propto N_{kj} + A_{kj} \, \partial / \partial A_{kj} \sum n \log \pi`: a few rounds of that, of which
    each takes the best of several steps from the old matrix to the new one (none at all among them), so that Q never
    falls. The second term counts sequences, the first time steps, so the rounds converge fast.
    """
    counts, concentration = statistics["pairs"], hyper.transition_concentration
    closed = simplex_mode(counts, concentration, old, objective)
    if hyper.initial != "stationary":
        return closed
    first = statistics["initial"]
    mass = counts + (jnp.asarray(concentration - 1, counts.dtype) if objective == "map" else 0.0)

    def start(matrix: jax.Array) -> jax.Array:
        return (first * jnp.log(chain.stationary(matrix))).sum()

    def value(matrix: jax.Array) -> jax.Array:
        return (mass * jnp.log(matrix)).sum() + start(matrix)

    steps = jnp.concatenate([jnp.zeros(1, old.dtype), jnp.asarray(0.5, old.dtype) ** jnp.arange(12)])

    def best(matrix: jax.Array, target: jax.Array) -> jax.Array:
        options = matrix + steps[:, None, None] * (target - matrix)
        values = jax.vmap(value)(options)
        return options[jnp.argmax(jnp.where(jnp.isnan(values), -jnp.inf, values))]

    def round_(_: Any, matrix: jax.Array) -> jax.Array:
        slope = matrix * jax.grad(start)(matrix)
        pull = slope - matrix * slope.sum(-1, keepdims=True)
        target = jnp.maximum(mass + pull, 0.0)
        total = target.sum(-1, keepdims=True)
        return best(matrix, jnp.where(total > EMPTY, floored(target / jnp.maximum(total, EMPTY)), matrix))

    return jax.lax.fori_loop(0, ROUNDS, round_, best(old, closed))


def gamma_mode(statistics: Statistics, prior: tuple[Any, ...], old: jax.Array, objective: str) -> jax.Array:
    """Rates: (sum + a - 1) / (count + b)."""
    count, total = statistics["count"], statistics["first"]
    if objective == "ml":
        return jnp.where(count > EMPTY, jnp.maximum(total / jnp.maximum(count, EMPTY), MIN_RATE), old)
    shape, rate = (jnp.asarray(value, count.dtype) for value in prior)
    return jnp.maximum((total + shape - 1) / (count + rate), MIN_RATE)


def beta_mode(statistics: Statistics, prior: tuple[Any, ...], old: jax.Array, objective: str) -> jax.Array:
    """Probabilities: (ones + a - 1) / (count + a + b - 2), as far from 0 and 1 as single precision can hold."""
    count, ones = statistics["count"], statistics["first"]
    both = jnp.stack([ones, count - ones], -1)
    concentration = np.stack([np.asarray(value) for value in prior], -1)
    probs = simplex_mode(both, concentration, jnp.stack([old, 1 - old], -1), objective)[..., 0]
    return jnp.clip(probs, EDGE, 1 - EDGE)


def normal_sites(hyper: Hyperparameters, statistics: Statistics, old: Statistics, objective: str) -> dict[str, Any]:
    """``locs``, then ``scales`` (and ``corr_cholesky``) given them (ECM; Meng & Rubin 1993, Biometrika 80)."""
    full = "corr_cholesky" in old
    locs, scales = old["locs"], old["scales"]
    centre = locs.reshape(-1, locs.shape[-1]).mean(0)
    moved = locs - centre
    if "locs" not in hyper.fixed:
        find = _full_locations if full else _locations
        moved = find(hyper, statistics, moved, centre, old, objective)
    result = {"locs": moved + centre}
    if "scales" in hyper.fixed:
        return result
    if full:
        return result | _full_scales(hyper, statistics, moved, old, objective)
    pull, first, second = statistics["pull"], statistics["first"], statistics["second"]
    scatter = jnp.maximum(second - 2 * first * moved + pull * moved**2, 0.0)
    count = statistics["count"]
    if objective == "ml":
        variance = scatter / jnp.maximum(count, EMPTY)
    else:  # with a half-normal prior of scale tau the root of v^2 / tau^2 + N v = S
        precision = jnp.asarray(hyper.sites["scales"][1][0] ** -2.0, count.dtype)
        variance = positive_root(count, scatter * precision) / precision
    new = jnp.sqrt(jnp.maximum(variance, hyper.floor))
    # A state that holds next to nothing keeps its scale.
    return result | {"scales": jnp.where(count >= (1.0 if objective == "map" else EMPTY), new, scales)}


def _locations(
    hyper: Hyperparameters, statistics: Statistics, moved: jax.Array, centre: jax.Array, old: Statistics, objective: str
) -> jax.Array:
    """About the centre, independent columns: (sum / s^2 + m / t^2) / (N / s^2 + 1 / t^2)."""
    pull, first = statistics["pull"], statistics["first"]
    if objective == "ml":
        return jnp.where(pull > EMPTY, first / jnp.maximum(pull, EMPTY), moved)
    loc, spread = (jnp.asarray(value, first.dtype) for value in hyper.sites["locs"][1])
    ratio = (old["scales"] / spread) ** 2
    return (first + ratio * (loc - centre)) / (pull + ratio)


def _full_locations(
    hyper: Hyperparameters, statistics: Statistics, moved: jax.Array, centre: jax.Array, old: Statistics, objective: str
) -> jax.Array:
    """About the centre. MAP solves (N I + Sigma / t^2) mu = sum + Sigma m / t^2."""
    count, first = statistics["count"][:, None], statistics["first"]
    if objective == "ml":
        return jnp.where(count > EMPTY, first / jnp.maximum(count, EMPTY), moved)
    loc, spread = (jnp.asarray(value, first.dtype) for value in hyper.sites["locs"][1])
    scale = old["scales"][..., None] * old["corr_cholesky"]
    covariance = scale @ jnp.swapaxes(scale, -1, -2)
    left = count[..., None] * jnp.eye(first.shape[-1], dtype=first.dtype) + covariance / spread[:, None, :] ** 2
    right = first[..., None] + covariance @ ((loc - centre) / spread**2)[..., None]
    return jnp.linalg.solve(left, right)[..., 0]


def _full_scales(
    hyper: Hyperparameters, statistics: Statistics, locs: jax.Array, old: Statistics, objective: str
) -> dict[str, jax.Array]:
    count, cross = statistics["count"], statistics["first"][:, :, None] * locs[:, None, :]
    outer = count[:, None, None] * locs[:, :, None] * locs[:, None, :]
    scatter = statistics["second"] - cross - jnp.swapaxes(cross, -1, -2) + outer
    if objective == "ml":
        values, vectors = jnp.linalg.eigh(scatter / jnp.maximum(count, EMPTY)[:, None, None])
        factor = triangular(vectors * jnp.sqrt(jnp.maximum(values, hyper.floor))[:, None, :])
    else:
        factor = map_factor(
            count, scatter, old["scales"], old["corr_cholesky"], tau=hyper.sites["scales"][1][0],
            eta=hyper.sites["corr_cholesky"][1][1], floor=hyper.floor,
        )  # fmt: skip
    scales = jnp.linalg.norm(factor, axis=-1)
    alive = (count >= (1.0 if objective == "map" else EMPTY))[:, None]
    return {
        "scales": jnp.where(alive, scales, old["scales"]),
        "corr_cholesky": jnp.where(alive[..., None], factor / scales[..., None], old["corr_cholesky"]),
    }
