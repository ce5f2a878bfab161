r"""A hidden Markov chain whose transitions differ from step to step, in JAX: the recursions of ``numpyro_chain`` and
the paths of ``numpyro_walks``, in log space.

Shapes: N sequences of T steps, K states; ``transition`` (N, T - 1, K, K) holds :math:`\log A_t(k, j)`, the log
probabilities of the step from t to t + 1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ppl_gen.models.hmm.numpyro_chain import exact_log, log_sum, safe_log, steps_inside
from ppl_gen.models.hmm.numpyro_walks import best_path


def log_transitions(matrix: jax.Array, coefs: jax.Array, context: jax.Array, exact: bool = False) -> jax.Array:
    r"""(..., K, K): :math:`\log A_t = \log \mathrm{softmax}_j (\log A_{kj} + B_{kj} \cdot y_t)`, of covariates y
    (..., C).

    :param matrix: A (K, K). :param coefs: B (K, K, C). :param exact: A has zeros, which remain.
    """
    log_matrix = exact_log(matrix) if exact else safe_log(matrix)
    return jax.nn.log_softmax(log_matrix + jnp.einsum("...c,kjc->...kj", context, coefs), axis=-1)


def _forward_log(initial: jax.Array, transition: jax.Array, log_emission: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log p(z_t | x_1..t) (T, N, K) and log p(x_t | x_1..t-1) (T, N)."""
    emission, steps = jnp.swapaxes(log_emission, 0, 1), jnp.swapaxes(transition, 0, 1)

    def normalized(joint: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = log_sum(joint, -1)
        return joint - jnp.where(jnp.isfinite(total), total, 0.0)[..., None], total

    def step(last: jax.Array, inputs: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        now, log_step = inputs
        new, total = normalized(log_sum(last[..., :, None] + log_step, -2) + now)
        return new, (new, total)

    start, first = normalized(exact_log(initial) + emission[0])
    messages, totals = jax.lax.scan(step, start, (emission[1:], steps))[1]
    return jnp.concatenate([start[None], messages]), jnp.concatenate([first[None], totals])


def forward(
    initial: jax.Array, transition: jax.Array, log_emission: jax.Array, exact: bool = False
) -> tuple[jax.Array, jax.Array]:
    """p(z_t | x_1..t) (N, T, K), and log p(x_t | x_1..t-1) (N, T), whose sum over t is log p(x)."""
    messages, totals = _forward_log(initial, transition, log_emission)
    return jnp.swapaxes(jnp.exp(messages), 0, 1), totals.T


def chain_log_prob(initial: jax.Array, transition: jax.Array, log_emission: jax.Array) -> jax.Array:
    """(N,): log p(x) of each sequence, its path summed out; past its end the steps of a sequence sum to 1."""
    return _forward_log(initial, transition, log_emission)[1].sum(0)


def expectations(
    initial: jax.Array, transition: jax.Array, log_emission: jax.Array, weights: jax.Array | None = None,
    lengths: jax.Array | None = None, exact: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """log p(x) (N,), the expected first state (K,), the expected transitions of each step (N, T - 1, K, K), and
    p(z_t | x), each times the sequence's weight. All are derivatives of log p(x).

    Here time comes first: ``log_emission`` and p(z_t | x) are (T, N, K).
    """
    log_prob, pull = jax.vjp(chain_log_prob, initial, transition, jnp.swapaxes(log_emission, 0, 1))
    first, pairs, smoothed = pull(jnp.ones_like(log_prob) if weights is None else weights.astype(log_prob.dtype))
    if lengths is not None:
        pairs = pairs * steps_inside(lengths, len(log_emission))[1:].T[..., None, None]
    return log_prob, first * initial, pairs, jnp.swapaxes(smoothed, 0, 1)


def most_probable_path(
    initial: jax.Array, transition: jax.Array, log_emission: jax.Array, lengths: jax.Array | None = None
) -> jax.Array:
    """(N, T): the path of largest joint density (Viterbi). Past the end it stays in its last state."""
    return best_path(initial, jnp.swapaxes(transition, 0, 1), log_emission, lengths)


def sample_paths(key: jax.Array, transition: jax.Array, filtered: jax.Array) -> jax.Array:
    """(N, T): a draw of the path given the whole sequence, backwards from the filtered probabilities (N, T, K)."""
    table, steps = jnp.swapaxes(exact_log(filtered), 0, 1), jnp.swapaxes(transition, 0, 1)
    noise = jax.random.gumbel(key, table.shape, table.dtype)

    def back(state: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        now, log_step, gumbel = inputs
        to = jnp.take_along_axis(log_step, state[:, None, None], axis=2)[:, :, 0]
        state = (now + to + gumbel).argmax(-1)
        return state, state

    last = (table[-1] + noise[-1]).argmax(-1)
    _, path = jax.lax.scan(back, last, (table[:-1], steps, noise[:-1]), reverse=True)
    return jnp.concatenate([path, last[None]]).T


def simulate(key: jax.Array, start: jax.Array, transition: jax.Array) -> jax.Array:
    """(N, T): paths from the model; ``start`` (N, K) are the probabilities of the first states."""
    steps = jnp.swapaxes(transition, 0, 1)
    noise = jax.random.gumbel(key, (len(steps) + 1, *start.shape), start.dtype)

    def step(state: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        log_step, gumbel = inputs
        of = jnp.take_along_axis(log_step, state[:, None, None], axis=1)[:, 0]
        state = (of + gumbel).argmax(-1)
        return state, state

    first = (exact_log(start) + noise[0]).argmax(-1)
    _, rest = jax.lax.scan(step, first, (steps, noise[1:]))
    return jnp.concatenate([first[None], rest]).T
