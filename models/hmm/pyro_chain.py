r"""The recursions of a hidden Markov chain in torch, function by function the twin of ``numpyro_chain``.

Shapes: N sequences of T steps, K states; ``initial`` (K,) and ``transition`` (K, K) are probabilities, ``log_emission``
(N, T, K) holds :math:`\log p(x_t \mid z_t = k)`, 0 where nothing was observed.

What a step costs here is its calls, not its numbers, so time is worked on in parallel where K allows it: the density
by a tree of products of matrices, messages in about :math:`\sqrt{T}` blocks side by side. Messages are in linear space,
scaled at every step; where the model itself has zeros the caller asks for ``exact=True``: log space.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

MAX_TREE = 600  # N K^3 up to which the tree's products, K times as many operations, cost less than its few calls save
MAX_BLOCKED = 60_000  # the same of messages in blocks
MAX_UNROLLED = 16  # states up to which the stationary distribution is found by elimination


def least(dtype: torch.dtype) -> float:
    """The probability that stands for 0 in linear space: its inverse is finite."""
    return torch.finfo(dtype).tiny * 1e6


def safe_log(value: torch.Tensor) -> torch.Tensor:
    """log of probabilities, finite with a finite gradient at 0."""
    return value.clamp(min=torch.finfo(value.dtype).tiny).log()


def exact_log(value: torch.Tensor) -> torch.Tensor:
    """log of probabilities, minus infinity at 0 but with a finite gradient."""
    return torch.where(value > 0, safe_log(value), -torch.inf)


def stationary(transition: torch.Tensor) -> torch.Tensor:
    """(..., K): the distribution that a transition matrix (..., K, K) leaves as it is.

    By elimination without subtractions (Grassmann, Taksar & Heyman 1985, Oper. Res. 33): accurate to the last digit
    for sticky chains too. Beyond ``MAX_UNROLLED`` states by a linear solve.
    """
    k, low = transition.shape[-1], least(transition.dtype)
    one = torch.ones(*transition.shape[:-2], 1, dtype=transition.dtype)
    if k > MAX_UNROLLED:
        matrix = torch.eye(k, dtype=transition.dtype) - transition + 1.0
        return _normalized(torch.linalg.solve(matrix.mT, one.expand(*one.shape[:-1], k)).clamp(min=low))
    rates, columns = transition.clamp(min=low), []
    for n in range(k - 1, 0, -1):
        column = rates[..., :n, n] / rates[..., n, :n].sum(-1, keepdim=True)
        rates = rates[..., :n, :n] + column[..., :, None] * rates[..., n, None, :n]
        columns.append(column)
    weights = one
    for column in reversed(columns):
        weights = torch.cat([weights, (weights * column).sum(-1, keepdim=True)], -1)
    return _normalized(weights)


def _floored(initial: torch.Tensor, transition: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    low = least(transition.dtype)
    return initial.clamp(min=low), transition.clamp(min=low)


def _scaled(log_emission: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Densities (N, T, K) divided by the largest of each step, and the logs (N, T) of the divisors."""
    top = log_emission.detach().amax(-1)
    return (log_emission - top[..., None]).exp(), top


def _normalized(values: torch.Tensor) -> torch.Tensor:
    return values / values.sum(-1, keepdim=True)


