"""Particles along the path of an unnormalised density in JAX: weighted, resampled and moved, as one program.

One compiled program serves a pilot, which chooses inverse temperatures and step sizes as it goes, a run along a path
that is given, forward or backward, and steps at one temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.smc.resampling import systematic
from jax.scipy.special import logsumexp

from ppl_gen.annealing import BISECTIONS, JITTER, RESAMPLE_BELOW, START_MOVES, Moves, Path, Run, Swaps, Walk, first_step
from ppl_gen.backends.numpyro_ops import as_jax
from ppl_gen.backends.numpyro_programs import Program, one_per_core

if TYPE_CHECKING:
    from ppl_gen.pair import Pair

SMALL = 2_000_000  # numbers x temperatures


def over_members(function: Callable[[int], Any], number: int) -> list[Any]:
    """``function`` of each member, one per core at a time."""
    return one_per_core(function, range(number))


def member(parameters: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The parameters of one member in the default float."""
    return as_jax(parameters)


def base(pair: Pair, parameters: Mapping[str, Any], number: int, seed: int) -> np.ndarray:
    """(number, *row): draws of the base."""
    draw = pair.draw_base
    assert draw is not None
    program = pair.cached(("draw_base", number), lambda: jax.jit(lambda one, key: draw(one, number, key)))
    return np.asarray(program(parameters, jax.random.key(seed)))


def normalizer(pair: Pair, parameters: Mapping[str, Any]) -> float:
    """log Z as the pair knows it."""
    return float(pair.cached("log_normalizer", lambda: jax.jit(pair.log_normalizer))(parameters))


