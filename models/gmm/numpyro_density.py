"""The densities of a Gaussian mixture in NumPyro: components, mixture, stick-breaking weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from ppl_gen.backends.numpyro_normal import component_log_prob, marginal_tril

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.gmm.hyperparameters import Hyperparameters


def component_scale(hyper: Hyperparameters, sites: Mapping[str, Any]) -> jax.Array:
    """Cholesky factors (K, D, D), one (1, D, D) if tied; with independent columns standard deviations (K or 1, D)."""
    scales, one = jnp.asarray(sites["scales"]), (1 if hyper.tied else hyper.num_components)
    if hyper.covariance == "spherical":
        return jnp.broadcast_to(scales[:, None], (one, hyper.num_columns))
    scales = scales.reshape(one, hyper.num_columns)
    if not hyper.dense:
        return scales
    return scales[..., None] * jnp.asarray(sites["corr_cholesky"]).reshape(one, *2 * (hyper.num_columns,))


def log_weights(weights: Any) -> jax.Array:
    """log w of weights scaled to sum to 1, finite with a finite gradient where a weight is 0."""
    weights = jnp.asarray(weights)
    return jnp.log(jnp.maximum(weights / weights.sum(), jnp.finfo(weights.dtype).tiny))


def component(locs: jax.Array, scale: jax.Array, z: jax.Array, view: View | None) -> dist.Distribution:
    """The distribution of rows given their components, z (n,), or (K, 1) when it is enumerated."""
    scale = jnp.broadcast_to(scale, (len(locs), *scale.shape[1:]))
    if scale.ndim == 2:
        columns = dist.Normal(locs[z], scale[z])
        return (columns if view is None or view.mask is None else columns.mask(view.mask)).to_event(1)
    if view is None or view.mask is None:
        return dist.MultivariateNormal(locs[z], scale_tril=scale[z])
    return dist.MultivariateNormal(locs[z] * view.mask, scale_tril=marginal_tril(scale, view.patterns)[view.pattern, z])


class GaussianMixture(dist.Distribution):
    """The mixture with its labels summed out. Event shape (D,); rows are independent along one batch axis.

    Given the missing entries of a View its ``log_prob`` is of the observed entries; ``sample`` draws whole rows.
    """

    support = constraints.real_vector
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (NumPyro's own convention)
    pytree_data_fields = ("weights", "locs", "scale", "mask", "patterns", "pattern")

    def __init__(
        self, weights: Any, locs: Any, scale: Any, view: View | None = None, *, validate_args: bool | None = None
    ) -> None:
        self.weights, self.locs, self.scale = weights, locs, scale
        self.mask = self.patterns = self.pattern = None
        if view is not None and view.mask is not None:
            self.mask, self.patterns, self.pattern = view.mask, view.patterns, view.pattern
        batch_shape = () if self.mask is None else (len(self.mask),)
        super().__init__(batch_shape, (locs.shape[-1],), validate_args=validate_args)

    def log_prob(self, value: Any) -> jax.Array:
        rows = value.reshape(-1, value.shape[-1])
        parts = component_log_prob(rows, self.locs, self.scale, self.mask, self.patterns, self.pattern)
        return jax.nn.logsumexp(parts + log_weights(self.weights), axis=-1).reshape(value.shape[:-1])

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        shape = tuple(sample_shape) + self.batch_shape
        key_z, key_x = jax.random.split(key)
        z = jax.random.categorical(key_z, log_weights(self.weights), shape=shape)
        noise = jax.random.normal(key_x, (*shape, self.locs.shape[-1]), dtype=self.locs.dtype)
        scale = jnp.broadcast_to(self.scale, (len(self.locs), *self.scale.shape[1:]))[z]
        return self.locs[z] + (scale * noise if self.scale.ndim == 2 else (scale @ noise[..., None])[..., 0])


class StickBreaking(dist.Distribution):
    r"""Truncated stick-breaking weights as a distribution on the simplex.

    With :math:`v_k \sim \mathrm{Beta}(1, \alpha)`, k < K, and :math:`w_k = v_k \prod_{j<k} (1 - v_j)` the density is

    .. math:: p(w) = \alpha^{K-1} \, w_K^{\alpha - 1} \prod_{k=1}^{K-2} \Big( \sum_{j>k} w_j \Big)^{-1}

    a generalized Dirichlet (Connor & Mosimann 1969, JASA 64, eq. 4).
    """

    support = constraints.simplex
    arg_constraints = {"concentration": constraints.positive}  # noqa: RUF012
    pytree_aux_fields = ("num_components",)

    def __init__(self, concentration: Any, num_components: int, *, validate_args: bool | None = None) -> None:
        self.concentration, self.num_components = jnp.asarray(concentration, dtype=float), num_components
        super().__init__((), (num_components,), validate_args=validate_args)

    def log_prob(self, value: Any) -> jax.Array:
        value = jnp.maximum(value, jnp.finfo(value.dtype).tiny)
        tails = jnp.flip(jnp.cumsum(jnp.flip(value, -1), -1), -1)[..., 1:-1]
        last = (self.concentration - 1) * jnp.log(value[..., -1])
        return (self.num_components - 1) * jnp.log(self.concentration) + last - jnp.log(tails).sum(-1)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        shape = (*sample_shape, self.num_components - 1)
        log_left = -jax.random.exponential(key, shape) / self.concentration  # log(1 - v) of Beta(1, alpha)
        edge = jnp.zeros((*sample_shape, 1))
        log_rest = jnp.concatenate([edge, jnp.cumsum(log_left, -1)], -1)
        return jnp.exp(log_rest) * jnp.concatenate([-jnp.expm1(log_left), edge + 1.0], -1)


def priors(hyper: Hyperparameters) -> dict[str, dist.Distribution]:
    """The prior of each global site, a fixed one included."""
    array = partial(jnp.asarray, dtype=float)
    stick = StickBreaking(hyper.stick, hyper.num_components) if hyper.stick is not None else None
    result = {
        "weights": stick or dist.Dirichlet(array(hyper.concentration)),
        "locs": dist.Normal(array(hyper.loc), array(hyper.loc_scale)).to_event(2),
        "scales": dist.HalfNormal(array(hyper.scale)).to_event(hyper.scale.ndim),
    }
    if hyper.dense:
        correlation = dist.LKJCholesky(hyper.num_columns, array(hyper.correlation_concentration))
        result["corr_cholesky"] = correlation.to_event(hyper.correlation_concentration.ndim)
    return result
