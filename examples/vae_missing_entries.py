"""A variational autoencoder: missing entries drawn given the others, with their spread."""

import numpy as np
import pandas as pd
from sklearn.datasets import load_wine

import ppl_gen as pg


def main(max_steps: int = 3000, num_draws: int = 50, num_members: int = 4) -> float:
    whole = load_wine(as_frame=True).data[["alcohol", "flavanoids", "total_phenols", "color_intensity", "hue"]]
    lost = np.random.default_rng(0).random(whole.shape) < 0.15
    lost[lost.all(1)] = False
    table = whole.mask(lost)

    engine = pg.SVI(max_steps=max_steps, num_members=num_members)
    fit = pg.fit(pg.VAE(latent_dim=2, hidden=(32,)), table, engine=engine, seed=0)
    print(fit.diagnose())

    print("\nA wine with its gaps filled three times:")
    row = int(np.argmax(lost.sum(1)))
    some = fit.impute(table.iloc[[row]], num_draws=3, seed=1)
    print(pd.concat([table.iloc[[row]], some[list(whole.columns)]]).round(2).to_string(index=False))

    draws = fit.impute(table, num_draws=num_draws, seed=2)
    filled = draws[list(whole.columns)].to_numpy().reshape(num_draws, len(table), -1).mean(0)
    scale = whole.std().to_numpy()
    error, by_mean = (
        np.sqrt(np.mean((((guess - whole) / scale).to_numpy()[lost]) ** 2))
        for guess in (filled, np.broadcast_to(table.mean(), whole.shape))
    )
    print(f"\nRoot mean squared error of the {lost.sum()} lost entries, in standard deviations of their columns: "
          f"{error:.2f}; by the mean of the column {by_mean:.2f}")  # fmt: skip
    return float(error)


if __name__ == "__main__":
    main()
