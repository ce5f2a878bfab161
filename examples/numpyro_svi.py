"""The pair in your own NumPyro SVI: plain functions, nothing of ours in the loop."""

import jax
import optax
from numpyro.infer import SVI, TraceEnum_ELBO
from sklearn.datasets import load_iris

import ppl_gen as pg


def main(num_steps: int = 2000) -> float:
    table = load_iris(as_frame=True).data
    pair = pg.GMM(num_components=3).pair("numpyro", table)

    svi = SVI(pair.model, pair.guide, optax.adam(0.02), TraceEnum_ELBO())
    result = svi.run(jax.random.key(0), num_steps, pair.data, progress_bar=False)

    elbo = -float(result.losses[-100:].mean())
    print(f"ELBO after {num_steps} steps: {elbo:.1f} nats (model space)")
    print("Median locations, standardized:")
    print(pair.guide.median(result.params)["locs"].round(2))
    return elbo


if __name__ == "__main__":
    main()
