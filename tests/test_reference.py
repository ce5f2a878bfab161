"""Answers that nobody in this project wrote: maximum likelihoods and reference posteriors of real data."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import ppl_gen as pg


@pytest.mark.parametrize("seed", range(10))
def test_old_faithful_maximum_likelihood_from_any_seed(shared_data, seed: int) -> None:
    table = pd.read_csv(shared_data("mixtures/old_faithful.csv"))[["eruptions", "waiting"]]
    fit = pg.fit(pg.GMM(2), table, engine=pg.EM(num_bootstraps=0), seed=seed)
    assert fit.score(p_values=False).total == pytest.approx(-1130.264, abs=0.001)
    assert fit.information_criteria()["bic"] == pytest.approx(2322.192, abs=0.01)


@pytest.mark.parametrize(
    ("data", "family", "log_likelihood"),
    [
        ("old_faithful", pg.GMM(1), -1289.7967),
        ("old_faithful", pg.GMM(3, covariance="tied"), -1126.3159),
        ("iris", pg.GMM(2), -214.3547),
        ("iris", pg.GMM(3), -180.1855),
        ("iris", pg.GMM(3, covariance="tied"), -256.354),
        ("iris", pg.GMM(3, covariance="diag"), -306.8605),
        ("galaxies", pg.GMM(2), -220.058),
    ],
)
def test_maximum_likelihoods_of_the_literature(shared_data, data: str, family: pg.GMM, log_likelihood: float) -> None:
    table = pd.read_csv(shared_data(f"mixtures/{data}.csv")).select_dtypes("number")
    table = table.drop(columns=[c for c in table if c in ("rownames", "Unnamed: 0")])
    if data == "galaxies":
        table = table / 1000
    fit = pg.fit(family, table, engine=pg.EM(num_starts=40, num_bootstraps=0, tolerance=1e-7), seed=0)
    # The recomputed optimum is printed to 4 digits; the floor on eigenvalues (1e-6) and float32 cost the rest.
    assert fit.score(p_values=False).total == pytest.approx(log_likelihood, abs=0.005)


@pytest.fixture(scope="module")
def mixture_reference(shared_data):
    folder = shared_data("posteriordb")
    y = json.loads((folder / "low_dim_gauss_mix.data.json").read_text())["y"]
    name = "low_dim_gauss_mix-low_dim_gauss_mix.reference_summary.json"
    return np.asarray(y), json.loads((folder / name).read_text())["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "engine"),
    [("numpyro", pg.NUTS(num_samples=2000)), ("pyro", pg.NUTS(num_samples=1000, num_warmup=300))],
)
def test_posteriordb_low_dim_gauss_mix(mixture_reference, backend: str, engine: pg.NUTS) -> None:
    """Every posterior mean within 4 combined MCSE of the reference, every sd within 5 %.

    With ESS n a posterior sd has relative standard error 1 / sqrt(2 n): 4 of those are below 5 % from n = 3,200.
    """
    y, reference = mixture_reference
    prior = pg.GMMPrior(concentration=5.0, loc=0.0, loc_scale=2.0, scale=2.0)
    fit = pg.fit(pg.GMM(2, prior=prior), y, standardize=False, engine=engine, backend=backend, seed=0)
    posterior = fit.posterior
    order = np.argsort(posterior["locs"][:, :, 0].mean(0))
    ours = {
        "mu[1]": posterior["locs"][:, order[0], 0], "mu[2]": posterior["locs"][:, order[1], 0],
        "sigma[1]": posterior["scales"][:, order[0], 0], "sigma[2]": posterior["scales"][:, order[1], 0],
        "theta": posterior["weights"][:, order[0]],
    }  # fmt: skip
    from ppl_gen.arviz_bridge import mcse

    chains = engine.num_chains
    for name, values in ours.items():
        known = reference[name]
        error = np.hypot(mcse(values.reshape(chains, -1)), known["mcse_mean"])
        assert abs(values.mean() - known["mean"]) < 4 * error, name
        assert values.std(ddof=1) == pytest.approx(known["sd"], rel=0.05), name