def log_density(pair: Pair, parameters: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """(n,): of rows ``x`` (n, *row), unnormalised."""
    program = pair.cached("log_density", lambda: jax.jit(lambda one, x: _log_density(pair, one, x, 1.0)))
    return np.asarray(program(parameters, jnp.asarray(x, jnp.result_type(float))))


def run(
    pair: Pair, parameters: Mapping[str, Any], x: np.ndarray, path: Path, moves: Moves, seed: int, *, groups: int,
    adaptive: bool = False, resample: bool = True,
) -> Run:  # fmt: skip
    """Particles ``x`` (N, *row) along a path; see :class:`ppl_gen.annealing.Run`.

    :param adaptive: choose temperatures, scales and step sizes on the way, up to the length of the path.
    """
    program = pair.cached(("tempering", moves, groups), lambda: Program(partial(_run, pair, moves, groups), SMALL))
    dtype = jnp.result_type(float)
    arrays = [jnp.asarray(part, dtype) for part in (x, *path.arrays)]
    found = program(x.size * len(path.beta), parameters, *arrays, path.length, adaptive, resample, jax.random.key(seed))
    return Run(**{name: np.asarray(value) for name, value in found.items()}).cut(START_MOVES if adaptive else 0)


def walk(
    pair: Pair, parameters: Mapping[str, Any], x: np.ndarray, scale: np.ndarray, plan: Walk, seed: int
) -> tuple[np.ndarray, float]:
    """(C, T, *row): states of chains from ``x`` (C, *row) at inverse temperature 1; and their acceptance rate."""
    program = pair.cached(("walk", plan), lambda: Program(partial(_walk, pair, plan), SMALL))
    dtype = jnp.result_type(float)
    size = x.size * plan.num_states * plan.thinning
    states, rate = program(size, parameters, jnp.asarray(x, dtype), jnp.asarray(scale, dtype), jax.random.key(seed))
    return np.moveaxis(np.asarray(states), 0, 1), float(rate)


def exchange(
    pair: Pair, parameters: Mapping[str, Any], x: np.ndarray, path: Path, plan: Swaps, seed: int
) -> dict[str, np.ndarray]:
    """Parallel tempering from ``x`` (K, C, *row), C chains at each of the path's K temperatures, from 0 to 1: the
    states ``x`` (C, T, *row) at 1, their log density ``lp``, and the rates at which moves (``acceptance_rate``) and
    exchanges (``swap_rate``) are accepted, (C, T)."""
    program = pair.cached(("exchange", plan), lambda: Program(partial(_exchange, pair, plan), SMALL))
    arrays = [jnp.asarray(part, jnp.result_type(float)) for part in (x, *path.arrays)]
    size = x.size * plan.num_states * plan.thinning
    found = program(size, parameters, *arrays, jax.random.key(seed))
    return {name: np.moveaxis(np.asarray(value), 0, 1) for name, value in found.items()}


class _State(NamedTuple):
    number: Any
    x: Any
    log_weights: Any  # since the last resampling
    log_normalizer: Any  # (groups,) up to then
    log_step: Any
    records: dict[str, Any]


def _log_density(pair: Pair, parameters: Any, x: jax.Array, at: Any) -> jax.Array:
    found = pair.tempered(parameters, x, at)  # type: ignore[misc]
    return jnp.where(jnp.isnan(found), -jnp.inf, found)


def _move(
    pair: Pair, moves: Moves, parameters: Any, x: jax.Array, at: Any, scale: jax.Array, log_step: Any, rate: Any,
    key: Any,
) -> tuple[jax.Array, Any, Any]:  # fmt: skip
    """Moves that leave the density at this temperature as it is: states, log step size and acceptance rate. The step
    size is adapted by ``rate``."""
    if pair.gibbs is not None:
        x = jax.lax.fori_loop(
            0, moves.number, lambda i, x: pair.gibbs(parameters, x, at, jax.random.fold_in(key, i)), x
        )
        return x, log_step, jnp.ones((), x.dtype)
    kernel = blackjax.hmc.build_kernel()

    def density(u: jax.Array) -> jax.Array:
        return _log_density(pair, parameters, u.reshape(1, *x.shape[1:]), at)[0]

    def step(i: Any, carry: Any) -> Any:
        states, log_step, _ = carry
        keys = jax.random.split(jax.random.fold_in(key, i), len(x))

        def one(state: Any, key: Any) -> tuple[Any, Any]:
            key, key_size = jax.random.split(key)
            size = jnp.exp(log_step) * jax.random.uniform(key_size, (), x.dtype, 1 - JITTER, 1 + JITTER)
            state, info = kernel(key, state, density, size, scale**2, moves.num_leapfrogs)
            return state, info.acceptance_rate

        states, accepted = jax.vmap(one)(states, keys)
        mean = jnp.nan_to_num(accepted).mean()
        return states, log_step + rate * (mean - moves.target_accept), mean

    states = jax.vmap(lambda u: blackjax.hmc.init(u, density))(x.reshape(len(x), -1))
    states, log_step, accepted = jax.lax.fori_loop(0, moves.number, step, (states, log_step, jnp.zeros((), x.dtype)))
    return states.position.reshape(x.shape), log_step, accepted


def _run(
    pair: Pair, moves: Moves, groups: int, parameters: Any, x: jax.Array, betas: jax.Array, scales: jax.Array,
    log_steps: jax.Array, length: Any, adaptive: Any, resample: Any, key: Any,
) -> dict[str, jax.Array]:  # fmt: skip
    number, dtype, each = len(x), x.dtype, len(x) // groups
    last, rate = len(betas) - 1, jnp.where(adaptive, moves.rate, 0.0).astype(dtype)

    def weights(log_weights: jax.Array) -> jax.Array:
        return jax.nn.softmax(log_weights.reshape(groups, each), axis=1)

    def spread(x: jax.Array, log_weights: jax.Array) -> jax.Array:
        flat, w = x.reshape(number, -1), weights(log_weights).reshape(number, 1) / groups
        mean = (w * flat).sum(0)
        found = jnp.sqrt((w * (flat - mean) ** 2).sum(0))
        return jnp.maximum(found, 1e-3 * found.max() + 1e-6)

    def next_beta(state: _State, beta: Any, current: jax.Array) -> jax.Array:
        w = weights(state.log_weights)

        def conditional_ess(at: Any) -> jax.Array:
            gain = (_log_density(pair, parameters, state.x, at) - current).reshape(groups, each)
            ratio = jnp.exp(gain - gain.max(1, keepdims=True))
            return ((w * ratio).sum(1) ** 2 / (w * ratio**2).sum(1)).mean()

        def halve(_: Any, bounds: tuple[Any, Any]) -> tuple[Any, Any]:
            low, high = bounds
            middle = 0.5 * (low + high)
            good = conditional_ess(middle) >= moves.conditional_ess
            return jnp.where(good, middle, low), jnp.where(good, high, middle)

        one = jnp.ones((), dtype)
        learning = state.number < START_MOVES
        reached = (conditional_ess(one) >= moves.conditional_ess) | (state.number == last - 1)
        found, high = jax.lax.fori_loop(0, BISECTIONS, halve, (beta, one))
        return jnp.where(learning, beta, jnp.where(reached, one, jnp.where(found > beta, found, high)))

    def body(state: _State) -> _State:
        at, beta = state.number, state.records["beta"][state.number]
        key_resample, key_move = jax.random.split(jax.random.fold_in(key, at))
        current = _log_density(pair, parameters, state.x, beta)
        after = jax.lax.cond(adaptive, lambda: next_beta(state, beta, current), lambda: betas[at + 1])
        gain = _log_density(pair, parameters, state.x, after) - current
        gain = jnp.where(jnp.isnan(gain), -jnp.inf, gain)
        log_weights = state.log_weights + gain
        ess = 1 / (each * (weights(log_weights) ** 2).sum(1)).mean()
        log_mean = logsumexp(log_weights.reshape(groups, each), axis=1) - jnp.log(each)
        total = (state.log_normalizer[:, None] + log_weights.reshape(groups, each)).reshape(-1)
        again = resample & (ess < RESAMPLE_BELOW)

        def resampled() -> tuple[jax.Array, jax.Array, jax.Array]:
            keys = jax.random.split(key_resample, groups)
            chosen = jax.vmap(lambda key, w: systematic(key, w, each))(keys, weights(log_weights))
            chosen = (chosen + each * jnp.arange(groups)[:, None]).reshape(-1)
            return state.x[chosen], jnp.zeros_like(log_weights), state.log_normalizer + log_mean

        x, kept, log_normalizer = jax.lax.cond(again, resampled, lambda: (state.x, log_weights, state.log_normalizer))
        scale = jnp.where(adaptive, spread(x, kept), scales[at + 1])
        log_step = jnp.where(adaptive, state.log_step, log_steps[at + 1])
        x, log_step, accepted = _move(pair, moves, parameters, x, after, scale, log_step, rate, key_move)
        values = {
            "beta": after, "total": total, "gain": gain, "log_normalizer": state.log_normalizer + log_mean,
            "ess": ess, "acceptance": accepted, "scale": scale, "log_step": log_step,
        }  # fmt: skip
        records = {name: part.at[at + 1].set(values[name]) for name, part in state.records.items()}
        return _State(at + 1, x, kept, log_normalizer, log_step, records)

    def go_on(state: _State) -> jax.Array:
        there = state.records["beta"][state.number] >= 1
        return (state.number < length) & ~(adaptive & there)

    size = x.reshape(number, -1).shape[1]
    scale = jnp.where(adaptive, spread(x, jnp.zeros(number, dtype)), scales[0])
    log_step = jnp.where(adaptive, jnp.log(first_step(size)).astype(dtype), log_steps[0])
    shapes = {
        "beta": (), "total": (number,), "gain": (number,), "log_normalizer": (groups,), "ess": (), "acceptance": (),
        "scale": (size,), "log_step": (),
    }  # fmt: skip
    records = {name: jnp.zeros((last + 1, *shape), dtype) for name, shape in shapes.items()}
    first = {"beta": betas[0], "ess": 1.0, "acceptance": 1.0, "scale": scale, "log_step": log_step}
    records = {name: part.at[0].set(first[name]) if name in first else part for name, part in records.items()}
    start = _State(0, x, jnp.zeros(number, dtype), jnp.zeros(groups, dtype), log_step, records)
    state = jax.lax.while_loop(go_on, body, start)
    log_weights = (state.log_normalizer[:, None] + state.log_weights.reshape(groups, each)).reshape(-1)
    return {"x": state.x, "length": state.number, "log_weights": log_weights, **state.records}


def _walk(
    pair: Pair, plan: Walk, parameters: Any, x: jax.Array, scale: jax.Array, key: Any
) -> tuple[jax.Array, jax.Array]:
    one, warmup = jnp.ones((), x.dtype), -(-plan.num_warmup // plan.thinning)

    def kept(carry: Any, i: Any) -> Any:
        rate = jnp.where(i < warmup, plan.moves.rate, 0.0).astype(x.dtype)

        def step(j: Any, carry: Any) -> Any:
            key_step = jax.random.fold_in(key, i * plan.thinning + j)
            return _move(pair, plan.moves, parameters, carry[0], one, scale, carry[1], rate, key_step)

        x_, log_step, accepted = jax.lax.fori_loop(0, plan.thinning, step, (*carry, one))
        return (x_, log_step), (x_, accepted)

    start = (x, jnp.log(first_step(scale.size)).astype(x.dtype))
    _, (states, accepted) = jax.lax.scan(kept, start, jnp.arange(warmup + plan.num_states))
    return states[warmup:], accepted[warmup:].mean()


def _exchange(
    pair: Pair,
    plan: Swaps,
    parameters: Any,
    x: jax.Array,
    betas: jax.Array,
    scales: jax.Array,
    log_steps: jax.Array,
    key: Any,
) -> dict[str, jax.Array]:
    levels, chains = x.shape[:2]
    zero, level = jnp.zeros((), x.dtype), jnp.arange(levels)

    def density(x: jax.Array, betas: jax.Array) -> jax.Array:
        return jax.vmap(lambda x, at: _log_density(pair, parameters, x, at))(x, betas)

    def sweep(number: Any, carry: Any) -> Any:
        x = carry[0]
        key_base, key_move, key_swap = jax.random.split(jax.random.fold_in(key, number), 3)
        keys = jax.random.split(key_move, levels)
        x, _, accepted = jax.vmap(
            lambda x, at, scale, log_step, key: _move(pair, plan.moves, parameters, x, at, scale, log_step, zero, key)
        )(x, betas, scales, log_steps, keys)
        x = x.at[0].set(pair.draw_base(parameters, chains, key_base))  # type: ignore[misc]
        above = jnp.minimum(level + 1, levels - 1)
        same = density(x, betas)
        gain = density(x, betas[above]) + density(x[above], betas) - same - same[above]
        swap = jnp.log(jax.random.uniform(key_swap, gain.shape)) < jnp.where(jnp.isnan(gain), -jnp.inf, gain)
        lower = ((level % 2 == number % 2) & (level < levels - 1))[:, None]  # of a pair that may change places
        up = lower & swap
        down = jnp.concatenate([jnp.zeros((1, chains), bool), up[:-1]])
        source = level[:, None] + up - down
        x = jnp.take_along_axis(x, source.reshape(levels, chains, *[1] * (x.ndim - 2)), axis=0)
        lp = density(x[-1:], betas[-1:])[0]
        return x, lp, jnp.broadcast_to(accepted[-1], (chains,)), carry[3] + up.sum(0), carry[4] + lower.sum()

    def kept(carry: tuple[jax.Array, jax.Array], i: Any) -> Any:
        x, rate = carry
        first, none = i * plan.thinning, jnp.zeros((), int)
        start = (x, jnp.zeros(chains, x.dtype), jnp.zeros(chains, x.dtype), jnp.zeros(chains, int), none)
        x, lp, accepted, swaps, pairs = jax.lax.fori_loop(first, first + plan.thinning, sweep, start)
        rate = jnp.where(pairs > 0, swaps / jnp.maximum(pairs, 1), rate).astype(x.dtype)  # none: as before
        return (x, rate), {"x": x[-1], "lp": lp, "acceptance_rate": accepted, "swap_rate": rate}

    warmup = -(-plan.num_warmup // plan.thinning)
    _, found = jax.lax.scan(kept, (x, jnp.zeros(chains, x.dtype)), jnp.arange(warmup + plan.num_states))
    return {name: value[warmup:] for name, value in found.items()}
