"""Conditional sampling: how a disease of scikit-learn's diabetes patients progresses, given what is known of them."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes

import ppl_gen as pg
from ppl_gen.plots_style import PALETTE, styled

GIVEN = ("bmi", "bp", "s5")


@styled
def main(max_steps: int = 2000, num_draws: int = 400) -> Figure:
    whole = load_diabetes(as_frame=True, scaled=False).frame
    table = whole[[*GIVEN, "s3", "target"]].astype(float).rename(columns={"target": "progression"})
    order = np.random.default_rng(0).permutation(len(table))
    train, test = table.iloc[order[:340]], table.iloc[order[340:]]

    engine = pg.SVI(num_members=4, max_steps=max_steps, learning_rate=3e-3)
    fit = pg.fit(pg.Autoregressive(hidden=(32,), condition_on=GIVEN), train, engine=engine, seed=0)
    drawn = fit.sample(num_draws, given=test, seed=1)
    progression = drawn["progression"].to_numpy().reshape(len(test), num_draws)
    low, high = np.quantile(progression, [0.05, 0.95], axis=1)
    truth = test["progression"].to_numpy()
    inside = (low <= truth) & (truth <= high)
    print(f"90 % intervals of p(progression given {', '.join(GIVEN)}) hold {inside.mean():.1%} of {len(test)} new "
          f"patients (± {np.sqrt(0.09 / len(test)):.1%}); width {np.mean(high - low):.0f}, of all patients alike "
          f"{np.subtract(*np.quantile(train['progression'], [0.95, 0.05])):.0f}")  # fmt: skip

    # The same of a joint density: what is not given is missing, and drawn.
    joint = pg.fit(pg.VAE(latent_dim=2, hidden=(32,)), train, engine=engine, seed=0)
    asked = test.assign(s3=np.nan, progression=np.nan)
    other = joint.impute(asked, num_draws=num_draws, seed=1)["progression"].to_numpy().reshape(num_draws, -1)
    ends = np.quantile(other, [0.05, 0.95], axis=0)
    held = (ends[0] <= truth) & (truth <= ends[1])
    print(f"By impute of a vae of all five columns: {held.mean():.1%}, width {np.mean(ends[1] - ends[0]):.0f}")
    return draw(fit, train, num_draws)


def draw(fit: pg.Fit, train: pd.DataFrame, num_draws: int) -> Figure:
    """p(progression given bmi), blood pressure and s5 at their medians, and at their upper deciles."""
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    grid = np.linspace(*np.quantile(train["bmi"], [0.02, 0.98]), 25)
    for ax, share in zip(figure.subplots(1, 2, sharey=True), (0.5, 0.9), strict=True):
        others = {name: train[name].quantile(share) for name in GIVEN[1:]}
        rows = fit.sample(num_draws, given=pd.DataFrame({"bmi": grid, **others}), seed=2)
        values = rows["progression"].to_numpy().reshape(len(grid), num_draws)
        for tail, alpha in ((0.05, 0.2), (0.25, 0.35)):
            ends = np.quantile(values, [tail, 1 - tail], axis=1)
            ax.fill_between(
                grid, *ends, color=PALETTE[0], alpha=alpha, linewidth=0, label=f"{1 - 2 * tail:.0%} of draws"
            )
        ax.scatter(train["bmi"], train["progression"], s=5, color="black", alpha=0.25, label="all patients")
        name = "median" if share == 0.5 else f"{share:.0%} quantile"
        ax.set(xlabel="body mass index, kg / m²", title=f"bp {others['bp']:.0f}, s5 {others['s5']:.1f} ({name})")
    figure.axes[0].set_ylabel("progression in a year")
    figure.axes[1].legend()
    return figure


if __name__ == "__main__":
    main().savefig("conditional.png")
