"""An autoregressive network: the exact density of rows of numbers and labels together, here to find wrong labels."""

import numpy as np
import pandas as pd
from sklearn.datasets import load_wine

import ppl_gen as pg


def wines(num_wrong: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """178 wines with their cultivar; of some of them another cultivar is given."""
    wine = load_wine(as_frame=True)
    rng = np.random.default_rng(seed)
    cultivar = wine.target.to_numpy().copy()
    wrong = rng.choice(len(cultivar), num_wrong, replace=False)
    cultivar[wrong] = (cultivar[wrong] + rng.integers(1, 3, num_wrong)) % 3
    columns = ["alcohol", "flavanoids", "color_intensity", "proline"]
    return wine.data[columns].assign(cultivar=np.array(["A", "B", "C"])[cultivar]), np.sort(wrong)


def main(max_steps: int = 3000, num_members: int = 4) -> float:
    table, wrong = wines(num_wrong=8, seed=0)
    family = pg.Autoregressive(hidden=(32,), num_mixture_components=2)
    fit = pg.fit(family, table, engine=pg.SVI(max_steps=max_steps, num_members=num_members), seed=0)
    print(fit.diagnose())

    # log p(label | numbers) = log p(numbers, label) - log sum over labels of the same: all of it exact.
    each = np.stack([fit.score(table.assign(cultivar=label)).log_predictive for label in "ABC"])
    given = fit.score(table).log_predictive - np.logaddexp.reduce(each, axis=0)
    suspects = np.argsort(given)[: len(wrong)]
    found = np.isin(suspects, wrong).mean()
    print(
        f"\nOf the {len(wrong)} wines whose label is least probable given their numbers, {found:.0%} are mislabelled:"
    )
    likely = np.array(list("ABC"))[each.argmax(0)]
    shown = table.assign(probability=np.exp(given), likelier=likely).iloc[suspects]
    print(shown.round(3).to_string())
    return float(found)


if __name__ == "__main__":
    main()
