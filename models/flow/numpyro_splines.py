r"""Elementwise monotone maps in JAX: affine ones and rational-quadratic splines.

Each takes parameters (P, ..., D) for an array (..., D) and gives the image and log derivatives, (..., D) both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import jax
import jax.numpy as jnp

MAX_LOG_SCALE = 5.0
MIN_BIN = 1e-3  # least share of the interval that a bin has, in width and height
MIN_SLOPE = 1e-3  # least derivative at an inner knot
UNIT = 0.5413248546129181  # softplus(UNIT) = 1
Map = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def affine(parameters: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x - m) exp(-s), where a soft bound keeps |s| < 5: an outlier can't overflow it."""
    shift, log_scale = parameters[0], MAX_LOG_SCALE * jnp.tanh(parameters[1] / MAX_LOG_SCALE)
    return (x - shift) * jnp.exp(-log_scale), -log_scale


def affine_inverse(parameters: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """m + exp(s) u."""
    shift, log_scale = parameters[0], MAX_LOG_SCALE * jnp.tanh(parameters[1] / MAX_LOG_SCALE)
    return shift + jnp.exp(log_scale) * u, log_scale


def spline(parameters: jax.Array, x: jax.Array, bound: float) -> tuple[jax.Array, jax.Array]:
    """Durkan et al. 2019, eq. 4 and 5, on [-bound, bound]; the identity beyond."""
    inside = jnp.abs(x) < bound
    x_in = jnp.where(inside, x, 0.0)
    left, width, bottom, height, slope_0, slope_1 = _bin(parameters, x_in, bound, by_height=False)
    ratio, share = height / width, (x_in - left) / width
    mixed = share * (1 - share)
    denominator = ratio + (slope_0 + slope_1 - 2 * ratio) * mixed
    u = bottom + height * (ratio * share**2 + slope_0 * mixed) / denominator
    return jnp.where(inside, u, x), jnp.where(inside, _log_slope(ratio, share, slope_0, slope_1, denominator), 0.0)


def spline_inverse(parameters: jax.Array, u: jax.Array, bound: float) -> tuple[jax.Array, jax.Array]:
    """Durkan et al. 2019, eq. 6 to 8."""
    inside = jnp.abs(u) < bound
    u_in = jnp.where(inside, u, 0.0)
    left, width, bottom, height, slope_0, slope_1 = _bin(parameters, u_in, bound, by_height=True)
    ratio, above = height / width, u_in - bottom
    excess = above * (slope_0 + slope_1 - 2 * ratio)
    a, b, c = height * (ratio - slope_0) + excess, height * slope_0 - excess, -ratio * above
    share = 2 * c / (-b - jnp.sqrt(jnp.maximum(b * b - 4 * a * c, 0.0)))
    denominator = ratio + (slope_0 + slope_1 - 2 * ratio) * share * (1 - share)
    slope = _log_slope(ratio, share, slope_0, slope_1, denominator)
    return jnp.where(inside, left + width * share, u), jnp.where(inside, -slope, 0.0)


def _log_slope(
    ratio: jax.Array, share: jax.Array, slope_0: jax.Array, slope_1: jax.Array, denominator: jax.Array
) -> jax.Array:
    rest = 1 - share
    numerator = slope_1 * share**2 + 2 * ratio * share * rest + slope_0 * rest**2
    return 2 * jnp.log(ratio) + jnp.log(numerator) - 2 * jnp.log(denominator)


def _bin(parameters: jax.Array, value: jax.Array, bound: float, by_height: bool) -> tuple[jax.Array, ...]:
    """Left edge, width, bottom, height and both end slopes of the bin that holds each value.

    Written out bin by bin: XLA makes one loop over the entries of it, many times faster than a sum along an axis of
    eight and a search. It is kept from making one loop of all, in which it would take each exponential anew for each
    number that needs it.
    """
    number = (len(parameters) + 1) // 3
    widths, heights = (_shares(parameters[i * number : (i + 1) * number], bound) for i in range(2))
    lefts, bottoms = jax.lax.optimization_barrier((_edges(widths, bound), _edges(heights, bound)))
    end = jnp.zeros_like(value)  # the slope there is 1, that of the tails
    found = (lefts[0], widths[0], bottoms[0], heights[0], end, parameters[2 * number])
    for k in range(1, number):
        beyond = value >= (bottoms if by_height else lefts)[k]
        slopes = parameters[2 * number + k - 1], parameters[2 * number + k] if k < number - 1 else end
        here = (lefts[k], widths[k], bottoms[k], heights[k], *slopes)
        found = tuple(jnp.where(beyond, new, old) for new, old in zip(here, found, strict=True))
    return (*found[:4], *(MIN_SLOPE + (1 - MIN_SLOPE) * jax.nn.softplus(raw + UNIT) for raw in found[4:]))


def _shares(raw: jax.Array, bound: float) -> jax.Array:
    """Widths (or heights) of the bins, which add up to the whole interval."""
    powers = jax.lax.optimization_barrier(jnp.exp(raw - reduce(jnp.maximum, list(raw))))
    share = (1 - MIN_BIN * len(raw)) / reduce(jnp.add, list(powers))
    return jax.lax.optimization_barrier(2 * bound * (MIN_BIN + powers * share))


def _edges(sizes: jax.Array, bound: float) -> jax.Array:
    """The left (or lower) edge of each bin."""
    edges = [jnp.full_like(sizes[0], -bound)]
    for size in sizes[:-1]:
        edges.append(edges[-1] + size)
    return jnp.stack(edges)
