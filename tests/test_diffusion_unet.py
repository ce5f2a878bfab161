"""The U-net of diffusion models: the same function in both backends, and the images that it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ppl_gen as pg

ROUNDING = 1e-9


def both(family: pg.Diffusion, x: np.ndarray) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Denoisers of numpy arrays in NumPyro and in Pyro, and weights far from their starts."""
    import jax.numpy as jnp

    torch = pytest.importorskip("torch")

    pair, twin = family.pair("numpyro", x), family.pair("pyro", x)
    rng = np.random.default_rng(0)
    weights = {name: value[0] + 0.2 * rng.normal(size=value[0].shape)
               for name, value in pair.initialize(pair.data, 0, 1).items()}  # fmt: skip

    def in_jax(*arrays: Any) -> np.ndarray:
        read = {name: jnp.asarray(value) for name, value in weights.items()}
        return np.asarray(pair.noising.denoise(read, *map(jnp.asarray, arrays)))

    def in_torch(*arrays: Any) -> np.ndarray:
        read = {name: torch.as_tensor(value) for name, value in weights.items()}
        return twin.noising.denoise(read, *map(torch.as_tensor, arrays)).numpy()

    return in_jax, in_torch, weights


@pytest.mark.parametrize(("shape", "channels"), [((8, 8), (4, 6)), ((7, 5, 2), (4, 6, 5)), ((5, 5), (4,))])
def test_unet_is_the_same_in_both_backends(x64: None, shape: tuple[int, ...], channels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 17, (60, *shape)).astype(np.uint8)
    in_jax, in_torch, _ = both(pg.Diffusion(network="unet", channels=channels), x)
    z = rng.normal(size=(3, int(np.prod(shape))))
    each = in_jax(z, np.array([-4.0, 0.0, 4.0]))
    np.testing.assert_allclose(each, in_torch(z, np.array([-4.0, 0.0, 4.0])), rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(in_jax(z, np.array(0.0))[1], each[1], rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(in_jax(z[::-1].copy(), np.array(4.0))[0], each[2], rtol=ROUNDING, atol=ROUNDING)
