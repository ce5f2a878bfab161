"""Chains in the latent space of a generator in JAX: annealed from the prior of z to its posterior, and walking there.

The density at inverse temperature b is p(z) exp(b l(z)); l is the log density of a row under the observation model, or
the discriminator's log ratio. Both are read off the pair's model by handlers. Rows lie side by side, each with its own
temperatures, step sizes, chains and random numbers, so that nothing of one depends on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.smc.resampling import systematic
from numpyro import handlers

from ppl_gen.annealing import JITTER, Moves
from ppl_gen.backends.numpyro_ops import as_jax
from ppl_gen.backends.numpyro_programs import Program, one_per_core
from ppl_gen.latent_paths import BISECTIONS, HOLD, LATENT, LOWEST, RATIO, RESAMPLE_BELOW, START_MOVES, Annealed, RowPath
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.pair import Pair

SMALL = 1_000_000_000  # chains x gradients of each x weights


def over_blocks(function: Callable[..., Any], *arguments: list[Any]) -> list[Any]:
    """``function`` of each block's arguments, one block per core at a time."""
    if len(arguments[0]) < 2:
        return [function(*one) for one in zip(*arguments, strict=True)]
    first = function(*(part[0] for part in arguments))  # which compiles, once
    return [first, *one_per_core(function, *(part[1:] for part in arguments))]


def anneal(
    pair: Pair, target: str, parameters: Mapping[str, np.ndarray], view: View, path: RowPath, moves: Moves,
    seeds: np.ndarray, num_chains: int, adaptive: bool = False, starts: np.ndarray | None = None,
) -> Annealed:  # fmt: skip
    """Chains along a path, of each row; see :class:`ppl_gen.latent_paths.Annealed`.

    :param view: R rows; of the target :data:`RATIO` without ``x``, and without context one row that is nothing.
    :param seeds: (R,) of each row's random numbers.
    :param adaptive: choose temperatures and step sizes on the way, and resample, up to the length of the path.
    :param starts: (R, K, L) where chains begin; by default draws of the prior.
    """
    key = ("anneal", target, moves, num_chains)
    program = pair.cached(key, lambda: Program(partial(_run, pair, target, moves), SMALL))
    dtype = jnp.result_type(float)
    shape = (len(seeds), num_chains, pair.latent_size)
    given = jnp.zeros(shape, dtype) if starts is None else jnp.asarray(starts, dtype)
    arrays = (jnp.asarray(path.beta, dtype), jnp.asarray(path.log_step, dtype))
    size = _work(parameters, len(seeds) * num_chains * len(path.beta), moves)
    found = program(size, as_jax(parameters), _arrays(view), given, starts is None, *arrays, path.length, adaptive,
                    jnp.asarray(seeds, jnp.uint32))  # fmt: skip
    return Annealed(**{name: np.asarray(value) for name, value in found.items()}).cut()


