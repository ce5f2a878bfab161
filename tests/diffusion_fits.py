"""Diffusion models whose denoisers are known, as fits that no engine had to make: of rows of two normals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from diffusion_toys import of_mixture

import ppl_gen as pg
from ppl_gen.engine import Draws
from ppl_gen.family import Family, Pair
from ppl_gen.result import Fit
from ppl_gen.view import View, num_rows

ROWS, MEMBERS, HELD = 600, 2, 150
SHARES, MEANS, SDS = np.array([0.3, 0.7]), np.array([[-1.2, 0.8], [0.6, -0.4]]), np.array([[0.3, 0.5], [0.4, 0.25]])
UNITS = np.array([10.0, 0.01])  # of the columns of the table

Denoise = Callable[..., Any]


def mixture(number: int = ROWS, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    which = (rng.random(number) < SHARES[1]).astype(int)
    return MEANS[which] + SDS[which] * rng.normal(size=(number, 2))


@dataclasses.dataclass(frozen=True)
class Toy(Family):
    """Rows of the mixture, in units of the table."""

    name: ClassVar[str] = "toy"
    title: ClassVar[str] = "A toy"
    density: ClassVar[str] = "exact"
    kinds: ClassVar[tuple[str, ...]] = ("real",)
    engines: ClassVar[tuple[str, ...]] = ("svi",)

    def build(self, backend: str, schema: Any, num_obs: int, view: Any = None) -> Pair:
        loc, scale = (np.array([getattr(c, name) for c in schema.columns]) for name in ("loc", "scale"))

        def model(data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
            numpyro.param("gain", jnp.ones(()))
            parts = dist.Normal((MEANS * UNITS - loc) / scale, SDS * UNITS / scale).to_event(1)
            with numpyro.plate("obs", num_rows(data, num_obs)):
                numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(SHARES), parts),
                               obs=None if data is None else data.x)  # fmt: skip

        return Pair(self, backend, model, has_weights=True)


def fit_of(
    denoise: Callable[[Denoise], Denoise] = lambda exact: exact, num_steps: int | None = None, backend: str = "numpyro",
    held_out: bool = True, alike: bool = False,
) -> Fit:  # fmt: skip
    """A fit whose denoiser is made of the exact one.

    :param held_out: whether members held rows out. :param alike: whether they are the same of all members.
    """
    family = Toy()
    data = family.prepare(pd.DataFrame(mixture() * UNITS, columns=["long", "short"]))
    loc, scale = (np.array([getattr(c, name) for c in data.schema.columns]) for name in ("loc", "scale"))
    noising = of_mixture(backend, SHARES, (MEANS * UNITS - loc) / scale, SDS * UNITS / scale, num_steps)
    rng = np.random.default_rng(1)
    held = np.stack([np.sort(rng.permutation(ROWS)[:HELD]) for _ in range(MEMBERS)])
    held = held[:1].repeat(MEMBERS, 0) if alike else held
    draws = Draws({"gain": np.ones((MEMBERS, 1))}, "ensemble",
                  parameters={"validation_rows": held} if held_out else {})  # fmt: skip
    fit = Fit(family, pg.SVI(), backend, 0, data.schema, draws, data, versions={}, seconds=1.0)
    pair = family.build("numpyro", data.schema, ROWS)
    fit.__dict__["pair"] = dataclasses.replace(
        pair, backend=backend, noising=dataclasses.replace(noising, denoise=denoise(noising.denoise))
    )
    return fit
