"""How many components? Ranked by the density of rows that were held out, with paired standard errors."""

from sklearn.datasets import load_iris

import ppl_gen as pg


def main() -> pg.Comparison:
    table = load_iris(as_frame=True).data
    models = {f"k={k}": pg.GMM(num_components=k) for k in (1, 2, 3)}
    models["k=3, tied"] = pg.GMM(num_components=3, covariance="tied")
    result = pg.compare(models, table, folds=5, engine=pg.EM(), seed=0)
    print(result)
    return result


if __name__ == "__main__":
    main()
