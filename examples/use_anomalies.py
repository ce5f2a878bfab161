"""Anomalies at a false discovery rate: malignant tumours as what benign ones are not (scikit-learn's breast cancer)."""

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

import ppl_gen as pg
from ppl_gen.plots_style import PALETTE, styled

RATE = 0.1


@styled
def main(num_components: int = 1) -> Figure:
    table, benign = load_breast_cancer(return_X_y=True, as_frame=True)
    table, order = table.iloc[:, :10], np.random.default_rng(0).permutation(len(table))
    normal, sick = (order[benign.to_numpy()[order] == k] for k in (1, 0))
    train, known = table.iloc[normal[:180]], table.iloc[normal[180:300]]  # labels are used for this alone
    new = np.concatenate([normal[300:], sick[:20]])

    fit = pg.fit(pg.GMM(num_components), train, engine=pg.EM(num_bootstraps=0), seed=0)
    found = fit.anomalies(table.iloc[new], false_discovery_rate=RATE, calibration=known)
    is_sick = np.isin(new, sick)
    called = found["is_anomaly"].to_numpy()
    forest = IsolationForest(random_state=0).fit(train)
    print(found.sort_values("anomaly_p_value").head(8).round(3).to_string(index=False))
    print(f"\n{called.sum()} of {len(new)} tumours called: {(called & is_sick).sum()} of the {is_sick.sum()} malignant "
          f"ones, and {(called & ~is_sick).sum()} benign")  # fmt: skip
    print(f"AUROC of the mixture {roc_auc_score(is_sick, -found['log_prob']):.3f}, of an isolation forest on the same "
          f"rows {roc_auc_score(is_sick, -forest.score_samples(table.iloc[new])):.3f}")  # fmt: skip
    return draw(found, is_sick)


def draw(found, is_sick) -> Figure:
    """Density of each row, by its kind, and the p-values in order below the line that calls them."""
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    called = found["is_anomaly"].to_numpy()
    bins = np.linspace(np.quantile(found["log_prob"], 0.02), found["log_prob"].max(), 30)
    values = found["log_prob"].clip(lower=bins[0])
    left.hist([values[~is_sick], values[is_sick]], bins, stacked=True, color=PALETTE[:2], label=["benign", "malignant"])
    if called.any():
        left.axvline(values[called].max(), color="black", linewidth=0.8, label="called to the left of this")
    left.set(xlabel="log p(x), nats", ylabel="rows", title="The lower the density, the odder the row")
    left.legend()
    order = np.argsort(found["anomaly_p_value"].to_numpy(), kind="stable")
    rank, p_value = np.arange(1, len(order) + 1), found["anomaly_p_value"].to_numpy()[order]
    right.scatter(rank, p_value, s=9, c=np.array(PALETTE[:2])[is_sick[order].astype(int)])
    right.plot(rank, RATE * rank / len(rank), color="black", linewidth=0.8, label=f"{RATE:g} x rank / rows")
    right.set(xlabel="rank", ylabel="anomaly p-value", ylim=(0, 0.3), xlim=(0, 60),
              title="Called: up to the last one below the line")  # fmt: skip
    right.legend()
    return figure


if __name__ == "__main__":
    main().savefig("anomalies.png")
