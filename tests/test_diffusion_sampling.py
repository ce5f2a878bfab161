"""Samplers of diffusion models: on denoisers known in closed form they draw the rows that they should."""

from __future__ import annotations

from typing import Any

import diffusion_toys
import numpy as np
import pytest

from ppl_gen.guidance import Guidance
from ppl_gen.pair import Pair
from ppl_gen.samplers import Sampler

BACKENDS = ("numpyro", "pyro")
SHARES, MEANS = np.array([0.3, 0.7]), np.array([[-1.2, 0.5], [0.6, -0.4]])
SDS = np.array([[0.25, 0.3], [0.5, 0.15]])
MEMBERS = {"none": np.zeros((2, 1))}  # parameters that nothing reads
NUMBER = 4000


def pair_of(backend: str, *args: Any, **options: Any) -> Pair:
    noising = diffusion_toys.of_mixture(backend, *(args or (SHARES, MEANS, SDS)), **options)
    return Pair(None, backend, None, noising=noising)  # type: ignore[arg-type]


def reverse(backend: str) -> Any:
    from ppl_gen.registry import import_backend

    return import_backend("ppl_gen.backends", f"{backend}_reverse", backend)


def draw(pair: Pair, sampler: Sampler, context: np.ndarray | None = None, guidance: Guidance | None = None) -> Any:
    index = np.arange(NUMBER) % 2
    return reverse(pair.backend).draw(pair, MEMBERS, index, 5, context, sampler, guidance)


def moments() -> tuple[np.ndarray, np.ndarray]:
    mean = SHARES @ MEANS
    return mean, (SHARES[:, None] * (MEANS - mean)).T @ (MEANS - mean) + np.diag(SHARES @ SDS**2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("sampler", "bias"),
    [(Sampler(), 0.01), (Sampler("ddim"), 0.08), (Sampler("ddim", num_steps=100, eta=0.5), 0.06),
     (Sampler("ancestral"), 0.04), (Sampler("predictor_corrector"), 0.06)],
    ids=str,
)  # fmt: skip
def test_samplers_draw_the_mixture(backend: str, sampler: Sampler, bias: float) -> None:
    """Mean and covariance within 4 standard errors, and a share of the variance for the steps, which are few."""
    x = draw(pair_of(backend), sampler)
    mean, covariance = moments()
    variance = np.diag(covariance)
    assert x.shape == (NUMBER, 2)
    assert (np.abs(x.mean(0) - mean) < 4 * np.sqrt(variance / NUMBER) + bias / 2 * np.sqrt(variance)).all()
    scale = np.sqrt(np.outer(variance, variance))
    assert (np.abs(np.cov(x.T) - covariance) < 4 * scale * np.sqrt(2 / NUMBER) + bias * scale).all()
    share = (((x[:, None] - MEANS) / SDS) ** 2).sum(-1).argmin(1)
    assert abs((share == 0).mean() - SHARES[0]) < 4 * np.sqrt(0.21 / NUMBER) + bias / 4


@pytest.mark.parametrize("sampler", [Sampler(num_steps=13), Sampler("ddim", num_steps=7)], ids=str)
def test_deterministic_samplers_agree_between_backends(x64: None, sampler: Sampler) -> None:
    z = np.random.default_rng(0).standard_normal((20, 2))
    chains = [reverse(backend).follow(pair_of(backend), {"none": np.zeros(1)}, z, 0, None, sampler)
              for backend in BACKENDS]  # fmt: skip
    for one, other in zip(*chains, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9, rtol=0)
    np.testing.assert_array_equal(chains[0].z[0], z)
    np.testing.assert_array_equal(chains[0].rows, chains[0].z[-1])
    assert len(chains[0].log_snr) == sampler.num_steps + 1 == len(chains[0].estimate) + 1
