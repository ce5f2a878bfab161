"""A classifier whose logits are an energy (JEM; Grathwohl et al. 2020, arXiv:1912.03263): rows without labels help it,
and it knows which rows are like none it has seen.

The logits f(x)[y] of a network say p(y | x), and by their log-sum-exp also how dense x is:
p(x, y) is proportional to exp(f(x)[y]) N(x; 0, 2^2). The network learns p(y | x) of the few rows that have a label, and
p(x) of all rows by persistent contrastive divergence, written out here. Its density is then normalised as any other
energy: ``pg.EBM(energy=...)``. Training so is known not to be stable for long (their section 6), nor is it here:
with twice the steps one label takes over a part of the other's moon.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jax.scipy.special import logsumexp
from sklearn.datasets import make_moons

import ppl_gen as pg


def start(key: jax.Array, hidden: int) -> list[tuple[jax.Array, jax.Array]]:
    sizes = (2, hidden, hidden, 2)
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = zip(keys, sizes, sizes[1:], strict=False)
    return [(jax.random.normal(k, (n, m)) * (2 / n) ** 0.5, jnp.zeros(m)) for k, n, m in pairs]


def logits(weights: list, x: jax.Array) -> jax.Array:
    for weight, bias in weights[:-1]:
        x = jax.nn.silu(x @ weight + bias)
    return x @ weights[-1][0] + weights[-1][1]


def log_density(weights: list, x: jax.Array) -> jax.Array:
    """log p(x) up to log Z."""
    return logsumexp(logits(weights, x), axis=-1) - 0.125 * (x**2).sum(-1)


def train(x: jax.Array, rows: np.ndarray, y: np.ndarray, hidden: int, num_steps: int, share: float) -> list:
    """Adam on the cross entropy of the labelled ``rows``, and on ``share`` of minus the log likelihood of all and of
    their labels' entropy (Grandvalet & Bengio 2005, Adv. Neural Inf. Process. Syst. 17), so that labels change where
    rows are few."""
    weights, optimizer = start(jax.random.key(0), hidden), optax.adam(2e-3)

    def loss(weights: list, batch: jax.Array, negatives: jax.Array) -> jax.Array:
        gap = log_density(weights, batch).mean() - log_density(weights, negatives).mean()
        labels = optax.softmax_cross_entropy_with_integer_labels(logits(weights, x[rows]), jnp.asarray(y))
        p = jax.nn.softmax(logits(weights, batch))
        entropy = -(p * jnp.log(p + 1e-9)).sum(-1).mean()
        return labels.mean() - share * (gap - 0.3 * entropy)

    def langevin(weights: list, z: jax.Array, key: jax.Array) -> jax.Array:
        slope = jax.grad(lambda z: log_density(weights, z).sum())

        def move(z: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            return z + 0.005 * slope(z) + 0.1 * jax.random.normal(key, z.shape), None

        return jax.lax.scan(move, z, jax.random.split(key, 20))[0]

    def step(state: tuple, key: jax.Array) -> tuple[tuple, None]:
        weights, moments, chains = state
        one, other = jax.random.split(key)
        chains = langevin(weights, chains, one) if share else chains
        batch = x[jax.random.randint(other, (128,), 0, len(x))]
        updates, moments = optimizer.update(jax.grad(loss)(weights, batch, chains), moments)
        return (optax.apply_updates(weights, updates), moments, chains), None

    state = (weights, optimizer.init(weights), 2 * jax.random.normal(jax.random.key(1), (128, 2)))
    return jax.jit(lambda state, keys: jax.lax.scan(step, state, keys)[0])(
        state, jax.random.split(jax.random.key(2), num_steps)
    )[0]


def main(num_steps: int = 1500, num_rows: int = 1500, hidden: int = 64, num_particles: int = 512) -> float:
    x, y = make_moons(num_rows, noise=0.1, random_state=0)
    x = x - x.mean(0)
    rows = np.concatenate([np.flatnonzero(y == label)[:3] for label in (0, 1)])  # 3 labels of each kind
    both, alone = (train(jnp.asarray(x), rows, y[rows], hidden, num_steps, share) for share in (1.0, 0.0))
    for name, weights in (("6 labels alone", alone), (f"6 labels and {num_rows:,} rows", both)):
        print(f"{name}: {np.mean(np.asarray(logits(weights, jnp.asarray(x))).argmax(1) == y):.1%} right")

    table = pd.DataFrame(x, columns=["x", "y"])
    method = pg.SMC(num_particles=num_particles, num_refined=5)
    engine = pg.Contrastive(num_members=1, normalizer=method)  # nothing to train: it normalises and walks
    fit = pg.fit(pg.EBM(energy=lambda x: -log_density(both, x)), table, engine=engine, seed=0)
    log_z, error = (float(fit.posterior[name][0]) for name in ("log_normalizer", "log_normalizer_error"))
    print(f"\nlog Z {log_z:.3f} +- {error:.3f} nats\n")
    print(fit.diagnose())
    odd = pd.DataFrame({"x": [0.5, 0.0, 4.0], "y": [0.8, 0.0, 4.0]})  # on a moon, between them, far away
    frame = fit.score(odd).to_frame()
    print("\n", odd.assign(log_prob=frame["log_prob"], p_value=frame["anomaly_p_value"]).round(3))
    return log_z


if __name__ == "__main__":
    main()
