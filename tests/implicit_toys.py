"""Generators whose samples are known, as fits that no engine had to make: of rows on a ring of normals."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd

import ppl_gen as pg
from ppl_gen.engine import Draws
from ppl_gen.family import Family, Pair
from ppl_gen.result import Fit
from ppl_gen.view import View, num_rows

MODES, SD, ROWS, MEMBERS, WINDOWS, HELD = 6, 0.1, 600, 2, 40, 120
CENTRES = np.stack([np.cos(np.arange(MODES) * 2 * np.pi / MODES), np.sin(np.arange(MODES) * 2 * np.pi / MODES)], 1)
UNITS = np.array([10.0, 0.01])  # of the columns of the table


@dataclasses.dataclass(frozen=True)
class Toy(Family):
    """x = one of K centres, chosen by the first coordinate of the noise, and sd times the other two."""

    name: ClassVar[str] = "toy"
    title: ClassVar[str] = "A toy"
    density: ClassVar[str] = "implicit"
    kinds: ClassVar[tuple[str, ...]] = ("real",)
    engines: ClassVar[tuple[str, ...]] = ("svi",)

    def build(self, backend: str, schema: Any, num_obs: int, view: Any = None) -> Pair:
        def rows_of(centres: Any, sd: Any, z: Any) -> Any:
            which = jnp.floor(jax.scipy.special.ndtr(z[..., 0]) * len(centres)).astype(int)
            return centres[jnp.clip(which, 0, len(centres) - 1)] + sd * z[..., 1:]

        def model(data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
            centres, sd = numpyro.param("centres", jnp.zeros((1, 2))), numpyro.param("sd", jnp.ones(()))
            with numpyro.plate("obs", num_rows(data, num_obs)):
                z = numpyro.sample("z", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
                numpyro.deterministic("x", rows_of(centres, sd, z))

        def log_ratio(parameters: Any, x: Any) -> Any:
            """The data are standard normal, so it says, and the generator is its first centre."""
            return (jnp.sum((x - parameters["centres"][0]) ** 2, -1) - jnp.sum(x**2, -1)) / 2

        return Pair(
            self, backend, model, has_weights=True, latent_size=3,
            generate=lambda parameters, view: rows_of(parameters["centres"], parameters["sd"], view.x),
            discriminator=lambda parameters, view: log_ratio(parameters, view.x),
        )  # fmt: skip


@cache
def ring(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = CENTRES[rng.integers(MODES, size=ROWS)] + SD * rng.normal(size=(ROWS, 2))
    return pd.DataFrame(x * UNITS, columns=["long", "short"])


def toy(centres: np.ndarray = CENTRES, sd: float = SD, **parameters: np.ndarray) -> Fit:
    """A fit whose members all have these centres and this sd, in the units of the ring.

    :param parameters: what training left, besides the rows that each member held out.
    """
    family = Toy()
    data = family.prepare(ring())
    scale = np.array([c.scale for c in data.schema.columns]) / UNITS
    loc = np.array([c.loc for c in data.schema.columns]) / UNITS
    ours = {"centres": (centres - loc) / scale, "sd": np.array(sd / scale.mean())}
    posterior = {name: np.tile(value, (MEMBERS, 1, *[1] * value.ndim)) for name, value in ours.items()}
    draws = Draws(posterior, "ensemble", parameters={"validation_rows": held_out(), **parameters})
    fit = Fit(family, pg.SVI(), "numpyro", 0, data.schema, draws, data, versions={}, seconds=1.0)
    fit.__dict__["pair"] = pair()  # whose programs all of them share
    return fit


@cache
def pair() -> Pair:
    return Toy().build("numpyro", Toy().prepare(ring()).schema, ROWS)


def held_out() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([np.sort(rng.permutation(ROWS)[:HELD]) for _ in range(MEMBERS)])


def training_rows() -> np.ndarray:
    """Those that no member held out, in the units of the ring."""
    kept = np.setdiff1d(np.arange(ROWS), held_out())
    return ring().to_numpy()[kept] / UNITS


def traces(accuracy: np.ndarray) -> dict[str, np.ndarray]:
    """What an adversarial engine records, (window, member), with this accuracy."""
    whole = np.broadcast_to(accuracy[:, None], (len(accuracy), MEMBERS)).copy()
    whole += 0.01 * np.random.default_rng(0).normal(size=whole.shape)
    losses = {"generator_loss": 0.7 + 0 * whole, "discriminator_loss": 1.4 + 0 * whole}
    return {"accuracy_data": whole, "accuracy_fakes": whole, **losses}


def snapshots(*centres: np.ndarray, number: int = 200) -> np.ndarray:
    """(T, member, number, 2) samples, in model space, of generators with these centres."""
    rng, data = np.random.default_rng(2), Toy().prepare(ring())
    scale = np.array([c.scale for c in data.schema.columns]) / UNITS
    loc = np.array([c.loc for c in data.schema.columns]) / UNITS
    shape = (MEMBERS, number)
    each = [part[rng.integers(len(part), size=shape)] + SD * rng.normal(size=(*shape, 2)) for part in centres]
    return (np.stack(each) - loc) / scale
