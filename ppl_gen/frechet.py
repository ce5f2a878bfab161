"""The Fréchet distance between two tables in a space of features, and where features come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import DataError, SettingError, UnsupportedError, did_you_mean
from ppl_gen.two_tables import check_count, points

NUM_FEATURES = 10  # principal components

if TYPE_CHECKING:
    from ppl_gen.result import Fit

Features = Callable[[Any], Any]
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "logistic": lambda x: 1 / (1 + np.exp(-np.clip(x, -500, 500))),
}


def frechet_distance(
    first: Any, second: Any, features: Any = None, *, num_features: int = NUM_FEATURES, standardize: bool = True
) -> float:
    r"""Squared Fréchet distance between the normal distributions with the mean and covariance of two samples' features
    (Heusel, Ramsauer, Unterthiner, Nessler & Hochreiter 2017, arXiv:1706.08500, equation 6).

    .. math:: \|\mu_1 - \mu_2\|^2 + \mathrm{tr}\big(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2}\big)

    With the features of an Inception network it is the FID. In other features it is another scale: compare within one.
    It is biased upward by about the number of features over that of rows (Bińkowski, Sutherland, Arbel & Gretton 2018,
    arXiv:1801.01401): compare at equal numbers, beside two samples of the data.

    :param first: a table or images, usually data; ``second``: likewise, usually samples.
    :param features: of what: None, the columns themselves (see :func:`ppl_gen.two_tables.points`); ``"pca"``, the first
        ``num_features`` principal components of the first table; a function of a table that gives (n, F) numbers, such
        as that of an Inception network; a :class:`~ppl_gen.result.Fit` with codes or hidden units (a vae's codes); a
        fitted classifier of scikit-learn, of which the last hidden layer (``MLPClassifier``) or the probabilities of
        labels are taken, by themselves or at the end of a pipeline.
    :param standardize: whether columns, and those of ``"pca"``, are first divided by their standard deviation.
    :raises DataError: the tables don't match, or features are not (n, F) finite numbers.
    :raises SettingError: no such features. :raises UnsupportedError: a fit without codes or hidden units.
    """
    if num_features != NUM_FEATURES and not isinstance(features, str):
        raise SettingError("num_features is of features='pca': leave it out.")
    if features is None or isinstance(features, str):
        x, y = points(first, second, standardize=standardize)
        if features is not None:
            x, y = _principal(features, num_features, x, y)
    else:
        function = feature_function(features)
        x, y = (_checked(function(table), table, which) for table, which in ((first, "first"), (second, "second")))
        if x.shape[1] != y.shape[1]:
            raise DataError(f"Features of the first table are {x.shape[1]} numbers, of the second {y.shape[1]}.")
    return gaussian_frechet(x.mean(0), np.atleast_2d(np.cov(x.T)), y.mean(0), np.atleast_2d(np.cov(y.T)))


def gaussian_frechet(mean: np.ndarray, covariance: np.ndarray, other: np.ndarray, of_other: np.ndarray) -> float:
    """The distance between two normal distributions: means (d,), covariances (d, d), which may be singular (Dowson &
    Landau 1982, J. Multivariate Anal. 12)."""
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ of_other @ root), 0)).sum()
    distance = np.sum((mean - other) ** 2) + np.trace(covariance) + np.trace(of_other) - 2 * cross
    return float(max(distance, 0.0))


def feature_function(features: Any) -> Features:
    """A function of a table that gives (n, F) numbers, of whatever :func:`frechet_distance` takes."""
    from ppl_gen.result import Fit

    if isinstance(features, Fit):
        return lambda table: _codes(features, table)
    if hasattr(features, "predict_proba"):
        return lambda table: _hidden(features, table)
    if callable(features):
        return features
    raise SettingError(
        f"features must be None, 'pca', a function of a table, a fit with codes or a classifier, not {features!r}."
    )


def _principal(features: str, number: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.decomposition import PCA

    if features != "pca":
        raise SettingError(f"Unknown features {features!r}: {did_you_mean(features, ('pca',))}")
    check_count("num_features", number)
    pca = PCA(min(number, *x.shape), svd_solver="full").fit(x)
    return pca.transform(x), pca.transform(y)


def _checked(values: Any, table: Any, which: str) -> np.ndarray:
    found = np.asarray(values)
    number = len(table) if hasattr(table, "__len__") and not isinstance(table, str) else len(found)
    if found.ndim != 2 or found.dtype.kind not in "biuf" or len(found) != number or len(found) < 2:
        raise DataError(
            f"Features of the {which} table must be an array of numbers with a row for each of its {number} (at least "
            f"2), not of {found.dtype} and shape {found.shape}."
        )
    if not np.isfinite(found).all():
        row = int(np.argwhere(~np.isfinite(found))[0, 0])
        raise DataError(f"Features of the {which} table are not finite, first in row {row}.")
    return found.astype(np.float64)


def _codes(fit: Fit, table: Any) -> np.ndarray:
    if fit.pair.decode is None and fit.pair.features is None:
        from ppl_gen import registry

        able = [name for name in registry.families() if {"reconstruct", "features"} & set(registry.family(name).verbs)]
        raise UnsupportedError(
            f"{fit.family.name} has neither codes nor hidden units to take as features: use a fit of "
            f"{' or '.join(able) or 'another family'}, a function or a classifier."
        )
    frame = fit.latents(table)
    names = [name for name in frame.columns if name[0] in "zh" and name[1:].isdigit()]
    return frame[names].to_numpy(np.float64)


def _hidden(classifier: Any, table: Any) -> np.ndarray:
    """The last hidden layer of a perceptron, the log odds or probabilities of another classifier."""
    import pandas as pd
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(classifier)
    except Exception as error:
        raise SettingError("The classifier is not fitted: fit it to labelled rows first.") from error
    x: Any = table if isinstance(table, pd.DataFrame) else np.asarray(table).reshape(len(table), -1)
    width = getattr(classifier, "n_features_in_", x.shape[1])
    if width != x.shape[1]:
        raise DataError(f"The classifier was fitted to {width} columns, and this table has {x.shape[1]}.")
    steps = [step for _, step in getattr(classifier, "steps", ())]
    for step in steps[:-1]:
        x = step.transform(x)
    last = steps[-1] if steps else classifier
    if not hasattr(last, "coefs_"):
        return np.asarray(last.predict_proba(x), np.float64)
    hidden = np.asarray(x, np.float64)
    for weight, bias in zip(last.coefs_[:-1], last.intercepts_[:-1], strict=True):
        hidden = ACTIVATIONS[last.activation](hidden @ weight + bias)
    return hidden
