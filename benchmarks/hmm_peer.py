"""EM of a hidden Markov model in a fresh process: ``python hmm_peer.py TASK WHO``. Prints JSON.

Tasks: ``long`` (one sequence) and ``ragged`` (500 sequences) by ppl_gen, hmmlearn and dynamax; ``memory`` (a million
steps) and ``chorales`` by ppl_gen. All maximize the likelihood from the same start, over the same number of
iterations; what each reaches is printed, so that it can be seen that they do the same work.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import peak_megabytes, seconds

STATES, CHANNELS, STEPS, ITERATIONS, REPEATS = 5, 4, 50_000, 20, 3
MILLION = 1_000_000
CHORALE_STATES, CHORALE_STARTS = (16, 32, 64), 2  # of the starts, the best on the validation chorales
PSEUDO_COUNT = 0.03  # of each key's being on, and off, in each state


def sequence(num_steps: int, num_states: int, num_columns: int, spread: float = 1.5) -> np.ndarray:
    """(T, D): steps of a sticky chain with normal emissions, whose means lie within +-spread; standardized."""
    rng = np.random.default_rng(0)
    means = spread * rng.permuted(np.linspace(-1, 1, num_states)[:, None].repeat(num_columns, 1), axis=0)
    scales = rng.uniform(0.5, 1.5, size=(num_states, num_columns))
    leaves = rng.random(num_steps) < 0.1
    fresh = rng.integers(num_states, size=num_steps)  # where a step leaves, any state follows
    z = fresh[np.maximum.accumulate(np.where(leaves, np.arange(num_steps), 0))]
    x = means[z] + scales[z] * rng.normal(size=(num_steps, num_columns))
    return (x - x.mean(0)) / x.std(0)


def start(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same start for all: steps picked at random as means, unit scales, a sticky chain."""
    chosen = np.random.default_rng(1).choice(len(x), STATES, replace=False)
    return {
        "initial_probs": np.full(STATES, 1 / STATES), "locs": x[chosen], "scales": np.ones((STATES, CHANNELS)),
        "transition_matrix": np.full((STATES, STATES), 0.2 / (STATES - 1)) + np.eye(STATES) * (0.8 - 0.2 / 4),
    }  # fmt: skip


def timed(once: Any, steps: int) -> dict[str, float]:
    """The first call, with all that is compiled in it, and the median of the next; ``once`` gives log p(x)."""
    base = peak_megabytes()
    cold, total = seconds(once)
    warm = [seconds(once)[0] for _ in range(REPEATS)]
    return {"cold": cold, "warm": float(np.median(warm)), "nats_per_step": float(total) / steps,
            "megabytes": peak_megabytes() - base}  # fmt: skip


def run_ppl_gen(x: np.ndarray, lengths: np.ndarray) -> dict[str, float]:
    import jax.numpy as jnp

    import ppl_gen as pg
    from ppl_gen.inference.em.numpyro_engine import Solver
    from ppl_gen.progress import Monitor

    family, values = pg.HMM(STATES), {name: jnp.asarray(value)[None] for name, value in start(x).items()}
    table = np.split(x, np.cumsum(lengths)[:-1])

    def once() -> float:
        """From the arrays as they come to the parameters: reading and padding count too."""
        data = family.prepare(table, standardize=False)
        pair = family.build("numpyro", data.schema, len(data), data.view("numpyro"))
        solve = Solver(pair, pair.data, "ml", -1.0, ITERATIONS)
        found = solve(values, np.ones((1, len(data))), Monitor())
        assert found.iterations[0] == ITERATIONS
        return float(found.objective[0])

    return timed(once, len(x))


def run_hmmlearn(x: np.ndarray, lengths: np.ndarray) -> dict[str, float]:
    """Its quicker recursion: ``implementation="scaling"`` instead of logarithms, which are its default."""
    from hmmlearn.hmm import GaussianHMM

    values = start(x)

    def once() -> float:
        model = GaussianHMM(STATES, "diag", n_iter=ITERATIONS, tol=-np.inf, init_params="", covars_prior=0.0,
                            covars_weight=1.0, implementation="scaling")  # fmt: skip
        model.startprob_, model.transmat_ = values["initial_probs"], values["transition_matrix"]
        model.means_, model.covars_ = values["locs"], values["scales"] ** 2
        model.fit(x, lengths)
        assert model.monitor_.iter == ITERATIONS
        return model.monitor_.history[-1]

    return timed(once, len(x))


