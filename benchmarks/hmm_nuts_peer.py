"""NUTS on a hidden Markov model, in a fresh process: ``python hmm_nuts_peer.py (ppl_gen|numpyro|stan)``. Prints JSON.

All fit the same posterior: 500 standardized steps, three states with normal emissions, uniform Dirichlets on the first
state and the transitions, Normal(0, 2) locations, HalfNormal(1) scales; 4 chains x 500 + 500, begun at maxima of the
posterior that EM finds, so that none is caught in a minor mode. ``numpyro`` is NumPyro's own NUTS on ppl_gen's pair.
Efficiency is the smallest bulk ESS of log p(x_t | x_1..t-1) at 50 steps, which no label switching can touch, per
second of wall time. In ``processor_seconds`` the seconds of all cores and child processes add up.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

START = time.perf_counter()

import numpy as np  # noqa: E402
from common import seconds  # noqa: E402
from hmm_peer import sequence  # noqa: E402

STEPS, STATES = 500, 3
NUM_WARMUP = NUM_SAMPLES = 500
NUM_CHAINS = 4
TARGET_ACCEPT = 0.9  # our default; Stan's is 0.8
PROBES = np.linspace(0, STEPS - 1, 50).astype(int)

PROGRAM = """
data { int<lower=1> T; int<lower=1> K; vector[T] x; }
parameters {
  simplex[K] initial_probs;
  array[K] simplex[K] transition_matrix;
  vector[K] locs;
  vector<lower=0>[K] scales;
}
model {
  locs ~ normal(0, 2);
  scales ~ normal(0, 1);
  {
    matrix[K, K] log_to;
    vector[K] alpha = log(initial_probs);
    for (j in 1:K) for (k in 1:K) log_to[k, j] = log(transition_matrix[k][j]);
    for (k in 1:K) alpha[k] += normal_lpdf(x[1] | locs[k], scales[k]);
    for (t in 2:T) {
      vector[K] new_alpha;
      for (j in 1:K) new_alpha[j] = log_sum_exp(alpha + col(log_to, j)) + normal_lpdf(x[t] | locs[j], scales[j]);
      alpha = new_alpha;
    }
    target += log_sum_exp(alpha);
  }
}
"""


def min_ess(log_prob: np.ndarray) -> float:
    """Smallest bulk ESS over probes of (chain, draw, probe)."""
    import arviz as az

    return float(az.ess(az.convert_to_dataset({"log_prob": log_prob})).log_prob.min())


def measured(sample: Any, repeats: int) -> dict[str, float]:
    """``sample(seed)`` gives a function that gives log p (chain, draw, step), to be called when the clock stands still.

    With no repeats the first run counts: of a sampler that compiles nothing in it.
    """
    results = []
    for seed in range(repeats + 1):
        before = processor_seconds()
        elapsed, scores = seconds(lambda seed=seed: sample(seed))
        used = processor_seconds() - before
        if not results:
            cold = time.perf_counter() - START
        results.append((elapsed, used, min_ess(scores()[..., PROBES])))
    elapsed, used, ess = np.median(results[min(1, repeats) :], axis=0)
    return {"cold_seconds": cold, "seconds": elapsed, "processor_seconds": used, "min_ess": ess}


def processor_seconds() -> float:
    """Of this process and its children, those still running among them (where the system tells)."""
    total = sum(os.times()[:4])
    for child in multiprocessing.active_children():
        entry = Path(f"/proc/{child.pid}/stat")
        if entry.exists():
            total += sum(map(int, entry.read_text().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
    return total


def run_ppl_gen(x: np.ndarray) -> dict[str, float]:
    import ppl_gen as pg
    from ppl_gen.timeseries import step_log_prob

    engine = pg.NUTS(num_samples=NUM_SAMPLES, num_warmup=NUM_WARMUP, num_chains=NUM_CHAINS)

    def sample(seed: int) -> Any:
        fit = pg.fit(pg.HMM(STATES), x, engine=engine, backend="numpyro", seed=seed)
        return lambda: step_log_prob(fit, fit.train, fit.posterior).reshape(NUM_CHAINS, NUM_SAMPLES, STEPS)

    return measured(sample, 2)


def starts(x: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
    """The pair, and the values that ppl_gen's chains would begin at."""
    import ppl_gen as pg
    from ppl_gen.inference.em.numpyro_engine import starting_values

    family = pg.HMM(STATES)
    pair = family.pair("numpyro", family.prepare(x))
    return pair, starting_values(pair, pair.data, 0, NUM_CHAINS, 10)


