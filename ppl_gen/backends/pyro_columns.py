"""The conditionals of columns in torch: density, distribution function and its inverse, for a group of columns at once.

``raw`` is (P, ..., columns), what the network says; ``weights`` hold the units of exactly these columns; x is
(..., columns) in model space. The twin of ``numpyro_columns``.
"""

from __future__ import annotations

import torch
from torch.nn.functional import softplus
from torch.special import ndtr, ndtri

from ppl_gen.backends.pyro_networks import Weights
from ppl_gen.conditionals import MIN_SCALE, REACH, STEPS, UNIT, Group

LOG_SQRT_TAU = 0.9189385332046727


def encode(group: Group, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """(..., columns * num_inputs): numbers standardized, counts without a greatest value after log(1 + x);
    labels one-hot."""
    if group.kind == "categorical":
        return (x[..., None] == torch.arange(group.num_inputs)).to(x.dtype).flatten(-2)
    if group.kind == "binary":
        return x
    name = "real" if group.kind == "real" else "count_input"
    value = torch.log1p(x) if group.kind == "count" and group.upper is None else x
    return ((value - weights[f"{name}_shift"]) * torch.exp(-weights[f"{name}_log_scale"])).clamp(-REACH, REACH)


def log_prob(group: Group, weights: Weights, raw: torch.Tensor, x: torch.Tensor, real: str) -> torch.Tensor:
    """(..., columns), nats in model space."""
    if group.kind == "binary":
        return -softplus((1 - 2 * x) * raw[0])  # a selection takes longer than all else here
    if group.kind == "categorical":
        return torch.where(x == _numbers(raw), torch.log_softmax(raw, 0), 0.0).sum(0)
    log_share, loc, scale = _mixture(group, weights, raw)
    z = (x - loc) / scale
    if group.kind == "count":
        return torch.logsumexp(log_share + _log_cell(x, z, 0.5 / scale, group.upper), 0)
    far = z.abs()
    log_density = -0.5 * z * z - LOG_SQRT_TAU if real == "gaussian" else -far - 2 * softplus(-far)
    return torch.logsumexp(log_share + log_density - scale.log(), 0)


def cdf(
    group: Group, weights: Weights, raw: torch.Tensor, x: torch.Tensor, real: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """F(x-) and F(x), (..., columns) both: the uniform numbers that x is drawn by lie between; equal of reals."""
    if group.kind == "binary":
        none = torch.sigmoid(-raw[0])
        return torch.where(x > 0.5, none, 0.0), torch.where(x > 0.5, 1.0, none)
    if group.kind == "categorical":
        steps, chosen = _steps(raw), x == _numbers(raw)
        return torch.where(chosen, steps[:-1], 0.0).sum(0), torch.where(chosen, steps[1:], 0.0).sum(0)
    mixture = _mixture(group, weights, raw)
    if group.kind == "count":
        low = torch.where(x > 0.5, _mixture_cdf(mixture, x - 0.5, "logistic"), 0.0)
        high = _mixture_cdf(mixture, x + 0.5, "logistic")
        return low, high if group.upper is None else torch.where(x < group.upper - 0.5, high, 1.0)
    middle = _mixture_cdf(mixture, x, real)
    return middle, middle


def quantile(group: Group, weights: Weights, raw: torch.Tensor, u: torch.Tensor, real: str) -> torch.Tensor:
    """(..., columns): the least x whose F(x) is at least u."""
    if group.kind == "binary":
        return (u >= torch.sigmoid(-raw[0])).to(u.dtype)
    if group.kind == "categorical":
        return (u >= _steps(raw)[1:-1]).sum(0).to(u.dtype)
    mixture = _mixture(group, weights, raw)
    if group.kind == "count":
        return (_mixture_quantile(mixture, u, "logistic") - 0.5).ceil().clamp(0.0, group.upper)
    return _mixture_quantile(mixture, u, real)


Mixture = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _numbers(raw: torch.Tensor) -> torch.Tensor:
    """(C, 1, ...): the label that each row of ``raw`` is of."""
    return torch.arange(len(raw)).reshape(-1, *[1] * (raw.ndim - 1))


def _mixture(group: Group, weights: Weights, raw: torch.Tensor) -> Mixture:
    """Log shares, locations and scales, (M, ..., columns) each."""
    logits, locs, scales = raw.chunk(3)
    unit = weights[f"{group.kind}_log_scale"].exp()
    loc = weights[f"{group.kind}_shift"] + unit * locs
    return torch.log_softmax(logits, 0), loc, unit * (MIN_SCALE + softplus(scales + UNIT))


def _log_cell(x: torch.Tensor, z: torch.Tensor, half: torch.Tensor, upper: int | None) -> torch.Tensor:
    r"""Log of a logistic's mass from z - half to z + half, of all below at 0, and of all above at ``upper``. From
    :math:`\sigma(b) - \sigma(a) = \sigma(b)\, \sigma(-a) (1 - e^{a - b})`, which cancels nowhere."""
    below = -softplus(-(z + half))
    width = (-torch.expm1(-2 * half)).clamp(min=torch.finfo(z.dtype).tiny)
    above = -softplus(z - half)
    cell = torch.where(x > 0.5, below + above + width.log(), below)
    return cell if upper is None else torch.where(x < upper - 0.5, cell, above)


def _steps(raw: torch.Tensor) -> torch.Tensor:
    """(C + 1, ...): 0, the cumulative probabilities of labels, 1."""
    inner = torch.softmax(raw, 0).cumsum(0)[:-1].clamp(max=1.0)
    return torch.cat([torch.zeros_like(raw[:1]), inner, torch.ones_like(raw[:1])])


def _mixture_cdf(mixture: Mixture, x: torch.Tensor, kind: str) -> torch.Tensor:
    log_share, loc, scale = mixture
    z = (x - loc) / scale
    return (log_share.exp() * (ndtr(z) if kind == "gaussian" else torch.sigmoid(z))).sum(0)


def _mixture_quantile(mixture: Mixture, u: torch.Tensor, kind: str) -> torch.Tensor:
    """By Newton's method within a bracket that every other step halves. The quantile of a mixture lies between the
    least and the greatest of its components'."""
    log_share, loc, scale = mixture
    kept, number = torch.finfo(u.dtype), STEPS[u.dtype.itemsize]
    # Where F and 1 - F are halves of the last digit nothing beyond can be told apart.
    u = u.clamp(kept.eps / 4, 1 - kept.eps / 2)
    ends = loc + scale * (ndtri(u) if kind == "gaussian" else u.log() - torch.log1p(-u))
    if len(ends) == 1:
        return ends[0]
    low, high = ends.amin(0), ends.amax(0)
    x, probs = 0.5 * (low + high), log_share.exp()
    for i in range(number):
        z = (x - loc) / scale
        if kind == "gaussian":
            share, slope = ndtr(z), torch.exp(-0.5 * z * z - LOG_SQRT_TAU)
        else:
            share = torch.sigmoid(z)
            slope = share * (1 - share)
        excess, density = (probs * share).sum(0) - u, (probs * slope / scale).sum(0)
        low, high = torch.where(excess < 0, x, low), torch.where(excess < 0, high, x)
        middle = 0.5 * (low + high)
        if i % 2 == 0 and i < number - 4:
            x = middle
            continue
        newton = x - excess / density.clamp(min=kept.tiny)
        x = torch.where((newton >= low) & (newton <= high), newton, middle)
    return x