def walk(
    pair: Pair, target: str, parameters: Mapping[str, np.ndarray], view: View, z: np.ndarray, log_step: np.ndarray,
    moves: Moves, num_states: int, thinning: int, seeds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(R, K, T, L): states of chains from ``z`` (R, K, L) at inverse temperature 1, ``thinning`` times ``moves`` apart;
    and the acceptance rate of each row."""
    key = ("walk", target, moves, num_states, thinning)
    program = pair.cached(key, lambda: Program(partial(_walk, pair, target, moves, num_states, thinning), SMALL))
    dtype = jnp.result_type(float)
    size = _work(parameters, z.shape[0] * z.shape[1] * num_states * thinning, moves)
    states, rate = program(size, as_jax(parameters), _arrays(view), jnp.asarray(z, dtype), jnp.asarray(log_step, dtype),
                           jnp.asarray(seeds, jnp.uint32))  # fmt: skip
    return np.moveaxis(np.asarray(states), 0, 2), np.asarray(rate)


def simulate(
    pair: Pair, parameters: Mapping[str, np.ndarray], number: int, seed: int, context: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(number, L) and (number, D): z from its prior, and rows from the observation model given z."""

    def draw(parameters: Any, context: Any, key: Any) -> Any:
        key_model, key_row = jax.random.split(key)
        given = None if context is None else View(None, context=context)
        model = handlers.seed(handlers.substitute(pair.model, data=parameters), key_model)
        drawn = handlers.trace(model).get_trace(given, num_obs=number)
        z = drawn[LATENT]["value"]
        data = View(jnp.asarray(drawn["x"]["value"], z.dtype), context=context)
        fn = _trace(pair, parameters, z, data)["x"]["fn"]
        return z, jnp.asarray(fn.sample(key_row), z.dtype)

    program = pair.cached(("simulate", number), lambda: jax.jit(draw))
    given = None if context is None else jnp.asarray(context, dtype=float)
    z, x = program(as_jax(parameters), given, jax.random.key(seed))
    return np.asarray(z), np.asarray(x)


def generate(
    pair: Pair, parameters: Mapping[str, np.ndarray], z: np.ndarray, context: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows G(z) (n, D) of z (n, L), and the discriminator's log ratio (n,) at these rows, as the networks see them."""

    def both(parameters: Any, z: Any, context: Any) -> Any:
        view = View(z, context=context)
        return pair.generate(parameters, view), pair.log_ratio(parameters, view)  # type: ignore[misc]

    program = pair.cached("generate", lambda: jax.jit(both))
    given = None if context is None else jnp.asarray(context, dtype=float)
    x, ratio = program(as_jax(parameters), jnp.asarray(z, dtype=float), given)
    return np.asarray(x), np.asarray(ratio)


def _work(parameters: Mapping[str, np.ndarray], number: int, moves: Moves) -> int:
    """What so many moves cost, in the units of :data:`SMALL`."""
    weights = sum(int(np.size(value)) for value in parameters.values())
    return number * moves.number * moves.num_leapfrogs * weights


def _arrays(view: View) -> View:
    return jax.tree.map(jnp.asarray, view._replace(weights=None))


def _trace(pair: Pair, parameters: Any, z: Any, view: View | None, **options: Any) -> Any:
    model = handlers.substitute(pair.model, data={**parameters, LATENT: z})
    return handlers.trace(handlers.seed(model, jax.random.key(0))).get_trace(view, **options)


def _terms(pair: Pair, target: str, parameters: Any, z: Any, view: View) -> tuple[Any, Any]:
    """log p(z) and l(z), each (n,), of z (n, L) for the rows of a view."""
    if target == RATIO:
        given = None if view.context is None else View(None, context=view.context)
        sites = _trace(pair, parameters, z, given, num_obs=len(z), realness=True)
        found = sites[RATIO]["fn"].log_prob(sites[RATIO]["value"])
    else:
        sites = _trace(pair, parameters, z, view)
        found = sites["x"]["fn"].log_prob(sites["x"]["value"])
    found = jnp.maximum(jnp.where(jnp.isnan(found), LOWEST, found), LOWEST)
    return sites[LATENT]["fn"].log_prob(z), found


def _move(
    pair: Pair, target: str, moves: Moves, parameters: Any, z: Any, view: View, beta: Any, log_step: Any, keys: Any
) -> tuple[Any, Any]:
    """``moves.number`` trajectories of each chain: states (R, K, L), and the mean acceptance rate of each row."""
    kernel, unit = blackjax.hmc.build_kernel(), jnp.ones(z.shape[-1], z.dtype)

    def chain(z: Any, key: Any, row: View, beta: Any, log_step: Any) -> tuple[Any, Any]:
        one = jax.tree.map(lambda leaf: leaf[None], row)

        def density(u: Any) -> Any:
            prior, found = _terms(pair, target, parameters, u[None], one)
            return prior[0] + beta * found[0]

        def step(i: Any, carry: Any) -> Any:
            state, total = carry
            key_size, key_step = jax.random.split(jax.random.fold_in(key, i))
            size = jnp.exp(log_step) * jax.random.uniform(key_size, (), z.dtype, 1 - JITTER, 1 + JITTER)
            state, info = kernel(key_step, state, density, size, unit, moves.num_leapfrogs)
            return state, total + jnp.nan_to_num(info.acceptance_rate)

        start = (blackjax.hmc.init(z, density), jnp.zeros((), z.dtype))
        state, total = jax.lax.fori_loop(0, moves.number, step, start)
        return state.position, total / moves.number

    keys = jax.vmap(lambda key: jax.random.split(key, z.shape[1]))(keys)
    over_chains = jax.vmap(chain, (0, 0, None, None, None))
    z, rates = jax.vmap(over_chains)(z, keys, view, beta, log_step)
    return z, rates.mean(1)


def _of_rows(pair: Pair, target: str, parameters: Any, z: Any, view: View) -> Any:
    """l(z) of chains (R, K, L): (R, K)."""
    rows, chains = z.shape[:2]
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, chains, axis=0), view)
    return _terms(pair, target, parameters, z.reshape(rows * chains, -1), repeated)[1].reshape(rows, chains)


