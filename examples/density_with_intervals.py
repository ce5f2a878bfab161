"""From a table to a density that says how sure it is: fit, diagnose, score, sample, save."""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_iris

import ppl_gen as pg


def main(num_samples: int = 500) -> pg.Score:
    table = load_iris(as_frame=True).data
    fit = pg.fit(pg.GMM(num_components=2), table, engine=pg.NUTS(num_samples=num_samples), seed=0)
    print(fit.diagnose())

    new = table.sample(3, random_state=0)
    new.iloc[0, 2] = np.nan  # a missing entry is integrated out
    new.iloc[1, 0] = 12.0  # a sepal of 12 cm is no iris of this kind
    score = fit.score(new)
    print(score.to_frame().round(3).to_string(index=False))

    print(fit.sample(3, seed=1))
    with tempfile.TemporaryDirectory() as folder:
        path = fit.save(Path(folder) / "iris")
        again = pg.load(path).score(new)
    assert np.allclose(again.log_predictive, score.log_predictive, atol=1e-5)
    return score


if __name__ == "__main__":
    main()
