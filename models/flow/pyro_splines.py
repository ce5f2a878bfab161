r"""Elementwise monotone maps in torch: affine ones and rational-quadratic splines. The twin of ``numpyro_splines``.

Each takes parameters (P, ..., D) for an array (..., D) and gives the image and log derivatives, (..., D) both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

MAX_LOG_SCALE = 5.0
MIN_BIN = 1e-3  # least share of the interval that a bin has, in width and height
MIN_SLOPE = 1e-3  # least derivative at an inner knot
UNIT = 0.5413248546129181  # softplus(UNIT) = 1
Tensors = tuple[torch.Tensor, torch.Tensor]
Map = Callable[[torch.Tensor, torch.Tensor], Tensors]


def affine(parameters: torch.Tensor, x: torch.Tensor) -> Tensors:
    """(x - m) exp(-s), where a soft bound keeps |s| < 5: an outlier can't overflow it."""
    shift, raw = parameters.unbind(0)
    log_scale = MAX_LOG_SCALE * torch.tanh(raw / MAX_LOG_SCALE)
    return (x - shift) * torch.exp(-log_scale), -log_scale


def affine_inverse(parameters: torch.Tensor, u: torch.Tensor) -> Tensors:
    """m + exp(s) u."""
    shift, raw = parameters.unbind(0)
    log_scale = MAX_LOG_SCALE * torch.tanh(raw / MAX_LOG_SCALE)
    return shift + torch.exp(log_scale) * u, log_scale


def spline(parameters: torch.Tensor, x: torch.Tensor, bound: float) -> Tensors:
    """Durkan et al. 2019, eq. 4 and 5, on [-bound, bound]; the identity beyond."""
    inside = x.abs() < bound
    x_in = torch.where(inside, x, 0.0)
    left, width, bottom, height, slope_0, slope_1 = _bin(parameters, x_in, bound, by_height=False)
    ratio, share = height / width, (x_in - left) / width
    mixed = share * (1 - share)
    denominator = ratio + (slope_0 + slope_1 - 2 * ratio) * mixed
    u = bottom + height * (ratio * share * share + slope_0 * mixed) / denominator
    log_slope = _log_slope(ratio, share, slope_0, slope_1, denominator)
    return torch.where(inside, u, x), torch.where(inside, log_slope, 0.0)


def spline_inverse(parameters: torch.Tensor, u: torch.Tensor, bound: float) -> Tensors:
    """Durkan et al. 2019, eq. 6 to 8."""
    inside = u.abs() < bound
    u_in = torch.where(inside, u, 0.0)
    left, width, bottom, height, slope_0, slope_1 = _bin(parameters, u_in, bound, by_height=True)
    ratio, above = height / width, u_in - bottom
    excess = above * (slope_0 + slope_1 - 2 * ratio)
    a, b, c = height * (ratio - slope_0) + excess, height * slope_0 - excess, -ratio * above
    share = 2 * c / (-b - torch.sqrt((b * b - 4 * a * c).clamp(min=0.0)))
    denominator = ratio + (slope_0 + slope_1 - 2 * ratio) * share * (1 - share)
    slope = _log_slope(ratio, share, slope_0, slope_1, denominator)
    return torch.where(inside, left + width * share, u), torch.where(inside, -slope, 0.0)


def _log_slope(
    ratio: torch.Tensor, share: torch.Tensor, slope_0: torch.Tensor, slope_1: torch.Tensor, denominator: torch.Tensor
) -> torch.Tensor:
    rest = 1 - share
    numerator = slope_1 * share * share + 2 * ratio * share * rest + slope_0 * rest * rest
    return torch.log(numerator * (ratio / denominator) ** 2)


def _bin(parameters: torch.Tensor, value: torch.Tensor, bound: float, by_height: bool) -> tuple[torch.Tensor, ...]:
    """Left edge, width, bottom, height and both end slopes of the bin that holds each value."""
    number = (len(parameters) + 1) // 3
    widths = _shares(parameters[:number], bound)
    heights = _shares(parameters[number : 2 * number], bound)
    slopes = MIN_SLOPE + (1 - MIN_SLOPE) * functional.softplus(parameters[2 * number :] + UNIT)
    ends = torch.ones_like(slopes[:1])
    lefts, bottoms = widths.cumsum(0) - widths - bound, heights.cumsum(0) - heights - bound
    knots = bottoms if by_height else lefts
    place = (value >= knots[1:]).sum(0, keepdim=True)
    table = torch.stack([lefts, widths, bottoms, heights, torch.cat([ends, slopes]), torch.cat([slopes, ends])])
    return table.gather(1, place.expand(6, *place.shape)).squeeze(1).unbind(0)


def _shares(raw: torch.Tensor, bound: float) -> torch.Tensor:
    """Widths (or heights) of the bins, which add up to the whole interval."""
    return 2 * bound * (MIN_BIN + (1 - MIN_BIN * len(raw)) * torch.softmax(raw, 0))
