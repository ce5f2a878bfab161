"""Generative adversarial networks: the twins, losses and regularizers in closed form, rows and what the model is."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ppl_gen as pg
from ppl_gen.models.gan import GAN
from ppl_gen.view import View

BACKENDS = ("numpyro", "pyro")
ROWS = 60
SMALL: dict[str, Any] = {"latent_dim": 2, "generator_hidden": (6,), "discriminator_hidden": (6, 5)}

FAMILIES = {
    "real": GAN(**SMALL),
    "minimax": GAN(**SMALL, loss="minimax", regularizer=None),
    "wasserstein": GAN(**SMALL, loss="wasserstein", regularizer="gradient_penalty", pack=2),
    "hinge": GAN(**SMALL, loss="hinge", regularizer="spectral_norm"),
    "least_squares": GAN(**SMALL, loss="least_squares", regularizer="clip", pack=3),
    "clamped": GAN(**SMALL, regularizer="jacobian_clamping", jacobian_range=(0.5, 0.9)),
    "mixed": GAN(**SMALL, pack=2, max_modes=3),
    "given": GAN(**SMALL, condition_on=("p",), normalization="standard", pack=2, regularizer="gradient_penalty"),
    "images": GAN(**SMALL, generator="conv", discriminator="conv", channels=(3, 4), pack=2),
    "counts": GAN(**SMALL, generator="conv", channels=(3, 4), regularizer="jacobian_clamping"),
}


def mixed(number: int = ROWS) -> pd.DataFrame:
    """Columns of each kind; u has two peaks."""
    rng = np.random.default_rng(0)
    return pd.DataFrame({
        "u": rng.normal(size=number) + 9 * (rng.random(number) < 0.4), "p": rng.choice(list("abc"), number),
        "a": rng.integers(0, 2, number), "k": rng.poisson(30, number), "q": rng.choice(list("xyz"), number),
        "v": rng.normal(size=number),
    })  # fmt: skip


def table(name: str) -> Any:
    rng = np.random.default_rng(0)
    if name in ("mixed", "given"):
        return mixed()
    if name in ("images", "counts"):
        return rng.normal(size=(ROWS, 5, 6)) if name == "images" else rng.integers(0, 256, (ROWS, 5, 6))
    return rng.normal(size=(ROWS, 3)) * [1.0, 2.0, 0.1] + [0, 5, 0]


def tools(backend: str) -> SimpleNamespace:
    """Arrays, and a function's value with its gradient by a dictionary of arrays."""
    if backend == "numpyro":
        import jax
        import jax.numpy as jnp

        def graded(function, weights):
            return jax.jit(jax.value_and_grad(function))(weights)

        return SimpleNamespace(array=lambda a: jnp.asarray(a, float), graded=graded)
    import torch

    def graded(function, weights):
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        value = function(leaves)
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return value.detach(), dict(zip(leaves, found, strict=True))

    return SimpleNamespace(array=lambda a: torch.as_tensor(np.array(a), dtype=torch.get_default_dtype()), graded=graded)


def start(pair: pg.Pair, view: View | None = None, jitter: float = 0.1) -> dict[str, np.ndarray]:
    """Weights off their starts, but for what is known of the columns."""
    view = pair.data if view is None else view
    values = {name: value[0] for name, value in pair.initialize(view, 0, 1).items()}
    rng, kept = np.random.default_rng(1), pair.idle(view)
    return {n: v if n in kept else v + jitter * rng.standard_normal(v.shape) for n, v in values.items()}


@cache
def noise(name: str, size: int) -> np.ndarray:
    return np.random.default_rng([2, len(name)]).standard_normal((ROWS, size))


def everything(name: str, backend: str) -> dict[str, np.ndarray]:
    """All that the hooks of a pair give at the same weights and noise, and gradients of each loss."""
    pair, own = FAMILIES[name].pair(backend, table(name)), tools(backend)
    values = start(pair)
    weights, z = {k: own.array(v) for k, v in values.items()}, own.array(noise(name, pair.latent_size))
    rng = np.random.default_rng(3)
    view = pair.data._replace(weights=own.array(rng.random(ROWS))) if name in ("mixed", "real") else pair.data
    codes, game = View(z, context=view.context), pair.adversary
    found = {
        "generate": pair.generate(weights, codes), "log_ratio": pair.log_ratio(weights, codes),
        "discriminator": pair.discriminator(weights, view), "relax": game.relax(weights, view),
        "forge": game.forge(weights, z, view.context),
        "judge": game.judge(weights, game.relax(weights, view), view.context),
    }  # fmt: skip
    found |= {f"project {key}": value for key, value in game.project(weights).items()}
    losses = {"generator": lambda w: game.generator_loss(w, view, z),
              "log_ratio": lambda w: game.log_ratio_loss(w, view, z)}  # fmt: skip
    if FAMILIES[name].regularizer != "gradient_penalty":  # which draws numbers of its own
        losses["discriminator"] = lambda w: game.discriminator_loss(w, view, z)
    for key, loss in losses.items():
        found[key], gradient = own.graded(loss, weights)
        found |= {f"{key} by {site}": value for site, value in gradient.items()}
    return {key: np.asarray(value.detach() if hasattr(value, "detach") else value) for key, value in found.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_both_backends_have_the_same_rows_losses_and_gradients(name: str, x64) -> None:
    ours, theirs = (everything(name, backend) for backend in BACKENDS)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=1e-9, atol=1e-9, err_msg=key)
    assert any(np.abs(v).max() > 0 for k, v in ours.items() if k.startswith("generator by generator_"))
