"""Few labels: breast cancer of which a tenth has a diagnosis, by an autoencoder that learns from all rows."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ppl_gen as pg
from ppl_gen.plots_style import PALETTE, styled

SHARE = 0.1


@styled
def main(max_steps: int = 2000) -> Figure:
    x, benign = load_breast_cancer(return_X_y=True, as_frame=True)
    x, truth = x.iloc[:, :10], np.where(benign == 1, "benign", "malignant").astype(object)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:400], order[400:]
    known = train[: int(SHARE * len(train))]
    labels = pd.Series(None, index=x.index, dtype=object)
    labels.iloc[known] = truth[known]

    family = pg.VAE(latent_dim=4, hidden=(32,), label="diagnosis")
    engine = pg.SVI(num_members=4, max_steps=max_steps, learning_rate=3e-3)
    fit = pg.fit(family, x.assign(diagnosis=labels).iloc[train], engine=engine, seed=0)
    told = fit.predict(x.iloc[test], "diagnosis")
    alone = make_pipeline(StandardScaler(), LogisticRegression()).fit(x.iloc[known], truth[known])
    chance = {"vae, all rows": told["diagnosis=malignant"].to_numpy(),
              "logistic regression, rows with a label": alone.predict_proba(x.iloc[test])[:, 1]}  # fmt: skip
    is_sick = truth[test] == "malignant"
    print(f"{len(known)} of {len(train)} training rows have a label; {len(test)} test rows:")
    for name, p in chance.items():
        loss = -np.log(np.clip(np.where(is_sick, p, 1 - p), 1e-6, 1)).mean()
        print(f"{name:>40}: {((p > 0.5) == is_sick).mean():.1%} right, AUROC {roc_auc_score(is_sick, p):.3f}, "
              f"log loss {loss:.3f} nats")  # fmt: skip
    print(told.head(4).round(3).to_string(index=False))
    return draw(told, is_sick)


def draw(told: pd.DataFrame, is_sick) -> Figure:
    """The probability of each test row in order, with what the members differ by."""
    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    ax, order = figure.subplots(), np.argsort(told["diagnosis=malignant"].to_numpy(), kind="stable")
    for which, colour, name in ((False, PALETTE[0], "benign"), (True, PALETTE[1], "malignant")):
        some = np.flatnonzero(is_sick[order] == which)
        rows = told.iloc[order[some]]
        ax.errorbar(some, rows["diagnosis=malignant"], rows["diagnosis=malignant_sd"], fmt="o", markersize=3,
                    linewidth=0.8, color=colour, label=name)  # fmt: skip
    ax.axhline(0.5, color="black", linewidth=0.6)
    ax.set(xlabel="test rows in order", ylabel="p(malignant given x)", ylim=(-0.03, 1.03),
           title="What the model says of rows, with the standard deviation over its members")  # fmt: skip
    ax.legend(loc="center left", bbox_to_anchor=(0.02, 0.75))
    return figure


if __name__ == "__main__":
    main().savefig("few_labels.png")
