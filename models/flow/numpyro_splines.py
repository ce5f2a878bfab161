r"""Elementwise monotone maps in JAX: affine ones and rational-quadratic splines.

Each takes parameters (P, ..., D) for an array (..., D) and gives the image and log derivatives, (..., D) both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

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
    """Left edge, width, bottom, height and both end slopes of the bin that holds each value."""
    *edges, slope_0, slope_1 = _entries(parameters, value, bound, by_height)
    return (*edges, *(MIN_SLOPE + (1 - MIN_SLOPE) * jax.nn.softplus(raw + UNIT) for raw in (slope_0, slope_1)))


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _entries(parameters: jax.Array, value: jax.Array, bound: float, by_height: bool) -> tuple[jax.Array, ...]:
    """:func:`_bin` with slopes as the parameters have them.

    With a derivative of its own: it is that of a few of the parameters' numbers, chosen by the bin, so that in the
    backward pass everything is elementwise. XLA's derivative of the sums and choices took six times as long.
    """
    return _find(parameters, value, bound, by_height)[0]


@_entries.defjvp
def _entries_jvp(bound: float, by_height: bool, primals: Any, tangents: Any) -> Any:
    r"""With :math:`s = softmax(r)`, a width is :math:`2 B (m + c\, s_k)` and a left edge the sum of those before it,
    less B; :math:`ds_k = s_k (dr_k - \sum_j s_j\, dr_j)`. The bin does not change with the value."""
    parameters, value = primals
    found, place, shares = _find(parameters, value, bound, by_height)
    number = (len(parameters) + 1) // 3
    rest, bins = 1 - MIN_BIN * number, jnp.arange(number).reshape(-1, *[1] * value.ndim)
    changes = []
    for i, share in enumerate(shares):
        change = share * tangents[0][i * number : (i + 1) * number]
        total, edge, size = change.sum(0), found[2 * i], found[2 * i + 1]
        before = ((edge + bound) / (2 * bound) - MIN_BIN * place) / rest  # the sum of the shares before this one
        here = (size / (2 * bound) - MIN_BIN) / rest
        changes += [
            2 * bound * rest * (jnp.where(bins < place, change, 0).sum(0) - before * total),
            2 * bound * rest * (jnp.where(bins == place, change, 0).sum(0) - here * total),
        ]
    slopes, knots = tangents[0][2 * number :], bins[1:]
    return found, (*changes, *(jnp.where(knots == place + i, slopes, 0).sum(0) for i in range(2)))


def _find(parameters: jax.Array, value: jax.Array, bound: float, by_height: bool) -> Any:
    """The entries, the bin's number, and the shares of all widths and heights.

    Written out bin by bin: XLA makes one loop over the entries of it, many times faster than a sum along an axis of
    eight and a search. It is kept from making one loop of all, in which it would take each exponential anew for each
    number that needs it.
    """
    number = (len(parameters) + 1) // 3
    shares = jax.lax.optimization_barrier(tuple(_shares(parameters[i * number : (i + 1) * number]) for i in range(2)))
    sizes = [2 * bound * (MIN_BIN + (1 - MIN_BIN * number) * share) for share in shares]
    edges = [_edges(size, bound) for size in sizes]
    widths, heights, lefts, bottoms = jax.lax.optimization_barrier((*sizes, *edges))
    knots = bottoms if by_height else lefts
    place = reduce(jnp.add, [(value >= knots[k]).astype(int) for k in range(1, number)])
    end = jnp.zeros((1, *value.shape), value.dtype)  # the slope there is 1, that of the tails
    slopes = jnp.concatenate([end, parameters[2 * number :], end])

    def chosen(table: jax.Array, place: jax.Array) -> jax.Array:
        return jnp.take_along_axis(table, place[None], axis=0, mode="promise_in_bounds")[0]

    found = (*(chosen(table, place) for table in (lefts, widths, bottoms, heights)), chosen(slopes, place),
             chosen(slopes, place + 1))  # fmt: skip
    return found, place, shares


def _shares(raw: jax.Array) -> jax.Array:
    """Softmax along the first axis."""
    powers = jax.lax.optimization_barrier(jnp.exp(raw - reduce(jnp.maximum, list(raw))))
    return powers * (1 / reduce(jnp.add, list(powers)))


def _edges(sizes: jax.Array, bound: float) -> jax.Array:
    """The left (or lower) edge of each bin."""
    edges = [jnp.full_like(sizes[0], -bound)]
    for size in sizes[:-1]:
        edges.append(edges[-1] + size)
    return jnp.stack(edges)
