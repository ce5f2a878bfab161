"""One NUTS run in a fresh process: ``python nuts_peer.py (ppl_gen|pymc|pyro|pyro_alone) (iris|four)``. Prints JSON.

Both sides fit the same mixture with the same priors to the same standardized rows: Dirichlet(4) weights, Normal(0, 2)
locations, HalfNormal(1) scales, LKJ(1) correlations, full covariances; 4 chains x 500 + 500 from EM solutions.
Efficiency is the smallest bulk ESS of log p(x) over 50 probe rows, which no label switching can touch.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial

START = time.perf_counter()

import numpy as np  # noqa: E402
from common import gaussian_clusters, iris, seconds  # noqa: E402

NUM_WARMUP = NUM_SAMPLES = 500
NUM_CHAINS = 4


def problem(name: str) -> tuple[np.ndarray, int]:
    return (iris(), 3) if name == "iris" else (gaussian_clusters(2000, 2, 4), 4)


def probes(x: np.ndarray) -> np.ndarray:
    return x[np.linspace(0, len(x) - 1, 50).astype(int)]


def min_ess(log_prob: np.ndarray) -> float:
    """Smallest bulk ESS over probes of (chain, draw, probe)."""
    import arviz as az

    return float(az.ess(az.convert_to_dataset({"log_prob": log_prob})).log_prob.min())


def run_ppl_gen(x: np.ndarray, components: int, backend: str) -> dict[str, float]:
    import pandas as pd

    import ppl_gen as pg

    table = pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])
    family = pg.GMM(num_components=components, prior=prior_of(pg))
    engine = pg.NUTS(num_samples=NUM_SAMPLES, num_warmup=NUM_WARMUP, num_chains=NUM_CHAINS)
    fit = pg.fit(family, table, engine=engine, backend=backend, seed=0)
    verdict = fit.diagnose()
    cold = time.perf_counter() - START
    warm = []
    for seed in (1, 2, 3):
        elapsed, again = seconds(lambda seed=seed: pg.fit(family, table, engine=engine, backend=backend, seed=seed))
        warm.append((elapsed, min_ess(again.score(probes_frame(table)).log_prob.values)))
    elapsed, ess = np.median(warm, axis=0)
    return {"cold_seconds": cold, "passed": verdict.passed, "seconds": elapsed, "min_ess": ess}


def run_pyro_alone(x: np.ndarray, components: int) -> dict[str, float]:
    """Pyro's own NUTS with its jit, on the pair of our own, from the same starts, chain after chain."""
    import pandas as pd
    import pyro
    import torch
    from pyro.infer import MCMC
    from pyro.infer import NUTS as PyroNUTS

    import ppl_gen as pg
    from ppl_gen.backends import pyro_ops
    from ppl_gen.inference.em.pyro_engine import starting_values

    torch.set_num_threads(1)
    pyro.enable_validation(False)
    family = pg.GMM(num_components=components, prior=prior_of(pg))
    data = family.prepare(pd.DataFrame(x))
    pair = family.pair("pyro", data)
    view, scores = pair.data, []
    starts = starting_values(pair, view, 1, NUM_CHAINS, 10)
    start = time.perf_counter()
    for chain in range(NUM_CHAINS):
        pyro.set_rng_seed(chain)
        values = {name: torch.as_tensor(value[chain]).float() for name, value in starts.items()}
        kernel = PyroNUTS(pair.density, jit_compile=True, ignore_jit_warnings=True, target_accept_prob=0.9,
                          init_strategy=pyro.infer.autoguide.initialization.init_to_value(values=values))  # fmt: skip
        chains = MCMC(kernel, num_samples=NUM_SAMPLES, warmup_steps=NUM_WARMUP, disable_progbar=True)
        chains.run(view)
        posterior = {name: value.numpy() for name, value in chains.get_samples().items()}
        scores.append(posterior)
    elapsed = time.perf_counter() - start
    probe = data.take(np.linspace(0, len(x) - 1, 50).astype(int)).view("pyro")
    log_prob = np.stack([pyro_ops.log_prob(pair, posterior, probe) for posterior in scores])
    return {"cold_seconds": time.perf_counter() - START, "passed": True, "seconds": elapsed,
            "min_ess": min_ess(log_prob)}  # fmt: skip


