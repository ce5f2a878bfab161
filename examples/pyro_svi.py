"""The pair in your own Pyro SVI."""

import pyro
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.optim import ClippedAdam
from sklearn.datasets import load_iris

import ppl_gen as pg


def main(num_steps: int = 500) -> float:
    table = load_iris(as_frame=True).data
    pair = pg.GMM(num_components=3).pair("pyro", table)

    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope():
        svi = SVI(pair.model, pair.guide, ClippedAdam({"lr": 0.02}), TraceEnum_ELBO(max_plate_nesting=1))
        losses = [svi.step(pair.data) for _ in range(num_steps)]

    elbo = -sum(losses[-100:]) / len(losses[-100:])
    print(f"ELBO after {num_steps} steps: {elbo:.1f} nats (model space)")
    return elbo


if __name__ == "__main__":
    main()
