"""Markov chains of negatives in JAX: steps that leave a tempered density of the pair as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import blackjax
import jax
import jax.numpy as jnp

from ppl_gen.family import Pair
from ppl_gen.inference.contrastive.course import Plan

Weights = dict[str, jax.Array]
MAX_DOUBLINGS = 6  # of a trajectory of nuts: a training step waits for the longest of all chains


def move(
    pair: Pair, plan: Plan, weights: Weights, x: jax.Array, beta: Any, log_step: jax.Array, key: Any
) -> tuple[jax.Array, jax.Array]:
    """Chains (B, *row) after k steps, and the share of steps that the test accepts, or would accept.

    :param beta: () the inverse temperature.
    """
    keys = jax.random.split(key, plan.num_steps)
    if plan.sampler == "gibbs":
        assert pair.gibbs is not None
        sweep = pair.gibbs
        return jax.lax.scan(lambda x, key: (sweep(weights, x, beta, key), None), x, keys)[0], jnp.ones(())
    assert pair.tempered is not None
    tempered = pair.tempered

    def log_density(x: jax.Array) -> jax.Array:
        return tempered(weights, x, beta)

    step = jnp.exp(log_step)
    if plan.sampler == "nuts":
        return _nuts(log_density, x, step, keys)
    if plan.sampler == "langevin":
        return _langevin(log_density, x, step, keys)
    x, _, accepted = leapfrog(log_density, x, step, keys, plan.settings.num_leapfrog if plan.sampler == "hmc" else 1)
    return x, accepted


def _langevin(
    log_density: Callable[[jax.Array], jax.Array], x: jax.Array, step: jax.Array, keys: Any
) -> tuple[jax.Array, jax.Array]:
    """Steps without a test; the last one is tested for what it tells of the step size. A chain that has come to a
    density of 0, or of no number, is put back to where it began."""

    def one(x: jax.Array, key: Any) -> tuple[jax.Array, None]:
        slope = jax.grad(lambda x: log_density(x).sum())(x)
        return x + 0.5 * step**2 * slope + step * jax.random.normal(key, x.shape, x.dtype), None

    last, _ = jax.lax.scan(one, x, keys[:-1])
    last, value, accepted = leapfrog(log_density, last, step, keys[-1:], 1, test=False)
    return jnp.where(jnp.isfinite(value).reshape(-1, *(1,) * (x.ndim - 1)), last, x), accepted


def leapfrog(
    log_density: Callable[[jax.Array], jax.Array], x: jax.Array, step: jax.Array, keys: Any, leaps: int,
    test: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """Trajectories of ``leaps`` steps from momenta that are drawn anew, of one step those of Langevin's dynamics: the
    chains, their log densities, and the mean share of steps that the test accepts.

    :param test: whether proposals are rejected; else they are where their density is 0 or not a number alone.
    """

    def both(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, pull = jax.vjp(log_density, x)
        return value, pull(jnp.ones_like(value))[0]

    def rows(flags: jax.Array) -> jax.Array:
        return flags.reshape(-1, *(1,) * (x.ndim - 1))

    def kinetic(momentum: jax.Array) -> jax.Array:
        return 0.5 * (momentum**2).reshape(len(x), -1).sum(1)

    def one(state: tuple[jax.Array, ...], key: Any) -> tuple[tuple[jax.Array, ...], jax.Array]:
        x, value, slope = state
        key_momentum, key_test = jax.random.split(key)
        start = momentum = jax.random.normal(key_momentum, x.shape, x.dtype)
        y, new, at = x, value, slope
        for _ in range(leaps):
            momentum = momentum + 0.5 * step * at
            y = y + step * momentum
            new, at = both(y)
            momentum = momentum + 0.5 * step * at
        log_ratio = (new - kinetic(momentum)) - (value - kinetic(start))
        accept = jnp.nan_to_num(jnp.exp(jnp.minimum(log_ratio, 0.0)), nan=0.0)
        goes = jnp.isfinite(new)
        if test:
            goes &= jax.random.uniform(key_test, accept.shape, accept.dtype) < accept
        kept = jnp.where(rows(goes), y, x), jnp.where(goes, new, value), jnp.where(rows(goes), at, slope)
        return kept, accept.mean()

    (x, value, _), accepted = jax.lax.scan(one, (x, *both(x)), keys)
    return x, value, accepted.mean()


def _nuts(
    log_density: Callable[[jax.Array], jax.Array], x: jax.Array, step: jax.Array, keys: Any
) -> tuple[jax.Array, jax.Array]:
    shape, size = x.shape[1:], x[0].size
    kernel = blackjax.nuts.build_kernel()

    def density(row: jax.Array) -> jax.Array:
        return log_density(row.reshape(1, *shape))[0]

    def one(row: jax.Array, key: Any) -> tuple[jax.Array, jax.Array]:
        def again(state: Any, key: Any) -> tuple[Any, jax.Array]:
            state, info = kernel(key, state, density, step, jnp.ones(size), max_num_doublings=MAX_DOUBLINGS)
            return state, info.acceptance_rate

        state, accepted = jax.lax.scan(again, blackjax.nuts.init(row.reshape(-1), density), key)
        return state.position.reshape(shape), accepted.mean()

    each = jax.vmap(lambda key: jax.random.split(key, len(x)), out_axes=1)(keys)  # (B, k)
    x, accepted = jax.vmap(one)(x, each)
    return x, accepted.mean()


def move_all(
    pair: Pair, plan: Plan, weights: Weights, chains: jax.Array, log_step: jax.Array, key: Any, parity: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Chains (R, B, *row) at the inverse temperatures of the plan after k steps, and R shares of accepted steps;
    neighbours have changed places. Those at 0 are drawn anew.

    :param parity: () whether the first of the pairs of neighbours begins at the second temperature.
    """
    if len(plan.betas) == 1:
        x, accepted = move(pair, plan, weights, chains[0], 1.0, log_step[0], key)
        return x[None], accepted[None]
    assert pair.draw_base is not None
    key_move, key_base, key_swap = jax.random.split(key, 3)
    warm = jnp.asarray(plan.betas[:-1], log_step.dtype)
    keys = jax.random.split(key_move, len(warm))
    moved, accepted = jax.vmap(lambda x, beta, step, key: move(pair, plan, weights, x, beta, step, key))(
        chains[:-1], warm, log_step[:-1], keys
    )
    base = pair.draw_base(weights, chains.shape[1], key_base).astype(chains.dtype)
    accepted = jnp.append(accepted, plan.target)  # there is no step at the base
    return swap(pair, plan, weights, jnp.concatenate([moved, base[None]]), key_swap, parity), accepted


