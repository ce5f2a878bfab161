"""Rows as numbers, and rows given noisy numbers, in JAX; see :mod:`ppl_gen.models.diffusion`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr
from numpyro.distributions import constraints

from ppl_gen.models.diffusion.architecture import code_scale, inputs, unit_names
from ppl_gen.models.vae.numpyro_network import in_order

if TYPE_CHECKING:
    from ppl_gen.backends.numpyro_networks import Weights
    from ppl_gen.conditionals import Group
    from ppl_gen.models.diffusion.architecture import Architecture

LOG_SQRT_TAU = 0.9189385332046727
NARROW = 0.03  # cells up to this width, in standard deviations, have the density of their middle


def units(group: Group, weights: Weights) -> tuple[jax.Array, jax.Array]:
    """Shift and scale of a group of numbers. They are what the table says: training leaves them as they are."""
    shift, log_scale = (jax.lax.stop_gradient(weights[name]) for name in unit_names(group))
    return shift, jnp.exp(log_scale)


def encode(architecture: Architecture, weights: Weights, x: jax.Array) -> jax.Array:
    """(..., F) of rows (..., D) of model space."""
    parts = []
    for group in architecture.groups:
        own = x[..., group.where]
        if group.kind == "binary":
            parts.append(2 * own - 1)
        elif group.kind == "categorical":
            hot = (own[..., None] == jnp.arange(group.num_inputs)).astype(x.dtype)
            parts.append(code_scale(group) * (hot - 1 / group.num_inputs).reshape(*x.shape[:-1], -1))
        else:
            shift, scale = units(group, weights)
            logged = group.kind == "count" and group.upper is None
            parts.append(((jnp.log1p(jnp.maximum(own, 0.0)) if logged else own) - shift) / scale)
    return jnp.concatenate(parts, -1)


def decode(architecture: Architecture, weights: Weights, e: jax.Array) -> jax.Array:
    """(..., D): the rows whose numbers these (..., F) are, or nearly."""
    parts = []
    for group in architecture.groups:
        own = e[..., inputs(group)]
        if group.kind == "binary":
            parts.append((own > 0).astype(e.dtype))
        elif group.kind == "categorical":
            parts.append(_by_column(group, own).argmax(-1).astype(e.dtype))
        elif group.kind == "real":
            shift, scale = units(group, weights)
            parts.append(shift + scale * own)
        else:
            parts.append(_whole(group, weights, own))
    return in_order(architecture, parts)


def label_logits(group: Group, z: jax.Array, log_snr: jax.Array) -> jax.Array:
    """log q(z | label) of binary (..., columns) or categorical columns (..., columns, K), up to a constant; of a binary
    one that of a 1 less that of a 0. ``log_snr`` has an axis for the numbers."""
    evidence = jnp.exp(0.5 * log_snr + 0.5 * jax.nn.softplus(log_snr)) * z  # alpha / sigma^2 z
    return 2 * evidence if group.kind == "binary" else code_scale(group) * _by_column(group, evidence)


class Rows(dist.Distribution):
    """p(x | z_0), of event shape (D,), at the greatest log signal-to-noise ratio; z_0 is (..., F)."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)  # kinds differ by column
    pytree_data_fields: tuple[str, ...] = ("weights", "z")
    pytree_aux_fields = ("architecture",)

    def __init__(
        self, architecture: Architecture, weights: Weights, z: jax.Array, *, validate_args: bool | None = None
    ) -> None:  # fmt: skip
        self.architecture, self.weights, self.z = architecture, dict(weights), z
        super().__init__(z.shape[:-1], (architecture.num_columns,), validate_args=validate_args)

    @property
    def _spread(self) -> tuple[jax.Array, jax.Array]:
        """z_0 / alpha_0, and the standard deviation sigma_0 / alpha_0 of numbers about it."""
        log_snr = jnp.asarray(self.architecture.log_snr_range[1], self.z.dtype)
        return self.z * jnp.exp(0.5 * jax.nn.softplus(-log_snr)), jnp.exp(-0.5 * log_snr)

    def log_prob(self, value: Any) -> jax.Array:
        log_snr = jnp.full((1,), self.architecture.log_snr_range[1], self.z.dtype)
        centre, sd = self._spread
        total: Any = 0.0
        for group in self.architecture.groups:
            x, own = value[..., group.where], centre[..., inputs(group)]
            if group.kind == "binary":
                logit = label_logits(group, self.z[..., inputs(group)], log_snr)
                found = -jax.nn.softplus((1 - 2 * x) * logit)
            elif group.kind == "categorical":
                logits = label_logits(group, self.z[..., inputs(group)], log_snr)
                hot = x[..., None] == jnp.arange(group.num_inputs)
                found = jnp.where(hot, jax.nn.log_softmax(logits, axis=-1), 0.0).sum(-1)
            else:
                shift, scale = units(group, self.weights)
                found = (_normal if group.kind == "real" else _cell)(group, x, own, sd, shift, scale)
            total += found.sum(-1)
        return total

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        shape, dtype = (*sample_shape, *self.z.shape), self.z.dtype
        noise = jax.random.normal(key, shape, dtype)
        gumbel = jax.random.gumbel(jax.random.fold_in(key, 1), shape, dtype)
        log_snr = jnp.full((1,), self.architecture.log_snr_range[1], dtype)
        centre, sd = self._spread
        drawn, parts = centre + sd * noise, []
        for group in self.architecture.groups:
            where = inputs(group)
            if group.kind == "real":
                shift, scale = units(group, self.weights)
                parts.append(shift + scale * drawn[..., where])
            elif group.kind == "count":
                parts.append(_whole(group, self.weights, drawn[..., where]))
            else:
                logits = label_logits(group, self.z[..., where], log_snr)
                if group.kind == "binary":
                    u = jnp.exp(-jnp.exp(-gumbel[..., where]))
                    parts.append((u < jax.nn.sigmoid(logits)).astype(dtype))
                else:
                    parts.append((logits + _by_column(group, gumbel[..., where])).argmax(-1).astype(dtype))
        return in_order(self.architecture, parts)


