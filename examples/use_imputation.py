"""Imputation with uncertainty: a fifth of the entries of scikit-learn's wine are removed, and drawn again."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.datasets import load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer

import ppl_gen as pg
from ppl_gen.plots_style import PALETTE, styled


@styled
def main(max_steps: int = 3000, num_draws: int = 200) -> Figure:
    whole = load_wine(as_frame=True).data
    absent = np.random.default_rng(0).random(whole.shape) < 0.2
    table = whole.mask(absent)

    family = pg.VAE(latent_dim=3, hidden=(32,))
    engine = pg.SVI(num_members=4, max_steps=max_steps, learning_rate=3e-3)
    fit = pg.fit(family, table, engine=engine, seed=0)
    imputed = fit.impute(table, num_draws=num_draws, seed=1)
    draws = imputed.drop(columns="draw").to_numpy().reshape(num_draws, *whole.shape)
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    truth, unit = whole.to_numpy(), whole.std().to_numpy()
    inside = (low <= truth) & (truth <= high)

    def error(values: np.ndarray) -> float:
        """Root mean square over the removed entries, in standard deviations of their columns."""
        return float(np.sqrt((((values - truth) / unit)[absent] ** 2).mean()))

    others = {"column means": SimpleImputer(), "scikit-learn's IterativeImputer": IterativeImputer(max_iter=50)}
    print(f"{absent.sum()} of {absent.size} entries removed. Root mean square error, in standard deviations:")
    print(f"{'mean of the draws':>32}: {error(draws.mean(0)):.3f}")
    for name, imputer in others.items():
        print(f"{name:>32}: {error(imputer.fit_transform(table)):.3f}")
    share = inside[absent].mean()
    print(f"The 90 % intervals hold {share:.1%} of the removed entries (± {np.sqrt(0.09 / absent.sum()):.1%}).")
    return draw(whole, absent, draws.mean(0), low, high, inside)


def draw(whole: pd.DataFrame, absent, centre, low, high, inside) -> Figure:
    """Removed entries of some columns: the truth against the intervals."""
    names = ["alcohol", "flavanoids", "proline"]
    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    for ax, name in zip(figure.subplots(1, 3), names, strict=True):
        j = whole.columns.get_loc(name)
        rows = np.flatnonzero(absent[:, j])
        truth = whole[name].to_numpy()[rows]
        for held, colour, what in ((True, PALETTE[0], "holds the truth"), (False, PALETTE[3], "misses it")):
            some = inside[rows, j] == held
            bars = np.abs(np.stack([low[rows, j], high[rows, j]]) - centre[rows, j])[:, some]
            ax.errorbar(truth[some], centre[rows, j][some], bars, fmt="o", markersize=3, color=colour, alpha=0.8,
                        linewidth=0.9, label=what)  # fmt: skip
        ends = [min(low[rows, j].min(), truth.min()), max(high[rows, j].max(), truth.max())]
        ax.plot(ends, ends, color="black", linewidth=0.6)
        ax.set(title=name, xlabel="removed value", ylabel="imputed, 90 % interval" if name == names[0] else "")
    figure.axes[0].legend(loc="upper left")
    return figure


if __name__ == "__main__":
    main().savefig("imputation.png")
