"""Paths of a hidden Markov chain in JAX: most probable, drawn and simulated; the twin of ``pyro_walks``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ppl_gen.models.hmm.numpyro_chain import exact_log, steps_inside


def most_probable_path(
    initial: jax.Array, transition: jax.Array, log_emission: jax.Array, lengths: jax.Array | None = None
) -> jax.Array:
    """(N, T): the path of largest joint density (Viterbi). Past the end it stays in its last state."""
    return best_path(initial, exact_log(transition), log_emission, lengths)


def best_path(
    initial: jax.Array, log_steps: jax.Array, log_emission: jax.Array, lengths: jax.Array | None
) -> jax.Array:
    """:func:`most_probable_path` by log transitions, (K, K), or (T - 1, N, K, K) where steps differ."""
    emission, own = jnp.swapaxes(log_emission, 0, 1), log_steps if log_steps.ndim == 4 else None
    num_sequences, num_steps, k = log_emission.shape
    inside = steps_inside(jnp.full(num_sequences, num_steps) if lengths is None else lengths, num_steps)

    def step(last: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        now, go_on, log_step = inputs[0], inputs[1][:, None], inputs[2]
        scores = last[:, :, None] + (log_steps if log_step is None else log_step)
        best = jnp.where(go_on, scores.argmax(1), jnp.arange(k))
        return jnp.where(go_on, scores.max(1) + now, last), best

    def back(state: jax.Array, pointers: jax.Array) -> tuple[jax.Array, jax.Array]:
        before = jnp.take_along_axis(pointers, state[:, None], axis=1)[:, 0]
        return before, before

    final, pointers = jax.lax.scan(step, exact_log(initial) + emission[0], (emission[1:], inside[1:], own))
    last = final.argmax(-1)
    _, path = jax.lax.scan(back, last, pointers, reverse=True)
    return jnp.concatenate([path, last[None]]).T


def sample_paths(key: jax.Array, transition: jax.Array, filtered: jax.Array) -> jax.Array:
    """(N, T): a draw of the path given the whole sequence, backwards from the filtered probabilities (N, T, K)."""
    log_to = exact_log(transition).T  # (next, state)
    table = jnp.swapaxes(exact_log(filtered), 0, 1)
    noise = jax.random.gumbel(key, table.shape, table.dtype)

    def back(state: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        now, gumbel = inputs
        state = (now + log_to[state] + gumbel).argmax(-1)
        return state, state

    last = (table[-1] + noise[-1]).argmax(-1)
    _, path = jax.lax.scan(back, last, (table[:-1], noise[:-1]), reverse=True)
    return jnp.concatenate([path, last[None]]).T


def simulate(key: jax.Array, start: jax.Array, transition: jax.Array, num_steps: int) -> jax.Array:
    """(..., num_steps): a path from the model; ``start`` (..., K) are the probabilities of its first state."""
    log_transition = exact_log(transition)
    noise = jax.random.gumbel(key, (num_steps, *start.shape), start.dtype)

    def step(state: jax.Array, gumbel: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = (log_transition[state] + gumbel).argmax(-1)
        return state, state

    first = (exact_log(start) + noise[0]).argmax(-1)
    _, rest = jax.lax.scan(step, first, noise[1:])
    return jnp.moveaxis(jnp.concatenate([first[None], rest]), 0, -1)
