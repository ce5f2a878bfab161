"""A Gaussian mixture: clusters of flowers, and how sure it is where each belongs."""

import pandas as pd
from sklearn.datasets import load_iris

import ppl_gen as pg


def main(num_bootstraps: int = 64) -> pd.DataFrame:
    iris = load_iris(as_frame=True)
    fit = pg.fit(pg.GMM(num_components=3), iris.data, engine=pg.EM(num_bootstraps=num_bootstraps), seed=0)
    print(fit.diagnose())

    print("\nThe components, in cm, with 90 % intervals over refits to resampled flowers:")
    print(fit.summary().filter(like="locs", axis=0)[["mean", "hdi_low", "hdi_high"]].round(2))

    flowers = fit.latents().assign(species=iris.target_names[iris.target])
    print("\nComponents and species (which the fit has not seen):")
    print(pd.crosstab(flowers["z"], flowers["species"]))
    print("\nThe flowers that the refits place in different components most often:")
    doubtful = flowers.nsmallest(3, "z_agreement")
    print(doubtful[["row", "species", "z", "z_prob", "z_agreement"]].round(2).to_string(index=False))
    return flowers


if __name__ == "__main__":
    main()
