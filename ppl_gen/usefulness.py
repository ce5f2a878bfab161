"""What rows teach: a model trained on synthetic rows and one trained on real rows, tested on the same held-out rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppl_gen.two_tables import points

if TYPE_CHECKING:
    import pandas as pd

MAX_LABELS = 10  # distinct whole numbers up to which a target is read as labels
RESAMPLES = 200


class Usefulness(NamedTuple):
    """``measure`` (AUROC of two labels, accuracy of more, R squared of numbers) on held-out rows after training on
    ``real`` and on ``synthetic`` rows, and the standard error of their difference over the held-out rows."""

    measure: str
    real: float
    synthetic: float
    error: float


def train_on_each(train: pd.DataFrame, made: pd.DataFrame, held: pd.DataFrame, name: Any, seed: int) -> Usefulness:
    """Gradient-boosted trees of scikit-learn, at its defaults, learn column ``name`` from the others.

    The standard error is that of 200 resamples of the held-out rows, of which both models are tested on the same
    (Efron 1979, Ann. Statist. 7).
    """
    import pandas as pd

    others = pd.concat([made, held], ignore_index=True)
    x, rest = points(train.drop(columns=[name]), others.drop(columns=[name]))
    own, test = rest[: len(made)], rest[len(made) :]
    labels = are_labels(train[name])
    read = (lambda values: values.astype(str).to_numpy(object)) if labels else (lambda values: values.to_numpy(float))
    y, y_own, truth = (read(table[name]) for table in (train, made, held))
    told = [_told(rows, target, test, labels, seed) for rows, target in ((x, y), (own, y_own))]
    classes = np.unique(y) if labels else None
    measure = "R squared" if classes is None else "AUROC" if len(classes) == 2 else "accuracy"
    real, synthetic = (_judged(truth, each, classes, np.arange(len(truth))) for each in told)
    rng, gaps = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        rows = rng.integers(len(truth), size=len(truth))
        one, other = (_judged(truth, each, classes, rows) for each in told)
        gaps.append(one - other)
    return Usefulness(measure, real, synthetic, float(np.nanstd(gaps)))


def are_labels(target: pd.Series) -> bool:
    """Whether a column is read as labels: text, categories, truth values, or at most 10 different whole numbers."""
    if target.dtype.kind == "f":
        return False
    return target.dtype.kind not in "iu" or target.nunique() <= MAX_LABELS


Told = tuple[np.ndarray, np.ndarray | None]


def _told(x: np.ndarray, y: np.ndarray, test: np.ndarray, labels: bool, seed: int) -> Told:
    """Numbers of the test rows; or probabilities (n, C) with the labels that they are of."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    if not labels:
        return HistGradientBoostingRegressor(random_state=seed).fit(x, y).predict(test), None
    seen = np.unique(y)
    if len(seen) == 1:  # nothing to learn
        return np.ones((len(test), 1)), seen
    model = HistGradientBoostingClassifier(random_state=seed).fit(x, y)
    return model.predict_proba(test), model.classes_


def _judged(truth: np.ndarray, told: Told, classes: np.ndarray | None, rows: np.ndarray) -> float:
    """The measure on some of the rows; NaN where they are all alike."""
    from sklearn.metrics import r2_score, roc_auc_score

    values, labels = told
    if classes is None or labels is None:
        return float(r2_score(truth[rows], values[rows]))
    if len(classes) > 2:
        return float((labels[values[rows].argmax(1)] == truth[rows]).mean())
    is_second = truth[rows] == classes[1]
    if is_second.all() or not is_second.any():
        return float("nan")
    at = np.flatnonzero(labels == classes[1])
    return float(roc_auc_score(is_second, values[rows, at[0]] if len(at) else np.zeros(len(rows))))
