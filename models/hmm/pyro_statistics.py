"""Expected sufficient statistics of the emissions in torch, for EM's E-step.

Each function takes the posterior probabilities ``resp`` (n, K) of the states, weights multiplied in, of the stacked
time steps x (n, D) with their mask. Of normals: ``count``, ``first`` and ``second`` moments about the mean location,
and with Student's t their weight ``lift``; of mixtures ``mixture_weights`` (K, M) too; of rates and probabilities
``<site>_count`` and ``<site>_sum`` (K, D); of categories ``category_probs_<j>`` (K, C).
"""

from __future__ import annotations

from typing import Any

import torch

from ppl_gen.backends.pyro_normal import whiten
from ppl_gen.backends.pyro_normal_em import conditional_moments
from ppl_gen.data import View
from ppl_gen.models.hmm.hyperparameters import Block
from ppl_gen.models.hmm.pyro_emission import Sites, full_scale, mixture_joint

Statistics = dict[str, torch.Tensor]


def block_statistics(
    block: Block, sites: Sites, resp: torch.Tensor, x: torch.Tensor, mask: Any, view: View
) -> Statistics:
    """The statistics of one block of columns."""
    if block.kind == "gaussian_full":
        return _full(sites, resp, x, mask, view)
    return _STATISTICS[block.kind](block, sites, resp, x, mask)


def _moments(resp: torch.Tensor, x: torch.Tensor, mask: Any, centre: torch.Tensor) -> Statistics:
    """Of independent columns: observed weight and moments about the centre, each (K, D)."""
    x = x - centre
    if mask is None:
        return {"count": resp.sum(0)[:, None].expand(-1, x.shape[1]), "first": resp.mT @ x, "second": resp.mT @ (x * x)}
    seen = mask.to(x.dtype)
    x = x * seen
    return {"count": resp.mT @ seen, "first": resp.mT @ x, "second": resp.mT @ (x * x)}


def _gaussian(block: Block, sites: Sites, resp: torch.Tensor, x: torch.Tensor, mask: Any) -> Statistics:
    return _moments(resp, x, mask, sites["locs"].mean(0))


def _student_t(block: Block, sites: Sites, resp: torch.Tensor, x: torch.Tensor, mask: Any) -> Statistics:
    """Student's t as a scale mixture of normals: a step counts (df + 1) / (df + y^2)
    (Liu & Rubin 1995, Stat. Sinica 5)."""
    df, centre = sites["df"][:, None], sites["locs"].mean(0)
    y = (x[:, None, :] - sites["locs"]) / sites["scales"]
    seen = torch.ones_like(x) if mask is None else mask.to(x.dtype)
    lift = resp[:, :, None] * (df + 1) / (df + y * y) * seen[:, None, :]
    shifted = (x - centre)[:, None, :]
    first, second = (lift * shifted).sum(0), (lift * shifted**2).sum(0)
    return {"count": resp.mT @ seen, "lift": lift.sum(0), "first": first, "second": second}


def _mixture(block: Block, sites: Sites, resp: torch.Tensor, x: torch.Tensor, mask: Any) -> Statistics:
    joint = mixture_joint(sites, x, mask)
    k, m = joint.shape[1:]
    parts = resp[:, :, None] * torch.softmax(joint, -1)
    if mask is not None:
        parts = parts * mask.any(-1)[:, None, None]
    moments = _moments(parts.reshape(-1, k * m), x, mask, sites["locs"].mean((0, 1)))
    return {name: value.reshape(k, m, -1) for name, value in moments.items()} | {"mixture_weights": parts.sum(0)}


def _totals(name: str, resp: torch.Tensor, x: torch.Tensor, mask: Any) -> Statistics:
    seen = torch.ones_like(x) if mask is None else mask.to(x.dtype)
    return {f"{name}_count": resp.mT @ seen, f"{name}_sum": resp.mT @ x}  # x is 0 where it is missing


def _poisson(block: Block, sites: Sites, resp: torch.Tensor, x: torch.Tensor, mask: Any) -> Statistics:
    return _totals("rates", resp, x, mask)


def _bernoulli(block: Block, sites: Sites, resp: torch.Tensor, x: torch.Tensor, mask: Any) -> Statistics:
    return _totals("probs", resp, x, mask)


def _categorical(block: Block, sites: Sites, resp: torch.Tensor, x: torch.Tensor, mask: Any) -> Statistics:
    counts = {}
    for i, j in enumerate(block.columns):
        name = f"category_probs_{j}"
        weights = resp if mask is None else resp * mask[:, i, None]
        empty = torch.zeros(sites[name].mT.shape, dtype=resp.dtype)
        counts[name] = empty.index_add(0, x[:, i].long(), weights).mT
    return counts


def _full(sites: Sites, resp: torch.Tensor, x: torch.Tensor, mask: Any, view: View) -> Statistics:
    """Of normals with correlations: ``count`` (K,), ``first`` (K, D), ``second`` (K, D, D)."""
    locs, scale = sites["locs"], full_scale(sites)
    if scale.dim() == 2:
        return _moments(resp, x, mask, locs.mean(0))
    centre = locs.mean(0)
    k, d = locs.shape
    if mask is None:
        x = x - centre
        weighted = (resp[:, :, None] * x[:, None, :]).reshape(-1, k * d)
        return {"count": resp.sum(0), "first": resp.mT @ x, "second": (weighted.mT @ x).reshape(k, d, d)}
    rows = View(x, mask, None, view.patterns, view.pattern.reshape(-1))
    resp = resp * mask.any(-1)[:, None]
    y, _, inverse = whiten(x, locs, scale, mask, rows.patterns, rows.pattern)
    first, second = conditional_moments(resp, rows, y, locs, scale, inverse)
    return {"count": resp.sum(0), "first": first, "second": second}


_STATISTICS = {
    "gaussian": _gaussian, "student_t": _student_t, "mixture": _mixture, "poisson": _poisson,
    "bernoulli": _bernoulli, "categorical": _categorical,
}  # fmt: skip
