"""The pair in your own NumPyro MCMC: the discrete labels are enumerated by NumPyro's NUTS itself."""

import jax
from numpyro.infer import MCMC, NUTS, init_to_value
from sklearn.datasets import load_iris

import ppl_gen as pg


def main(num_warmup: int = 300, num_samples: int = 300) -> dict:
    table = load_iris(as_frame=True).data[["petal length (cm)", "petal width (cm)"]]
    pair = pg.GMM(num_components=2).pair("numpyro", table)

    start = {name: value[0] for name, value in pair.initialize(pair.data, seed=0, num_starts=1).items()}
    kernel = NUTS(pair.model, init_strategy=init_to_value(values=start))
    mcmc = MCMC(kernel, num_warmup=num_warmup, num_samples=num_samples, progress_bar=False)
    mcmc.run(jax.random.key(0), pair.data)

    draws = mcmc.get_samples()
    print("Posterior mean weights:", draws["weights"].mean(0).round(3))
    return draws


if __name__ == "__main__":
    main()
