r"""The recursions of a hidden Markov chain in JAX: pure functions of tables of log densities.

Shapes: N sequences of T steps, K states; ``initial`` (K,) and ``transition`` (K, K) are probabilities, ``log_emission``
(N, T, K) holds :math:`\log p(x_t \mid z_t = k)`, 0 where nothing was observed.

Forward and backward messages are kept in linear space and scaled at every step (Rabiner 1989, sec. V.A), which a CPU
does twice as fast as logarithms. Each step's densities are first divided by the largest of them, so the sums can't
underflow as long as every state can be reached from every other; probabilities below ``least`` are raised to it.
Where the model itself has zeros (a fixed left-to-right matrix) the caller asks for ``exact=True``: log space.
"""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp

SMALL = 4096  # multiplications in a step up to which sums of products, fused into one loop, beat calls of a product
MAX_UNROLLED = 16  # states up to which loops over states are written out


def least(dtype: Any) -> float:
    """The probability that stands for 0 in linear space: its inverse is finite."""
    return float(jnp.finfo(dtype).tiny) * 1e6


def safe_log(value: Any) -> jax.Array:
    """log of probabilities, finite with a finite gradient at 0."""
    value = jnp.asarray(value)
    return jnp.log(jnp.maximum(value, jnp.finfo(value.dtype).tiny))


def exact_log(value: Any) -> jax.Array:
    """log of probabilities, minus infinity at 0 but with a finite gradient."""
    value = jnp.asarray(value)
    return jnp.where(value > 0, safe_log(value), -jnp.inf)


def stationary(transition: jax.Array) -> jax.Array:
    """(K,): the distribution that the transition matrix leaves as it is.

    By elimination without subtractions (Grassmann, Taksar & Heyman 1985, Oper. Res. 33): accurate to the last digit
    for sticky chains too. Beyond ``MAX_UNROLLED`` states by a linear solve.
    """
    k = len(transition)
    if k > MAX_UNROLLED:
        matrix = jnp.eye(k, dtype=transition.dtype) - transition + 1.0
        solution = jnp.maximum(jnp.linalg.solve(matrix.T, jnp.ones(k, transition.dtype)), least(transition.dtype))
        return solution / solution.sum()
    rates = jnp.maximum(transition, least(transition.dtype))
    columns: list[jax.Array] = []
    for n in range(k - 1, 0, -1):
        column = rates[:n, n] / rates[n, :n].sum()
        rates = rates[:n, :n] + column[:, None] * rates[n, :n]
        columns.append(column)
    weights = jnp.ones(1, transition.dtype)
    for column in reversed(columns):
        weights = jnp.concatenate([weights, (weights @ column)[None]])
    return weights / weights.sum()


