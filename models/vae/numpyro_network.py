"""Encoder, decoder and prior in JAX, and rows given what the decoder says of them.

``raw`` are the parameters of the columns' conditionals by group, (P, ..., columns) each.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from ppl_gen.backends import numpyro_columns as conditionals
from ppl_gen.backends.numpyro_networks import Weights, perceptron
from ppl_gen.conditionals import REACH, UNIT, Group
from ppl_gen.models.flow.numpyro_transforms import FlowTransform
from ppl_gen.models.vae import numpyro_convolution as convolution
from ppl_gen.models.vae.architecture import MIN_POSTERIOR, Architecture, Grouped, part
from ppl_gen.view import View

Raw = list[jax.Array]


def inputs(architecture: Architecture, weights: Weights, view: View) -> jax.Array:
    """(n, inputs): rows as the encoder reads them, 0 where an entry is missing, and the context, which the
    decoder reads too, within +-REACH."""
    parts = []
    for group in architecture.groups:
        own = conditionals.encode(group, weights, view.x[:, group.where])
        if view.mask is not None:
            own = jnp.where(jnp.repeat(view.mask[:, group.where], group.num_inputs, axis=1), own, 0.0)
        parts.append(own)
    return jnp.concatenate(parts if view.context is None else [*parts, jnp.clip(view.context, -REACH, REACH)], -1)


def encode(
    architecture: Architecture, weights: Weights, rows: jax.Array, mask: jax.Array | None = None,
    label: jax.Array | None = None,
) -> dist.Distribution:  # fmt: skip
    """q(z | x), a normal with diagonal covariance, of rows as :func:`inputs` has them, and the indicator of their
    labels (..., C)."""
    own = part(weights, "encoder_")
    if mask is not None:
        own["bias_0"] = own["bias_0"] + (~mask).astype(rows.dtype) @ own["missing_weight"]
    if label is not None:
        own["bias_0"] = own["bias_0"] + label @ own["label_weight"]
    if architecture.image is not None:
        rows = convolution.shrink(architecture, own, rows)
    loc, raw_scale = jnp.split(perceptron(own, rows, architecture.num_dense), 2, axis=-1)
    return dist.Normal(loc, MIN_POSTERIOR + jax.nn.softplus(raw_scale + UNIT)).to_event(1)


def decode(
    architecture: Architecture, weights: Weights, z: jax.Array, context: jax.Array | None,
    label: jax.Array | None = None,
) -> Raw:  # fmt: skip
    """What the decoder says of rows with latents z (..., L), and the indicator of their labels (..., C)."""
    own = part(weights, "decoder_")
    parts = [z, *([] if context is None else [jnp.clip(context, -REACH, REACH)]), *([] if label is None else [label])]
    lead = jnp.broadcast_shapes(*(each.shape[:-1] for each in parts))
    z = jnp.concatenate([jnp.broadcast_to(each, (*lead, each.shape[-1])) for each in parts], -1)
    out = perceptron(own, z, architecture.num_dense)
    if architecture.image is not None:
        out = convolution.grow(architecture, own, out)
    return parameters(architecture, weights, out)


def parameters(architecture: Grouped, weights: Weights, out: jax.Array) -> Raw:
    """Those of the columns' conditionals, by group, of what a network says of rows (..., outputs)."""
    return [_parameters(g, weights, _by_parameter(g, out)) for g in architecture.groups]


def _by_parameter(group: Group, out: jax.Array) -> jax.Array:
    """(outputs of a column, ..., columns) of the decoder's outputs."""
    return jnp.moveaxis(out[..., group.outputs].reshape(*out.shape[:-1], group.num_parameters, group.size), -2, 0)


def _parameters(group: Group, weights: Weights, own: jax.Array) -> jax.Array:
    """Those of the conditionals: normals and logistics are mixtures of a single component."""
    if group.kind == "real":
        return jnp.stack([jnp.zeros_like(own[0]), own[0], jnp.broadcast_to(weights["real_raw_scale"], own[0].shape)])
    return jnp.concatenate([jnp.zeros_like(own[:1]), own]) if group.kind == "count" else own


def prior(architecture: Architecture, weights: Weights) -> dist.Distribution:
    """p(z)."""
    zeros = jnp.zeros(architecture.family.latent_dim)
    if architecture.family.prior == "vamp":
        parts = encode(architecture, weights, weights["pseudo_inputs"])
        return dist.MixtureSameFamily(dist.Categorical(logits=jnp.zeros(parts.batch_shape)), parts)
    normal = dist.Normal(zeros, jnp.ones_like(zeros)).to_event(1)
    if architecture.flow is None:
        return normal
    return dist.TransformedDistribution(normal, FlowTransform(architecture.flow, part(weights, "prior_")))


class Columns(dist.Distribution):
    """Rows, of event shape (D,), whose columns are independent given what the decoder says; missing entries count for
    nothing."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)  # kinds differ by column
    pytree_data_fields: tuple[str, ...] = ("weights", "raw", "mask")
    pytree_aux_fields = ("architecture",)

    def __init__(
        self, architecture: Grouped, weights: Weights, raw: Raw, mask: jax.Array | None = None, *,
        validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.architecture, self.weights, self.raw, self.mask = architecture, dict(weights), raw, mask
        super().__init__(raw[0].shape[1:-1], (architecture.num_columns,), validate_args=validate_args)

    def log_prob(self, value: Any) -> jax.Array:
        total: Any = 0.0
        for group, raw in zip(self.architecture.groups, self.raw, strict=True):
            found = conditionals.log_prob(group, self.weights, raw, value[..., group.where], "gaussian")
            total += (found if self.mask is None else jnp.where(self.mask[..., group.where], found, 0.0)).sum(-1)
        return total

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        u = jax.random.uniform(key, (*sample_shape, *self.batch_shape, *self.event_shape), self.raw[0].dtype)
        parts = [
            conditionals.quantile(group, self.weights, raw, u[..., group.where], "gaussian")
            for group, raw in zip(self.architecture.groups, self.raw, strict=True)
        ]
        return in_order(self.architecture, parts)

    @property
    def typical(self) -> jax.Array:
        """The median of each column, of labels the likeliest."""
        parts = []
        for group, raw in zip(self.architecture.groups, self.raw, strict=True):
            half = jnp.full(raw.shape[1:], 0.5, raw.dtype)
            likeliest = group.kind == "categorical"
            parts.append(
                raw.argmax(0).astype(raw.dtype) if likeliest
                else conditionals.quantile(group, self.weights, raw, half, "gaussian")
            )  # fmt: skip
        return in_order(self.architecture, parts)

    @property
    def expected(self) -> jax.Array:
        """The same, but of binary columns the probability of a 1."""
        typical = self.typical
        for group, raw in zip(self.architecture.groups, self.raw, strict=True):
            if group.kind == "binary":
                typical = typical.at[..., group.where].set(jax.nn.sigmoid(raw[0]))
        return typical


def in_order(architecture: Grouped, parts: list[jax.Array]) -> jax.Array:
    """(..., D): the columns of all groups in the order of the table."""
    whole, order = jnp.concatenate(parts, -1), architecture.column_order
    return whole if order is None else whole[..., order]
