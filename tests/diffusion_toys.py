"""Noising processes whose denoisers are known in closed form, in both backends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ppl_gen.noising import Noising

LEAST, GREATEST = -10.0, 10.0  # log signal-to-noise ratios


def _functions(backend: str) -> Any:
    if backend == "numpyro":
        import jax
        import jax.numpy as jnp

        return SimpleNamespace(asarray=jnp.asarray, sigmoid=jax.nn.sigmoid, sqrt=jnp.sqrt, softmax=jax.nn.softmax,
                               log=jnp.log)  # fmt: skip
    import torch

    def asarray(values: Any) -> Any:
        return torch.as_tensor(np.asarray(values), dtype=torch.get_default_dtype())

    return SimpleNamespace(asarray=asarray, sigmoid=torch.sigmoid, sqrt=torch.sqrt, log=torch.log,
                           softmax=torch.softmax)  # fmt: skip


def of_mixture(backend: str, shares: np.ndarray, means: np.ndarray, sds: np.ndarray, num_steps: int | None = None,
               context: bool = False) -> Noising:  # fmt: skip
    """Rows (n, D) of a mixture of K normals with means (K, D) and standard deviations (K, D) of each column; with
    ``context`` (n, K), shares of each row's own, where they are given."""
    f = _functions(backend)
    means_, sds_, size = f.asarray(means), f.asarray(sds), np.shape(means)[1]

    def denoise(parameters: Any, z: Any, log_snr: Any, given: Any = None) -> Any:
        log_snr = log_snr[..., None, None]
        alpha, variance = f.sqrt(f.sigmoid(log_snr)), f.sigmoid(-log_snr)
        total = alpha**2 * sds_**2 + variance
        away = z[:, None] - alpha * means_
        share = f.asarray(shares) if given is None else given
        logits = f.log(share) + (-0.5 * away**2 / total - 0.5 * f.log(total)).sum(-1)
        each = means_ + alpha * sds_**2 / total * away
        return (f.softmax(logits, -1)[..., None] * each).sum(-2)

    def log_likelihood(parameters: Any, x: Any, z: Any) -> Any:
        alpha, variance = f.sqrt(f.sigmoid(f.asarray(GREATEST))), f.sigmoid(f.asarray(-GREATEST))
        spread = variance / alpha**2
        return (-0.5 * (x - z / alpha) ** 2 / spread - 0.5 * f.log(2 * np.pi * spread)).sum(-1)

    return Noising(
        size=size, is_real=np.ones(size, bool), num_steps=num_steps, drops_context=context,
        log_snr=lambda parameters, t: GREATEST + (LEAST - GREATEST) * t, encode=lambda parameters, x: x,
        decode=lambda parameters, e: e, log_likelihood=log_likelihood, denoise=denoise,
    )  # fmt: skip
