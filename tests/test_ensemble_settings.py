"""What an ensemble of networks takes of the settings, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import ppl_gen as pg
from ppl_gen import backends
from ppl_gen.timeseries import spread

BACKENDS = ("numpyro", "pyro")
TINY = pg.Flow("maf", num_layers=1, hidden=(4,))


def rows(number: int = 60) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(number, 2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", [TINY, pg.Autoregressive(hidden=(4,), num_mixture_components=1)])
def test_weights_without_a_prior_have_no_posterior_to_sample(family: pg.Family, backend: str) -> None:
    with pytest.raises(pg.UnsupportedError, match=r"needs priors, .* fitted by svi\.$") as refused:
        pg.fit(family, rows(), engine="nuts", backend=backend)
    assert "bayesian=True" in str(refused.value)
    with pytest.raises(pg.UnsupportedError) as refused:
        pg.fit(family, rows(), engine="em", backend=backend)
    assert "bayesian=True" not in str(refused.value)  # it would not help


@pytest.mark.parametrize("options", [{"validation": -0.1}, {"validation": 0.6}, {"validation": True}, {"clip": 0.0}])
def test_settings_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(pg.SettingError, match=next(iter(options))):
        pg.SVI(**options)


def test_settings_of_a_guide_change_nothing() -> None:
    ours = pg.SVI(num_members=2, max_steps=50, batch_size=20)
    theirs = ours.replace(guide="multivariate", window=7, num_particles=1, num_samples=3, num_starts=1)
    one, other = (pg.fit(TINY, rows(), engine=engine, backend="pyro").posterior for engine in (ours, theirs))
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


def test_without_validation_rows_the_training_loss_decides() -> None:
    fit = pg.fit(TINY, rows(), engine=pg.SVI(num_members=2, max_steps=50, validation=0.0), backend="pyro")
    losses = fit.draws.parameters
    np.testing.assert_array_equal(losses["train_loss"], losses["validation_loss"])
    assert fit.draws.held_out is None


def test_each_member_has_its_share_of_the_futures() -> None:
    fit = SimpleNamespace(posterior={"member": np.arange(4)})
    assert np.ptp(np.bincount(spread(fit, 1000, repeat=True)["member"])) == 0
    assert np.ptp(np.bincount(spread(fit, 10, repeat=True)["member"])) == 1
    assert list(spread(fit, 2)["member"]) == [0, 3]
    assert len(spread(fit, 10)["member"]) == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_noise_is_no_label(backend: str) -> None:
    pair = TINY.pair(backend, pd.DataFrame({"x": rows()[:, 0], "n": np.arange(60) % 5}))
    assert pair.local == ("u",)
    assert backends.ops(backend).local_posterior(pair, pair.initialize(pair.data, 0, 2), pair.data) == {}
