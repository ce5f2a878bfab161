"""What calibration makes of ranks; and that every shape of family goes through it, refits sharing what is compiled."""

from __future__ import annotations

import numpy as np
import pytest
from zoo import clusters

import ppl_gen as pg
from ppl_gen.arviz_bridge import ecdf_difference
from ppl_gen.calibration import PROBS, Calibration, simulation_based_calibration, thinned
from ppl_gen.plots_calibration import plot_ranks

BOOTSTRAP = pg.EM(num_starts=1, num_bootstraps=8)


def of_ranks(ranks: np.ndarray) -> Calibration:
    """The calibration of these ranks (R, Q) of the truth among very many draws."""
    covered = np.stack([np.abs(ranks - 0.5) <= prob / 2 for prob in PROBS], axis=-1)
    names = tuple(f"quantity {j}" for j in range(ranks.shape[1]))
    return Calibration(ranks, covered, names, np.full(len(ranks), 1000))


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (1.0, 1.0, "calibrated"),
        (0.4, 0.4, "too narrow"),  # the truth is often beyond nearly all draws
        (3.0, 3.0, "too wide"),
        (3.0, 1.0, "biased low"),  # it ranks high: the draws are too low
        (1.0, 3.0, "biased high"),
    ],
)
def test_the_verdict_is_that_of_the_distribution_of_the_ranks(a: float, b: float, verdict: str) -> None:
    """Ranks from a beta distribution: 200 of them tell each of these from the uniform one by at least 8 standard errors
    of the statistic that differs."""
    result = of_ranks(np.random.default_rng(0).beta(a, b, (200, 3)))
    assert result.verdict.split(", ")[0] == verdict
    assert (result.p_value >= 0.005) == (verdict == "calibrated")
    if verdict == "calibrated":  # 600 independent ranks: coverage is within four standard errors
        for prob in PROBS:
            assert abs(result.coverage(prob) - prob) < 4 * (prob * (1 - prob) / 600) ** 0.5
            assert result.coverage_error(prob) == pytest.approx((prob * (1 - prob) / 600) ** 0.5, rel=0.3)


def test_a_uniform_sample_stays_in_the_band_with_the_probability_that_is_said() -> None:
    """Of 300 samples of 50 ranks 95 % stay in it: within four standard errors of 1.3 %. The band is of whole counts, so
    that it may hold a little more."""
    inside = 0
    for ranks in np.random.default_rng(1).random((300, 50)):
        _, difference, lower, upper = ecdf_difference(ranks, 0.95)
        inside += bool(((difference >= lower - 1e-9) & (difference <= upper + 1e-9)).all())
    assert 0.90 < inside / 300 <= 1.0


def test_the_picture_has_a_line_for_each_quantity_and_shows_a_narrow_posterior_outside_the_band() -> None:
    result = of_ranks(np.random.default_rng(2).beta(0.3, 0.3, (100, 3)))
    (ax,) = plot_ranks(result, title="too narrow").axes
    lines = [line for line in ax.get_lines() if str(line.get_label()).startswith("quantity")]
    assert len(lines) == 3
    _, difference, lower, upper = ecdf_difference(result.ranks[:, 0], 0.95)
    assert (difference > upper).any()
    assert (difference < lower).any()


def test_correlated_draws_are_thinned_to_about_as_many_as_they_are_worth() -> None:
    """An AR(1) chain with coefficient 0.9 is worth (1 - 0.9) / (1 + 0.9) of its draws, 105 of 2,000; an estimate of
    that from 2,000 draws is within a factor of two. Kept ones are far less correlated; draws of a guide are all kept.
    """
    rng, values = np.random.default_rng(3), np.zeros((2, 1000, 1))
    for t in range(1, 1000):
        values[:, t] = 0.9 * values[:, t - 1] + rng.normal(size=(2, 1)) * 0.19**0.5
    kept = thinned(values)
    assert 50 < len(kept) < 210
    one = kept[: len(kept) // 2, 0]
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.45
    assert len(thinned(values, "guide")) == 2000
    assert len(thinned(np.ones((2, 10, 1)))) >= 1  # chains that stand still


@pytest.mark.parametrize(
    ("family", "engine", "backend", "options"),
    [
        (pg.GMM(1), BOOTSTRAP, "pyro", {}),
        (pg.HMM(2), BOOTSTRAP, "numpyro", {"num_obs": 3, "num_steps": 8}),
        (
            pg.VAE(latent_dim=1, hidden=(2,), bayesian=True),
            pg.SGLD(num_samples=5, num_warmup=5, num_chains=1, thinning=1, num_pilot=5),
            "pyro",
            {"num_columns": 2},
        ),
    ],
    ids=["rows in pyro", "sequences", "an encoder without a prior in pyro"],
)
def test_each_shape_of_family_has_ranks(family: pg.Family, engine: pg.Engine, backend: str, options: dict) -> None:
    done: list[None] = []
    result = simulation_based_calibration(
        family, engine, num_replications=2, backend=backend, done=lambda: done.append(None), **options
    )
    assert result.ranks.shape == (2, 5)
    assert ((result.ranks >= 0) & (result.ranks <= 1)).all()
    assert result.covered.shape == (2, 5, 2)
    assert len(done) == 2


def test_refits_by_svi_share_their_compiled_programs() -> None:
    """A second fit, from another start, compiles nothing anew, and gives the bits that it gives alone."""
    family, engine = pg.GMM(1, covariance="diag"), pg.SVI(window=50, max_steps=50, num_starts=1, num_samples=5)
    table = clusters(60)
    first = pg.fit(family, table, engine=engine, seed=1)
    (programs,) = (value for key, value in first.pair.programs.items() if key[:1] == ("svi",))
    second = pg.fit(family, table, engine=engine, seed=2)
    assert second.pair.programs is first.pair.programs
    assert programs.window._cache_size() == programs.draws._cache_size() == 1
    again = pg.fit(family, table, engine=engine, seed=1)
    np.testing.assert_array_equal(again.draws.posterior["locs"], first.draws.posterior["locs"])
    assert not np.array_equal(second.draws.posterior["locs"], first.draws.posterior["locs"])
