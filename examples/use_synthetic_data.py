"""Synthetic rows that may stand for real ones: what they teach, how like they are, and what they give away."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer

import ppl_gen as pg
from ppl_gen.plots_style import PALETTE, styled


@styled
def main(max_steps: int = 1500) -> Figure:
    table, benign = load_breast_cancer(return_X_y=True, as_frame=True)
    table = table.iloc[:, :10].assign(diagnosis=np.where(benign == 1, "benign", "malignant"))
    order = np.random.default_rng(0).permutation(len(table))
    train, holdout = table.iloc[order[:285]], table.iloc[order[285:]]

    engine = pg.SVI(num_members=4, max_steps=max_steps, learning_rate=3e-3)
    fit = pg.fit(pg.Autoregressive(), train, engine=engine, seed=0)
    made = fit.synthesize(500, holdout=holdout, target="diagnosis", seed=1)
    print(made.report)
    print("\nRows of the training table with a little noise, as a generator that has learned them by heart makes them:")
    numbers = train.columns[:10]
    noise = 0.01 * train[numbers].std().to_numpy() * np.random.default_rng(2).normal(size=(len(train), 10))
    copies = pg.evaluate_synthetic(fit, train.assign(**(train[numbers] + noise)), holdout, target="diagnosis")
    print(copies)
    return draw(made.table, holdout, made.report, copies)


def draw(made: pd.DataFrame, holdout: pd.DataFrame, good, bad) -> Figure:
    """Real and synthetic rows in two columns, and the bounds of the tests of privacy beside their limits."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    for table, colour, name in ((holdout, PALETTE[0], "held-out rows"), (made, PALETTE[1], "synthetic rows")):
        left.scatter(table["mean radius"], table["mean texture"], s=6, alpha=0.6, color=colour, label=name)
    left.set(xlabel="mean radius", ylabel="mean texture", title="Two of eleven columns")
    left.legend()
    names = [check.name for check in good.checks if "95 %" in check.name]
    both = ((-0.17, good, PALETTE[1], "drawn from the fit"), (0.17, bad, PALETTE[3], "copies with noise"))
    for shift, report, colour, name in both:
        figures = [report[each].figure for each in names]
        right.barh(np.arange(len(names)) + shift, figures, 0.32, color=colour, label=name)
    places = np.arange(len(names))
    limits = [good[each].threshold for each in names]
    right.vlines(limits, places - 0.36, places + 0.36, color="black", label="limit", zorder=3)
    short = [each.removeprefix("privacy: ").removesuffix(", 95 % bound").replace(" than", "\nthan") for each in names]
    right.set(yticks=places, yticklabels=short, xlabel="upper end of the interval",
              title="What samples give away")  # fmt: skip
    right.invert_yaxis()
    right.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    main().savefig("synthetic.png")
