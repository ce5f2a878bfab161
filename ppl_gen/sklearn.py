"""The families as estimators of scikit-learn: for its pipelines, its searches of options, its model selection.

>>> from ppl_gen.sklearn import DensityEstimator
>>> model = DensityEstimator("gmm", engine="em").fit(table)
>>> model.score_samples(table)  # log p(x) of each row, nats, in the units of what it was given
>>> GridSearchCV(model, {"family__num_components": [1, 2, 3]}).fit(table).best_params_
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin, DensityMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ppl_gen import registry
from ppl_gen.engine import Engine
from ppl_gen.errors import DataError, SettingError, UnsupportedError
from ppl_gen.family import Family
from ppl_gen.settings import Settings

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

__all__ = ["DensityEstimator", "GenerativeClassifier"]


class _Estimator(BaseEstimator):
    """What both have in common: a family and an engine whose options are parameters, and how tables come in."""

    def __init__(self, family: Any = "gmm", *, engine: Any = None, backend: str = "numpyro",
                 random_state: Any = 0) -> None:  # fmt: skip
        self.family = family
        self.engine = engine
        self.backend = backend
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters; with ``deep`` the options of the family and of the engine too, ``family__num_components``
        and so on, down to ``family__prior__loc_scale``."""
        found: dict[str, Any] = super().get_params(deep=False)
        if deep:
            with contextlib.suppress(SettingError):  # of a name that fit will refuse, no options are known
                found |= {**_options("family", self._family()), **_options("engine", self._engine())}
        return found

    def set_params(self, **params: Any) -> Self:
        """Set parameters; ``family__num_components=3`` makes a copy of the family with that option.

        :raises SettingError: an option that the family or the engine does not have.
        """
        nested: dict[str, dict[str, Any]] = {"family": {}, "engine": {}}
        plain = {}
        for path, value in params.items():
            head, _, rest = path.partition("__")
            if rest and head in nested:
                nested[head][rest.replace("__", ".")] = value
            else:
                plain[path] = value
        super().set_params(**plain)
        for name, options in nested.items():
            if options:
                if (chosen := self._family() if name == "family" else self._engine()) is None:
                    raise SettingError("Options of an engine need its name as well: set engine='em', say.")
                setattr(self, name, chosen.with_options(options))
        return self

    def _family(self) -> Family:
        return self.family if isinstance(self.family, Family) else registry.family(_name("family", self.family))()

    def _engine(self) -> Engine | None:
        if self.engine is None or isinstance(self.engine, Engine):
            return self.engine
        return registry.engine(_name("engine", self.engine))()

    def _rows(self, X: Any, reset: bool) -> Any:
        """The table as the fit takes it, once scikit-learn has checked it: columns have the names, or the number, of
        those that it was fitted to."""
        import pandas as pd

        family = self._family()
        if family.sequences:
            raise UnsupportedError(f"{family.name} models sequences, an estimator is of rows: use pg.fit.")
        if isinstance(X, pd.DataFrame) and all(isinstance(name, str) for name in X.columns):
            for name in X.columns[X.columns.duplicated()]:
                raise DataError(f"Two columns are named {name!r}: rename one.")
            validate_data(self, X, skip_check_array=True, reset=reset)
            return X if hasattr(self, "feature_names_in_") else X.to_numpy()
        finite: Any = "allow-nan" if family.allows_missing else True
        X = validate_data(self, X, reset=reset, ensure_all_finite=finite, ensure_min_samples=2 if reset else 1)
        return X if not hasattr(self, "feature_names_in_") else pd.DataFrame(X, columns=self.feature_names_in_)

    def _fitted(self, rows: Any, **options: Any) -> Fit:
        from ppl_gen.fit import fit

        seed = _seed(self.random_state)
        return fit(self._family(), rows, engine=self._engine(), backend=self.backend, seed=seed, **options)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        with contextlib.suppress(SettingError):
            tags.input_tags.allow_nan = self._family().allows_missing
        return tags


def _name(what: str, value: Any) -> str:
    if not isinstance(value, str):
        called = f"{value.__name__}()" if isinstance(value, type) else "its name"
        raise SettingError(f"{what} must be an instance or a name, not {value!r}: give {called}.")
    return value


def _is_mixture(estimator: Any) -> bool:
    with contextlib.suppress(SettingError):
        return estimator._family().num_labels > 0
    return False


class DensityEstimator(DensityMixin, _Estimator):
    """A family as a density estimator of scikit-learn.

    :param family: a family such as ``pg.GMM(num_components=3)``, or its name. Its options are parameters:
        ``family__num_components``, ``family__prior__loc_scale``.
    :param engine: an engine, its name, or None to choose by family and data; its options are ``engine__num_starts`` and
        so on.
    :param backend: ``"numpyro"`` or ``"pyro"``.
    :param random_state: a whole number, the seed; None, or a numpy ``RandomState``, for a new one with each fit.

    Columns are standardized within, and densities given in the units of the table that ``fit`` saw: after a
    ``StandardScaler`` in a pipeline, in those of the scaled columns.

    Attributes: ``fit_``, the :class:`~ppl_gen.result.Fit`, whose ``diagnose()`` says whether to believe it;
    ``n_features_in_``; and after a DataFrame ``feature_names_in_``.
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the family to the rows of a table.

        :param X: a DataFrame with columns of any kinds that the family models, or an array of numbers.
        :param y: not used.
        :param sample_weight: (n,) weights >= 0; a row of weight 2 counts as twice that row.
        :raises DataError: the table can't be used for this family.
        """
        rows = self._rows(X, reset=True)
        self.fit_ = self._fitted(rows, weights=_weights(sample_weight, len(rows)))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """(n,) log density of each row: the log of its mean over the draws or members (nats, the units of ``fit``)."""
        check_is_fitted(self)
        return _log_density(self.fit_, self._rows(X, reset=False))

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log density of the rows (nats a row), as scikit-learn's ``GaussianMixture`` has it; its
        ``KernelDensity`` gives the sum."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """New rows: a DataFrame, or an array, like the table that ``fit`` saw.

        :param random_state: by default that of the estimator.
        """
        check_is_fitted(self)
        seed = _seed(self.random_state if random_state is None else random_state)
        rows = self.fit_.sample(n_samples, seed=seed)
        return rows if hasattr(self, "feature_names_in_") else np.asarray(rows)

    @available_if(_is_mixture)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Of a mixture: (n, K), the probability of each component given the row."""
        check_is_fitted(self)
        found = self.fit_.latents(self._rows(X, reset=False))
        (name,) = (column.removesuffix("_agreement") for column in found if column.endswith("_agreement"))
        return found.filter(regex=rf"^{name}=\d+$").to_numpy(np.float64)

    @available_if(_is_mixture)
    def predict(self, X: Any) -> np.ndarray:
        """Of a mixture: (n,), the component that each row most probably is of."""
        return self.predict_proba(X).argmax(axis=1)


