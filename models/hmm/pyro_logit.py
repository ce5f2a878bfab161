"""The M-step of transitions that depend on covariates, in torch: the twin of ``numpyro_logit``; formulas there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from ppl_gen.backends.pyro_normal import as_float
from ppl_gen.backends.pyro_normal_em import MIN_WEIGHT, floor_simplex
from ppl_gen.models.hmm.pyro_chain import exact_log

if TYPE_CHECKING:
    from ppl_gen.models.hmm.hyperparameters import Hyperparameters

STEPS = (1.0, 0.5, 0.25, 0.0625, 2.0**-8, 0.0)  # fractions of a Newton step, of which each row takes the best
Tensors = tuple[torch.Tensor, torch.Tensor]


def transition_logit(
    hyper: Hyperparameters, statistics: Mapping[str, torch.Tensor], old: Mapping[str, torch.Tensor], objective: str
) -> Tensors:
    """New ``transition_matrix`` (K, K) and ``transition_coefs`` (K, K, C); never lowers Q, plus the log prior of
    ``"map"``. A matrix that the prior fixes stays."""
    counts, context = _design(hyper, statistics, objective)
    free = "transition_matrix" not in hyper.fixed
    fractions = torch.tensor(STEPS[:-1], dtype=counts.dtype)[:, None, None]
    matrix, coefs = old["transition_matrix"], old["transition_coefs"]
    step = _newton_step(hyper, counts, context, matrix, coefs, objective, free)
    moved = coefs + fractions[..., None] * step[..., 1:]
    tried = moved - moved.mean(-2, keepdim=True)
    matrices = matrix.expand(len(fractions), *matrix.shape)
    if free:
        matrices = floor_simplex(torch.softmax(exact_log(matrix) + fractions * step[..., 0], -1))
    # A fraction of 0 is the old value itself, which the floor and the centring must not make worse.
    matrices, tried = torch.cat([matrices, matrix[None]]), torch.cat([tried, coefs[None]])
    pairs = zip(matrices.unbind(0), tried.unbind(0), strict=True)
    values = torch.stack([_value(hyper, counts, context, a, b, objective) for a, b in pairs])
    best = torch.where(torch.isnan(values), -torch.inf, values).argmax(0)[None, :, None]
    matrix = torch.take_along_dim(matrices, best, 0)[0]
    coefs = torch.take_along_dim(tried, best[..., None], 0)[0]
    return _identified(hyper, matrix, coefs) if free and objective == "ml" else (matrix, coefs)


def _identified(hyper: Hyperparameters, matrix: torch.Tensor, coefs: torch.Tensor) -> Tensors:
    """The same probabilities with coefficients that sum to 0 over the labels of a categorical covariate, whose
    indicators sum to 1: their mean goes to the matrix, unless that would take it to its floor."""
    for begin, end in hyper.indicators:
        mean = coefs[..., begin:end].mean(-1)
        moved = torch.softmax(exact_log(matrix) + mean, -1)
        fits = (moved >= MIN_WEIGHT).all()
        shift = torch.zeros(coefs.shape[-1], dtype=coefs.dtype)
        shift[begin:end] = 1.0
        coefs = torch.where(fits, coefs - mean[..., None] * shift, coefs)
        matrix = torch.where(fits, moved, matrix)
    return matrix, coefs


def _design(hyper: Hyperparameters, statistics: Mapping[str, torch.Tensor], objective: str) -> Tensors:
    """Expected transitions (R, K, K) and covariates (R, C) of all steps; the last row is the prior's, at y = 0."""
    k = hyper.num_states
    counts = statistics["transition"].reshape(-1, k, k)
    prior = (hyper.transition_concentration - 1) * (objective == "map")
    context = statistics["context"].reshape(-1, hyper.num_context).to(counts.dtype)
    return (
        torch.cat([counts, as_float(prior).to(counts.dtype)[None]]),
        torch.cat([context, torch.zeros(1, hyper.num_context, dtype=counts.dtype)]),
    )


def _log_probs(matrix: torch.Tensor, coefs: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(exact_log(matrix) + torch.einsum("rc,kjc->rkj", context, coefs), -1)


def _value(
    hyper: Hyperparameters, counts: torch.Tensor, context: torch.Tensor, matrix: torch.Tensor, coefs: torch.Tensor,
    objective: str,
) -> torch.Tensor:  # fmt: skip
    """(K,): each row's part of the objective."""
    log_probs = _log_probs(matrix, coefs, context)
    total = (counts * torch.where(counts == 0, 0.0, log_probs)).sum((0, 2))
    if objective == "map":
        total = total - 0.5 * ((coefs / as_float(hyper.coef_scale)) ** 2).sum((1, 2))
    return total


def _newton_step(
    hyper: Hyperparameters, counts: torch.Tensor, context: torch.Tensor, matrix: torch.Tensor, coefs: torch.Tensor,
    objective: str, free: bool,
) -> torch.Tensor:  # fmt: skip
    """(K, K, 1 + C): steps of the logarithms of the matrix (0 where it is fixed) and of the coefficients."""
    k, width, dtype = hyper.num_states, 1 + hyper.num_context, counts.dtype
    probs = _log_probs(matrix, coefs, context).exp()
    number = counts.sum(-1)
    inputs = torch.cat([torch.full((len(context), 1), float(free), dtype=dtype), context], 1)
    gradient = torch.einsum("rkj,rc->kjc", counts - number[..., None] * probs, inputs)
    # Pseudo-counts may be negative (a concentration below 1): they are left out of the curvature, which stays positive.
    weighted = number.clamp(min=0.0)[..., None] * probs
    both = torch.einsum("rc,rd->rcd", inputs, inputs)
    own = torch.einsum("rkj,rcd->kjcd", weighted, both)
    cross = torch.einsum("rkj,rki,rcd->kjcid", weighted, probs, both)
    curvature = torch.einsum("kjcd,ji->kjcid", own, torch.eye(k, dtype=dtype)) - cross
    curvature = curvature.reshape(k, k * width, k * width)
    penalty = torch.zeros(k, k, width, dtype=dtype)
    if objective == "map":
        slopes = as_float(hyper.coef_scale).to(dtype) ** -2.0
        precision = torch.cat([torch.zeros(k, k, 1, dtype=dtype), slopes], -1)
        penalty = penalty + precision
        gradient = gradient - precision * torch.cat([torch.zeros(k, k, 1, dtype=dtype), coefs], -1)
    # A little more in every direction: shifts that are common to all j, indicators that sum to 1, rows without data.
    size = curvature.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) / (k * width)
    ridge = torch.finfo(dtype).eps ** 0.5 * (size + 1.0)
    curvature = curvature + (penalty.reshape(k, -1) + ridge)[..., None] * torch.eye(k * width, dtype=dtype)
    step = torch.linalg.solve(curvature, gradient.reshape(k, -1, 1)).reshape(k, k, width)
    return step * torch.tensor([float(free)] + [1.0] * hyper.num_context, dtype=dtype)
