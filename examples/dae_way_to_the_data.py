"""A denoising autoencoder: which way, and how far, an odd row would have to move to look like the others."""

import pandas as pd
from sklearn.datasets import load_breast_cancer

import ppl_gen as pg


def main(max_steps: int = 3000, num_states: int = 128, num_members: int = 4) -> pd.DataFrame:
    table = load_breast_cancer(as_frame=True).data[["mean radius", "mean area", "mean texture"]]
    family = pg.DenoisingAutoencoder(hidden=(32,), num_states=num_states)
    fit = pg.fit(family, table, engine=pg.SVI(max_steps=max_steps, num_members=num_members), seed=0)
    print(fit.diagnose())

    # An area of 1,500 has a radius of about 22; a radius of 12 an area of about 450.
    odd = pd.DataFrame({"mean radius": [22.0, 12.0], "mean area": [1500.0, 1500.0], "mean texture": [19.0, 19.0]})
    print("\nLog density of an ordinary tumour, and of one whose area is three times what its radius allows:")
    print(fit.score(odd).to_frame()[["log_prob", "hdi_low", "hdi_high", "anomaly_p_value"]].round(3))

    slopes = fit.score_function(odd)
    print("\nThe gradient of log p (nats per unit): the second tumour would need a larger radius, a smaller area.")
    print(slopes[list(table.columns)].round(4))
    return slopes


if __name__ == "__main__":
    main()
