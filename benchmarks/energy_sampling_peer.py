"""One sampler on one density in data space: ``energy_sampling_peer.py who problem``, as JSON on the last line."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from common import seconds

CHAINS, DRAWS, WARMUP = 4, 1000, 500
RADII, SPREAD = np.array([1.0, 4.0]), 0.1


def gaussian() -> np.ndarray:
    """(50, 50): a precision of condition number 1000, its axes turned at random."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((50, 50)))[0]
    return (axes * np.geomspace(1.0, 1000.0, 50)) @ axes.T


def energy_of(problem: str, library: Any, array: Any) -> Any:
    """``energy(x (n, D)) -> (n,)`` in this library."""
    if problem == "gaussian":
        precision = array(gaussian())
        return lambda x: 0.5 * ((x @ precision) * x).sum(-1)

    def rings(x: Any) -> Any:
        radius = library.sqrt((x**2).sum(-1) + 1e-8)
        return -library.logaddexp(*(-0.5 * ((radius - r) / SPREAD) ** 2 - np.log(r) for r in RADII.tolist()))

    return rings


def starts(columns: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((CHAINS, columns))


def pair_of(problem: str, columns: int) -> tuple[Any, dict[str, np.ndarray], Any]:
    """The pair of this energy, its parameters and the schema."""
    import jax.numpy as jnp

    import ppl_gen as pg

    family = pg.EBM(energy=energy_of(problem, jnp, jnp.asarray))
    z = np.random.default_rng(0).standard_normal((200, columns))
    data = family.prepare(z)
    pair = family.build("numpyro", data.schema, len(data), data.view("numpyro"))
    return pair, {name: np.asarray(v[0]) for name, v in pair.initialize(pair.data, 0, 1).items()}, data.schema


def ours(problem: str, columns: int) -> tuple[float, np.ndarray]:
    from ppl_gen.chains import resolve, run

    pair, values, schema = pair_of(problem, columns)
    settings = resolve("nuts", {"num_chains": CHAINS, "num_samples": DRAWS, "num_warmup": WARMUP, "target_accept": 0.8})
    run(pair, values, schema, settings, 0, {})
    took, found = seconds(lambda: run(pair, values, schema, settings, 1, {}))
    return took, found.states


def direct(problem: str, columns: int) -> tuple[float, np.ndarray]:
    """blackjax called directly: window adaptation and a scan, one chain per core at a time, from where ours start: a
    ring of four times the radius takes longer trajectories."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    import blackjax
    import jax
    import jax.numpy as jnp

    from ppl_gen.backends import numpyro_tempering

    pair, values, schema = pair_of(problem, columns)
    first = numpyro_tempering.base(pair, numpyro_tempering.member(values), CHAINS, 1)
    energy = energy_of(problem, jnp, jnp.asarray)
    scale = np.array([column.scale for column in schema.columns])
    first = first * scale + np.array([column.loc for column in schema.columns])

    def density(x: Any) -> Any:
        return -energy(x[None])[0]

    warm = blackjax.window_adaptation(blackjax.nuts, density)

    @jax.jit
    def chain(key: Any, start: Any) -> Any:
        key_warm, key_draw = jax.random.split(key)
        (state, parameters), _ = warm.run(key_warm, start, WARMUP)
        kernel = blackjax.nuts(density, **parameters).step

        def step(state: Any, key: Any) -> Any:
            state, _ = kernel(key, state)
            return state, state.position

        return jax.lax.scan(step, state, jax.random.split(key_draw, DRAWS))[1]

    def job(seed: int) -> np.ndarray:
        keys = jax.random.split(jax.random.key(seed), CHAINS)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack(list(pool.map(lambda c: np.asarray(chain(keys[c], jnp.asarray(first[c], float))),
                                          range(CHAINS))))  # fmt: skip

    job(0)
    return seconds(lambda: job(1))


def torchebm(problem: str, columns: int) -> tuple[float, np.ndarray]:
    """Its Hamiltonian Monte Carlo, at the best of some step sizes; it adapts none."""
    import torch
    from torchebm.core import BaseModel
    from torchebm.samplers import HamiltonianMonteCarlo

    from ppl_gen.arviz_bridge import ess

    torch.manual_seed(0)
    torch.set_num_threads(1)
    function = energy_of(problem, torch, lambda a: torch.as_tensor(a, dtype=torch.float32))

    class Model(BaseModel):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)

    best: tuple[float, np.ndarray] | None = None
    for step in (0.01, 0.02, 0.05, 0.1):
        sampler = HamiltonianMonteCarlo(model=Model(), step_size=step, n_leapfrog_steps=10)
        x = torch.as_tensor(starts(columns), dtype=torch.float32)

        def job(sampler: Any = sampler, x: torch.Tensor = x) -> np.ndarray:
            found = sampler.sample(x=x, n_steps=WARMUP + DRAWS, return_trajectory=True)
            return found.detach().numpy()[:, -DRAWS:]

        took, states = seconds(job)
        rate = float(np.nan_to_num(ess(states)).min()) / took
        if best is None or rate > float(np.nan_to_num(ess(best[1])).min()) / best[0]:
            best = took, states
    assert best is not None
    return best


def main(who: str, problem: str) -> None:
    from ppl_gen.arviz_bridge import ess, rhat

    took, states = {"ours": ours, "direct": direct, "torchebm": torchebm}[who](
        problem, 50 if problem == "gaussian" else 2
    )
    values = states if problem == "gaussian" else np.concatenate([states, np.linalg.norm(states, axis=2)[..., None]], 2)
    if problem == "rings":  # each chain has a ring of its own, so of each by itself
        least = float(np.mean([np.nan_to_num(ess(chain[None])).min() for chain in values]) * len(values))
    else:
        least = float(ess(values).min())
    print(json.dumps({"seconds": took, "ess": least, "rhat": float(rhat(values).max())}))


if __name__ == "__main__":
    main(*sys.argv[1:3])