def run_numpyro(x: np.ndarray) -> dict[str, float]:
    """NumPyro's own sampler, chain after chain (vectorized chains share their longest trajectories)."""
    import jax
    from jax import random
    from numpyro.infer import MCMC, NUTS
    from numpyro.infer.util import unconstrain_fn

    pair, values = starts(x)
    kernel = NUTS(pair.density, target_accept_prob=TARGET_ACCEPT)
    chains = MCMC(kernel, num_warmup=NUM_WARMUP, num_samples=NUM_SAMPLES, progress_bar=False)
    every = jax.jit(jax.vmap(lambda draw: pair.step_log_prob(draw, pair.data)[0]))

    def sample(seed: int) -> Any:
        found = []
        for chain in range(NUM_CHAINS):
            begin = {name: jax.numpy.asarray(value[chain], float) for name, value in values.items()}
            begin = unconstrain_fn(pair.density, (pair.data,), {}, begin)
            chains.run(random.PRNGKey(100 * seed + chain), pair.data, init_params=begin)
            found.append(jax.tree.map(np.asarray, chains.get_samples()))
        sites = found[0].keys() & values.keys()
        return lambda: np.stack([every({name: draws[name] for name in sites}) for draws in found])

    return measured(sample, 1)


def run_stan(x: np.ndarray) -> dict[str, float]:
    """The forward algorithm as in Stan's user guide; all cores take chains. Its build is in the cold time alone."""
    stan = import_stan()
    _, values = starts(x)
    begin = [{name: np.squeeze(value[chain]).tolist() for name, value in values.items()} for chain in range(NUM_CHAINS)]

    model = stan.build(PROGRAM, data={"T": STEPS, "K": STATES, "x": x[:, 0].tolist()}, random_seed=0)

    def sample(seed: int) -> Any:
        options = {"num_chains": NUM_CHAINS, "num_warmup": NUM_WARMUP, "num_samples": NUM_SAMPLES, "init": begin}
        fit = model.sample(**options, delta=TARGET_ACCEPT)
        return lambda: stan_scores(fit, x[:, 0])

    return measured(sample, 0)


def import_stan() -> Any:
    """PyStan asks for ``pkg_resources``, which setuptools has dropped, to find plugins: it is given that of today."""
    import importlib.metadata
    import types

    stand_in: Any = types.ModuleType("pkg_resources")
    stand_in.EntryPoint = importlib.metadata.EntryPoint
    stand_in.iter_entry_points = lambda group: importlib.metadata.entry_points(group=group)
    sys.modules.setdefault("pkg_resources", stand_in)
    import stan

    return stan


def stan_scores(fit: Any, x: np.ndarray) -> np.ndarray:
    """(chain, draw, step): the forward recursion over all draws at once."""

    def by_chain(name: str) -> np.ndarray:
        """PyStan's last axis runs over draws, and within a draw over chains."""
        draws = np.moveaxis(fit[name], -1, 0)
        return draws.reshape(NUM_SAMPLES, NUM_CHAINS, *draws.shape[1:]).swapaxes(0, 1)

    locs, scales, ahead, transition = map(by_chain, ("locs", "scales", "initial_probs", "transition_matrix"))
    result = np.empty((NUM_CHAINS, NUM_SAMPLES, len(x)))
    for t, value in enumerate(x):
        joint = ahead * np.exp(-0.5 * ((value - locs) / scales) ** 2) / (scales * np.sqrt(2 * np.pi))
        total = joint.sum(-1)
        result[..., t] = np.log(total)
        ahead = np.einsum("csk,cskj->csj", joint / total[..., None], transition)
    return result


if __name__ == "__main__":
    runs = {"ppl_gen": run_ppl_gen, "numpyro": run_numpyro, "stan": run_stan}
    print(json.dumps(runs[sys.argv[1]](sequence(STEPS, STATES, 1, spread=3.0))))