def _by_column(group: Group, numbers: jax.Array) -> jax.Array:
    """(..., columns, K) of a group of categorical columns' numbers."""
    return numbers.reshape(*numbers.shape[:-1], group.size, group.num_inputs)


def _whole(group: Group, weights: Weights, numbers: jax.Array) -> jax.Array:
    """The whole numbers in whose cells standardized counts lie."""
    shift, scale = units(group, weights)
    value = shift + scale * numbers
    value = value if group.upper is not None else jnp.expm1(jnp.minimum(value, 30.0))
    return jnp.clip(jnp.floor(value + 0.5), 0.0, group.upper)


def _normal(group: Group, x: Any, centre: Any, sd: Any, shift: Any, scale: Any) -> jax.Array:
    return -0.5 * (((x - shift) / scale - centre) / sd) ** 2 - LOG_SQRT_TAU - jnp.log(sd * scale)


def cell(group: Group, weights: Weights, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the cells of whole numbers x begin, in standard units, and how wide they are."""
    return _edges(group, x, *units(group, weights))


def _edges(group: Group, x: Any, shift: Any, scale: Any) -> tuple[Any, Any]:
    logged = group.upper is None
    edge = jnp.log(jnp.maximum(x + 0.5, 0.5)) if logged else x - 0.5
    width = jnp.log1p(1 / jnp.maximum(x + 0.5, 0.5)) if logged else 1.0
    return (edge - shift) / scale, width / scale


def _cell(group: Group, x: Any, centre: Any, sd: Any, shift: Any, scale: Any) -> jax.Array:
    """Log of the mass of the cell of whole numbers x, of all below at 0, and of all above at the greatest."""
    start, width = _edges(group, x, shift, scale)
    low = (start - centre) / sd
    width = jnp.broadcast_to(width / sd, low.shape)
    high, is_first = low + width, x < 0.5
    is_last = jnp.zeros_like(is_first) if group.upper is None else x > group.upper - 0.5
    # The tail with less mass is the one whose difference keeps its digits.
    flip = low > -high
    near, far = jnp.where(flip, -low, high), jnp.where(flip, -high, low)
    whole = width > NARROW
    upper, lower = (log_ndtr(jnp.where(whole, end, back)) for end, back in ((near, 1.0), (far, -1.0)))
    wide = upper + jnp.log(-jnp.expm1(jnp.minimum(lower - upper, -jnp.finfo(low.dtype).tiny)))
    middle = low + 0.5 * width
    thin = -0.5 * middle**2 - LOG_SQRT_TAU + jnp.log(width) + (middle**2 - 1) * width**2 / 24
    inner = jnp.where(whole, wide, thin)
    return jnp.where(is_first, log_ndtr(high), jnp.where(is_last, log_ndtr(-low), inner))
