"""Noise-contrastive estimation in torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import softplus

from ppl_gen.inference.noise_contrastive import SITE, Finish, moments
from ppl_gen.inference.svi import pyro_ensemble
from ppl_gen.inference.svi.ensemble import Objective

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.inference.noise_contrastive import NoiseContrastive
    from ppl_gen.progress import Monitor


def run(pair: Pair, data: Data, settings: NoiseContrastive, seed: int, monitor: Monitor) -> Draws:
    """Train an ensemble; see :class:`ppl_gen.inference.noise_contrastive.NoiseContrastive`."""
    view = pair.data if pair.data is not None else data.view("pyro")
    normal = moments(np.asarray(view.x, np.float64)) if settings.noise == "normal" else None

    def loss(pair: Pair, weights: Any, rows: View) -> torch.Tensor:
        return batch_loss(pair, settings, weights, rows, normal)

    finish = Finish(pair, view, settings, seed)
    key = (settings.key(), None if normal is None else normal[0].tobytes() + normal[1].tobytes())
    objective = Objective(settings.label, key, loss, finish, {SITE: np.zeros(settings.num_members)})
    return finish.told(pyro_ensemble.run(pair, data, settings.own(), seed, monitor, objective))


def batch_loss(
    pair: Pair, settings: NoiseContrastive, weights: Any, rows: View, normal: tuple[np.ndarray, np.ndarray] | None
) -> torch.Tensor:
    """Minus the objective of a mini-batch, nats a row, with fresh noise."""
    assert pair.tempered is not None
    assert pair.draw_base is not None
    fixed = {name: value.detach() for name, value in weights.items()}
    size, number = len(rows.x), len(rows.x) * settings.num_noise
    if normal is None:
        noise = pair.draw_base(fixed, number, None).detach().to(rows.x.dtype)
        both = torch.cat([rows.x, noise])
        log_noise = pair.tempered(fixed, both, 0.0)
    else:
        mean, chol = (torch.as_tensor(part, dtype=rows.x.dtype) for part in normal)
        drawn = torch.randn((number, len(mean)), dtype=rows.x.dtype)
        both = torch.cat([rows.x, mean + drawn @ chol.T])
        z = torch.linalg.solve_triangular(chol, (both - mean).T, upper=False)
        log_noise = -0.5 * (z**2).sum(0) - chol.diagonal().log().sum() - 0.5 * len(mean) * math.log(2 * math.pi)
    logits = pair.tempered(weights, both, 1.0) - weights[SITE] - log_noise - math.log(settings.num_noise)
    share = torch.ones(size, dtype=rows.x.dtype) if rows.weights is None else rows.weights
    of_rows = (share * softplus(-logits[:size])).sum() / share.sum().clamp(min=1e-30)
    return of_rows + settings.num_noise * softplus(logits[size:]).mean()