def _run(
    pair: Pair, target: str, moves: Moves, parameters: Any, view: View, z: Any, draw: Any, betas: Any, log_steps: Any,
    length: Any, adaptive: Any, seeds: Any,
) -> dict[str, Any]:  # fmt: skip
    rows, chains, dtype = z.shape[0], z.shape[1], z.dtype
    last, keys = len(betas) - 1, jax.vmap(jax.random.key)(seeds)
    rate = jnp.where(adaptive, moves.rate, 0.0).astype(dtype)

    def next_beta(found: Any, log_weights: Any, beta: Any) -> Any:
        w = jax.nn.softmax(log_weights)

        def conditional_ess(at: Any) -> Any:
            gain = (at - beta) * found
            ratio = jnp.exp(gain - gain.max())
            return (w * ratio).sum() ** 2 / (w * ratio**2).sum()

        def halve(_: Any, bounds: Any) -> Any:
            # Between 0 and the first temperature lie powers of ten, so that low ones are found by halving ratios.
            low, high = bounds
            middle = jnp.where(low > 0, jnp.sqrt(jnp.maximum(low, 1e-30) * high), 1e-3 * high)
            middle = jnp.where(high < 4 * low, 0.5 * (low + high), middle)
            good = conditional_ess(middle) >= moves.conditional_ess
            return jnp.where(good, middle, low), jnp.where(good, high, middle)

        one = jnp.ones((), dtype)
        low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (beta, one))
        return jnp.where(conditional_ess(one) >= moves.conditional_ess, one, jnp.where(low > beta, low, high))

    def resampled(keys: Any, z: Any, log_weights: Any) -> tuple[Any, Any]:
        w = jax.nn.softmax(log_weights, axis=1)
        low = 1 / (w**2).sum(1) < RESAMPLE_BELOW * chains
        chosen = jax.vmap(lambda key, w: systematic(key, w, chains))(keys, w)
        again = jnp.take_along_axis(z, chosen[..., None], axis=1)
        return jnp.where(low[:, None, None], again, z), jnp.where(low[:, None], 0.0, log_weights)

    def body(state: Any) -> Any:
        at, z, log_weights, log_step, records = state
        here = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, at)))(keys)
        beta, found = records["beta"][at], _of_rows(pair, target, parameters, z, view)
        chooses = adaptive & (at >= START_MOVES) & ((at - START_MOVES) % HOLD == 0)
        chosen = jax.lax.cond(chooses, jax.vmap(next_beta), lambda *same: same[2], found, log_weights, beta)
        chosen = jnp.where(chooses & (at >= length - HOLD), 1.0, chosen)
        after = jnp.where(adaptive, chosen, betas[at + 1])
        log_weights = log_weights + (after - beta)[:, None] * found
        z, log_weights = jax.lax.cond(adaptive, resampled, lambda _, *same: same, here[:, 0], z, log_weights)
        log_step = jnp.where(adaptive, log_step, log_steps[at + 1])
        z, accepted = _move(pair, target, moves, parameters, z, view, after, log_step, here[:, 1])
        log_step = log_step + rate * (accepted - moves.target_accept)
        values = {"beta": after, "log_step": log_step, "acceptance": accepted}
        records = {name: part.at[at + 1].set(values[name]) for name, part in records.items()}
        return at + 1, z, log_weights, log_step, records

    def go_on(state: Any) -> Any:
        there = (state[4]["beta"][state[0]] >= 1).all() & ((state[0] - START_MOVES) % HOLD == 0)
        return (state[0] < length) & ~(adaptive & there)

    prior = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 2**31), z.shape[1:], dtype))(keys)
    records = {name: jnp.zeros((last + 1, rows), dtype) for name in ("beta", "log_step", "acceptance")}
    records["beta"] = records["beta"].at[0].set(betas[0])
    records["log_step"] = records["log_step"].at[0].set(log_steps[0])
    start = (0, jnp.where(draw, prior, z), jnp.zeros((rows, chains), dtype), log_steps[0], records)
    at, z, log_weights, _, records = jax.lax.while_loop(go_on, body, start)
    return {"z": z, "log_weights": log_weights, "length": at, **records}


def _walk(
    pair: Pair, target: str, moves: Moves, num_states: int, thinning: int, parameters: Any, view: View, z: Any,
    log_step: Any, seeds: Any,
) -> tuple[Any, Any]:  # fmt: skip
    keys, beta = jax.vmap(jax.random.key)(seeds), jnp.ones(len(seeds), z.dtype)

    def kept(z: Any, i: Any) -> Any:
        def step(j: Any, carry: Any) -> Any:
            here = jax.vmap(lambda key: jax.random.fold_in(key, i * thinning + j))(keys)
            return _move(pair, target, moves, parameters, carry[0], view, beta, log_step, here)

        z, accepted = jax.lax.fori_loop(0, thinning, step, (z, jnp.zeros(len(seeds), z.dtype)))
        return z, (z, accepted)

    _, (states, accepted) = jax.lax.scan(kept, z, jnp.arange(num_states))
    return states, accepted.mean(0)