class GenerativeClassifier(ClassifierMixin, _Estimator):
    r"""A classifier by Bayes' rule: one density for each class, and how frequent the classes are.

    .. math:: p(c \mid x) = \frac{\pi_c\, p(x \mid c)}{\sum_{c'} \pi_{c'}\, p(x \mid c')}

    With ``family=pg.GMM(1)`` it is quadratic discriminant analysis, up to its estimate of the covariances.

    :param family: of the density of each class; ``engine``, ``backend`` and ``random_state`` as of
        :class:`DensityEstimator`. Families without a normalized density (rbm, ebm) give probabilities that lean on
        their estimate of log Z; those without any (gan) are refused.
    :param priors: (classes,) probabilities of the classes, in the order of ``classes_``; None is their share of the
        rows (or weights) of ``fit``.

    Attributes: ``classes_``, ``class_prior_``, ``fits_`` (the :class:`~ppl_gen.result.Fit` of each class, in order),
    ``n_features_in_``, and after a DataFrame ``feature_names_in_``.
    """

    def __init__(self, family: Any = "gmm", *, engine: Any = None, backend: str = "numpyro", random_state: Any = 0,
                 priors: Any = None) -> None:  # fmt: skip
        super().__init__(family, engine=engine, backend=backend, random_state=random_state)
        self.priors = priors

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit a density to the rows of each class.

        :raises DataError: the rows of a class are too few, or can't be used for this family.
        """
        if self._family().density == "implicit":
            raise UnsupportedError(f"{self._family().name} has no density to classify by: choose another family.")
        rows = self._rows(X, reset=True)
        if y is None:
            raise ValueError("This classifier requires y to be passed, but the target y is None.")
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        if len(y) != len(rows):
            raise DataError(f"There must be one class for each of the {len(rows)} rows, not {len(y)}.")
        weights = _weights(sample_weight, len(rows))
        self.classes_, place = np.unique(y, return_inverse=True)
        counts = np.bincount(place, weights=weights)
        self.class_prior_ = _priors(self.priors, counts)
        data = self._family().prepare(rows, weights=weights)  # at once: kinds and labels are those of the whole table
        self.fits_ = [self._fit_class(name, data.take(place == i)) for i, name in enumerate(self.classes_)]
        return self

    def _fit_class(self, name: Any, data: Data) -> Fit:
        if data.weights is not None and not data.weights.any():
            raise DataError(f"All rows of class {name} have weight zero: leave that class out.")
        try:
            return self._fitted(data)
        except DataError as error:
            raise DataError(f"The rows of class {name} can't be fitted. {error}") from None

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """(n, classes) the log of :meth:`predict_proba`."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        joint = np.column_stack([_log_density(fit, rows) for fit in self.fits_]) + np.log(self.class_prior_)
        return joint - logsumexp(joint, axis=1, keepdims=True)

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n, classes) the probability of each class given the row."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """(n,) the most probable class of each row."""
        check_is_fitted(self)
        return self.classes_[self.predict_log_proba(X).argmax(axis=1)]


def _options(name: str, settings: Settings | None) -> dict[str, Any]:
    """{"family__prior__loc_scale": 2.0, ...}: every option, and those inside."""
    found: dict[str, Any] = {}
    for field in () if settings is None else settings.__dataclass_fields__:
        value = getattr(settings, field)
        found[f"{name}__{field}"] = value
        if isinstance(value, Settings):
            found |= _options(f"{name}__{field}", value)
    return found


def _seed(random_state: Any) -> int:
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _weights(sample_weight: Any, number: int) -> np.ndarray | None:
    """(n,) or None; that they are numbers >= 0 is checked with the table."""
    if sample_weight is None:
        return None
    weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weights.shape != (number,):
        raise DataError(f"There must be one weight for each of the {number} rows, not an array {weights.shape}.")
    if not weights.any():
        raise DataError("All sample weights are zero: at least one must be positive.")
    return weights


def _priors(priors: Any, counts: np.ndarray) -> np.ndarray:
    """(classes,) the probabilities that were asked for, or the shares of the rows."""
    if priors is None:
        return counts / counts.sum()
    given = np.asarray(priors, np.float64)
    if given.shape != counts.shape or not (given > 0).all() or abs(given.sum() - 1) > 1e-6:
        raise SettingError(f"priors must be {len(counts)} positive numbers that sum to 1, one a class, not {priors!r}.")
    return given


def _log_density(fit: Fit, rows: Any) -> np.ndarray:
    found = fit.score(rows, p_values=False, keep_draws=False).log_predictive
    return np.asarray(found, np.float64)
