"""The continuous flow in torch, the twin of ``numpyro_cnf``; :mod:`ppl_gen.models.flow.cnf` has its mathematics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ppl_gen.models.flow.cnf import probes
from ppl_gen.runge_kutta import step

if TYPE_CHECKING:
    from ppl_gen.backends.pyro_networks import Weights
    from ppl_gen.models.flow.architecture import Architecture

Pairs = tuple[torch.Tensor, torch.Tensor]


def to_base(architecture: Architecture, weights: Weights, x: torch.Tensor, context: torch.Tensor | None) -> Pairs:
    """(..., D) rows to u, and log |det du / dx| (...)."""
    u, log_dets = into_base(architecture, weights, x, context, architecture.family.size)
    return u, log_dets.mean(-1)


def from_base(architecture: Architecture, weights: Weights, u: torch.Tensor, context: torch.Tensor | None) -> Pairs:
    """(..., D) points of the base space to x, and log |det dx / du| (...)."""
    v, log_dets = _solve(architecture, weights, u, context, architecture.family.size, backward=False)
    log_scale = weights["log_scale"]
    return weights["shift"] + torch.exp(log_scale) * v, log_dets.mean(-1) + log_scale.sum()


def into_base(
    architecture: Architecture, weights: Weights, x: torch.Tensor, context: torch.Tensor | None, num_steps: int
) -> Pairs:
    """As :func:`to_base`, in so many steps and with each probe's own log |det du / dx|, (..., K); K is 1 where the
    trace is exact."""
    log_scale = weights["log_scale"]
    start = (x - weights["shift"]) * torch.exp(-log_scale)
    u, log_dets = _solve(architecture, weights, start, context, num_steps, backward=True)
    return u, log_dets - log_scale.sum()


def log_prob_error(architecture: Architecture, weights: Weights, log_base: Callable, view: Any) -> torch.Tensor:
    """(n,): how far log p(x) may be off, in nats: what half the step changes it by, and the standard error over the
    probes where the trace is estimated."""
    number = architecture.family.size
    (u, log_dets), (u_half, log_dets_half) = (
        into_base(architecture, weights, view.x, view.context, steps) for steps in (number, 2 * number)
    )
    change = log_base(u) - log_base(u_half) + (log_dets - log_dets_half).mean(-1)
    variance = log_dets.var(-1) / log_dets.shape[-1] if log_dets.shape[-1] > 1 else 0.0
    return (change**2 + variance).sqrt()


def _solve(
    architecture: Architecture, weights: Weights, x: torch.Tensor, context: torch.Tensor | None, num_steps: int,
    backward: bool,
) -> Pairs:  # fmt: skip
    """x at the other end of the time, and the integral of the trace on the way."""
    field, number = _field(architecture, weights, x.dtype, context)
    origin, span = (1.0, -1.0 / num_steps) if backward else (0.0, 1.0 / num_steps)

    total = x.new_zeros((*x.shape[:-1], number))
    for index in range(num_steps):
        x, total = step(field, origin, index, span, x, total)
    return x, total


def _field(
    architecture: Architecture, weights: Weights, dtype: Any, context: torch.Tensor | None
) -> tuple[Callable[[torch.Tensor, torch.Tensor], Pairs], int]:
    """``f(t, x) -> (dx/dt (..., D), trace (..., K))``, and K."""
    columns, dense = architecture.num_columns, architecture.num_dense
    kernels, biases = ([weights[f"{kind}_{i}"] for i in range(dense)] for kind in ("weight", "bias"))
    first, of_time = kernels[0][:columns], kernels[0][columns]
    offset = biases[0] if context is None else biases[0] + context @ kernels[0][columns + 1 :]
    directions, exact = probes(architecture.family, columns)
    if directions is None:
        coupled = first.T * kernels[1] if dense == 2 else kernels[1] * (kernels[2] @ first).T
        trace_of = _one_hidden if dense == 2 else _two_hidden
    else:
        vectors = torch.as_tensor(directions, dtype=dtype)
        coupled, trace_of = vectors @ first, partial(_along, vectors, kernels, exact)

    def field(t: float, x: torch.Tensor) -> Pairs:
        value = torch.tanh(x @ first + (offset + t * of_time))
        slopes = [1 - value**2]
        for kernel, bias in zip(kernels[1:-1], biases[1:-1], strict=True):
            value = torch.tanh(value @ kernel + bias)
            slopes.append(1 - value**2)
        return value @ kernels[-1] + biases[-1], trace_of(coupled, slopes)

    return field, 1 if exact or directions is None else len(directions)


def _one_hidden(coupled: torch.Tensor, slopes: list[torch.Tensor]) -> torch.Tensor:
    return slopes[0] @ coupled.sum(1, keepdim=True)


def _two_hidden(coupled: torch.Tensor, slopes: list[torch.Tensor]) -> torch.Tensor:
    return ((slopes[0] @ coupled) * slopes[1]).sum(-1, keepdim=True)


def _along(
    vectors: torch.Tensor, kernels: list[torch.Tensor], exact: bool, coupled: torch.Tensor, slopes: list[torch.Tensor]
) -> torch.Tensor:
    """v' (df/dx) v of each direction, by forward-mode differentiation; their sum where that is the trace."""
    tangents = coupled * slopes[0][..., None, :]
    for kernel, slope in zip(kernels[1:-1], slopes[1:], strict=True):
        tangents = (tangents @ kernel) * slope[..., None, :]
    products = ((tangents @ kernels[-1]) * vectors).sum(-1)
    return products.sum(-1, keepdim=True) if exact else products
