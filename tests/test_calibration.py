"""Whether the engines find the posterior: calibration by simulation, invariances, interruption and resumption."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from zoo import clusters

import ppl_gen as pg
from ppl_gen.arviz_bridge import mcse
from ppl_gen.calibration import simulation_based_calibration
from ppl_gen.progress import Monitor

QUICK = pg.NUTS(num_samples=100, num_warmup=100, num_chains=2, num_starts=2)


@pytest.mark.slow
def test_nuts_is_calibrated_and_its_intervals_of_log_prob_cover() -> None:
    """50 replications: ranks are uniform, and 90 % intervals of log p(x) cover the truth 90 % of the time.

    With exact coverage the number covered is Binomial(50, 0.9); the bounds hold it with probability 0.9999 for each
    of the 5 quantities. A Kolmogorov-Smirnov p-value below 1e-4 would be as rare.
    """
    engine = pg.NUTS(num_samples=250, num_warmup=250, num_chains=2, num_starts=4)
    family = pg.GMM(2, prior=pg.GMMPrior(concentration=5.0, loc_scale=3.0))
    result = simulation_based_calibration(family, engine, num_replications=50, seed=3)
    low, high = binom.ppf([5e-5, 1 - 5e-5], 50, 0.9)
    frame = result.to_frame()
    assert frame["uniformity_p_value"].min() > 1e-4, frame
    covered = result.covered[:, :, result.probs.index(0.9)].sum(0)
    assert (covered >= low).all(), frame
    assert (covered <= high).all(), frame
    assert result.verdict == "calibrated"


def test_rows_permuted_give_the_same_posterior_within_mcse() -> None:
    table = clusters()
    engine = pg.NUTS(num_samples=500, num_warmup=300)
    one = pg.fit(pg.GMM(2), table, engine=engine, seed=1)
    other = pg.fit(pg.GMM(2), table.sample(frac=1.0, random_state=5), engine=engine, seed=2)
    for site in ("weights", "locs", "scales"):
        values = [fit.draws.posterior[site].astype(np.float64) for fit in (one, other)]
        # The largest of 10 standardized differences of two independent chains' means stays below 4.5.
        error = np.hypot(*(mcse(value) for value in values))
        difference = values[0].mean((0, 1)) - values[1].mean((0, 1))
        assert np.max(np.abs(difference) / error) < 4.5, site


def test_nuts_gives_the_same_bits_for_the_same_seed() -> None:
    one, again, other = (pg.fit(pg.GMM(2), clusters(), engine=QUICK, seed=seed) for seed in (4, 4, 5))
    for site, value in one.draws.posterior.items():
        np.testing.assert_array_equal(value, again.draws.posterior[site])
        assert not np.array_equal(value, other.draws.posterior[site])


def interrupt_after(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """Ctrl-C at the given call of the monitor."""
    count = iter(range(1, 10_000))

    def update(self: Monitor, done: int, total: int, **figures: float) -> None:
        if next(count) == updates:
            raise KeyboardInterrupt

    monkeypatch.setattr(Monitor, "update", update)


@pytest.mark.parametrize(
    "engine",
    [pg.NUTS(num_samples=300, num_warmup=100, num_chains=2, num_starts=1), pg.SVI(window=100, max_steps=600)],
    ids=["nuts", "svi"],
)
def test_a_resumed_fit_gives_the_same_bits(engine: pg.Engine, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pg.fit(pg.GMM(2), clusters(), engine=engine, seed=7)
    checkpoint = tmp_path / "state"
    # The starting values come from EM, which reports too: the engine's own reports are the later ones.
    for updates in (4, 3, 5):
        with monkeypatch.context() as patch:
            interrupt_after(patch, updates)
            with pytest.raises(KeyboardInterrupt):
                pg.fit(pg.GMM(2), clusters(), engine=engine, seed=7, checkpoint=checkpoint)
        if checkpoint.exists():
            break
    assert checkpoint.exists()
    resumed = pg.fit(pg.GMM(2), clusters(), engine=engine, seed=7, checkpoint=checkpoint)
    assert not checkpoint.exists()
    for site, value in whole.draws.posterior.items():
        np.testing.assert_array_equal(value, resumed.draws.posterior[site])


def test_an_interrupted_fit_keeps_what_was_drawn_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = pg.NUTS(num_samples=1000, num_warmup=100, num_chains=2, num_starts=1)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        fit = pg.fit(pg.GMM(2), clusters(), engine=engine, seed=7, keep_partial=True)
    assert fit.draws.interrupted
    assert 0 < fit.draws.num_draws < 1000
    assert np.isfinite(fit.score().log_predictive).all()


@pytest.mark.parametrize("keep_partial", [True, False])
def test_ctrl_c_after_the_last_draw_loses_nothing_when_asked(
    monkeypatch: pytest.MonkeyPatch, ctrl_c: Callable[[], None], keep_partial: bool
) -> None:
    module = importlib.import_module("ppl_gen.fit")
    align = module.align_labels

    def interrupt_and_align(*args: Any) -> Any:
        ctrl_c()
        return align(*args)

    monkeypatch.setattr(module, "align_labels", interrupt_and_align)
    job = {"engine": pg.EM(num_starts=1, num_bootstraps=4), "keep_partial": keep_partial}
    if keep_partial:
        with pytest.warns(UserWarning, match="the fit is complete"):
            fit = pg.fit(pg.GMM(2), clusters(), **job)
        assert not fit.draws.interrupted
        assert fit.draws.num_draws == 4
    else:
        with pytest.raises(KeyboardInterrupt):
            pg.fit(pg.GMM(2), clusters(), **job)


def test_the_first_ctrl_c_is_heard_between_two_pieces_of_work_and_the_second_at_once(
    ctrl_c: Callable[[], None],
) -> None:
    with Monitor(gentle=True) as monitor:
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()  # nothing is worth keeping yet
        monitor.worth_keeping = True
        ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            monitor.update(1, 2)
        monitor.update(2, 2)  # heard once
        ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_em_objective_never_falls_and_bootstraps_leave_rows_out() -> None:
    fit = pg.fit(pg.GMM(3), clusters(), engine=pg.EM(objective="map"), seed=0)
    # float32 sums of some hundred nats are exact to about 1e-4
    assert np.diff(fit.draws.losses).max() < 1e-3
    assert np.isfinite(fit.held_out).all()
    assert fit.held_out.mean() < fit.score(p_values=False).log_predictive.mean()


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_draws_from_the_prior_have_its_moments(backend: str) -> None:
    """Normal(0, 2) locations, HalfNormal(1) scales, Dirichlet(4, 4) weights: means within 5 standard errors."""
    from ppl_gen import backends

    data = pg.GMM(2).prepare(clusters())
    pair = pg.GMM(2).build(backend, data.schema, len(data))
    draws = backends.ops(backend).sample_prior(pair, 400, 0)
    expected = {"locs": (0.0, 2.0), "scales": ((2 / np.pi) ** 0.5, (1 - 2 / np.pi) ** 0.5), "weights": (0.5, 1 / 6)}
    assert {"corr_cholesky", *expected} == set(draws)
    for site, (mean, sd) in expected.items():
        assert np.abs(draws[site].mean(0) - mean).max() < 5 * sd / 400**0.5, site