def prior_of(pg):
    return pg.GMMPrior(concentration=4.0, loc_scale=2.0, scale=1.0, correlation_concentration=1.0)


def probes_frame(table):
    return table.iloc[np.linspace(0, len(table) - 1, 50).astype(int)]


def run_pymc(x: np.ndarray, components: int) -> dict[str, float]:
    import nutpie
    import pymc as pm
    from scipy.special import logsumexp
    from sklearn.mixture import GaussianMixture

    d = x.shape[1]

    def build() -> pm.Model:
        with pm.Model() as model:
            weights = pm.Dirichlet("weights", np.full(components, 4.0))
            locs = pm.Normal("locs", 0.0, 2.0, shape=(components, d))
            parts = []
            for k in range(components):
                scales = pm.HalfNormal.dist(1.0, shape=d)
                chol, _, _ = pm.LKJCholeskyCov(f"chol{k}", n=d, eta=1.0, sd_dist=scales, compute_corr=True)
                parts.append(pm.MvNormal.dist(locs[k], chol=chol))
            pm.Mixture("x", weights, parts, observed=x)
        return model

    def start() -> dict[str, np.ndarray]:
        best = GaussianMixture(components, n_init=10, random_state=0, reg_covar=1e-6).fit(x)
        values = {"weights": best.weights_, "locs": best.means_}
        for k in range(components):
            values[f"chol{k}"] = np.linalg.cholesky(best.covariances_[k])[np.tril_indices(d)]
        return values

    model = build()
    # By default the chains begin up to 1 away from their start, unconstrained: in other modes than the best.
    compiled = nutpie.compile_pymc_model(model, initial_points=start(), jitter_rvs=set())
    sample = lambda seed: nutpie.sample(  # noqa: E731
        compiled, draws=NUM_SAMPLES, tune=NUM_WARMUP, chains=NUM_CHAINS, cores=2, seed=seed, progress_bar=False
    )

    def log_prob(trace) -> np.ndarray:
        """(chain, draw, probe), all draws at once; a draw may sit at a covariance that is all but singular."""
        post, rows, terms = trace.posterior, probes(x), []
        for k in range(components):
            factor = np.zeros((NUM_CHAINS, NUM_SAMPLES, d, d))
            factor[..., *np.tril_indices(d)] = post[f"chol{k}"].values
            residual = rows - post["locs"].values[:, :, k, None, :]
            y = np.linalg.solve(factor, np.swapaxes(residual, -1, -2))
            log_det = np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)[..., None]
            density = -0.5 * (y**2).sum(-2) - log_det - 0.5 * d * np.log(2 * np.pi)
            terms.append(np.log(post["weights"].values[:, :, k, None]) + density)
        return logsumexp(terms, axis=0)

    import arviz as az

    az.summary(sample(0))
    cold = time.perf_counter() - START
    warm = []
    for seed in (1,):  # it takes minutes
        elapsed, trace = seconds(lambda seed=seed: sample(seed))
        warm.append((elapsed, min_ess(log_prob(trace))))
    elapsed, ess = np.median(warm, axis=0)
    return {"cold_seconds": cold, "passed": True, "seconds": elapsed, "min_ess": ess}


if __name__ == "__main__":
    who, name = sys.argv[1:]
    rows, number = problem(name)
    runs = {
        "pymc": run_pymc, "pyro_alone": run_pyro_alone, "pyro": partial(run_ppl_gen, backend="pyro"),
        "ppl_gen": partial(run_ppl_gen, backend="numpyro"),
    }  # fmt: skip
    print(json.dumps(runs[who](rows, number)))
