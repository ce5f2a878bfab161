"""Semi-supervised autoencoders: digits of which 100 have a label, beside classifiers that learn from those alone.

``python vae_label.py`` runs scikit-learn's 8 x 8 digits, over three splits; ``--tasks mnist`` runs MNIST, from
``$PPL_GEN_DATA/images/mnist.npz``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from common import report, seconds

NUM_LABELS = 100
MAX_ROWS = 2_000  # that the labels are inferred of, of either kind
PUBLISHED = "M2 by itself, 100 labels, all 60,000 images: Pyro's tutorial 93.19 %, Kingma et al. 2014 (table 1) 88.03 %"
Found = dict[str, Any]


class Split(NamedTuple):
    """Pixels and digits of training rows, of which those in ``known`` have their label, and of test rows."""

    x: np.ndarray
    y: np.ndarray
    known: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, seed: int) -> Split:
        """As many labels of each digit; pixels that never vary are left out."""
        rng, varies = np.random.default_rng([seed, 7]), x.std(0) > 0
        known = [rng.permutation(np.flatnonzero(y == digit))[: NUM_LABELS // 10] for digit in range(10)]
        return cls(x[:, varies], y, np.sort(np.concatenate(known)), test_x[:, varies], test_y)

    def table(self, x: np.ndarray, known: np.ndarray | None = None) -> pd.DataFrame:
        """Pixels, and the labels of the rows that are known."""
        digit = np.full(len(x), None, object)
        if known is not None:
            digit[known] = named(self.y[known])
        return pd.DataFrame(x, columns=[f"p{j}" for j in range(x.shape[1])]).assign(digit=digit)

    def read(self, x: np.ndarray) -> np.ndarray:
        """Pixels as the autoencoder's classifier reads them."""
        return (x - self.x.mean(0)) / np.sqrt(self.x.var(0).mean())


def named(digits: np.ndarray) -> np.ndarray:
    return np.char.add("digit ", digits.astype(str)).astype(object)


def small_digits(seed: int) -> Split:
    """1,437 training rows and 360 test rows, pixels from 0 to 16."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[:1437], order[1437:]
    return Split.of(x[train], y[train], x[test], y[test], seed)


def mnist_digits(seed: int, num_rows: int = 10_000) -> Split:
    """So many training rows and the first test rows; a pixel is 1 where it is brighter than half."""
    with np.load(Path(os.environ["PPL_GEN_DATA"]) / "images" / "mnist.npz") as whole:
        data = {name: whole[name] for name in whole.files}
    some = np.random.default_rng(seed).permutation(60_000)[:num_rows]
    x, test_x = (data[name].reshape(-1, 784) > 127 for name in ("x_train", "x_test"))
    return Split.of(x[some], data["y_train"][some], test_x[:MAX_ROWS], data["y_test"][:MAX_ROWS], seed)


def alone(split: Split, hidden: tuple[int, ...], seed: int) -> Found:
    """Test accuracy of the same perceptron, and of a logistic regression, that see the labelled rows only."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    models = {"perceptron alone": MLPClassifier(hidden, max_iter=2000, random_state=seed),
              "logistic regression": LogisticRegression(max_iter=5000)}  # fmt: skip
    x, test_x = split.read(split.x[split.known]), split.read(split.test_x)
    return {name: model.fit(x, split.y[split.known]).score(test_x, split.test_y) for name, model in models.items()}


def semi_supervised(split: Split, family: Any, engine: Any, seed: int, **options: Any) -> Found:
    """Accuracy of the likeliest label on test rows and on the training rows without one."""
    import ppl_gen as pg

    table = split.table(split.x, split.known)
    took, fit = seconds(lambda: pg.fit(family, table, engine=engine, seed=seed, **options))
    hidden = np.setdiff1d(np.arange(len(split.x)), split.known)[:MAX_ROWS]

    def accuracy(x: np.ndarray, y: np.ndarray) -> list[float]:
        found = fit.latents(split.table(x))
        return [float((found[column].to_numpy() == named(y)).mean()) for column in ("digit", "digit_classifier")]

    test, rest = accuracy(split.test_x, split.test_y), accuracy(split.x[hidden], split.y[hidden])
    return {"p(y|x), test": test[0], "q(y|x), test": test[1], "p, unlabelled": rest[0], "q, unlabelled": rest[1],
            "steps": fit.draws.figures["num_steps"], "s": took}  # fmt: skip


def digits(num_seeds: int = 3) -> None:
    import ppl_gen as pg

    family = pg.VAE(latent_dim=10, hidden=(64,), likelihood="normal", scale="shared", label="digit")
    engine = pg.SVI(num_members=4, max_steps=3000, learning_rate=0.003, validation=0.0)
    lines: list[Found] = []
    for seed in range(num_seeds):
        split = small_digits(seed)
        own = semi_supervised(split, family, engine, seed, standardize=False)
        beside = alone(split, family.hidden, seed)
        above = 100 * (own["p(y|x), test"] - beside["perceptron alone"])
        lines.append({"split": str(seed), **own, **beside, "points above": above})
    names = [name for name in lines[0] if name != "split"]
    mean: Found = {"split": "mean", **{name: float(np.mean([line[name] for line in lines])) for name in names}}
    report(
        "8 x 8 digits, 1,437 rows, 100 labels: accuracy (the target is 5 points above the perceptron)", [*lines, mean]
    )


def mnist() -> None:
    import ppl_gen as pg

    family = pg.VAE(latent_dim=50, hidden=(256,), label="digit")
    engine = pg.SVI(num_members=1, max_steps=2000, learning_rate=0.002, validation=0.0)
    split = mnist_digits(0)
    own = semi_supervised(split, family, engine, 0)
    report(PUBLISHED, [{"MNIST": f"{len(split.x):,} images", **own, **alone(split, family.hidden, 0)}])


TASKS = {"digits": digits, "mnist": mnist}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="digits", help=f"some of {', '.join(TASKS)}, with commas")
    names = parser.parse_args().tasks.split(",")
    if unknown := sorted(set(names) - set(TASKS)):
        parser.error(f"unknown task {', '.join(unknown)}: choose from {', '.join(TASKS)}")
    for name in names:
        TASKS[name]()