def swap(pair: Pair, plan: Plan, weights: Weights, chains: jax.Array, key: Any, parity: jax.Array) -> jax.Array:
    """Neighbouring temperatures exchange their states where Metropolis' test accepts."""
    assert pair.tempered is not None
    tempered = pair.tempered
    betas, number = jnp.asarray(plan.betas, chains.dtype), len(plan.betas)

    def at(x: jax.Array, beta: jax.Array) -> jax.Array:
        return tempered(weights, x, beta)

    own = jax.vmap(at)(chains, betas)
    colder, warmer = jax.vmap(at)(chains[1:], betas[:-1]), jax.vmap(at)(chains[:-1], betas[1:])
    log_ratio = colder + warmer - own[:-1] - own[1:]  # (R - 1, B)
    chance = jax.random.uniform(key, log_ratio.shape, log_ratio.dtype)
    accept = (jnp.log(chance) < log_ratio) & (jnp.arange(number - 1) % 2 == parity)[:, None]
    none = jnp.zeros((1, accept.shape[1]), bool)
    place = jnp.arange(number)[:, None] + jnp.concatenate([accept, none]) - jnp.concatenate([none, accept]).astype(int)
    place = place.reshape(*place.shape, *(1,) * (chains.ndim - 2))
    return jnp.take_along_axis(chains, place, axis=0)
