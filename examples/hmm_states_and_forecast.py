"""A machine that runs, idles or overheats: its hidden states from a series, how sure they are, and what comes next."""

import numpy as np
import pandas as pd

import ppl_gen as pg


def readings(num_hours: int = 200, seed: int = 1) -> pd.DataFrame:
    """Temperature and number of alarms, hour by hour; six hours of readings are lost."""
    rng = np.random.default_rng(seed)
    stays = np.array([[0.94, 0.06, 0.0], [0.05, 0.90, 0.05], [0.0, 0.15, 0.85]])
    state = [0]
    for _ in range(num_hours - 1):
        state.append(rng.choice(3, p=stays[state[-1]]))
    centre, spread = np.array([20.0, 45.0, 70.0])[state], np.array([2.0, 4.0, 6.0])[state]
    table = pd.DataFrame({
        "time": pd.date_range("2025-03-01", periods=num_hours, freq="h"),
        "temperature": rng.normal(centre, spread),
        "alarms": rng.poisson(np.array([0.1, 0.5, 3.0])[state]),
    })  # fmt: skip
    table["alarms"] = table["alarms"].astype("Int64")
    table.loc[100:105, ["temperature", "alarms"]] = pd.NA
    return table


def main(num_warmup: int = 300, num_samples: int = 500, num_hours: int = 200) -> pd.DataFrame:
    family = pg.HMM(num_states=3, emission="auto", prior=pg.HMMPrior(stickiness=5.0))
    engine = pg.NUTS(num_warmup=num_warmup, num_samples=num_samples, num_chains=2)
    fit = pg.fit(family, readings(num_hours), order="time", engine=engine, seed=0)

    print(fit.diagnose())  # figures of prediction are of time steps, each given those before it
    print("\nStates, by temperature and alarms:")
    print(fit.summary().filter(regex=r"^(locs|rates)", axis=0)[["mean", "hdi_low", "hdi_high"]].round(2))

    print("\nThe lost hours: the state, and how much the draws differ about it:")
    states = fit.latents().iloc[98:108]
    print(states[["time", "z", "z_prob", "z_agreement", "z=0", "z=1", "z=2"]].to_string(float_format="%.3f"))

    print("\nThe next six hours:")
    future = fit.forecast(6, hdi_prob=0.8)
    print(future.drop(columns="sequence").to_string(float_format="%.2f"))
    return future


if __name__ == "__main__":
    main()
