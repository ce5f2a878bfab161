"""Estimators that scikit-learn takes for its own, and whose numbers are those of the fits beneath."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import ppl_gen as pg
from ppl_gen.sklearn import DensityEstimator, GenerativeClassifier

QUICK = pg.EM(num_starts=1, num_bootstraps=0)
ONE = DensityEstimator(pg.GMM(1), engine=QUICK)
TWO = DensityEstimator(pg.GMM(2), engine=QUICK)
FLOW = DensityEstimator(pg.Flow(num_layers=1, hidden=(4,)), engine=pg.SVI(max_steps=20, num_members=2))
CLASSIFIER = GenerativeClassifier(pg.GMM(1), engine=QUICK)
TOLERANCE = 2e-4  # nats a row: sums of a few terms in 32-bit floats


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the checks provoke some
@parametrize_with_checks([ONE, CLASSIFIER])
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    """All of them, without an exception: one normal has its maximum in closed form."""
    check(estimator)


@pytest.fixture(scope="module")
def clusters() -> pd.DataFrame:
    """120 rows: two clusters of unequal spread, ten standard deviations apart, in metres and grams."""
    rng = np.random.default_rng(5)
    left = np.arange(120) < 50
    length = rng.normal(np.where(left, -5.0, 5.0), np.where(left, 1.0, 0.5))
    return pd.DataFrame({"length": length, "mass": 100 * rng.normal(size=120) + 20 * length})


@pytest.fixture(scope="module")
def fitted(clusters: pd.DataFrame) -> DensityEstimator:
    return clone(TWO).fit(clusters)


def test_the_densities_are_those_of_a_fit(clusters: pd.DataFrame, fitted: DensityEstimator) -> None:
    expected = pg.fit(pg.GMM(2), clusters, engine=QUICK, seed=0).score(clusters).log_predictive
    np.testing.assert_array_equal(fitted.score_samples(clusters), expected)
    assert fitted.score(clusters) == pytest.approx(expected.mean(), abs=TOLERANCE)
    assert list(fitted.feature_names_in_) == ["length", "mass"]
    assert fitted.fit_.family == pg.GMM(2)


def test_the_densities_are_those_of_the_other_mixture(clusters: pd.DataFrame, fitted: DensityEstimator) -> None:
    """Both are at the maximum of the likelihood, which clusters so far apart leave in no doubt."""
    other = GaussianMixture(2, reg_covar=0.0, tol=1e-9, max_iter=1000, random_state=0).fit(clusters)
    np.testing.assert_allclose(fitted.score_samples(clusters), other.score_samples(clusters), atol=1e-3)
    ours, theirs = fitted.predict_proba(clusters), other.predict_proba(clusters)
    theirs = theirs if fitted.predict(clusters)[0] == other.predict(clusters)[0] else theirs[:, ::-1]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert set(fitted.predict(clusters)[:50]) != set(fitted.predict(clusters)[50:])


def test_in_a_pipeline_densities_are_in_the_units_of_what_comes_in(clusters: pd.DataFrame, fitted: Any) -> None:
    """log p(x) = log p(z) - sum_j log s_j of z = (x - m) / s."""
    scaler = StandardScaler()
    pipeline = make_pipeline(scaler, clone(TWO)).fit(clusters)
    difference = pipeline.score_samples(clusters) - fitted.score_samples(clusters)
    np.testing.assert_allclose(difference, np.log(scaler.scale_).sum(), atol=5 * TOLERANCE)


def test_a_search_finds_the_planted_number_of_components(clusters: pd.DataFrame) -> None:
    search = GridSearchCV(clone(TWO), {"family__num_components": [1, 2]}, cv=2).fit(clusters.sample(frac=1.0))
    assert search.best_params_ == {"family__num_components": 2}
    assert search.best_estimator_.family == pg.GMM(2)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_options_are_parameters() -> None:
    estimator = DensityEstimator("gmm", engine="em")
    parameters = estimator.get_params()
    assert parameters["family__num_components"] == pg.GMM().num_components
    assert parameters["family__prior__loc_scale"] == pg.GMM().prior.loc_scale
    assert parameters["engine__num_starts"] == pg.EM().num_starts
    estimator.set_params(family__prior__loc_scale=3.0, family__covariance="tied", engine__num_starts=4)
    assert estimator.family == pg.GMM(covariance="tied", prior=pg.models.gmm.GMMPrior(loc_scale=3.0))
    assert clone(estimator).get_params() == estimator.get_params()
    with pytest.raises(pg.SettingError, match="did you mean 'num_components'"):
        estimator.set_params(family__num_component=3)
    with pytest.raises(pg.SettingError, match="set engine='em'"):
        DensityEstimator().set_params(engine__num_starts=3)
    with pytest.raises(pg.SettingError, match=r"family must be an instance or a name, .* give GMM\(\)"):
        DensityEstimator(pg.GMM).fit(np.zeros((3, 2)))
    with pytest.raises(pg.DataError, match="Two columns are named 'a'"):
        DensityEstimator().fit(pd.DataFrame(np.eye(3), columns=["a", "b", "a"]))


def test_new_rows_are_like_those_that_came_in(clusters: pd.DataFrame, fitted: DensityEstimator) -> None:
    rows = fitted.sample(400, random_state=1)
    assert list(rows.columns) == ["length", "mass"]
    error = clusters["length"].std() / np.sqrt(400)
    assert abs(rows["length"].mean() - clusters["length"].mean()) < 4 * error
    array = clone(ONE).fit(clusters.to_numpy()).sample(3)
    assert isinstance(array, np.ndarray)
    assert array.shape == (3, 2)


def test_a_weight_of_two_is_the_row_twice(clusters: pd.DataFrame) -> None:
    """Of one component, whose maximum has a closed form."""
    weights = np.where(np.arange(120) < 20, 2.0, 1.0)
    twice = pd.concat([clusters, clusters[:20]])
    np.testing.assert_allclose(
        clone(ONE).fit(clusters, sample_weight=weights).score_samples(clusters),
        clone(ONE).fit(twice).score_samples(clusters), atol=TOLERANCE,
    )  # fmt: skip


def test_a_classifier_is_bayes_rule() -> None:
    """One normal a class is quadratic discriminant analysis, which divides by n - 1 in its covariances: of 150 irises
    it places a few at most in another class."""
    X, y = load_iris(return_X_y=True, as_frame=True)
    y = y.map({0: "setosa", 1: "versicolor", 2: "virginica"})
    model = clone(CLASSIFIER).fit(X, y)
    other = QuadraticDiscriminantAnalysis().fit(X, y)
    assert (model.predict(X) == other.predict(X)).mean() >= 0.98
    odds = model.predict_log_proba(X)[:, 2] - model.predict_log_proba(X)[:, 1]
    densities = [fit.score(X).log_predictive for fit in model.fits_]
    np.testing.assert_allclose(odds, densities[2] - densities[1], atol=1e-3)  # equal priors
    even = clone(model).set_params(priors=[0.98, 0.01, 0.01]).fit(X, y)
    shift = even.predict_log_proba(X)[:, 0] - even.predict_log_proba(X)[:, 1]
    np.testing.assert_allclose(shift - np.log(98.0), densities[0] - densities[1], atol=2e-2, rtol=1e-4)


def test_what_they_refuse(clusters: pd.DataFrame) -> None:
    y = np.arange(120) % 2
    with pytest.raises(NotFittedError):
        DensityEstimator().score_samples(clusters)
    with pytest.raises(pg.UnsupportedError, match="hmm models sequences"):
        DensityEstimator("hmm").fit(clusters)
    with pytest.raises(pg.UnsupportedError, match="gan has no density to classify by"):
        GenerativeClassifier("gan").fit(clusters, y)
    with pytest.raises(pg.SettingError, match="priors must be 2 positive numbers"):
        clone(CLASSIFIER).set_params(priors=[0.5, 0.6]).fit(clusters, y)
    with pytest.raises(pg.DataError, match="class 1 can't be fitted"):
        clone(CLASSIFIER).fit(clusters, (np.arange(120) == 7).astype(int))
    assert not hasattr(FLOW, "predict_proba")
