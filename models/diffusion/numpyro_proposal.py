"""Where z_0 may be given a row, in JAX, for importance sampling of the rows' density.

The guide's noise about a row's own numbers is a proposal of next to no width, while a whole number stands for all of
its cell: where the density of z_0 has no peak at a count's own number, most of what makes it up lies elsewhere in the
cell. So every other particle, on average, has its counts anywhere in their cells.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import ndtri
from numpyro.distributions import constraints

from ppl_gen.models.diffusion.architecture import MARGIN, inputs
from ppl_gen.models.diffusion.numpyro_encoding import LOG_SQRT_TAU, cell, encode

if TYPE_CHECKING:
    from ppl_gen.backends.numpyro_networks import Weights
    from ppl_gen.models.diffusion.architecture import Architecture


class Proposal(dist.Distribution):
    """z_0 (F,) of each of the rows x (n, D): an even mixture of the guide's noise, and of that in all but the counts,
    which are uniform over their cells and :data:`MARGIN` standard deviations of the noise about them."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector
    pytree_data_fields: tuple[str, ...] = ("weights", "x")
    pytree_aux_fields = ("architecture",)

    def __init__(
        self, architecture: Architecture, weights: Weights, x: jax.Array, *, validate_args: bool | None = None
    ) -> None:  # fmt: skip
        self.architecture, self.weights, self.x = architecture, dict(weights), x
        super().__init__(x.shape[:-1], (architecture.size,), validate_args=validate_args)

    @property
    def _parts(self) -> tuple[jax.Array, ...]:
        """alpha_0, sigma_0, and of each number e, whether it is a count, where its cell begins and how wide it is."""
        e = encode(self.architecture, self.weights, self.x)
        log_snr = jnp.asarray(self.architecture.log_snr_range[1], e.dtype)
        alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(side * log_snr)) for side in (1, -1))
        is_count, low, width = jnp.zeros(e.shape, bool), e, jnp.ones_like(e)
        for group in self.architecture.groups:
            if group.kind == "count":
                where, margin = inputs(group), MARGIN * sigma / alpha
                start, size = cell(group, self.weights, self.x[..., group.where])
                is_count = is_count.at[..., where].set(True)
                low, width = low.at[..., where].set(start - margin), width.at[..., where].set(size + 2 * margin)
        return alpha, sigma, e, is_count, low, width

    def icdf(self, u: jax.Array) -> jax.Array:
        """z_0 of uniform numbers (..., F), the first of which says too which of the two it is drawn from."""
        alpha, sigma, e, is_count, low, width = self._parts
        wide = u[..., :1] >= 0.5
        u = u.at[..., 0].set((2 * u[..., 0]) % 1.0)
        tiny = jnp.finfo(u.dtype).eps
        near = alpha * e + sigma * ndtri(jnp.clip(u, tiny, 1 - tiny))
        return jnp.where(wide & is_count, alpha * (low + width * u), near)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        return self.icdf(jax.random.uniform(key, self.shape(sample_shape)))

    def log_prob(self, value: jax.Array) -> jax.Array:
        alpha, sigma, e, is_count, low, width = self._parts
        near = -0.5 * ((value - alpha * e) / sigma) ** 2 - LOG_SQRT_TAU - jnp.log(sigma)
        at = value / alpha - low
        even = jnp.where((at >= 0) & (at <= width), -jnp.log(alpha * width), -jnp.inf)
        wide = jnp.where(is_count, even, near).sum(-1)
        return jnp.logaddexp(near.sum(-1), wide) - math.log(2)
