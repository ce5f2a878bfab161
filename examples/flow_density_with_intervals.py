"""A density that no formula of ours describes: a flow fitted to a curved cloud of points, beside the truth."""

import numpy as np
import pandas as pd
from scipy import stats

import ppl_gen as pg


def days(num_days: int, seed: int) -> pd.DataFrame:
    """Temperature, and the power that a town uses: much on cold days and on hot ones, and then it varies more."""
    rng = np.random.default_rng(seed)
    temperature = rng.normal(15, 8, num_days)
    return pd.DataFrame({"temperature": temperature, "power": rng.normal(*power(temperature))})


def power(temperature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the power given the temperature, MW."""
    return 40 + 0.1 * (temperature - 15) ** 2, 2 + 0.2 * np.abs(temperature - 15)


def true_log_density(table: pd.DataFrame) -> np.ndarray:
    temperature = table["temperature"].to_numpy()
    given = stats.norm(*power(temperature)).logpdf(table["power"])
    return stats.norm(15, 8).logpdf(temperature) + given


def main(max_steps: int = 3000) -> pg.Score:
    family = pg.Flow(transform="maf", num_layers=3, hidden=(32,), base="mixture", num_components=4)
    fit = pg.fit(family, days(2000, seed=0), engine=pg.SVI(max_steps=max_steps), seed=0)
    print(fit.diagnose())  # four members; the held-out density is that of rows that a member did not train on

    new = days(1000, seed=1)
    score, truth = fit.score(new), true_log_density(new)
    print("\nNew days, with the range of log p(x) over the members, and the truth:")
    print(pd.concat([new, score.to_frame().drop(columns="row")], axis=1).assign(truth=truth).head(4).round(2).T)
    inside = (score.hdi[:, 0] <= truth) & (truth <= score.hdi[:, 1])
    print(f"\nShort of the truth by {np.mean(truth - score.log_predictive):.3f} nats a day; "
          f"the range holds the truth on {inside.mean():.0%} of the days.")  # fmt: skip

    odd = pd.DataFrame({"temperature": [15.0, 15.0], "power": [40.0, 70.0]})  # ordinary, then impossible
    print("\n", fit.score(odd).to_frame()[["log_prob", "hdi_low", "hdi_high", "anomaly_p_value"]].round(3))
    print("\n", fit.sample(3, seed=1).round(1))
    return score


if __name__ == "__main__":
    main()