def _sweep(start: torch.Tensor, matrix: torch.Tensor, emission: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """v_t = emission_t * (v_{t-1} matrix), divided by its sum s_t: v (N, T, K) and s (N, T); v_0 is ``start`` (N, K).

    In blocks of L steps: the product of each block's matrices, then the messages at the blocks' starts, then those
    within all blocks at once; 2 L + T / L steps, and numbers for T K entries at a time.
    """
    n, steps, k = emission.shape
    length = max(math.isqrt(steps // 2), 1) if n * k**3 <= MAX_BLOCKED else max(steps, 1)
    blocks = -(-steps // length)
    if steps == 0:
        return emission, emission[..., 0]
    padding = torch.ones(n, blocks * length - steps, k, dtype=emission.dtype)
    parts = torch.cat([emission, padding], 1).reshape(n, blocks, length, k).unbind(2)
    message = _block_starts(start, matrix, parts)
    messages, sums = [], []
    for part in parts:
        message = (message @ matrix) * part
        total = message.sum(-1, keepdim=True)
        message = message / total
        messages.append(message)
        sums.append(total)
    flat = n, blocks * length
    return torch.stack(messages, 2).reshape(*flat, k)[:, :steps], torch.stack(sums, 2).reshape(flat)[:, :steps]


def _block_starts(start: torch.Tensor, matrix: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """(N, blocks, K): the message before each block."""
    messages = [start]
    if parts[0].shape[1] > 1:
        product = matrix * parts[0][:, :, None, :]
        for part in parts[1:]:
            product = (product @ matrix) * part[:, :, None, :]
            product = product / product.sum((-2, -1), keepdim=True)
        for block in product.unbind(1)[:-1]:
            messages.append(_normalized((messages[-1][:, None, :] @ block)[:, 0]))
    return torch.stack(messages, 1)


def _sweep_forward(
    initial: torch.Tensor, transition: torch.Tensor, emission: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """p(z_t | x_1..t) (N, T, K) and the divisors (N, T)."""
    first = initial * emission[:, 0]
    total = first.sum(-1, keepdim=True)
    messages, sums = _sweep(first / total, transition, emission[:, 1:])
    return torch.cat([(first / total)[:, None], messages], 1), torch.cat([total, sums], 1)


def forward(
    initial: torch.Tensor, transition: torch.Tensor, log_emission: torch.Tensor, exact: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """p(z_t | x_1..t) (N, T, K), and log p(x_t | x_1..t-1) (N, T), whose sum over t is log p(x)."""
    if exact:
        messages = _forward_log(initial, transition, log_emission)
        total = torch.logsumexp(messages, -1)
        steps = torch.cat([total[:, :1], total[:, 1:] - total[:, :-1]], 1)
        return (messages - total[..., None]).exp(), steps
    emission, top = _scaled(log_emission)
    filtered, sums = _sweep_forward(*_floored(initial, transition), emission)
    return filtered, sums.log() + top


def _backward(
    initial: torch.Tensor, transition: torch.Tensor, emission: torch.Tensor, filtered: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Predictions q_t = p(z_t | x_1..t-1) and ratios r_t = p(z_t | x) / q_t, each (N, T, K).

    From the backward messages u_t(k), in proportion to :math:`p(x_{t..T} \mid z_t = k)`, r_t = u_t / (q_t u_t).
    """
    reverse = emission.flip(1)
    last = _normalized(reverse[:, 0])
    messages, _ = _sweep(last, transition.mT.contiguous(), reverse[:, 1:])
    backward = torch.cat([last[:, None], messages], 1).flip(1)
    predicted = torch.cat([initial.expand_as(filtered[:, :1]), filtered[:, :-1] @ transition], 1)
    norm = (predicted * backward).sum(-1, keepdim=True)
    return predicted, backward / norm.clamp(min=torch.finfo(norm.dtype).tiny)


def _pairs(before: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """(K, K): the derivative of the sum of log p(x) by the transition matrix, from the weighted p(z_t | x_1..t) of all
    steps but the last and the ratios of all but the first."""
    k = ratio.shape[-1]
    return before.reshape(-1, k).mT @ ratio.reshape(-1, k)


class _LogProb(torch.autograd.Function):
    """log p(x) (N,) of floored probabilities, its derivatives from the backward messages.

    They are posterior expectations; the formulas stand with ``_log_prob_jvp`` in ``numpyro_chain``. Twice
    differentiable it is not. The other outputs are kept for the backward pass.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(initial: torch.Tensor, transition: torch.Tensor, log_emission: torch.Tensor) -> Any:
        emission, top = _scaled(log_emission)
        filtered, sums = _sweep_forward(initial, transition, emission)
        return (sums.log() + top).sum(-1), emission, filtered

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:2], *output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        initial, transition, emission, filtered = ctx.saved_tensors
        predicted, ratio = _backward(initial, transition, emission, filtered)
        weights = gradient[:, None, None]
        pairs = _pairs(filtered[:, :-1] * weights, ratio[:, 1:])
        return gradient @ ratio[:, 0], pairs, predicted * ratio * weights


def log_prob_tree(initial: torch.Tensor, transition: torch.Tensor, log_emission: torch.Tensor) -> torch.Tensor:
    """log p(x) (N,) by pairwise products of the matrices transition * emission_t: log T steps.

    :param transition: (K, K), or of each step its own, (N, T - 1, K, K).
    """
    emission, top = _scaled(log_emission)
    total = top.sum(-1)
    products = transition * emission[:, 1:, None, :]
    while products.shape[1] > 1:
        even = products.shape[1] // 2 * 2
        merged = products[:, 0:even:2] @ products[:, 1:even:2]
        # The size cancels, so no derivative goes through it.
        size = merged.detach().amax((-2, -1), keepdim=True)
        total = total + size.log().sum((1, 2, 3))
        products = torch.cat([merged / size, products[:, even:]], 1)
    message = initial * emission[:, 0]
    if products.shape[1]:
        message = (message[:, None, :] @ products[:, 0])[:, 0]
    return total + message.sum(-1).log()


def chain_log_prob(
    initial: torch.Tensor, transition: torch.Tensor, log_emission: torch.Tensor, exact: bool = False
) -> torch.Tensor:
    """(N,): log p(x) of each sequence, its path summed out."""
    if exact:
        return log_sum(_forward_log(initial, transition, log_emission)[:, -1], -1)
    n, _, k = log_emission.shape
    if n * k**3 <= MAX_TREE:
        return log_prob_tree(*_floored(initial, transition), log_emission)
    return _LogProb.apply(*_floored(initial, transition), log_emission)[0]


def expectations(
    initial: torch.Tensor, transition: torch.Tensor, log_emission: torch.Tensor, weights: torch.Tensor | None = None,
    exact: bool = False, inside: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """log p(x) (N,), the expected first state (K,) and transitions (K, K), and p(z_t | x) (N, T, K), each times the
    sequence's weight; sums over sequences but for the last. All are derivatives of log p(x).

    :param inside: (N, T) whether the transition to a step counts; of those past the end nothing is known.
    """
    if exact:
        function = partial(chain_log_prob, exact=True)
        log_prob, pull = torch.func.vjp(function, initial, transition, log_emission)
        first, pairs, smoothed = pull(torch.ones_like(log_prob) if weights is None else weights.to(log_prob.dtype))
        return log_prob, first * initial, pairs * transition, smoothed
    initial, transition = _floored(initial, transition)
    emission, top = _scaled(log_emission)
    filtered, sums = _sweep_forward(initial, transition, emission)
    predicted, ratio = _backward(initial, transition, emission, filtered)
    smoothed, before = predicted * ratio, filtered[:, :-1]
    if weights is not None:
        factor = weights.to(sums.dtype)[:, None, None]
        smoothed, before = smoothed * factor, before * factor
    if inside is not None:
        before = before * inside[:, 1:, None]
    pairs = transition * _pairs(before, ratio[:, 1:])
    return (sums.log() + top).sum(-1), smoothed[:, 0].sum(0), pairs, smoothed


def _forward_log(initial: torch.Tensor, transition: torch.Tensor, log_emission: torch.Tensor) -> torch.Tensor:
    """(N, T, K): log p(z_t = k, x_1..t), where a probability may be 0."""
    log_transition, emission = exact_log(transition), log_emission.unbind(1)
    messages = [exact_log(initial) + emission[0]]
    for now in emission[1:]:
        messages.append(log_sum(messages[-1][:, :, None] + log_transition, -2) + now)
    return torch.stack(messages, 1)


def log_sum(value: torch.Tensor, axis: int) -> torch.Tensor:
    """logsumexp with a gradient of 0 where every term is minus infinity."""
    top = value.detach().amax(axis, keepdim=True)
    top = torch.where(torch.isfinite(top), top, 0.0)
    return exact_log((value - top).exp().sum(axis)) + top.squeeze(axis)
