"""Semi-supervised autoencoders: digits of which 100 have a label, beside classifiers that learn from those alone.

``python vae_label.py`` runs scikit-learn's 8 x 8 digits, over several splits; ``--tasks mnist`` runs MNIST, from
``$PPL_GEN_DATA/images/mnist.npz``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from common import seconds

NUM_LABELS = 100
PUBLISHED = "M2 alone, MNIST with 100 labels: Pyro's tutorial 93.19 %; Kingma et al. 2014, table 1: 88.03 %"


class Split(NamedTuple):
    """Pixels and digits of training rows, of which those in ``known`` have their label, and of test rows."""

    x: np.ndarray
    y: np.ndarray
    known: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, seed: int) -> Split:
        rng = np.random.default_rng([seed, 7])
        known = [rng.permutation(np.flatnonzero(y == k))[: NUM_LABELS // 10] for k in range(10)]
        return cls(x, y, np.sort(np.concatenate(known)), test_x, test_y)

    def table(self, x: np.ndarray, known: np.ndarray) -> pd.DataFrame:
        names = [f"p{j}" for j in range(x.shape[1])]
        labels = np.full(len(x), None, object)
        labels[known] = np.char.add("d", self.y[known].astype(str)) if len(known) else None
        return pd.DataFrame(x, columns=names).assign(digit=labels)


def small_digits(seed: int) -> Split:
    """1,437 training rows and 360 test rows; a pixel is 1 where it is brighter than half."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[:1437], order[1437:]
    x = (x > 7.5).astype(int) if BINARY else x.astype(int)
    varies = x[train].std(0) > 0
    x = x[:, varies]
    return Split.of(x[train], y[train], x[test], y[test], seed)


BINARY = False


def alone(split: Split, hidden: tuple[int, ...], seed: int) -> dict[str, float]:
    """Test accuracy of the same perceptron, and of a logistic regression, that see the labelled rows only."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = {}
    models = {
        "perceptron": MLPClassifier(hidden, max_iter=2000, random_state=seed),
        "logistic regression": LogisticRegression(max_iter=5000),
    }
    for name, model in models.items():
        fitted = make_pipeline(StandardScaler(), model).fit(split.x[split.known], split.y[split.known])
        found[name] = fitted.score(split.test_x, split.test_y)
    return found


def semi_supervised(split: Split, family: Any, engine: Any, seed: int) -> dict[str, float]:
    import ppl_gen as pg

    took, fit = seconds(lambda: pg.fit(family, split.table(split.x, split.known), engine=engine, seed=seed))
    hidden_rows = np.setdiff1d(np.arange(len(split.x)), split.known)
    found = {}
    for name, x, y in (
        ("test", split.test_x, split.test_y),
        ("unlabelled", split.x[hidden_rows], split.y[hidden_rows]),
    ):
        said = fit.latents(split.table(x, np.zeros(0, int)))["digit"].to_numpy()
        found[name] = float((said == np.char.add("d", y.astype(str))).mean())
    return {**found, "seconds": took, "steps": fit.draws.figures["num_steps"]}