def run_dynamax(x: np.ndarray, lengths: np.ndarray) -> dict[str, float]:
    """Its priors as flat as its M-step bears: a Dirichlet of exactly 1 gives it NaN. Its objective counts them."""
    import jax.numpy as jnp
    import jax.random as jr
    from dynamax.hidden_markov_model import DiagonalGaussianHMM

    values, emissions = {name: jnp.asarray(value) for name, value in start(x).items()}, jnp.asarray(x, jnp.float32)
    assert len(lengths) == 1  # it takes sequences of one length only

    def once() -> float:
        model = DiagonalGaussianHMM(STATES, CHANNELS, 1.0001, 1.0001, emission_prior_mean_concentration=1e-6,
                                    emission_prior_concentration=1e-3, emission_prior_scale=1e-6)  # fmt: skip
        parameters, properties = model.initialize(
            jr.PRNGKey(0), initial_probs=values["initial_probs"], transition_matrix=values["transition_matrix"],
            emission_means=values["locs"], emission_scale_diags=values["scales"],
        )  # fmt: skip
        found = model.fit_em(parameters, properties, emissions, num_iters=ITERATIONS, verbose=False)
        return float(found[1][-1])

    return timed(once, len(x))


def run_memory() -> dict[str, float]:
    import ppl_gen as pg

    x = sequence(MILLION, STATES, CHANNELS)
    table = peak_megabytes()
    engine = pg.EM(num_starts=1, max_iter=ITERATIONS, tolerance=1e-12, num_bootstraps=0)
    elapsed, fit = seconds(lambda: pg.fit(pg.HMM(STATES), x, engine=engine, seed=0))
    figures = fit.draws.figures
    return {"seconds": elapsed, "iterations": figures["num_iterations"], "before": table, "peak": peak_megabytes()}


def run_chorales(num_states: int) -> dict[str, float]:
    """Held-out log density of a frame, all 88 keys.

    Some keys are never played in training. A pseudo-count keeps possible what a state was never heard to play.
    """
    import ppl_gen as pg
    from ppl_gen.backends import numpyro_ops
    from ppl_gen.inference.em.numpyro_engine import Solver
    from ppl_gen.progress import Monitor

    parts = {part: chorales(part) for part in ("train", "valid", "test")}
    frames = {part: sum(map(len, rolls)) for part, rolls in parts.items()}
    num_obs, never = len(parts["train"]), ~np.concatenate(parts["train"]).any(0)
    prior = pg.HMMPrior(prob_concentration=1 + PSEUDO_COUNT, transition_concentration=1 + PSEUDO_COUNT)
    family = pg.HMM(num_states, emission="bernoulli", prior=prior)
    schema = family.prepare(parts["train"]).schema
    views = {part: schema.encode(rolls).view("numpyro") for part, rolls in parts.items()}
    pair = family.build("numpyro", schema, num_obs)
    begin = pair.initialize(views["train"], 0, CHORALE_STARTS)
    solve = Solver(pair, views["train"], "map", 1e-4, 300)
    elapsed, found = seconds(lambda: solve(begin, np.ones((1, num_obs)), Monitor()))
    held_out = {part: -numpyro_ops.log_prob(pair, found.parameters, views[part]).sum(1, dtype=np.float64) / frames[part]
                for part in views}  # fmt: skip
    best = int(held_out["valid"].argmin())
    return {
        **{part: float(value[best]) for part, value in held_out.items()}, "seconds": elapsed / CHORALE_STARTS,
        "iterations": int(found.iterations[best]), "never": int(never.sum()),
        "unheard": int(np.concatenate(parts["test"])[:, never].sum()),
    }  # fmt: skip


def chorales(part: str) -> list[np.ndarray]:
    """The rolls of ``train``, ``valid`` or ``test``, a frame per quarter note: the shared data, see its README."""
    path = shared_data("music/jsb_chorales.npz")
    with np.load(path) as arrays:
        return np.split(arrays[f"{part}_roll"], np.cumsum(arrays[f"{part}_lengths"])[:-1])


def shared_data(name: str) -> Path:
    """A file of the shared data: beside the checkout in ``../shared/data``, or where ``$PPL_GEN_DATA`` says."""
    root = Path(os.environ.get("PPL_GEN_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
    if not (root / name).exists():
        raise SystemExit(f"The shared data has no {name} under {root}: set PPL_GEN_DATA to its folder.")
    return root / name


def main(task: str, who: str) -> dict[str, float]:
    if task == "memory":
        return run_memory()
    if task == "chorales":
        return run_chorales(int(who))
    lengths = np.array([STEPS]) if task == "long" else np.random.default_rng(2).integers(50, 201, size=500)
    run = {"ppl_gen": run_ppl_gen, "hmmlearn": run_hmmlearn, "dynamax": run_dynamax}[who]
    return run(sequence(int(lengths.sum()), STATES, CHANNELS), lengths)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
