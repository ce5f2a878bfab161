"""Score matching in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ppl_gen.inference.svi import pyro_ensemble
from ppl_gen.inference.svi.ensemble import Objective
from ppl_gen.normalizer import normalize

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.inference.score_matching import ScoreMatching
    from ppl_gen.progress import Monitor


def run(pair: Pair, data: Data, settings: ScoreMatching, seed: int, monitor: Monitor) -> Draws:
    """Train an ensemble; see :class:`ppl_gen.inference.score_matching.ScoreMatching`."""
    view = pair.data if pair.data is not None else data.view("pyro")

    def loss(pair: Pair, weights: Any, rows: View) -> torch.Tensor:
        values = row_losses(pair, settings, weights, rows.x)
        share = torch.ones_like(values) if rows.weights is None else rows.weights
        return (share * values).sum() / share.sum().clamp(min=1e-30)

    objective = Objective(
        settings.label, settings.key(), loss, lambda kept: normalize(pair, kept, view, settings.normalizer, seed)
    )
    return pyro_ensemble.run(pair, data, settings.own(), seed, monitor, objective)


def row_losses(pair: Pair, settings: ScoreMatching, weights: Any, x: torch.Tensor) -> torch.Tensor:
    """(n,): the losses of rows under one draw of the noise."""
    assert pair.tempered is not None
    tempered = pair.tempered

    def score(x: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda x: tempered(weights, x, 1.0).sum())(x)

    if settings.method == "denoising":
        noise = torch.randn(x.shape, dtype=x.dtype)
        return 0.5 * ((settings.noise * score(x + settings.noise * noise) + noise) ** 2).sum(-1)
    found, at = torch.zeros(len(x), dtype=x.dtype), score(x)
    for _ in range(settings.num_slices):
        v = torch.randn(x.shape, dtype=x.dtype)
        found = found + (v * torch.func.grad(lambda x, v=v: (v * score(x)).sum())(x)).sum(-1)
    return found / settings.num_slices + 0.5 * (at**2).sum(-1)
