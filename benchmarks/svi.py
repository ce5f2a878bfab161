"""SVI steps against the same loop written by hand in JAX and optax: a mean-field normal over a mixture of normals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import gaussian_clusters, report, seconds

ROWS, COLUMNS, COMPONENTS, STEPS, PARTICLES = 2_000, 4, 3, 2_000, 4


def by_hand(x: np.ndarray):
    """A diagonal mixture: softmax-free simplex by stick breaking as NumPyro's, written out without any PPL."""
    from numpyro.distributions import biject_to, constraints
    from numpyro.distributions.transforms import ExpTransform

    shapes = {"locs": (COMPONENTS, COLUMNS), "scales": (COMPONENTS, COLUMNS), "weights": (COMPONENTS - 1,)}
    to_simplex, to_positive = biject_to(constraints.simplex), ExpTransform()
    x = jnp.asarray(x)

    def log_joint(u: dict) -> jax.Array:
        weights, scales = to_simplex(u["weights"]), to_positive(u["scales"])
        jacobian = to_simplex.log_abs_det_jacobian(u["weights"], weights) + u["scales"].sum()
        prior = -0.5 * jnp.sum(u["locs"] ** 2) / 4.0 - 0.5 * jnp.sum(scales**2)
        inverse = jnp.eye(COLUMNS) / scales[..., None]
        y = (x @ inverse.reshape(-1, COLUMNS).T).reshape(-1, COMPONENTS, COLUMNS) - u["locs"] / scales
        table = -0.5 * jnp.sum(y * y, -1) - jnp.log(scales).sum(-1) + jnp.log(weights)
        return prior + jacobian + jax.nn.logsumexp(table, axis=-1).sum()

    def loss(params: dict, key: jax.Array) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
            noise = {name: jax.random.normal(keys[name], shape) for name, shape in shapes.items()}
            u = {name: params[name]["loc"] + jnp.exp(params[name]["log_scale"]) * noise[name] for name in shapes}
            log_q = sum(jnp.sum(-0.5 * noise[n] ** 2 - params[n]["log_scale"]) for n in shapes)
            return log_q - log_joint(u)

        return jnp.mean(jax.vmap(one)(jax.random.split(key, PARTICLES)))

    optimizer = optax.adam(0.01)
    zeros = {n: {"loc": jnp.zeros(s), "log_scale": jnp.full(s, -2.3)} for n, s in shapes.items()}
    zeros["locs"]["loc"] = x[:COMPONENTS]

    @jax.jit
    def scan(params: dict, state: optax.OptState, key: jax.Array):
        def step(carry: tuple, key: jax.Array):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params, key)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, state), jax.random.split(key, STEPS))

    state = optimizer.init(zeros)
    return lambda: jax.block_until_ready(scan(zeros, state, jax.random.key(0)))


def by_engine(x: np.ndarray):
    import ppl_gen as pg
    from ppl_gen.inference.svi.numpyro_engine import make_svi, window_program

    family = pg.GMM(COMPONENTS, covariance="diag", prior=pg.GMMPrior(loc_scale=2.0, scale=1.0))
    pair = family.pair("numpyro", x, standardize=False)
    settings = pg.SVI(window=STEPS, num_particles=PARTICLES)
    svi = make_svi(pair, pair.guide, settings)
    state = svi.init(jax.random.key(0), pair.data)
    window = window_program(svi, {}, STEPS)
    return lambda: jax.block_until_ready(window(state, pair.data))


def main() -> None:
    x = gaussian_clusters(ROWS, COLUMNS, COMPONENTS).astype(np.float32)
    jobs = {"ppl_gen": by_engine(x), "JAX and optax by hand": by_hand(x)}
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(9):  # in turn, so that a change of the machine's speed meets both
        for name, job in jobs.items():
            times[name].append(seconds(job)[0])
    rows = [{"SVI, 2000 x 4, 3 diag": n, "us per step": 1e6 * float(np.median(t)) / STEPS} for n, t in times.items()]
    ratios = np.array(times["ppl_gen"]) / np.array(times["JAX and optax by hand"])
    rows.append({"SVI, 2000 x 4, 3 diag": "ratio (median of pairs)", "us per step": float(np.median(ratios))})
    report("SVI against a loop written by hand", rows)


if __name__ == "__main__":
    main()
