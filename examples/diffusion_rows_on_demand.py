"""A diffusion model: new rows of a kind that is asked for, and guidance towards it."""

import numpy as np
import pandas as pd
from sklearn.datasets import load_wine

import ppl_gen as pg

COLUMNS = ["alcohol", "flavanoids", "color_intensity"]


def main(max_steps: int = 3000, num_samples: int = 200, num_members: int = 4) -> pd.DataFrame:
    wine = load_wine(as_frame=True)
    table = wine.data[COLUMNS].assign(cultivar=np.array(["A", "B", "C"])[wine.target])
    family = pg.Diffusion(hidden=(64,), condition_on="cultivar")
    engine = pg.SVI(max_steps=max_steps, num_members=num_members)
    fit = pg.fit(family, table, engine=engine, seed=0)
    print(f"{fit!r}")

    asked = pd.DataFrame({"cultivar": ["A", "B", "C"]})
    drawn = {
        "the table": table,
        "drawn": fit.sample(num_samples, given=asked, num_steps=20, seed=1),
        "drawn, guidance 2": fit.sample(num_samples, given=asked, num_steps=20, guidance=2.0, seed=1),
    }
    print("\nMean and standard deviation of the alcohol of each cultivar; guidance exaggerates what is typical:")
    found = pd.concat({name: rows.groupby("cultivar")["alcohol"].agg(["mean", "std"]) for name, rows in drawn.items()})
    print(found.round(2).unstack(level=0).swaplevel(axis=1).sort_index(axis=1, level=0, sort_remaining=False))
    return found


if __name__ == "__main__":
    main()
