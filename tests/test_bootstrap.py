"""The bootstrap of EM fits: which one, and whether refits to simulated data have the spread that theory says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import ppl_gen as pg
from ppl_gen import backends
from ppl_gen.inference.em import driver
from ppl_gen.models.hmm import HMM
from ppl_gen.progress import Monitor

REFITS = 200
BACKENDS = ["numpyro", "pyro"]
LENGTHS = (60, 35, 80)


def switching(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[np.ndarray]:
    """Counts of two states, around 4 and 15, that stay with probability 0.9."""
    rng = np.random.default_rng(seed)
    states = [np.cumsum(rng.random(length) < 0.1) % 2 for length in lengths]
    return [rng.poisson(np.where(state, 15, 4)) for state in states]


def with_gaps(series: list[np.ndarray]) -> list[pd.DataFrame]:
    """The same with two steps in three missing."""
    return [pd.DataFrame({"count": np.where(np.arange(len(x)) % 3, np.nan, x)}) for x in series]


def refits(fit: pg.Fit, site: str) -> np.ndarray:
    """(refits, ...), labels aligned."""
    assert fit.uncertainty == "bootstrap"
    assert fit.draws.figures["parametric"]
    return np.asarray(fit.posterior[site])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
def test_refits_of_one_poisson_state_have_their_exact_distribution(backend: str, gaps: bool) -> None:
    """The sum of n counts, of which the rate is the mean, is Poisson(n rate): n is the number of steps observed, so
    gaps make the spread larger. A p-value below 1e-4 is as rare; the sd has relative error 1 / sqrt(2 * 199) = 5 %."""
    x = np.random.default_rng(1).poisson(3.0, 90).astype(float)
    table = with_gaps([x])[0] if gaps else pd.DataFrame({"count": x})
    observed = int(table["count"].notna().sum())
    engine = pg.EM(num_bootstraps=REFITS, num_starts=2)
    fit = pg.fit(HMM(1, emission="poisson"), table, engine=engine, backend=backend, seed=0, kinds={"count": "count"})
    rate, drawn = float(fit.draws.point["rates"][0, 0]), refits(fit, "rates")[:, 0, 0]
    assert rate == pytest.approx(table["count"].mean(), rel=1e-5)
    sums = drawn * observed
    np.testing.assert_allclose(sums, np.rint(sums), atol=1e-2)
    law = stats.poisson(observed * rate)
    u = law.cdf(sums.round() - 1) + np.random.default_rng(0).random(REFITS) * law.pmf(sums.round())
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    assert drawn.std(ddof=1) == pytest.approx((rate / observed) ** 0.5, rel=4 * 0.05)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", [HMM(1), pg.GMM(1)], ids=["hmm", "gmm"])
def test_refits_of_one_normal_have_their_exact_distribution(backend: str, family: pg.Family) -> None:
    """The mean of n draws is Normal(m, s^2 / n), and n times their variance over s^2 is chi-squared with n - 1."""
    x = np.random.default_rng(2).normal(50.0, 8.0, 70)
    engine = pg.EM(num_bootstraps=REFITS, num_starts=2, bootstrap="parametric")
    fit = pg.fit(family, x, engine=engine, backend=backend, seed=0)
    mean, sd = (refits(fit, site)[:, 0, 0] for site in ("locs", "scales"))
    centre, scale = (float(fit.draws.point[site][0, 0]) for site in ("locs", "scales"))
    assert stats.kstest(mean, stats.norm(centre, scale / 70**0.5).cdf).pvalue > 1e-4
    assert stats.kstest(70 * (sd / scale) ** 2, stats.chi2(69).cdf).pvalue > 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_refitted_has_the_lengths_gaps_and_weights_of_the_table(backend: str) -> None:
    family = HMM(2, emission="poisson", initial="uniform")
    data = family.prepare(with_gaps(switching()), weights=[1.0, 2.0, 0.5], kinds={"count": "count"})
    pair = family.build(backend, data.schema, len(data), data.view(backend))
    point = {"rates": np.array([[4.0], [15.0]]), "transition_matrix": np.array([[0.9, 0.1], [0.1, 0.9]])}
    solver = Recorder(size=3)
    found = driver.simulated_refits(solver, pair, pair.data, point, 5, 0, Monitor())
    assert found["rates"].shape == (5, 2, 1)
    x, observed = np.concatenate(solver.data), np.asarray(pair.data.mask)
    assert x.shape == (6, 3, 80, 1)  # two calls of three data sets
    assert (x[:, ~observed] == 0).all()
    assert len(np.unique(x.reshape(6, -1), axis=0)) == 6
    for weights in solver.weights:
        np.testing.assert_allclose(weights, [[1.0, 2.0, 0.5]])
    # Both states are visited alike in the long run: of some 59 counts the mean is 9.5 with an sd near 1.7.
    assert x[:, observed].mean() == pytest.approx(9.5, abs=4 * 1.7 / 6**0.5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_refit_is_the_fit_of_its_simulated_data(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same data again, fitted as a table of their own from starts of their own."""
    ops, drawn = backends.ops(backend), []
    simulate = ops.sample_table
    monkeypatch.setattr(
        ops, "sample_table", lambda *args, **options: drawn.append(simulate(*args, **options)) or drawn[-1]
    )
    family, engine = (
        HMM(2, emission="poisson", initial="uniform"),
        pg.EM(num_bootstraps=2, num_starts=3, tolerance=1e-9),
    )
    options = {"weights": [1.0, 2.0, 0.5], "kinds": {"count": "count"}, "backend": backend}
    table = with_gaps(switching())
    fit = pg.fit(family, table, engine=engine, seed=3, **options)
    for simulated, refit in zip(drawn[0].reshape(-1, 3, 80), fit.posterior["rates"], strict=False):
        own = [
            part.where(part.isna(), values[: len(part), None]) for part, values in zip(table, simulated, strict=True)
        ]
        alone = pg.fit(family, own, engine=engine.replace(num_bootstraps=0), seed=0, **options)
        np.testing.assert_allclose(np.sort(alone.draws.point["rates"].ravel()), np.sort(refit.ravel()), rtol=2e-3)