def _scaled(log_emission: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Densities (T, N, K) divided by the largest of each step, and the logs (N, T) of the divisors."""
    top = jax.lax.stop_gradient(log_emission.max(-1))
    return jnp.swapaxes(jnp.exp(log_emission - top[..., None]), 0, 1), top


def _advance(messages: jax.Array, matrices: jax.Array) -> jax.Array:
    """(..., N, K) messages times (..., K, K) matrices."""
    if messages.size * messages.shape[-1] <= SMALL:
        return (messages[..., :, None, :] * jnp.swapaxes(matrices, -1, -2)[..., None, :, :]).sum(-1)
    return messages @ matrices


def _sweep(start: jax.Array, matrices: jax.Array, emission: jax.Array) -> jax.Array:
    """(T, ..., N, K): v_1 = start, v_t = emission_t * (v_{t-1} / |v_{t-1}|) matrix. Only v is stored."""

    def step(last: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
        new = _advance(last * (1 / last.sum(-1, keepdims=True)), matrices) * now
        return new, new

    _, rest = jax.lax.scan(step, start, emission[1:])
    return jnp.concatenate([start[None], rest])


def _total(value: jax.Array) -> jax.Array:
    """(..., 1): sums over a short last axis, term by term, which is many times faster than XLA's sum on a CPU."""
    if value.shape[-1] > MAX_UNROLLED:
        return value.sum(-1, keepdims=True)
    total = value[..., :1]
    for k in range(1, value.shape[-1]):
        total = total + value[..., k : k + 1]
    return total


def _floored(initial: jax.Array, transition: jax.Array) -> tuple[jax.Array, jax.Array]:
    low = least(transition.dtype)
    return jnp.maximum(initial, low), jnp.maximum(transition, low)


def forward(
    initial: jax.Array, transition: jax.Array, log_emission: jax.Array, exact: bool = False
) -> tuple[jax.Array, jax.Array]:
    """p(z_t | x_1..t) (N, T, K), and log p(x_t | x_1..t-1) (N, T), whose sum over t is log p(x)."""
    if exact:
        return _normalized_log(_forward_log(initial, transition, log_emission))
    initial, transition = _floored(initial, transition)
    emission, top = _scaled(log_emission)
    messages = _sweep(initial * emission[0], transition, emission)
    sums = _total(messages)
    return jnp.swapaxes(messages / sums, 0, 1), jnp.log(sums[..., 0]).T + top


def forward_parallel(initial: jax.Array, transition: jax.Array, log_emission: jax.Array) -> tuple[jax.Array, jax.Array]:
    """:func:`forward` in O(log T) dependent steps: prefix products of the matrices transition * emission_t.

    K times as many operations, and (N, T, K, K) numbers stored: for devices with thousands of lanes, never a CPU.
    (Särkkä & García-Fernández 2021, IEEE Trans. Autom. Control 66.)
    """
    initial, transition = _floored(initial, transition)
    emission, top = _scaled(log_emission)
    first = initial * emission[0]
    scale = first.sum(-1, keepdims=True)

    def combine(left: Any, right: Any) -> Any:
        product = left[0] @ right[0]
        size = product.max((-2, -1), keepdims=True)
        return product / size, left[1] + right[1] + jnp.log(size)

    products = transition * emission[1:, :, None, :]
    factors, logs = jax.lax.associative_scan(combine, (products, jnp.zeros((*products.shape[:2], 1, 1), top.dtype)))
    messages = ((first / scale)[None, :, None, :] @ factors)[:, :, 0, :]
    sums = messages.sum(-1, keepdims=True)
    total = jnp.concatenate([jnp.log(scale)[None], jnp.log(sums) + logs[..., 0] + jnp.log(scale)])[..., 0]
    steps = jnp.diff(total, axis=0, prepend=jnp.zeros_like(total[:1]))
    filtered = jnp.concatenate([(first / scale)[None], messages / sums])
    return jnp.swapaxes(filtered, 0, 1), steps.T + top


@jax.custom_jvp
def _log_prob_linear(
    initial: jax.Array, transition: jax.Array, log_emission: jax.Array, lengths: jax.Array | None
) -> jax.Array:
    return forward(initial, transition, log_emission)[1].sum(-1)


@_log_prob_linear.defjvp
def _log_prob_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    r"""The derivatives are posterior expectations, found with the value in one sweep from both ends at once.

    With forward messages a_t = p(z_t | x_1..t), predictions q_t = a_{t-1} A and backward messages
    u_t(k) proportional to p(x_t..T | z_t = k), and r_t = u_t / (q_t u_t):

    .. math:: \partial / \partial \log b_t(k) = q_t(k) r_t(k), \quad
              \partial / \partial A_{kj} = \sum_{t>1} a_{t-1}(k) r_t(j), \quad \partial / \partial \pi_k = r_1(k)

    Transitions past the end of a sequence change nothing and are left out of the sum.
    """
    initial, transition = _floored(*primals[:2])
    emission, top = _scaled(primals[2])
    both = _sweep(
        jnp.stack([initial * emission[0], emission[-1]]), jnp.stack([transition, transition.T]),
        jnp.stack([emission, emission[::-1]], axis=1),
    )  # fmt: skip
    sums = _total(both[:, 0])
    filtered, backward = both[:, 0] / sums, both[::-1, 1]
    predicted = jnp.concatenate([jnp.broadcast_to(initial, filtered[:1].shape), filtered[:-1] @ transition])
    backward = backward / _total(backward)
    norm = _total(predicted * backward)
    ratio = backward / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
    inside = ratio[1:] if primals[3] is None else ratio[1:] * steps_inside(primals[3], len(ratio))[1:, :, None]
    pairs = jnp.einsum("tnk,tnj->nkj", filtered[:-1], inside)
    change = ratio[0] @ tangents[0] + (pairs * tangents[1]).sum((-2, -1))
    change += (predicted * ratio * jnp.swapaxes(tangents[2], 0, 1)).sum((0, 2))
    return jnp.log(sums[..., 0]).sum(0) + top.sum(-1), change


def steps_inside(lengths: jax.Array, num_steps: int) -> jax.Array:
    """(T, N): which steps are no padding."""
    return jnp.arange(num_steps)[:, None] < lengths


def chain_log_prob(
    initial: jax.Array, transition: jax.Array, log_emission: jax.Array, lengths: jax.Array | None = None,
    exact: bool = False,
) -> jax.Array:  # fmt: skip
    """(N,): log p(x) of each sequence, its path summed out."""
    if exact:
        return log_sum(_forward_log(initial, transition, log_emission, lengths)[-1], -1)
    return _log_prob_linear(initial, transition, log_emission, lengths)


def expectations(
    initial: jax.Array, transition: jax.Array, log_emission: jax.Array, weights: jax.Array | None = None,
    lengths: jax.Array | None = None, exact: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """log p(x) (N,), the expected first state (K,) and transitions (K, K), and p(z_t | x), each times the sequence's
    weight; sums over sequences but for the last. All are derivatives of log p(x).

    Here time comes first: ``log_emission`` and p(z_t | x) are (T, N, K).
    """
    if not exact:
        return _expectations_linear(initial, transition, log_emission, weights, lengths)
    function = partial(chain_log_prob, lengths=lengths, exact=exact)
    log_prob, pull = jax.vjp(function, initial, transition, jnp.swapaxes(log_emission, 0, 1))
    first, pairs, smoothed = pull(jnp.ones_like(log_prob) if weights is None else weights.astype(log_prob.dtype))
    return log_prob, first * initial, pairs * transition, jnp.swapaxes(smoothed, 0, 1)


def _expectations_linear(
    initial: jax.Array, transition: jax.Array, log_emission: jax.Array, weights: jax.Array | None,
    lengths: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """:func:`expectations` in one sweep from both ends at once, which keeps the messages before their emissions: then
    no product over time is left but that of the transitions. As :func:`_log_prob_jvp`, with fewer passes.

    Inside, states come first, (K, T, N): so each operation runs along the sequences, or along the time of a single
    one, many entries at once. Measured against states last: 0.6 of the time for one sequence, 0.4 for 500.
    """
    low_initial, low_transition = _floored(initial, transition)
    top = _over_states(jnp.maximum, jnp.moveaxis(log_emission, -1, 0))
    emission = jnp.moveaxis(jnp.exp(log_emission - top[..., None]), -1, 0)
    by_step = jnp.swapaxes(emission, 0, 1)

    def step(before: Any, now: Any) -> tuple[Any, Any]:
        return (_pass(before[0] * now[0], low_transition), _pass(before[1] * now[1], low_transition.T)), before

    start = (jnp.broadcast_to(low_initial[:, None], by_step.shape[1:]), jnp.ones_like(by_step[0]))
    _, messages = jax.lax.scan(step, start, (by_step, by_step[::-1]))
    predicted, backward = jnp.swapaxes(messages[0], 0, 1), jnp.swapaxes(messages[1][::-1], 0, 1)
    filtered = predicted * emission  # p(x_t, z_t | x_<t), and backward p(x_>t | z_t) to a factor
    sums, joint = _over_states(jnp.add, filtered), filtered * backward
    share = 1 / jnp.maximum(_over_states(jnp.add, joint), jnp.finfo(joint.dtype).tiny)
    if weights is not None:
        share = share * weights.astype(share.dtype)
    smoothed, ahead = joint * share, (emission * backward * share)[:, 1:]
    if lengths is not None:
        ahead = ahead * steps_inside(lengths, len(by_step))[1:]
    num_states = len(initial)
    # The last step leads nowhere. Both factors keep the shape of the messages, and the right one is stored as the
    # product reads it: XLA would else write it twice.
    ahead = jnp.pad(ahead, [(0, 0), (0, 1), (0, 0)]).reshape(num_states, -1).T
    pairs = (filtered * (1 / sums)).reshape(num_states, -1) @ jax.lax.optimization_barrier(ahead)
    log_prob = jnp.log(sums).sum(0) + top.sum(0)
    return log_prob, smoothed[:, 0].sum(-1), pairs * transition, jnp.moveaxis(smoothed, 0, -1)


def _pass(messages: jax.Array, matrix: jax.Array) -> jax.Array:
    """(K, N) messages through (K, K), divided by their sums, last: then no operation waits for the sum."""
    k, n = messages.shape
    fused = k * k * n <= 16 * SMALL
    product = (messages[:, None] * matrix[:, :, None]).sum(0) if fused else matrix.T @ messages
    return product * (1 / messages.sum(0))


def _over_states(operation: Any, values: jax.Array) -> jax.Array:
    """Reduce the first axis, term by term where it is short: XLA's own reduction of it is many times slower."""
    if len(values) > MAX_UNROLLED:
        return values.max(0) if operation is jnp.maximum else values.sum(0)
    return reduce(operation, [values[k] for k in range(len(values))])


def _forward_log(
    initial: jax.Array, transition: jax.Array, log_emission: jax.Array, lengths: jax.Array | None = None
) -> jax.Array:
    """(T, N, K): log p(z_t = k, x_1..t), where a probability may be 0; with ``lengths`` no steps past the end."""
    log_transition, emission = exact_log(transition), jnp.swapaxes(log_emission, 0, 1)
    inside = jnp.ones((len(emission), 1), bool) if lengths is None else steps_inside(lengths, len(emission))

    def step(last: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        now, go_on = inputs
        new = jnp.where(go_on[:, None], log_sum(last[..., :, None] + log_transition, -2) + now, last)
        return new, new

    start = exact_log(initial) + emission[0]
    return jnp.concatenate([start[None], jax.lax.scan(step, start, (emission[1:], inside[1:]))[1]])


def log_sum(value: jax.Array, axis: int) -> jax.Array:
    """logsumexp with a gradient of 0 where every term is minus infinity."""
    top = jax.lax.stop_gradient(value.max(axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    return exact_log(jnp.exp(value - top).sum(axis)) + top.squeeze(axis)


def _normalized_log(messages: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = jax.nn.logsumexp(messages, axis=-1)
    steps = jnp.diff(total, axis=0, prepend=jnp.zeros_like(total[:1]))
    return jnp.swapaxes(jnp.exp(messages - total[..., None]), 0, 1), steps.T
