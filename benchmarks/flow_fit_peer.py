"""What flows and autoregressive networks reach: ``python flow_fit_peer.py TASK ...``. Prints JSON.

Tasks: ``known D NAME`` (an ensemble beside a density that is known), ``table NAME TRANSFORM`` (held-out density beside
flowjax or zuko, the same architecture and number of steps) and ``mnist NETWORK`` (binarized digits).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from common import seconds
from flow_peer import LAYERS, RATE, by_flowjax, by_zuko
from hmm_peer import shared_data
from scipy.special import logsumexp

MANY = 100_000
TABLE_STEPS, CNF_STEPS, BATCH, LOOKS = 600, 120, 256, 12
MIXED = {"base": "mixture", "hidden": (128, 128)}
# Of each family for a known density: its options, the rows it is fitted to, its steps, and rows a step.
KNOWN: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "nsf": ({}, 50_000, 3_000, 256),
    "nsf_ar": (MIXED, 400_000, 16_000, 512),
    "made": ({"hidden": (256, 256), "real": "gaussian"}, 400_000, 16_000, 512),
}
# Of each network: its options, steps, and images a step. A few minutes on two cores, not what was published with.
MNIST: dict[str, tuple[dict[str, Any], int, int]] = {
    "made": ({"hidden": (500,)}, 9_000, 128),
    "pixelcnn": ({"hidden": (32,), "channels": 16, "num_layers": 5, "kernel_size": 3}, 1_800, 64),
}


def run_known(columns: int, name: str) -> dict[str, float]:
    """Eight normals with full covariances. The interval is the range of four members."""
    import ppl_gen as pg

    rng = np.random.default_rng(0)
    means = 2.5 * rng.normal(size=(8, columns))
    factors = 0.3 * rng.normal(size=(8, columns, columns)) + 0.7 * np.eye(columns)

    def draw(number: int) -> np.ndarray:
        label, noise = rng.integers(8, size=number), rng.normal(size=(number, columns))
        return means[label] + np.einsum("nij,nj->ni", factors[label], noise)

    def truth(x: np.ndarray) -> np.ndarray:
        parts = []
        for mean, factor in zip(means, factors, strict=True):
            z = np.linalg.solve(factor, (x - mean).T)
            parts.append(-0.5 * (z**2).sum(0) - np.linalg.slogdet(factor)[1])
        return logsumexp(parts, axis=0) - np.log(8) - 0.5 * columns * np.log(2 * np.pi)

    options, rows, steps, batch = KNOWN[name]
    x, new = draw(rows), draw(MANY)
    family = (pg.Autoregressive if name == "made" else pg.Flow)(name, **options)
    elapsed, fit = seconds(lambda: pg.fit(family, x, engine=pg.SVI(max_steps=steps, batch_size=batch), seed=0))
    score = fit.score(new, p_values=False)
    true, members = truth(new), score.log_prob.values.reshape(-1, MANY)
    gap = true - score.log_predictive
    inside = (members.min(0) <= true) & (true <= members.max(0))
    return {
        "kl": float(gap.mean()), "se": float(gap.std() / np.sqrt(MANY)), "coverage": float(inside.mean()),
        "member_kl": float((true - members).mean()), "seconds": elapsed, "steps": fit.draws.figures["num_steps"],
        "rows": rows,
    }  # fmt: skip


def table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and held-out rows, standardized by the former."""
    if name == "magic_gamma":
        with np.load(shared_data("tabular/magic_gamma.npz")) as arrays:
            x, held_out = arrays["train"].astype(float), arrays["test"].astype(float)
    else:
        import pandas as pd

        rows = pd.read_csv(shared_data("tabular/red_wine.csv")).iloc[:, :11].to_numpy(float)
        order = np.random.default_rng(0).permutation(len(rows))
        x, held_out = rows[order[: -len(rows) // 10]], rows[order[-len(rows) // 10 :]]
    return (x - x.mean(0)) / x.std(0), (held_out - x.mean(0)) / x.std(0)


def run_table(name: str, transform: str) -> dict[str, Any]:
    """One member of ours, as trained by its engine, beside the peer's best weights on a tenth of the rows."""
    import ppl_gen as pg

    x, held_out = table(name)
    steps = CNF_STEPS if transform == "cnf" else TABLE_STEPS
    family = pg.Flow(transform, num_layers=LAYERS.get(transform), hidden=(64,) if transform == "realnvp" else (64, 64))
    engine = pg.SVI(num_members=1, max_steps=steps, batch_size=BATCH, patience=steps, learning_rate=RATE)
    elapsed, fit = seconds(lambda: pg.fit(family, x, engine=engine, standardize=False, seed=0))
    found = fit.score(held_out, p_values=False).log_predictive
    peer = by_hand_torch if transform in ("cnf",) else by_hand_jax
    theirs, other = seconds(lambda: peer(transform, x, held_out, steps))
    return {
        "ours": float(found.mean()), "peer": float(other.mean()), "seconds": elapsed, "peer_seconds": theirs,
        "se": float(found.std() / np.sqrt(len(found))), "library": "zuko" if transform == "cnf" else "flowjax",
        "se_gap": float((found - other).std() / np.sqrt(len(found))), "steps": fit.draws.figures["num_steps"],
    }  # fmt: skip


def by_hand_jax(transform: str, x: np.ndarray, held_out: np.ndarray, steps: int) -> np.ndarray:
    """Log densities of held-out rows under flowjax's modules."""
    import jax
    import jax.numpy as jnp
    import optax

    arrays, distribution = by_flowjax(transform, x.shape[1])
    order = np.random.default_rng(0).permutation(len(x))
    train, valid = (jnp.asarray(part, jnp.float32) for part in np.split(x[order], [len(x) * 9 // 10]))
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(RATE))

    @jax.jit
    def scan(arrays: Any, state: Any, key: Any) -> Any:
        def step(carry: Any, key: Any) -> Any:
            arrays, state = carry
            batch = train[jax.random.randint(key, (BATCH,), 0, len(train))]
            gradient = jax.grad(lambda a: -distribution(a).log_prob(batch).mean())(arrays)
            updates, state = optimizer.update(gradient, state, arrays)
            return (optax.apply_updates(arrays, updates), state), None

        (arrays, state), _ = jax.lax.scan(step, (arrays, state), jax.random.split(key, steps // LOOKS))
        return arrays, state, -distribution(arrays).log_prob(valid).mean()

    state, best, least = optimizer.init(arrays), arrays, np.inf
    for key in jax.random.split(jax.random.key(1), LOOKS):
        arrays, state, loss = scan(arrays, state, key)
        if loss < least:
            best, least = arrays, float(loss)
    return np.asarray(distribution(best).log_prob(jnp.asarray(held_out, jnp.float32)))


def by_hand_torch(transform: str, x: np.ndarray, held_out: np.ndarray, steps: int) -> np.ndarray:
    """The same under zuko's."""
    import copy

    import torch
    from flow_peer import zuko_loop

    flow = by_zuko(transform, x.shape[1])
    order = np.random.default_rng(0).permutation(len(x))
    train, valid = np.split(x[order], [len(x) * 9 // 10])
    more, best, least = zuko_loop(flow, train, steps // LOOKS, BATCH), copy.deepcopy(flow.state_dict()), np.inf

    def log_prob(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return flow().log_prob(torch.as_tensor(rows, dtype=torch.float32)).numpy()

    for _ in range(LOOKS):
        more()
        loss = -float(log_prob(valid).mean())
        if loss < least:
            best, least = copy.deepcopy(flow.state_dict()), loss
    flow.load_state_dict(best)
    return log_prob(held_out)


def run_mnist(network: str) -> dict[str, float]:
    """Nats a digit of the fixed binarization; ``network`` is one of ``Autoregressive``."""
    import ppl_gen as pg

    with np.load(shared_data("images/binarized_mnist.npz")) as arrays:
        train, test = np.concatenate([arrays["train"], arrays["valid"]]), arrays["test"]
    options, steps, batch = MNIST[network]
    if network == "pixelcnn":
        some = np.random.default_rng(0).permutation(len(test))[:2_000]  # they stand in the order of their digits
        train, test = train.reshape(-1, 28, 28), test[some].reshape(-1, 28, 28)
    engine = pg.SVI(num_members=1, max_steps=steps, batch_size=batch, validation=0.02)
    family = pg.Autoregressive(network=network, **options)
    elapsed, fit = seconds(lambda: pg.fit(family, train, engine=engine, seed=0))
    found = -fit.score(test, p_values=False).log_predictive
    return {"nats": float(found.mean()), "se": float(found.std() / np.sqrt(len(found))), "images": len(found),
            "seconds": elapsed, "steps": fit.draws.figures["num_steps"]}  # fmt: skip


def main(task: str, *words: str) -> dict[str, Any]:
    if task == "known":
        return run_known(int(words[0]), words[1])
    return {"table": run_table, "mnist": run_mnist}[task](*words)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