class Recorder:
    """A solver that keeps what it is given, and gives its starting values back."""

    def __init__(self, size: int) -> None:
        self.size, self.data, self.weights = size, [], []

    def batch(self, runs: int) -> int:
        return self.size

    def __call__(self, parameters: Any, weights: np.ndarray, monitor: Monitor, rise: float, x: np.ndarray) -> Any:
        self.data.append(x)
        self.weights.append(weights)
        runs = len(x)
        return driver.Solutions(parameters, np.zeros(runs), np.ones(runs), np.ones(runs, bool), np.zeros((runs, 1)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_bits(backend: str) -> None:
    family, table, engine = HMM(2, emission="poisson"), switching((80,)), pg.EM(num_starts=2, num_bootstraps=6)
    one, again, other = (pg.fit(family, table, engine=engine, backend=backend, seed=seed) for seed in (4, 4, 5))
    for site, value in one.posterior.items():
        np.testing.assert_array_equal(value, again.posterior[site])
    assert not np.array_equal(one.posterior["rates"], other.posterior["rates"])


def test_labels_agree_over_refits() -> None:
    """States so far apart can't be taken for each other: whatever the refits call them, they come out aligned."""
    fit = pg.fit(HMM(2, emission="poisson"), switching((150,)), engine=pg.EM(num_starts=4), seed=0)
    rates = refits(fit, "rates")[:, :, 0]
    assert len(rates) == 64
    assert len(np.unique(rates.argsort(1)[:, 0])) == 1
    assert (rates.argmax(1) == fit.draws.point["rates"][:, 0].argmax()).all()


def test_the_spread_agrees_with_a_posterior() -> None:
    """500 steps of the model itself. Of 200 refits an sd has relative error 5 %, of 400 effective draws 4 %, and
    posterior and sampling distribution differ by terms of order 1 / sqrt(500) = 4 %: four times all three, 30 %."""
    family, table = HMM(2, emission="poisson"), switching((500,), seed=3)
    em = pg.fit(family, table, engine=pg.EM(num_starts=4, num_bootstraps=REFITS), seed=0)
    nuts = pg.fit(family, table, engine=pg.NUTS(num_samples=300, num_warmup=200, num_chains=2), seed=0)
    for site in ("rates", "transition_matrix"):
        ours, theirs = (np.sort(fit.posterior[site].std(0, ddof=1).ravel()) for fit in (em, nuts))
        np.testing.assert_allclose(ours, theirs, rtol=0.3, err_msg=site)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_spread_of_the_earthquakes(shared_data: Any, backend: str) -> None:
    """Three states, as Zucchini, MacDonald & Langrock 2016 choose. With some 20 of 107 steps in the rarest state, a
    posterior (which the prior keeps from the edges) and a sampling distribution are no more than alike: the widths of
    their 90 % intervals within a factor of 2. Of the rarest state, left three or four times, the probability of staying
    has no such interval: refits reach either end.
    """
    table = pd.read_csv(shared_data("timeseries/earthquakes.csv"))
    family = HMM(3, emission="poisson", initial="stationary")
    engines = {"em": pg.EM(num_bootstraps=400), "nuts": pg.NUTS(num_samples=500, num_warmup=300)}
    width = {}
    for name, engine in engines.items():
        where = backend if name == "em" else "numpyro"
        fit = pg.fit(family, table, order="year", engine=engine, backend=where, seed=0)
        order = np.median(fit.posterior["rates"][..., 0], axis=0).argsort()
        stay = np.diagonal(fit.posterior["transition_matrix"], axis1=1, axis2=2)
        both = np.concatenate(
            [fit.posterior["rates"][:, order, 0], stay[:, order]], axis=1
        )  # rates, then probabilities of staying
        width[name] = np.ptp(np.quantile(both, [0.05, 0.95], axis=0), axis=0)
    ratio = (width["em"] / width["nuts"])[:5]
    assert (ratio > 0.5).all(), ratio
    assert (ratio < 2.0).all(), ratio


class TestChoice:
    def test_few_sequences_are_simulated_and_many_resampled(self) -> None:
        assert pg.EM().bootstraps(1, 107) == ("parametric", 64)
        assert pg.EM().bootstraps(9, 900) == ("parametric", 64)
        assert pg.EM().bootstraps(10, 1000) == ("rows", 64)
        assert pg.EM().bootstraps(5) == ("rows", 64)
        assert pg.EM(bootstrap="rows").bootstraps(2, 100) == ("rows", 64)
        assert pg.EM(bootstrap="parametric").bootstraps(150) == ("parametric", 64)

    def test_large_tables_get_none_unless_asked(self) -> None:
        assert pg.EM().bootstraps(1, 10_001) == ("parametric", 0)
        assert pg.EM().bootstraps(10_001) == ("rows", 0)
        assert pg.EM(num_bootstraps=16).bootstraps(1, 50_000) == ("parametric", 16)

    def test_one_sequence_is_not_resampled(self) -> None:
        with pytest.raises(pg.SettingError, match="there is one only: take bootstrap='parametric'"):
            pg.EM(bootstrap="rows").bootstraps(1, 107)
        assert pg.EM(bootstrap="rows", num_bootstraps=0).bootstraps(1, 107) == ("rows", 0)
        with pytest.raises(pg.SettingError, match="unknown bootstrap 'row': did you mean 'rows'"):
            pg.EM(bootstrap="row")


@pytest.fixture(scope="module")
def fit() -> pg.Fit:
    """One series, with the bootstrap that it gets by default."""
    return pg.fit(HMM(2, emission="poisson"), switching((120,)), engine=pg.EM(num_starts=4), seed=0)


def test_every_verb_has_intervals(fit: pg.Fit) -> None:
    assert fit.score().sd[0] > 0
    assert (fit.score(per_step=True).sd > 0).all()
    latents = fit.latents()
    assert latents["z=0_sd"].max() > 0
    assert {"sd", "hdi_low", "hdi_high"} <= set(fit.summary().columns)
    assert len(fit.forecast(3)) == 3


def test_nothing_of_a_single_series_was_held_out(fit: pg.Fit) -> None:
    assert fit.draws.held_out is None
    assert np.isnan(fit.held_out).all()
    diagnosis = fit.diagnose()
    assert "64 parametric bootstrap refits" in diagnosis.title
    assert diagnosis["held-out ELPD"].figure is None


def test_rows_of_a_parametric_bootstrap_are_held_out_by_folds() -> None:
    x = np.random.default_rng(0).normal(size=40)
    engine = pg.EM(num_starts=2, num_bootstraps=4, bootstrap="parametric")
    fit = pg.fit(pg.GMM(1), x, engine=engine, seed=0)
    assert "5 folds refitted" in fit.diagnose()["held-out ELPD"].info
    without = pg.fit(pg.GMM(1), x, engine=engine.replace(num_bootstraps=0), seed=0)
    np.testing.assert_allclose(fit.held_out, without.held_out)


def test_a_saved_fit_says_the_same(fit: pg.Fit, tmp_path: Any) -> None:
    again = pg.load(fit.save(tmp_path / "run"))
    assert again.engine == fit.engine
    assert again.draws.refits == "parametric bootstrap refits"
    np.testing.assert_array_equal(again.posterior["rates"], fit.posterior["rates"])


def test_ctrl_c_leaves_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backends.ops("numpyro"), "sample_table", interrupt)
    fit = pg.fit(HMM(2, emission="poisson"), switching((60,)), engine=pg.EM(num_starts=1), keep_partial=True)
    assert fit.draws.interrupted
    assert fit.uncertainty == "point"
    assert not fit.draws.figures["parametric"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_refits_go_on_where_a_tolerance_per_row_would_stop(backend: str) -> None:
    """A long table's tolerance adds up to more than its sampling error is worth: a refit has a limit of its own."""
    from ppl_gen.registry import import_backend

    module = import_backend("ppl_gen.inference.em", f"{backend}_engine", backend)
    family = HMM(2, emission="poisson")
    data = family.prepare(switching((400,)))
    pair = family.build(backend, data.schema, len(data), data.view(backend))
    solve = module.Solver(pair, pair.data, "ml", 1e-3, 500)
    start = pair.initialize(pair.data, 0, 1)
    rises = [solve(start, np.ones((1, 1)), Monitor(), *rise).trace[0] for rise in ((), (1e-3,))]
    last = [np.diff(trace[np.isfinite(trace)])[-1] for trace in rises]
    assert 1e-3 < last[0] < 400 * 1e-3
    assert last[1] < 1e-3
