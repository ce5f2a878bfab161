"""Flows as fitted: densities that integrate to 1, the same bits again, failures that say what to change."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ppl_gen as pg
from ppl_gen.errors import FitError
from ppl_gen.inference.svi import ensemble
from ppl_gen.inference.svi.ensemble import Plateau
from ppl_gen.models.flow import Flow
from ppl_gen.progress import Monitor

BACKENDS = ("numpyro", "pyro")
SMALL = Flow("realnvp", num_layers=2, hidden=(8,))
QUICK = pg.SVI(max_steps=150, num_members=2, learning_rate=1e-2)  # windows of 50 steps or a few more
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def two_humps(number: int = 200, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(number, 2)) * [1.0, 0.5] + 3 * (rng.random(number) < 0.4)[:, None]


@cache
def fitted(backend: str) -> pg.Fit:
    return pg.fit(SMALL, two_humps(), engine=QUICK, backend=backend, seed=3)


class Interrupting(Monitor):
    """Ctrl-C at a given call of ``update``, and a checkpoint that stays in memory."""

    def __init__(self, after: int | None = None, state: dict | None = None) -> None:
        super().__init__()
        self.after, self.state, self.calls = after, state, 0
        self.checkpoint_path = object()  # asked for, so written

    def update(self, done: int, total: int, **figures: float) -> None:
        self.calls += 1
        if self.calls == self.after:
            raise KeyboardInterrupt

    def save(self, state: dict) -> None:
        self.state = {name: np.array(value) for name, value in state.items()}

    def load(self) -> dict | None:
        return self.state


def run(backend: str, monitor: Monitor, engine: pg.SVI = QUICK) -> Any:
    data = SMALL.prepare(two_humps())
    pair = fitted(backend).pair  # whose programs are compiled
    return engine.run(dataclasses.replace(pair, data=data.view(backend)), data, seed=3, monitor=monitor)


@each_backend
def test_training_lowers_the_loss_of_every_member_and_keeps_its_best(backend: str) -> None:
    draws = fitted(backend).draws
    train, validation = draws.parameters["train_loss"], draws.parameters["validation_loss"]
    assert (train[-1] < train[0]).all()
    assert draws.figures["validation_loss"] == pytest.approx(validation.min(0).mean())  # the best, not the last
    assert {value.shape[:2] for value in draws.posterior.values()} == {(2, 1)}
    assert draws.uncertainty == "ensemble"
    spread = fitted(backend).score(two_humps(50, seed=9), p_values=False).sd
    assert (spread > 0).all()


def test_both_backends_train_alike() -> None:
    one, other = (fitted(backend).draws.parameters["validation_loss"][-1] for backend in BACKENDS)
    # The starts, rows and rule are the same; the order of the mini-batches is not.
    np.testing.assert_allclose(one, other, atol=0.1)


@each_backend
def test_one_column_integrates_to_one(backend: str) -> None:
    x = two_humps()[:, 1:]
    engine = QUICK.replace(max_steps=60)
    fit = pg.fit(Flow("nsf_ar", num_layers=1, hidden=(4,), num_bins=2), x, engine=engine, backend=backend, seed=0)
    grid = np.linspace(x.mean() - 12 * x.std(), x.mean() + 12 * x.std(), 4001)
    density = np.exp(fit.score(grid[:, None], p_values=False).log_predictive)
    # The trapezoid rule on 4,001 points: kinks of the slope at the knots leave errors of the square of the step, 4e-5;
    # float32 leaves 1e-6 of each density.
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)


@each_backend
def test_two_columns_integrate_to_one(backend: str) -> None:
    x = two_humps()
    axes = [np.linspace(c.mean() - 9 * c.std(), c.mean() + 9 * c.std(), 301) for c in x.T]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(fitted(backend).score(grid, p_values=False).log_predictive).reshape(301, 301)
    # Steps of 0.06 standard deviations and kinks of the rectified linear units: errors of some 1e-4.
    assert np.trapezoid(np.trapezoid(density, axes[1]), axes[0]) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("here", "there"), [BACKENDS, BACKENDS[::-1]])
def test_a_fit_of_one_backend_loads_in_the_other(here: str, there: str, tmp_path: Any) -> None:
    fit = fitted(here)
    fit.save(tmp_path / "fit")
    loaded = pg.load(tmp_path / "fit", backend=there)
    one, other = (f.score(two_humps(30, seed=5), p_values=False).log_prob for f in (fit, loaded))
    np.testing.assert_allclose(one, other, atol=1e-4)  # float32
    assert loaded.sample(5, seed=0).shape == (5, 2)


@each_backend
def test_same_seed_same_bits_and_another_seed_others(backend: str) -> None:
    first, again = fitted(backend).draws, run(backend, Monitor())
    for name, value in first.posterior.items():
        np.testing.assert_array_equal(again.posterior[name], value)
    members = next(v for name, v in first.posterior.items() if name == "weight_0")
    assert (members[0] != members[1]).any()


@each_backend
def test_interrupted_and_resumed_to_the_same_bits(backend: str) -> None:
    cut = Interrupting(after=2)
    partial = run(backend, cut)
    assert partial.interrupted
    assert len(partial.losses) == 2
    # Stopped at the second look, before its checkpoint was written: the first one is resumed from.
    resumed = run(backend, Interrupting(state=cut.state))
    for name, value in fitted(backend).draws.posterior.items():
        np.testing.assert_array_equal(resumed.posterior[name], value)
    np.testing.assert_array_equal(resumed.losses, fitted(backend).draws.losses)


@each_backend
def test_a_loss_that_is_no_number_says_what_to_change(backend: str) -> None:
    with pytest.raises(FitError, match="learning_rate"):
        run(backend, Monitor(), QUICK.replace(learning_rate=1e30))


@each_backend
def test_a_member_that_breaks_late_keeps_its_last_good_weights(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    update, windows = Plateau.update, []

    def broken(self: Plateau, losses: np.ndarray) -> np.ndarray:
        windows.append(losses)
        return update(self, np.where([len(windows) > 1, False], np.nan, losses))

    monkeypatch.setattr(ensemble.Plateau, "update", broken)
    draws = run(backend, Monitor())
    monkeypatch.undo()
    cut = run(backend, Interrupting(after=1))  # what there was after the first window
    assert draws.figures["num_broken"] == 1
    for name, value in draws.posterior.items():
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(value[0], cut.posterior[name][0])


def test_the_rule_lowers_the_rate_then_stops_each_member_for_itself() -> None:
    rule = Plateau(2, patience=2)
    assert rule.update(np.array([1.0, 1.0])).all()
    for _ in range(2):
        assert (rule.update(np.array([1.5, 0.9 * rule.best[1]])) == [False, True]).all()
    np.testing.assert_allclose(rule.rate, [ensemble.DECAY, 1.0])
    for _ in range(2 * ensemble.DECAYS):
        rule.update(np.array([1.5, 0.9 * rule.best[1]]))
    assert list(rule.stopped) == [True, False]
    assert not rule.update(np.array([0.0, np.nan])).any()  # one has stopped, the other breaks
    assert rule.stopped.all()
    assert list(rule.broken) == [False, True]


def test_a_users_own_numpyro_svi_fits_the_pair() -> None:
    import jax
    import optax
    from numpyro.infer import SVI, Trace_ELBO

    pair = SMALL.pair("numpyro", pd.DataFrame(two_humps(), columns=["a", "b"]))
    svi = SVI(pair.model, pair.guide, optax.adam(1e-2), Trace_ELBO())
    losses = svi.run(jax.random.key(0), 100, pair.data, progress_bar=False, subsample_size=64).losses
    assert losses[-10:].mean() < losses[:10].mean()


def test_a_users_own_pyro_svi_fits_the_pair() -> None:
    import pyro
    from pyro.infer import SVI, Trace_ELBO

    pair = SMALL.pair("pyro", pd.DataFrame(two_humps(), columns=["a", "b"]))
    for options in ({}, {"subsample_size": 64}):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        losses = [svi.step(pair.data, **options) for _ in range(60)]
        assert np.mean(losses[-10:]) < np.mean(losses[:10])
    pyro.clear_param_store()


@each_backend
def test_row_weights_stand_for_repeated_rows(backend: str) -> None:
    """Rows of weight near 0 far away: a fit that heard them would put density there. A fit of as many rows without
    weights came before, whose program must not be used again."""
    fitted(backend)
    x = np.concatenate([two_humps(150), two_humps(50) + 20])  # as many as `fitted` has
    weights = np.repeat([1.0, 1e-6], [150, 50])
    fit = pg.fit(SMALL, x, engine=QUICK, backend=backend, seed=0, weights=weights)
    near, far = (fit.score(part, p_values=False).log_predictive.mean() for part in (x[:150], x[150:]))
    assert near > far + 5


@each_backend
def test_missing_entries_and_too_few_rows_are_refused(backend: str) -> None:
    holes = two_humps()
    holes[3, 1] = np.nan
    with pytest.raises(pg.DataError, match=r"row 3.*gmm, hmm"):
        pg.fit(SMALL, holes, backend=backend)
    with pytest.raises(pg.DataError, match="at least 50 rows"):
        pg.fit(SMALL, two_humps(20), backend=backend)
    with pytest.raises(pg.DataError, match="row 3"):
        fitted(backend).score(holes)
