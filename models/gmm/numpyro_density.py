"""The densities of a Gaussian mixture in NumPyro: components, mixture, stick-breaking weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.gmm.hyperparameters import Hyperparameters

MAX_PRODUCT_COLUMNS = 16  # independent columns up to which whitening is a product of matrices
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_WORK_OF_ONE_THREAD = 100_000  # operations; jaxlib spreads more than twice as many


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


def marginal_tril(scale_tril: jax.Array, patterns: jax.Array) -> jax.Array:
    """Cholesky factors (P, K, D, D) of the observed block of each covariance, for each pattern of missing entries.

    A missing entry keeps its place with variance 1 / (2 pi), where a normal has log density 0 at its mean: a row
    whose missing entries and their locations are set to 0 gets the marginal density of what was observed.
    """
    seen = patterns.astype(scale_tril.dtype)[:, None, :]
    guard = 2 * seen.shape[-1] * jnp.finfo(scale_tril.dtype).eps  # the rounding error of the product, no more
    covariance = scale_tril @ jnp.swapaxes(scale_tril, -1, -2)
    diagonal = seen * jnp.diagonal(covariance, axis1=-2, axis2=-1) * guard + (1 - seen) / (2 * math.pi)
    eye = jnp.eye(seen.shape[-1], dtype=seen.dtype)
    return _cholesky(covariance * seen[..., :, None] * seen[..., None, :] + diagonal[..., None] * eye)


def _cholesky(matrices: jax.Array) -> jax.Array:
    """Cholesky factors of a batch.

    jaxlib 0.10 spreads a large batch over XLA's threads and blocks one of them meanwhile: chains in several threads of
    a small machine would wait for each other for ever. So no call gets a batch that is worth spreading.
    """
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    most = max(_WORK_OF_ONE_THREAD // flat.shape[-1] ** 3, 1)
    if jax.default_backend() != "cpu" or len(flat) <= most:
        return jnp.linalg.cholesky(matrices)
    return jax.lax.map(jnp.linalg.cholesky, flat, batch_size=most).reshape(matrices.shape)


def inverse_tril(tril: jax.Array) -> jax.Array:
    """Inverses of a batch of lower triangular matrices, by blocks of 1, 2, 4, ... rows.

    The inverse of [[A, 0], [C, B]] is [[A^-1, 0], [-B^-1 C A^-1, B^-1]]. Products of matrices only: as fast as LAPACK
    here, and free of what ``_cholesky`` has to work around.
    """
    d = tril.shape[-1]
    size, block = 1 << (d - 1).bit_length(), 1
    pad = [(0, 0)] * (tril.ndim - 2) + [(0, size - d)] * 2
    tril = jnp.pad(tril, pad) + jnp.diag(jnp.arange(size) >= d).astype(tril.dtype)
    inverse = (1 / jnp.diagonal(tril, axis1=-2, axis2=-1))[..., None, None]
    while block < size:
        pairs = tril.reshape(*tril.shape[:-2], *2 * (size // (2 * block), 2 * block))
        pairs = jnp.moveaxis(jnp.diagonal(pairs, axis1=-4, axis2=-2), -1, -3)
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        lower = -second @ pairs[..., block:, :block] @ first
        upper = jnp.concatenate([first, jnp.zeros_like(first)], -1)
        inverse = jnp.concatenate([upper, jnp.concatenate([lower, second], -1)], -2)
        block *= 2
    return inverse[..., 0, :d, :d]


def whiten(
    x: Any, locs: Any, scale: Any, mask: Any = None, patterns: Any = None, pattern: Any = None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Residuals of each row under each component in units of its covariance, y = L^-1 (x - mu).

    :returns: y (n, K, D), 0 at missing entries; the log density at y = 0 (n or 1, K or 1), so that what was observed
        has log density ``peak - |y|^2 / 2``; and the L^-1 (P or nothing, K or 1, D, D), None of independent columns.
    """
    independent = scale.ndim == 2
    if independent and (mask is not None or x.shape[-1] > MAX_PRODUCT_COLUMNS):
        y = (x[:, None, :] - locs) / scale
        if mask is None:
            return y, -(jnp.log(scale) + HALF_LOG_2PI).sum(-1)[None], None
        seen = mask[:, None, :]
        return jnp.where(seen, y, 0.0), -jnp.where(seen, jnp.log(scale) + HALF_LOG_2PI, 0.0).sum(-1), None
    if mask is None:
        # Few independent columns too: a product of matrices keeps XLA from fusing what made the parameters (random
        # draws, transforms) into the loop over rows, where it would be made anew for every row.
        inverse = jnp.eye(x.shape[-1], dtype=scale.dtype) / scale[..., None] if independent else inverse_tril(scale)
        # A common shift of rows and locations changes nothing but keeps the difference of products accurate.
        centre = jax.lax.stop_gradient(locs.mean(0))
        y = ((x - centre) @ inverse.reshape(-1, x.shape[-1]).T).reshape(len(x), -1, x.shape[-1])
        y = y - (inverse @ (locs - centre)[..., None])[..., 0]
        if independent:
            return y, -(jnp.log(scale) + HALF_LOG_2PI).sum(-1)[None], None
        return y, _peak(scale)[None], inverse
    factor = marginal_tril(scale, patterns)
    residual = jnp.where(mask[:, None, :], x[:, None, :] - locs, 0.0)
    inverse = inverse_tril(factor)
    return (inverse[pattern] @ residual[..., None])[..., 0], _peak(factor)[pattern], inverse


def _peak(tril: jax.Array) -> jax.Array:
    """Log density of normals at their mean."""
    return -(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)) + HALF_LOG_2PI).sum(-1)


def component_log_prob(
    x: Any, locs: Any, scale: Any, mask: Any = None, patterns: Any = None, pattern: Any = None
) -> jax.Array:
    """(n, K): log density of the observed entries of each row under each component.

    :param x: (n, D) rows, 0 at missing entries.
    :param locs: (K, D) locations.
    :param scale: Cholesky factors (K or 1, D, D), or standard deviations (K or 1, D) of independent columns.
    :param mask: (n, D), True where observed; ``patterns`` (P, D) its different rows, ``pattern`` (n,) which is whose.
    """
    y, peak, _ = whiten(x, locs, scale, mask, patterns, pattern)
    return peak - 0.5 * (y * y).sum(-1)


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
