"""The layers of a flow in torch: the twin of ``numpyro_transforms``. ``to_base`` maps rows to the base space,
``from_base`` back; both give log |det|."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.distributions import Transform, constraints
from torch.nn import functional

from ppl_gen.backends.pyro_networks import Weights, perceptron
from ppl_gen.models.flow import pyro_cnf
from ppl_gen.models.flow import pyro_splines as maps
from ppl_gen.models.flow.architecture import COUPLING, REACH, SPLINES, Architecture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Pairs = tuple[torch.Tensor, torch.Tensor]
Layer = tuple[Weights, tuple[torch.Tensor, ...], np.ndarray]

BLOCK = 12_288  # rows; larger tensors get fresh memory from the system each time


def to_base(architecture: Architecture, weights: Weights, x: torch.Tensor, context: torch.Tensor | None) -> Pairs:
    """(..., D) rows to u, and log |det du / dx| (...)."""
    if architecture.family.transform == "cnf":
        return pyro_cnf.to_base(architecture, weights, x, context)
    return _in_blocks(_to_base, architecture, weights, x, context)


def from_base(architecture: Architecture, weights: Weights, u: torch.Tensor, context: torch.Tensor | None) -> Pairs:
    """(..., D) points of the base space to x, and log |det dx / du| (...)."""
    if architecture.family.transform == "cnf":
        return pyro_cnf.from_base(architecture, weights, u, context)
    return _in_blocks(_from_base, architecture, weights, u, context)


def _in_blocks(
    through: Callable[..., Pairs], architecture: Architecture, weights: Weights, x: torch.Tensor,
    context: torch.Tensor | None,
) -> Pairs:  # fmt: skip
    """Many rows go through in blocks, which stay in the cache from layer to layer."""
    if x.ndim != 2 or len(x) <= 2 * BLOCK:
        return through(architecture, weights, x, context)
    given = [None] * len(x) if context is None else context.expand(len(x), -1).split(BLOCK)
    parts = [through(architecture, weights, *block) for block in zip(x.split(BLOCK), given, strict=False)]
    points, log_dets = zip(*parts, strict=True)
    return torch.cat(points), torch.cat(log_dets)


def _to_base(architecture: Architecture, weights: Weights, x: torch.Tensor, context: torch.Tensor | None) -> Pairs:
    log_scale = weights["log_scale"]
    x, log_det = (x - weights["shift"]) * torch.exp(-log_scale), -log_scale.sum().expand(x.shape[:-1])
    layer = _into(architecture)
    for inputs in _layers(architecture, weights, x):
        x, more = layer(architecture, *inputs, x, context)
        log_det = log_det + more
    return x, log_det


def _from_base(architecture: Architecture, weights: Weights, u: torch.Tensor, context: torch.Tensor | None) -> Pairs:
    log_det = weights["log_scale"].sum().expand(u.shape[:-1])
    layer = _out_of(architecture)
    for inputs in reversed(list(_layers(architecture, weights, u))):
        u, more = layer(architecture, *inputs, u, context)
        log_det = log_det + more
    return weights["shift"] + torch.exp(weights["log_scale"]) * u, log_det


def _layers(architecture: Architecture, weights: Weights, like: torch.Tensor) -> Iterator[Layer]:
    """Of each layer its weights, its masks, and its permutation or order."""
    parts = {name: weights[name].unbind(0) for name in architecture.conditioner_names}
    masks = tuple(torch.as_tensor(mask, dtype=like.dtype, device=like.device) for mask in architecture.masks)
    orders = architecture.orders if architecture.permutations is None else architecture.permutations.argmax(1)
    assert orders is not None
    for i, order in enumerate(orders):
        yield {name: part[i] for name, part in parts.items()}, tuple(mask[i] for mask in masks), order


def _elementwise(architecture: Architecture) -> tuple[maps.Map, maps.Map]:
    """The map towards the base and its inverse."""
    family = architecture.family
    if family.transform in SPLINES:
        return partial(maps.spline, bound=family.bound), partial(maps.spline_inverse, bound=family.bound)
    return maps.affine, maps.affine_inverse


def _into(architecture: Architecture) -> Callable[..., Pairs]:
    there, _ = _elementwise(architecture)
    if architecture.family.transform in COUPLING:
        return partial(_coupling, there)
    return partial(_sequential, there) if architecture.family.transform == "iaf" else partial(_at_once, there)


def _out_of(architecture: Architecture) -> Callable[..., Pairs]:
    _, back = _elementwise(architecture)
    if architecture.family.transform in COUPLING:
        return partial(_coupling, back)
    return partial(_at_once, back) if architecture.family.transform == "iaf" else partial(_sequential, back)


def _parameters(
    architecture: Architecture, weights: Weights, masks: tuple[torch.Tensor, ...], x: torch.Tensor,
    context: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """(P, ..., columns) what the conditioner says of x."""
    if context is not None:
        x = torch.cat([x, context.expand(*x.shape[:-1], context.shape[-1])], -1)
    x = functional.hardtanh(x, -REACH, REACH)  # clamp, with one operation in the backward pass instead of four
    out = perceptron(weights, x, architecture.num_dense, masks)
    return out.reshape(*out.shape[:-1], architecture.family.parameters_per_column, -1).movedim(-2, 0)


def _coupling(
    change: maps.Map, architecture: Architecture, weights: Weights, masks: tuple[torch.Tensor, ...], order: np.ndarray,
    x: torch.Tensor, context: torch.Tensor | None,
) -> Pairs:  # fmt: skip
    """One half of the columns, in the layer's order, decides how the other is changed: the same in both directions."""
    number = architecture.num_conditioning
    permutation = torch.as_tensor(np.eye(len(order))[:, order], dtype=x.dtype, device=x.device)
    ordered = x @ permutation
    first, second = ordered[..., :number], ordered[..., number:]
    second, log_slope = change(_parameters(architecture, weights, masks, first, context), second)
    return torch.cat([first, second], -1) @ permutation.T, log_slope.sum(-1)


