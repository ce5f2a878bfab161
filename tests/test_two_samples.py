"""Measures of two samples against what is known of two distributions; levels and powers of the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ppl_gen as pg
from ppl_gen import metrics, two_tables
from ppl_gen.engine import Draws
from ppl_gen.errors import DataError, SettingError, UnsupportedError
from ppl_gen.frechet import feature_function
from ppl_gen.result import Fit

NEIGHBOURS = metrics.kl_divergence, metrics.js_divergence
FUNCTIONS = (
    metrics.frechet_distance, metrics.mmd, metrics.sliced_wasserstein, metrics.precision_recall,
    metrics.classifier_two_sample_test, metrics.data_copying_test, metrics.cluster_coverage, *NEIGHBOURS,
)  # fmt: skip


def normal(number: int, columns: int = 2, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, columns)) + shift


def mixed(number: int, seed: int = 0, columns: str = "abc") -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"a": 1e3 * rng.normal(size=number), "b": rng.choice(["x", "y", "z"], number),
                          "c": rng.integers(0, 2, number)})  # fmt: skip
    return table[list(columns)]


def test_columns_mean_the_same_in_all_directions() -> None:
    """Two rows are sqrt(2) apart in each column in the root mean square: of numbers by their standard deviation, of
    labels and truth values where they differ."""
    first, second = mixed(500), mixed(300, seed=1, columns="cab")
    x, y = two_tables.points(first, second)
    assert (x.shape, y.shape) == ((500, 5), (300, 5))
    assert x[:, 0].std() == pytest.approx(1.0)
    assert set(np.unique(np.linalg.norm(x[:50, None, 1:4] - x[None, :50, 1:4], axis=-1))) == {0.0, np.sqrt(2)}
    assert np.ptp(x[:, 4]) == pytest.approx(np.sqrt(2))
    same, _ = two_tables.points(first[["c", "a", "b"]], second)
    assert np.allclose(np.sort(same.ravel()), np.sort(x.ravel()))
    images = np.random.default_rng(0).integers(0, 255, (40, 3, 3)).astype(np.uint8)
    pixels, _ = two_tables.points(images, images)
    assert pixels.std() == pytest.approx(1.0)


def test_frechet_distance_is_that_of_two_normals() -> None:
    """With the moments put in exactly; then that of samples, whose bias is about d times 2/n (here 0.003)."""
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(3, 3)) for _ in range(2)]
    (a, b), (m, n) = (f @ f.T for f in factors), rng.normal(size=(2, 3))
    values = np.linalg.eigvals(a @ b)  # real and positive: similar to a symmetric product
    expected = np.sum((m - n) ** 2) + np.trace(a + b) - 2 * np.sqrt(values.real).sum()
    assert metrics.gaussian_frechet(m, a, n, b) == pytest.approx(expected, rel=1e-9)
    assert metrics.gaussian_frechet(m, np.diag([1.0, 0, 0]), m, np.diag([4.0, 0, 0])) == pytest.approx(1.0)
    x, y = normal(2000), 2 * normal(2000, seed=1) + [1.0, -1.0]
    found = metrics.frechet_distance(x, y, standardize=False)
    assert found == pytest.approx(2 + 2 * (2 - 1) ** 2, abs=0.3)  # 4 standard errors of means and scales
    with pytest.raises(pg.SettingError, match="is of features='pca'"):
        metrics.frechet_distance(x, y, num_features=3)
    with pytest.raises(pg.SettingError, match="seed"):
        metrics.mmd(x, y, seed=-1)
    assert metrics.frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)
    turned = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert metrics.frechet_distance(x @ turned, y @ turned, standardize=False) == pytest.approx(found)


def test_features_come_from_functions_components_and_classifiers() -> None:
    x, y = normal(300, 5), normal(300, 5, shift=0.5, seed=1)
    label = (x[:, 0] > 0).astype(int)
    assert metrics.frechet_distance(x, y, "pca", num_features=5) == pytest.approx(metrics.frechet_distance(x, y))
    assert metrics.frechet_distance(x, y, "pca", num_features=2) < metrics.frechet_distance(x, y)
    first = metrics.frechet_distance(x, y, lambda table: table[:, :1])
    assert first == pytest.approx(metrics.frechet_distance(x[:, 0], y[:, 0], standardize=False))
    perceptron = MLPClassifier((4, 3), max_iter=2000, random_state=0).fit(x, label)
    hidden = np.maximum(np.maximum(x @ perceptron.coefs_[0] + perceptron.intercepts_[0], 0) @ perceptron.coefs_[1]
                        + perceptron.intercepts_[1], 0)  # fmt: skip
    assert np.allclose(feature_function(perceptron)(x), hidden)
    piped = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, label)
    assert np.allclose(feature_function(piped)(x), piped.predict_proba(x))
    with pytest.raises(SettingError, match="not fitted"):
        metrics.frechet_distance(x, y, LogisticRegression())
    with pytest.raises(DataError, match="5 columns, and this table has 4"):
        metrics.frechet_distance(x[:, :4], y[:, :4], perceptron)


def test_features_are_the_codes_of_a_fit() -> None:
    from test_plots import hand_made

    with pytest.raises(UnsupportedError, match="gmm has neither codes nor hidden units"):
        metrics.frechet_distance(normal(50), normal(50), hand_made("point"))
    family, table = pg.VAE(latent_dim=2, hidden=(4,)), normal(100, 3)
    data = family.prepare(table)
    weights = family.build("numpyro", data.schema, 100).initialize(data.view("numpyro"), 0, 1)
    draws = Draws({name: np.asarray(value)[:, None] for name, value in weights.items()}, "ensemble")
    fit = Fit(family, pg.SVI(), "numpyro", 0, data.schema, draws, data, versions={}, seconds=1.0)
    found = metrics.frechet_distance(table, normal(100, 3, seed=1), fit)
    codes = [fit.latents(x)[["z0", "z1"]].to_numpy() for x in (table, normal(100, 3, seed=1))]
    expected = metrics.gaussian_frechet(codes[0].mean(0), np.cov(codes[0].T), codes[1].mean(0), np.cov(codes[1].T))
    assert found == pytest.approx(expected, rel=1e-5)


def test_mmd_is_unbiased_and_that_of_two_normals() -> None:
    """Of N(0, I) and N(m, I) in two dimensions under a kernel of width h, 2 (c/(c+2)) (1 - exp(-m'm / 2 (c+2))) with
    c = h^2; means of 200 samples, within 4 standard errors of that mean."""
    width, shift = 1.0, np.array([1.0, 0.0])
    truth = 2 * width**2 / (width**2 + 2) * (1 - np.exp(-(shift @ shift) / (2 * (width**2 + 2))))
    for expected, move in ((0.0, 0.0), (truth, shift)):
        found = np.array([
            metrics.mmd(normal(30, seed=2 * s), normal(40, seed=2 * s + 1) + move, bandwidth=width, num_permutations=0,
                        standardize=False).squared
            for s in range(200)
        ])  # fmt: skip
        assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(len(found))


def test_p_values_of_mmd_are_uniform_and_find_a_difference() -> None:
    """150 p-values of samples of one distribution: Kolmogorov-Smirnov p above 0.001. The least p-value of a real
    difference is 1/100."""
    found = [
        metrics.mmd(normal(15, seed=2 * s), normal(20, seed=2 * s + 1), num_permutations=99).p_value for s in range(150)
    ]
    jitter = np.random.default_rng(0).uniform(-0.01, 0, len(found))  # of p-values that are whole percents
    assert stats.kstest(np.array(found) + jitter, "uniform").pvalue > 1e-3
    assert metrics.mmd(normal(60), normal(60, shift=1.0, seed=1), num_permutations=99).p_value == pytest.approx(0.01)
    spread = metrics.mmd(mixed(100), mixed(100, seed=1).assign(b="x"), num_permutations=99)
    assert spread.p_value == pytest.approx(0.01)


def test_a_kernel_may_be_given() -> None:
    """Of the linear kernel the squared discrepancy is the squared distance of the means, less its bias."""
    x, y = normal(40), normal(50, shift=2.0, seed=1)
    found = metrics.mmd(x, y, kernel=lambda a, b: a @ b.T, num_permutations=0, standardize=False)
    bias = x.var(0, ddof=1).sum() / 40 + y.var(0, ddof=1).sum() / 50
    assert found.squared == pytest.approx(np.sum((x.mean(0) - y.mean(0)) ** 2) - bias)
    assert np.isnan(found.bandwidth)
    with pytest.raises(SettingError, match="90 x 90 finite numbers"):
        metrics.mmd(x, y, kernel=lambda a, b: np.ones(3))


def test_sliced_wasserstein_of_a_shift() -> None:
    """Exactly: directions come in orthogonal bases, along which the squares of a shift add up."""
    x, shift = normal(200, 3), np.array([3.0, 0.0, -4.0])
    found = metrics.sliced_wasserstein(x, x[::-1] + shift, num_projections=9, standardize=False)
    assert found == pytest.approx(5 / np.sqrt(3))
    assert metrics.sliced_wasserstein(x, x) == pytest.approx(0.0, abs=1e-12)
    one, other = normal(70, 1), normal(45, 1, shift=1.0, seed=1)
    expected = stats.wasserstein_distance(one[:, 0], other[:, 0])
    assert metrics.sliced_wasserstein(one, other, order=1, num_projections=1, standardize=False) == pytest.approx(
        expected
    )


@pytest.mark.parametrize(("columns", "shift", "scale"), [(1, 1.0, 1.0), (2, 0.0, 2.0), (3, 0.5, 1.0), (2, 0.0, 1.0)])
def test_divergence_of_two_normals(columns: int, shift: float, scale: float) -> None:
    """KL of N(0, I) from N(m, s^2 I) is d (log s + (1 + m^2) / 2 s^2 - 1/2): within 4 errors and 0.05 of bias."""
    x, y = normal(3000, columns), scale * normal(3000, columns, seed=1) + shift
    truth = columns * (np.log(scale) + (1 + shift**2) / (2 * scale**2) - 0.5)
    found = metrics.kl_divergence(x, y)
    assert abs(found.nats - truth) < 4 * found.error + 0.05
    assert found.error < 0.05
    scaled = metrics.kl_divergence(x * [10.0] * columns, y * [10.0] * columns)  # no unit
    assert scaled.nats == pytest.approx(found.nats)


def test_jensen_shannon_divergence() -> None:
    """Of N(0, 1) and N(2, 1) by quadrature; of one distribution 0, of two that do not touch log 2."""
    grid = np.linspace(-10, 12, 20_001)
    p, q = stats.norm.pdf(grid), stats.norm.pdf(grid, 2)
    m = (p + q) / 2
    truth = np.trapezoid(p * np.log(p / m) + q * np.log(q / m), grid) / 2
    for shift, expected in ((2.0, truth), (0.0, 0.0), (50.0, np.log(2))):
        found = metrics.js_divergence(normal(3000, 1), normal(3000, 1, shift=shift, seed=1))
        assert abs(found.nats - expected) < 4 * found.error + 0.03


def test_precision_and_recall_of_sets_that_are_equal_disjoint_or_nested() -> None:
    x = normal(400)
    assert metrics.precision_recall(x, x) == pytest.approx((1.0, 1.0, 4 / 3, 1.0), abs=0.05)  # each ball has its centre
    assert metrics.precision_recall(x, x + 100) == (0.0, 0.0, 0.0, 0.0)
    inside = metrics.precision_recall(x, 0.1 * normal(400, seed=1))  # samples that lack variety
    assert inside.precision > 0.95
    assert inside.recall < 0.1
    outside = metrics.precision_recall(x, 10 * normal(400, seed=1))  # and samples from where no rows are
    assert outside.precision < 0.1
    assert outside.recall > 0.8
    # Coverage of one distribution is known whatever it is (Naeem et al. 2020, lemma 2), for k = 1 just above 1/2; it is
    # that of 2,000 balls, which overlap, so within some 4 standard errors of 500 that do not.
    found = metrics.precision_recall(normal(2000), normal(2000, seed=1), num_neighbors=1)
    assert found.coverage == pytest.approx(1 - 1999 / 3999, abs=0.09)


@pytest.mark.parametrize("classifier", ["neighbors", LogisticRegression()])
def test_the_classifier_test_has_its_level(classifier: Any) -> None:
    """Of 200 tests at level 0.05 at most 23 reject: the binomial has as many with probability 0.0002 only."""
    p = [metrics.classifier_two_sample_test(normal(40, seed=2 * s), normal(40, seed=2 * s + 1), classifier=classifier,
                                            seed=s).p_value for s in range(200)]  # fmt: skip
    assert np.sum(np.array(p) <= 0.05) <= 23


def test_the_classifier_test_finds_a_difference() -> None:
    """Of N(0, I) and N(m, I) with |m| = 2 the best accuracy is Phi(1) = 0.841: none is better by 4 standard errors."""
    x, y = normal(1000), normal(1000, seed=1) + np.array([2.0, 0.0])
    for classifier in ("neural", "neighbors"):
        found = metrics.classifier_two_sample_test(x, y, classifier=classifier)
        assert found.num_test == 1000
        assert found.accuracy == pytest.approx(stats.norm.cdf(1), abs=4 * np.sqrt(0.25 / 1000))
        assert found.p_value < 1e-6
    with pytest.raises(SettingError, match="did you mean 'neural'"):
        metrics.classifier_two_sample_test(x, y, classifier="neurl")


def test_copies_are_told_from_fresh_rows() -> None:
    """z is a standard normal score of fresh samples (here within 4), and far below 0 of copies, with any held-out rows
    or without."""
    rng, train = np.random.default_rng(5), normal(400)
    copies = train[rng.integers(400, size=300)] + 0.01 * rng.normal(size=(300, 2))
    for held in (normal(300, seed=2), None):
        assert abs(metrics.data_copying_test(train, normal(300, seed=3), held).z) < 4
        found = metrics.data_copying_test(train, copies, held)
        assert found.z < -10
        assert found.nearer > 0.9
    # Samples that crowd where rows are dense lie nearer without being copies; cells take that away.
    crowded = 0.5 * normal(300, seed=4)
    whole, cells = (metrics.data_copying_test(train, crowded, normal(300, seed=2), num_cells=n) for n in (1, 6))
    assert whole.z < -3
    assert cells.z > whole.z / 2
    assert cells.num_cells >= 3


def test_known_modes_are_counted_as_in_the_literature() -> None:
    """Of draws of the grid itself 1 - exp(-9/2) are within 3 standard deviations, and the divergence is 24 / 2n."""
    grid = np.stack(np.meshgrid(*[np.arange(-4, 5, 2.0)] * 2), -1).reshape(-1, 2)
    rng = np.random.default_rng(0)
    where = rng.integers(25, size=2500)
    samples = grid[where] + 0.05 * rng.normal(size=(2500, 2))
    found = metrics.mode_coverage(samples, grid, 0.05)
    assert found.modes == 25
    assert found.high_quality == pytest.approx(1 - np.exp(-4.5), abs=4 * np.sqrt(0.011 / 2500))
    assert 0 < found.reverse_kl < 0.0048 + 4 * np.sqrt(12) / 2500  # chi-squared with 24 degrees, over 2n
    assert (found.counts <= np.bincount(where, minlength=25)).all()
    assert found.counts.sum() == round(2500 * found.high_quality)
    one = metrics.mode_coverage(np.tile(grid[3], (10, 1)), grid, 0.05)
    assert (one.modes, one.high_quality) == (1, 1.0)
    assert one.reverse_kl == pytest.approx(np.log(25))
    assert metrics.mode_coverage(grid + 1.0, grid, 0.05)[:3] == (0, 0.0, np.inf)
    weighted = metrics.mode_coverage(samples[where < 2], grid[:2], [0.05, 0.1], weights=[1, 1])
    assert weighted.reverse_kl < 0.05
    with pytest.raises(SettingError, match="one for each of the 25 modes"):
        metrics.mode_coverage(samples, grid, -1.0)


def test_clusters_that_samples_miss_are_found_and_none_else() -> None:
    """Six clusters: of samples of one distribution at most 4 of 200 tables have a missed one (p 0.01 at most, so 8 have
    probability 0.001); without one cluster, that is found."""
    centres = 4 * np.stack([np.cos(np.arange(6)), np.sin(np.arange(6))], 1)

    def draw(seed: int, number: int, kept: int = 6) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return centres[rng.integers(kept, size=number)] + 0.3 * rng.normal(size=(number, 2))

    wrong = sum(
        metrics.cluster_coverage(draw(2 * s, 240), draw(2 * s + 1, 240), num_clusters=6).num_missed > 0
        for s in range(60)
    )
    assert wrong <= 4
    found = metrics.cluster_coverage(draw(0, 600), draw(1, 600, kept=5))
    assert found.num_missed >= 1
    assert np.allclose(
        np.linalg.norm(found.centres[found.missed] * draw(0, 600).std(0) - centres[5], axis=1), 0, atol=0.5
    )
    assert found.share == pytest.approx(1 / 6, abs=0.1)
    assert found.p_value == pytest.approx(1e-3)
    assert found.rows.sum() == 300
    assert (np.diff(found.rows) <= 0).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_tables_are_told_of(function: Any) -> None:
    x = normal(60)
    with pytest.raises(DataError, match="2 columns and the second 3"):
        function(x, normal(60, 3))
    broken = x.copy()
    broken[7, 1] = np.nan
    with pytest.raises(DataError, match="Column 'x1', row 7 is missing"):
        function(x, broken)
    with pytest.raises(DataError, match="row"):
        function(x, x[:1] if function is not metrics.data_copying_test else x[:3])


def test_tables_that_do_not_match_are_told_of() -> None:
    with pytest.raises(DataError, match="second table has no column 'c'"):
        metrics.mmd(mixed(20), mixed(20).rename(columns={"c": "d"}))
    with pytest.raises(DataError, match="'b' holds numbers in the second table and labels in the other"):
        metrics.mmd(mixed(20), mixed(20).assign(b=1.5))
    with pytest.raises(DataError, match="The first table: A table is a DataFrame"):
        metrics.mmd(3, mixed(20))
    with pytest.raises(DataError, match="row 4 is missing"):
        metrics.mmd(mixed(20), mixed(20).assign(b=[*"xyxy", None, *"xyzxyxyzxyxyzxy"]))
    for divergence in NEIGHBOURS:
        with pytest.raises(DataError, match=r"5 exact copies.*labels and counts"):
            divergence(mixed(60, columns="bc"), mixed(60, seed=1, columns="bc"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: metrics.mmd(x, x, bandwidth="mean"), "bandwidth must be a positive number or 'median', not 'mean'"),
        (lambda x: metrics.mmd(x, x, num_permutations=-1), "num_permutations must be a whole number of at least 0"),
        (lambda x: metrics.sliced_wasserstein(x, x, order=0.5), "order must be a number of at least 1"),
        (lambda x: metrics.frechet_distance(x, x, "pcs"), "Unknown features 'pcs': did you mean 'pca'"),
        (lambda x: metrics.frechet_distance(x, x, 3), "features must be None, 'pca', a function"),
        (lambda x: metrics.precision_recall(x, x, num_neighbors=0), "num_neighbors must be a whole number"),
        (lambda x: metrics.data_copying_test(x, x, num_cells=500), "at most the number of training rows, 60, not 500"),
        (lambda x: metrics.cluster_coverage(x, x, num_clusters=1), "num_clusters must be a whole number of at least 2"),
    ],
)
def test_bad_settings_are_told_of(call: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        call(normal(60))


@pytest.mark.parametrize("features", [lambda table: table[:, 0], lambda table: table[:3], lambda table: table * np.nan])
def test_features_must_be_numbers_of_each_row(features: Any) -> None:
    with pytest.raises(
        DataError, match=r"Features of the first table (must be an array|are not finite, first in row 0)"
    ):
        metrics.frechet_distance(normal(60), normal(60), features)
