"""The verbs of a fit to sequences: steps that sum to the sequence, paths, futures, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp

import ppl_gen as pg
from ppl_gen.arviz_bridge import psis
from ppl_gen.errors import DataError, SettingError, UnsupportedError
from ppl_gen.models.hmm import HMM
from ppl_gen.one_step_ahead import leave_future_out, pseudo_residuals
from ppl_gen.timeseries import telescoped

BACKENDS = ("numpyro", pytest.param("pyro", marks=pytest.mark.pyro))
QUICK = pg.NUTS(num_samples=100, num_warmup=150, num_chains=2, num_starts=3)


def switching(lengths: tuple[int, ...] = (60, 40), seed: int = 0) -> pd.DataFrame:
    """Sequences of a state that stays with probability 0.9: a normal column at -10 or 10 in units of 5, and a count."""
    rng = np.random.default_rng(seed)
    frames = []
    for name, length in zip("abcdefghijkl", lengths, strict=False):
        state = np.cumsum(rng.random(length) < 0.1) % 2
        values = rng.normal(np.where(state, 10.0, -10.0), 5.0)
        frames.append(pd.DataFrame({"who": name, "day": np.arange(length), "value": values, "state": state}))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module", params=BACKENDS)
def fit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same draws, made by NumPyro, in the hands of either backend."""
    table = switching().drop(columns="state")
    found = pg.fit(HMM(2), table, sequence="who", order="day", engine=QUICK, seed=0)
    return pg.load(found.save(tmp_path_factory.mktemp("fits") / "fit"), backend=request.param)


def test_steps_sum_to_their_sequence(fit: Any) -> None:
    whole, steps = fit.score(), fit.score(per_step=True)
    frame = steps.to_frame()
    assert list(frame.columns[:2]) == ["who", "day"]
    sums = frame.groupby("who", sort=False)["log_prob"].sum().to_numpy()
    np.testing.assert_allclose(sums, whole.log_predictive, rtol=1e-4)  # float32 sums of some 200 nats
    assert whole.log_prob is not None
    assert whole.log_prob.sizes["obs"] == 2


def test_telescoped_steps_sum_exactly() -> None:
    values = np.random.default_rng(0).normal(size=(50, 9))
    found = telescoped(values, np.array([4, 5]))
    for part in (slice(0, 4), slice(4, 9)):
        np.testing.assert_allclose(found[part].sum(), logsumexp(values[:, part].sum(1)) - np.log(50), rtol=1e-12)


def test_units_shift_the_density_of_each_step(fit: Any) -> None:
    if fit.backend != "numpyro":
        pytest.skip("once is enough: the Jacobian is the same code")
    table = switching().drop(columns="state")
    table["value"] *= 1000
    scaled = pg.fit(HMM(2), table, sequence="who", order="day", engine=QUICK, seed=0)
    shift = fit.score(per_step=True).log_predictive - scaled.score(per_step=True).log_predictive
    np.testing.assert_allclose(shift, np.log(1000), atol=1e-3)


