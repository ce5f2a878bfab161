"""Codes as features: digits of which few have a label, in a pipeline of scikit-learn, beside pixels and components."""

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import ppl_gen as pg
from ppl_gen.plots_style import styled

NUM_CODES = 10


@styled
def main(max_steps: int = 2000, num_splits: int = 20) -> Figure:
    x, y = load_digits(return_X_y=True)
    x = x[:, x.std(0) > 0] / 16
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1300], order[1300:]

    family = pg.VAE(latent_dim=NUM_CODES, hidden=(128,), likelihood="normal", scale="shared")
    engine = pg.SVI(num_members=1, max_steps=max_steps, learning_rate=3e-3)
    fit = pg.fit(family, x[train], engine=engine, standardize=False, seed=0)
    codes = FunctionTransformer(fit.transform)  # what was learned of all 1,300 digits, without a label
    steps = {f"{NUM_CODES} codes": (codes,), "all pixels": (), f"{NUM_CODES} principal components": (PCA(NUM_CODES),)}
    numbers, found = (20, 50, 100, 300), {name: [] for name in steps}
    # The codes and the components are of the same 1,300 rows; the classifier sees the labels of some.
    seen = {name: make_pipeline(*first).fit(x[train]) if first else None for name, first in steps.items()}
    read = {name: [x[rows] if p is None else np.asarray(p.transform(x[rows])) for rows in (train, test)]
            for name, p in seen.items()}  # fmt: skip
    for number in numbers:
        for name, (of_train, of_test) in read.items():
            scores = []
            for split in range(num_splits):
                some = np.random.default_rng([number, split]).permutation(len(train))[:number]
                model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
                scores.append(model.fit(of_train[some], y[train][some]).score(of_test, y[test]))
            found[name].append((np.mean(scores), np.std(scores) / np.sqrt(num_splits)))
    for name, each in found.items():
        print(f"{name:>24}: " + ", ".join(f"{n} labels {m:.1%}" for n, (m, _) in zip(numbers, each, strict=True)))
    return draw(numbers, found, read[f"{NUM_CODES} codes"][1], y[test])


def draw(numbers, found, codes, label) -> Figure:
    """Accuracy by the number of labels, and the test digits in the plane of their codes' two main directions."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, each in found.items():
        mean, error = np.array(each).T
        left.errorbar(numbers, mean, 2 * error, marker="o", markersize=4, label=name)
    left.set(xscale="log", xticks=numbers, xticklabels=numbers, xlabel="labelled digits", ylabel="test accuracy",
             title="Logistic regression on each")  # fmt: skip
    left.minorticks_off()
    left.legend()
    plane = PCA(2).fit_transform(codes)
    for digit in range(10):
        for place in plane[label == digit]:
            right.text(*place, str(digit), color=f"C{digit % 7}", fontsize=6, ha="center", va="center")
    right.set(xlim=(plane[:, 0].min(), plane[:, 0].max()), ylim=(plane[:, 1].min(), plane[:, 1].max()),
              xticks=[], yticks=[], title="Codes of digits that were not seen, by what they are")  # fmt: skip
    return figure


if __name__ == "__main__":
    main().savefig("features.png")
