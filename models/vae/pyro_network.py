"""Encoder, decoder and prior in torch, and rows given what the decoder says of them. The twin of ``numpyro_network``.

``raw`` are the parameters of the columns' conditionals by group, (P, ..., columns) each.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints
from torch.nn.functional import softplus

from ppl_gen.backends import pyro_columns as conditionals
from ppl_gen.backends.pyro_networks import Weights, perceptron
from ppl_gen.conditionals import REACH, UNIT, Group
from ppl_gen.models.flow.pyro_transforms import FlowTransform
from ppl_gen.models.vae import pyro_convolution as convolution
from ppl_gen.models.vae.architecture import MIN_POSTERIOR, Architecture, Grouped, part
from ppl_gen.view import View

Raw = list[torch.Tensor]


def inputs(architecture: Architecture, weights: Weights, view: View) -> torch.Tensor:
    """(n, inputs): rows as the encoder reads them, 0 where an entry is missing, and the context, which the
    decoder reads too, within +-REACH."""
    parts = []
    for group in architecture.groups:
        own = conditionals.encode(group, weights, view.x[:, group.where])
        if view.mask is not None:
            own = torch.where(view.mask[:, group.where].repeat_interleave(group.num_inputs, 1), own, 0.0)
        parts.append(own)
    return torch.cat(parts if view.context is None else [*parts, view.context.clamp(-REACH, REACH)], -1)


def encode(
    architecture: Architecture, weights: Weights, rows: torch.Tensor, mask: torch.Tensor | None = None,
    label: torch.Tensor | None = None,
) -> TorchDistribution:  # fmt: skip
    """q(z | x), a normal with diagonal covariance, of rows as :func:`inputs` has them, and the indicator of their
    labels (..., C)."""
    own = part(weights, "encoder_")
    if mask is not None:
        own["bias_0"] = own["bias_0"] + (~mask).to(rows.dtype) @ own["missing_weight"]
    if label is not None:
        own["bias_0"] = own["bias_0"] + label @ own["label_weight"]
    if architecture.image is not None:
        rows = convolution.shrink(architecture, own, rows)
    loc, raw_scale = perceptron(own, rows, architecture.num_dense).chunk(2, -1)
    return dist.Normal(loc, MIN_POSTERIOR + softplus(raw_scale + UNIT)).to_event(1)


def decode(
    architecture: Architecture, weights: Weights, z: torch.Tensor, context: torch.Tensor | None,
    label: torch.Tensor | None = None,
) -> Raw:  # fmt: skip
    """What the decoder says of rows with latents z (..., L), and the indicator of their labels (..., C)."""
    own = part(weights, "decoder_")
    parts = [z, *([] if context is None else [context.clamp(-REACH, REACH)]), *([] if label is None else [label])]
    lead = torch.broadcast_shapes(*(each.shape[:-1] for each in parts))
    z = torch.cat([each.expand(*lead, each.shape[-1]) for each in parts], -1)
    out = perceptron(own, z.reshape(-1, z.shape[-1]), architecture.num_dense)
    if architecture.image is not None:
        out = convolution.grow(architecture, own, out)
    out = out.reshape(*z.shape[:-1], out.shape[-1])
    return parameters(architecture, weights, out)


def parameters(architecture: Grouped, weights: Weights, out: torch.Tensor) -> Raw:
    """Those of the columns' conditionals, by group, of what a network says of rows (..., outputs)."""
    return [_parameters(g, weights, _by_parameter(g, out)) for g in architecture.groups]


def _by_parameter(group: Group, out: torch.Tensor) -> torch.Tensor:
    """(outputs of a column, ..., columns) of the decoder's outputs."""
    return out[..., group.outputs].reshape(*out.shape[:-1], group.num_parameters, group.size).movedim(-2, 0)


def _parameters(group: Group, weights: Weights, own: torch.Tensor) -> torch.Tensor:
    """Those of the conditionals: normals and logistics are mixtures of a single component."""
    if group.kind == "real":
        return torch.stack([torch.zeros_like(own[0]), own[0], weights["real_raw_scale"].expand(own[0].shape)])
    return torch.cat([torch.zeros_like(own[:1]), own]) if group.kind == "count" else own


def prior(architecture: Architecture, weights: Weights) -> TorchDistribution:
    """p(z)."""
    zeros = torch.zeros(architecture.family.latent_dim)
    if architecture.family.prior == "vamp":
        parts = encode(architecture, weights, weights["pseudo_inputs"])
        return dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(parts.batch_shape)), parts)
    normal = dist.Normal(zeros, torch.ones_like(zeros)).to_event(1)
    if architecture.flow is None:
        return normal
    return dist.TransformedDistribution(normal, [FlowTransform(architecture.flow, part(weights, "prior_"))])


class Columns(TorchDistribution):
    """Rows, of event shape (D,), whose columns are independent given what the decoder says; missing entries count for
    nothing."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)  # kinds differ by column

    def __init__(
        self, architecture: Grouped, weights: Weights, raw: Raw, mask: torch.Tensor | None = None, *,
        validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.architecture, self.weights, self.raw, self.mask = architecture, dict(weights), raw, mask
        super().__init__(raw[0].shape[1:-1], torch.Size((architecture.num_columns,)), validate_args=validate_args)

    def expand(self, batch_shape: tuple[int, ...], _instance: Any = None) -> Columns:
        raw = [part.expand(len(part), *batch_shape, part.shape[-1]) for part in self.raw]
        return Columns(self.architecture, self.weights, raw, self.mask, validate_args=self._validate_args)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        total: Any = 0.0
        for group, raw in zip(self.architecture.groups, self.raw, strict=True):
            found = conditionals.log_prob(group, self.weights, raw, value[..., group.where], "gaussian")
            total = total + (found if self.mask is None else torch.where(self.mask[..., group.where], found, 0.0)).sum(
                -1
            )
        return total

    def sample(self, sample_shape: tuple[int, ...] = torch.Size()) -> torch.Tensor:
        with torch.no_grad():
            u = torch.rand((*sample_shape, *self.batch_shape, *self.event_shape))
            parts = [
                conditionals.quantile(group, self.weights, raw, u[..., group.where], "gaussian")
                for group, raw in zip(self.architecture.groups, self.raw, strict=True)
            ]
            return in_order(self.architecture, parts)

    @property
    def typical(self) -> torch.Tensor:
        """The median of each column, of labels the likeliest."""
        parts = []
        for group, raw in zip(self.architecture.groups, self.raw, strict=True):
            half = torch.full(raw.shape[1:], 0.5)
            likeliest = group.kind == "categorical"
            parts.append(
                raw.argmax(0).to(raw.dtype) if likeliest
                else conditionals.quantile(group, self.weights, raw, half, "gaussian")
            )  # fmt: skip
        return in_order(self.architecture, parts)

    @property
    def expected(self) -> torch.Tensor:
        """The same, but of binary columns the probability of a 1."""
        typical = self.typical.clone()
        for group, raw in zip(self.architecture.groups, self.raw, strict=True):
            if group.kind == "binary":
                typical[..., group.where] = torch.sigmoid(raw[0])
        return typical


def in_order(architecture: Grouped, parts: list[torch.Tensor]) -> torch.Tensor:
    """(..., D): the columns of all groups in the order of the table."""
    whole, order = torch.cat(parts, -1), architecture.column_order
    return whole if order is None else whole[..., order]