def test_paths_find_the_states(fit: Any) -> None:
    truth = switching()["state"].to_numpy()
    smoothed, filtered = fit.latents(), fit.latents(method="filtering")
    viterbi, draws = fit.latents(method="viterbi"), fit.latents(method="draws", num_draws=25)
    for frame in (smoothed, filtered, viterbi):
        assert len(frame) == len(truth)
        agreement = (frame["z"].to_numpy() == truth).mean()
        assert max(agreement, 1 - agreement) > 0.9  # means 4 standard deviations apart
    np.testing.assert_allclose(smoothed[["z=0", "z=1"]].sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(smoothed.groupby("who")["z=0"].last(), filtered.groupby("who")["z=0"].last(), atol=1e-4)
    shares = draws.filter(like="draw ").mean(axis=1)
    # 25 paths: a share's standard error is at most 0.1; 5 of them
    assert np.abs(shares - smoothed["z=1"]).max() < 0.5
    with pytest.raises(SettingError, match="did you mean 'viterbi'"):
        fit.latents(method="viterby")


def test_forecasts_tend_to_the_long_run(fit: Any) -> None:
    near, far = fit.forecast(1, num_draws=400), fit.forecast(60, num_draws=400)
    assert len(near) == 2
    assert list(far["day"].iloc[:2]) == [60, 61]
    assert list(far["day"].iloc[60:62]) == [40, 41]
    last = fit.latents(method="filtering").groupby("who", sort=False).last()
    # The next state is the last one's with probability of about 0.9.
    expected = last["z=0"] * 0.9 + last["z=1"] * 0.1
    assert np.abs(near["z=0"].to_numpy() - expected.to_numpy()).max() < 0.25
    ends = far.groupby("who", sort=False)["z=0"].last()
    assert np.ptp(ends.to_numpy()) < 0.2  # both have forgotten where they were; standard error 0.035
    futures = fit.forecast(2, num_draws=3, draws=True)
    assert len(futures) == 3 * 2 * 2
    for wrong in (0, 1.5, True):
        with pytest.raises(SettingError, match="horizon"):
            fit.forecast(wrong)


def test_samples_are_whole_sequences(fit: Any) -> None:
    frame = fit.sample(200, seed=3)
    assert set(frame["who"].value_counts()) <= {60, 40}
    assert len(fit.sample(3, length=7)) == 21
    # the spread of the mixture: sd sqrt(10^2 + 5^2) = 11; sequences of few visits make it vary
    assert 8 < frame["value"].std() < 14
    with pytest.raises(SettingError, match="length"):
        fit.sample(3, length=0)


def test_the_end_is_predicted_from_what_came_before(fit: Any) -> None:
    """By definition: weights 1 / p(rest), smoothed, applied to each step's density."""
    data = fit.train
    elpd, khat = leave_future_out(fit, data)
    assert np.isfinite(elpd[59])
    assert np.isfinite(elpd[99])
    assert (khat[np.isfinite(elpd)] <= 0.7).all()
    steps = fit.score(per_step=True).log_predictive
    there = np.isfinite(elpd)
    assert elpd[there].mean() < steps[there].mean() + 0.05  # unseen is no better than seen
    from ppl_gen.timeseries import step_log_prob

    last = step_log_prob(fit, data, fit.posterior)[:, -1].astype(float)
    weights, _ = psis(-last)
    np.testing.assert_allclose(elpd[-1], logsumexp(weights + last), rtol=1e-6)


def test_pseudo_residuals_of_the_true_model_are_uniform(fit: Any) -> None:
    from scipy.stats import kstest

    low, high = pseudo_residuals(fit, fit.train)
    np.testing.assert_array_equal(low, high)
    assert kstest(low.ravel(), "uniform").pvalue > 1e-3


def test_a_diagnosis_speaks_of_time_steps(fit: Any) -> None:
    text = str(fit.diagnose())
    assert "2 sequences (100 time steps)" in text
    assert "leave-future-out" in text
    assert "pseudo-residual p" in text


def test_a_saved_fit_is_the_same(fit: Any, tmp_path: Any) -> None:
    fit.save(tmp_path / "run")
    again = pg.load(tmp_path / "run")
    np.testing.assert_array_equal(again.score().log_predictive, fit.score().log_predictive)
    pd.testing.assert_frame_equal(again.forecast(3, num_draws=20), fit.forecast(3, num_draws=20))


def test_a_missing_step_counts_for_nothing(fit: Any) -> None:
    table = switching().drop(columns="state")
    table.loc[30, "value"] = np.nan
    steps = fit.score(table, per_step=True).log_predictive
    assert abs(steps[30]) < 1e-5


def test_rows_have_no_future() -> None:
    table = switching()[["value"]]
    rows = pg.fit(pg.GMM(1), table, engine=pg.EM(num_bootstraps=0), seed=0)
    with pytest.raises(UnsupportedError, match="hmm"):
        rows.forecast(3)
    with pytest.raises(UnsupportedError, match="hmm"):
        rows.score(per_step=True)


def test_models_of_one_series_are_compared_by_predicting_its_second_half() -> None:
    table = switching((200,)).drop(columns=["who", "state"])
    found = pg.compare({"one": HMM(1), "two": HMM(2)}, table, folds=2, order="day", engine=pg.EM(num_starts=4), seed=0)
    assert found.best == "two"
    assert "one ahead" in found.how
    assert len(found.pointwise) == 100
    # By hand: the first window's steps under the fit to the first half.
    first = pg.fit(HMM(2), table.iloc[:100], order="day", engine=pg.EM(num_starts=4), seed=0)
    steps = first.score(table.iloc[:150], per_step=True).log_predictive[100:]
    np.testing.assert_allclose(found.pointwise["two"].to_numpy()[:50], steps, atol=0.02)
    with pytest.raises(SettingError, match="give families"):
        pg.compare({"fit": first}, folds=2)


def test_a_sequence_of_one_step_is_scored_like_the_others() -> None:
    table = switching((40, 1)).drop(columns="state")
    with pytest.warns(UserWarning, match="single time step"):
        found = pg.fit(HMM(2), table, sequence="who", order="day", engine=pg.EM(num_starts=2), seed=0)
    assert np.isfinite(found.score(table[table["who"] == "a"]).log_predictive).all()


def test_more_states_than_the_data_bear_are_told() -> None:
    quakes = pd.DataFrame({"count": [13, 14, 8, 10, 16, 26, 32, 27, 18, 32]})
    many = pg.fit(HMM(5, emission="poisson"), quakes, engine=pg.EM(num_starts=4, num_bootstraps=0), seed=0)
    assert not many.diagnose()["steps in rarest state"].passed
    few = pg.fit(HMM(2, emission="poisson"), quakes, engine=pg.EM(num_starts=4, num_bootstraps=0), seed=0)
    assert few.diagnose()["steps in rarest state"].passed
    with pytest.raises(DataError, match="row 2: -1 is not a count"):
        pg.fit(HMM(2, emission="poisson"), pd.DataFrame({"count": [1, 2, -1, 4] * 5}), engine="em")


@pytest.mark.parametrize(("emission", "kind", "most"), [("poisson", "count", 9), ("bernoulli", "binary", 1)])
def test_counts_with_gaps_are_counts_still(emission: str, kind: str, most: int) -> None:
    """pandas makes floats of whole numbers with missing entries: they score as the same numbers in a nullable dtype."""
    whole = pd.Series(np.random.default_rng(0).integers(0, most + 1, 30), dtype="Int64", name="n")
    whole[7:9] = pd.NA
    gaps = whole.astype(float).to_frame()
    engine = pg.EM(num_starts=2, num_bootstraps=0)
    fits = [pg.fit(HMM(2, emission=emission), table, engine=engine, seed=0) for table in (gaps, whole.to_frame())]
    assert [fit.schema.columns[0].kind for fit in fits] == [kind, kind]
    assert fits[0].score(p_values=False).total == fits[1].score(p_values=False).total
    steps = fits[0].score(per_step=True).log_predictive
    assert np.flatnonzero(np.abs(steps) < 1e-5).tolist() == [7, 8]
    with pytest.raises(DataError, match=r"row 3: 0.5 is not"):
        pg.fit(HMM(2, emission=emission), gaps.assign(n=gaps["n"].where(gaps.index != 3, 0.5)), engine=engine)
    with pytest.raises(DataError, match="holds real numbers"):
        pg.fit(HMM(2, emission=emission), gaps, kinds={"n": "real"}, engine=engine)
