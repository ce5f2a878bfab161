"""An energy-based model: a density known up to its normalizer, and the error of the normalizer."""

import pandas as pd
from sklearn.datasets import load_iris

import ppl_gen as pg


def main(max_steps: int = 2000, num_particles: int = 2048) -> float:
    table = load_iris(as_frame=True).data[["petal length (cm)", "petal width (cm)"]]
    smc = pg.SMC(num_particles=num_particles)
    engine = pg.Contrastive(num_steps=10, max_steps=max_steps, num_members=2, normalizer=smc)
    fit = pg.fit(pg.EBM(hidden=(32,)), table, engine=engine, seed=0)

    log_z, error = (fit.posterior[name] for name in ("log_normalizer", "log_normalizer_error"))
    for member, (value, sd) in enumerate(zip(log_z, error, strict=True)):
        print(f"member {member}: log Z = {value:.3f} +- {sd:.3f} nats")

    rows = pd.DataFrame({"petal length (cm)": [1.4, 3.0, 4.5], "petal width (cm)": [0.2, 0.6, 1.4]})
    print("\nA setosa, a flower between the species, and a versicolor:")
    print(rows.join(fit.score(rows).to_frame()[["log_prob", "hdi_low", "hdi_high"]]).round(3))
    return float(log_z[0])


if __name__ == "__main__":
    main()
