"""Your own guide in our engine: a posterior that is normal for the locations and a point for all the rest."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from sklearn.datasets import load_iris

import ppl_gen as pg

COMPONENTS, COLUMNS = 2, 2


def guide(data, *, num_obs=None, subsample_size=None):
    start = jnp.array([[-1.3, -1.3], [0.6, 0.6]])
    loc = numpyro.param("locs_loc", start)
    scale = numpyro.param("locs_scale", jnp.full((COMPONENTS, COLUMNS), 0.1), constraint=constraints.positive)
    numpyro.sample("locs", dist.Normal(loc, scale).to_event(2))
    weights = numpyro.param("weights_point", jnp.array([0.33, 0.67]), constraint=constraints.simplex)
    numpyro.sample("weights", dist.Delta(weights, event_dim=1))
    scales = numpyro.param("scales_point", jnp.full((COMPONENTS, COLUMNS), 0.4), constraint=constraints.positive)
    numpyro.sample("scales", dist.Delta(scales, event_dim=2))


def main(max_steps: int = 3000) -> pg.Fit:
    table = load_iris(as_frame=True).data[["petal length (cm)", "petal width (cm)"]]
    family = pg.GMM(COMPONENTS, covariance="diag")
    fit = pg.fit(family, table, engine=pg.SVI(guide=guide, max_steps=max_steps), seed=0)
    print(fit.diagnose())  # k-hat says what a guide with points in it is worth
    return fit


if __name__ == "__main__":
    main()
