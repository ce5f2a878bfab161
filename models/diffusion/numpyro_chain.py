"""The normals of the chain and of the noise in JAX, and whole paths; see :mod:`ppl_gen.models.diffusion`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from ppl_gen.backends.numpyro_networks import Weights
from ppl_gen.models.diffusion import numpyro_denoiser as denoiser
from ppl_gen.models.diffusion import numpyro_schedule as schedule
from ppl_gen.models.diffusion.architecture import Architecture


def normal(loc: jax.Array, scale: jax.Array | float) -> dist.Distribution:
    """Independent normals of the numbers of each row, (n, F)."""
    return dist.Normal(loc, jnp.broadcast_to(jnp.asarray(scale, loc.dtype), loc.shape)).to_event(1)


def marginal(e: jax.Array, log_snr: jax.Array) -> dist.Distribution:
    """q(z_t | x) of rows whose numbers are e (n, F), at lambda (n,) or (1,)."""
    level = log_snr[..., None]
    return normal(jnp.sqrt(jax.nn.sigmoid(level)) * e, jnp.sqrt(jax.nn.sigmoid(-level)))


def posterior(z: jax.Array, e: jax.Array, before: jax.Array, log_snr: jax.Array) -> dist.Distribution:
    """q(z_s | z_t, e) of z_t (n, F) at ``log_snr`` (n,), s at ``before`` (n,) (Kingma et al. 2021, eq. 25 to 27)."""
    loc, scale = posterior_moments(z, e, before[..., None], log_snr[..., None])
    return normal(loc, scale)


def posterior_moments(
    z: jax.Array, e: jax.Array, before: jax.Array, log_snr: jax.Array
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Mean and standard deviation of z_s given z_t and e; levels broadcast against both."""
    noise = -jnp.expm1(log_snr - before)  # sigma_{t|s}^2 / sigma_t^2
    alpha_s = jnp.sqrt(jax.nn.sigmoid(before))
    ratio = jnp.exp(0.5 * (jax.nn.softplus(-log_snr) - jax.nn.softplus(-before)))  # alpha_s / alpha_t
    loc = jnp.exp(log_snr - before) * ratio * z + alpha_s * noise * e
    return loc, jnp.sqrt(jax.nn.sigmoid(-before) * noise)


class ReverseChain(dist.Distribution):
    """p(z_s, ..., z_0 | z_1), (S, F) for each row: all steps of the chain, in the order in which they are taken, 250 of
    them in continuous time."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 2)
    pytree_data_fields = ("weights", "start", "given")
    pytree_aux_fields = ("architecture",)

    def __init__(
        self, architecture: Architecture, weights: Weights, start: jax.Array, given: jax.Array | None, *,
        validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.architecture, self.weights, self.start, self.given = architecture, dict(weights), start, given
        event = (architecture.path_steps, architecture.size)
        super().__init__(start.shape[:-1], event, validate_args=validate_args)

    @property
    def _levels(self) -> tuple[jax.Array, jax.Array]:
        """lambda before and after each step, (S,) each."""
        number = self.architecture.path_steps
        t = jnp.arange(number, -1, -1, dtype=self.start.dtype) / number
        found = schedule.log_snr(self.architecture, self.weights, t)
        return found[:-1], found[1:]

    def _moments(self, z: jax.Array, at: jax.Array, after: jax.Array) -> tuple[jax.Array, jax.Array]:
        e = denoiser.estimate(self.architecture, self.weights, z, at, self.given)
        return posterior_moments(z, e, after, at)

    def log_prob(self, value: Any) -> jax.Array:
        path = jnp.moveaxis(jnp.concatenate([self.start[..., None, :], value], -2), -2, 0)

        def step(parts: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
            z, then, at, after = parts
            loc, scale = self._moments(z, at, after)
            return dist.Normal(loc, scale).log_prob(then).sum(-1)

        return jax.lax.map(step, (path[:-1], path[1:], *self._levels)).sum(0)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        start = jnp.broadcast_to(self.start, (*sample_shape, *self.start.shape))

        def step(z: jax.Array, parts: tuple[Any, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            key, at, after = parts
            loc, scale = self._moments(z, at, after)
            z = loc + scale * jax.random.normal(key, z.shape, z.dtype)
            return z, z

        keys = jax.random.split(key, self.architecture.path_steps)
        path = jax.lax.scan(step, start, (keys, *self._levels))[1]
        return jnp.moveaxis(path, 0, -2)