def _at_once(
    change: maps.Map, architecture: Architecture, weights: Weights, masks: tuple[torch.Tensor, ...], order: np.ndarray,
    x: torch.Tensor, context: torch.Tensor | None,
) -> Pairs:  # fmt: skip
    """Each column is changed as the columns before it, known already, say."""
    x, log_slope = change(_parameters(architecture, weights, masks, x, context), x)
    return x, log_slope.sum(-1)


def _sequential(
    change: maps.Map, architecture: Architecture, weights: Weights, masks: tuple[torch.Tensor, ...], order: np.ndarray,
    x: torch.Tensor, context: torch.Tensor | None,
) -> Pairs:  # fmt: skip
    """The inverse of :func:`_at_once`: the columns before one must be known before it can be, so D passes; what the
    last of them says of all columns holds."""
    known = log_slopes = torch.zeros_like(x)
    for place in range(x.shape[-1]):
        changed, log_slopes = change(_parameters(architecture, weights, masks, known, context), x)
        known = torch.where(torch.as_tensor(order == place), changed, known)
    return known, log_slopes.sum(-1)


class FlowTransform(Transform):
    """The flow as a transform of torch, from the base space to rows."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, architecture: Architecture, weights: Weights, context: torch.Tensor | None = None) -> None:
        super().__init__()
        self.architecture, self.weights, self.context = architecture, dict(weights), context
        # Rows, their u and log |det|: a distribution asks for both in turn.
        self._last: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def _call(self, x: torch.Tensor) -> torch.Tensor:
        y, log_det = from_base(self.architecture, self.weights, x, self.context)
        self._last = (y, x, log_det)
        return y

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        x, log_det = to_base(self.architecture, self.weights, y, self.context)
        self._last = (y, x, -log_det)
        return x

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self._last is None or self._last[0] is not y:
            self._inverse(y)
        assert self._last is not None
        return self._last[2]

    def with_cache(self, cache_size: int = 1) -> FlowTransform:
        return self
