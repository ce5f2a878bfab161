"""Energy-based models: a training step beside a loop written by hand, with as many steps of Langevin's dynamics; and
chains in data space beside blackjax called directly and torchebm.

``python benchmarks/energy.py [training] [sampling]``
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from typing import Any

import numpy as np
from common import in_process, report
from training import Job, in_turn

ROWS, COLUMNS, HIDDEN, BATCH, STEPS = 10_240, 16, (128, 128), 256, 20
TURNS = 7
LIMIT = 1.1  # of the time of the loop by hand


def ours(x: np.ndarray) -> tuple[Job, int]:
    """A call that goes on with training for a window, and its steps."""
    import jax
    import jax.numpy as jnp

    from ppl_gen.inference.contrastive import Contrastive
    from ppl_gen.inference.contrastive.course import Plan
    from ppl_gen.inference.contrastive.numpyro_engine import _Program
    from ppl_gen.inference.svi.ensemble import without_idle
    from ppl_gen.models.ebm import EBM

    settings = Contrastive(num_steps=STEPS, batch_size=BATCH, num_members=1, validation=0.0, restart=0.0)
    pair = EBM(hidden=HIDDEN, covariance="diag").pair("numpyro", x)
    plan = Plan.of(pair, settings, len(x), x.shape[1], 0)
    start, idle = without_idle(pair, pair.initialize(pair.data, 0, 1), pair.data)
    weights, fixed = ({n: jnp.asarray(v[0], float) for n, v in part.items()} for part in (start, idle))
    program = _Program(pair, plan)
    state = program.begin(weights, fixed, jax.random.key(0), pair.data)
    train, none = (jnp.asarray(rows[0]) for rows in (plan.split.train, plan.split.validation))

    def window() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(program.window(state, fixed, train, none, pair.data))

    return window, plan.split.steps


def by_hand(x: np.ndarray, number: int) -> Job:
    """The same network, base, batches, chains and optimizer, as one would write them for this model alone."""
    import jax
    import jax.numpy as jnp
    import optax

    sizes, keys = (COLUMNS, *HIDDEN, 1), jax.random.split(jax.random.key(0), 8)
    weights = [(jax.random.normal(keys[i], (n, m)) * (2 / n) ** 0.5, jnp.zeros(m))
               for i, (n, m) in enumerate(itertools.pairwise(sizes))]  # fmt: skip
    optimizer, data = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(2e-3)), jnp.asarray(x, float)

    def log_density(weights: Any, x: jax.Array) -> jax.Array:
        h = x
        for weight, bias in weights[:-1]:
            h = jax.nn.silu(h @ weight + bias)
        return (h @ weights[-1][0] + weights[-1][1])[:, 0] - 0.5 * (x**2).sum(-1)

    def loss(weights: Any, rows: jax.Array, negatives: jax.Array) -> jax.Array:
        return log_density(weights, negatives).mean() - log_density(weights, rows).mean()

    def step(state: Any, inputs: Any) -> tuple[Any, jax.Array]:
        weights, moments, chains = state
        rows, key = inputs

        def move(z: jax.Array, key: Any) -> tuple[jax.Array, None]:
            slope = jax.grad(lambda z: log_density(weights, z).sum())(z)
            return z + 0.005 * slope + 0.1 * jax.random.normal(key, z.shape), None

        chains = jax.lax.scan(move, chains, jax.random.split(key, STEPS))[0]
        value, gradient = jax.value_and_grad(loss)(weights, data[rows], chains)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(weights, updates), moments, chains), value

    @jax.jit
    def epoch(state: Any, key: Any) -> Any:
        one, other = jax.random.split(key)
        order = jax.random.permutation(one, len(data))[: number * BATCH].reshape(number, BATCH)
        return jax.lax.scan(step, state, (order, jax.random.split(other, number)))

    state = (weights, optimizer.init(weights), jax.random.normal(keys[7], (BATCH, COLUMNS)))

    def window() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(epoch(state, keys[6]))

    return window


def training() -> bool:
    """Whether a step takes at most a tenth more than by hand."""
    from common import gaussian_clusters

    x = gaussian_clusters(ROWS, COLUMNS, 4)
    job, steps = ours(x)
    times = in_turn({"ours": job, "by hand": by_hand(x, ROWS // BATCH)}, TURNS)
    per = {"ours": times["ours"] / steps, "by hand": times["by hand"] / (ROWS // BATCH)}
    rows = [{"loop": name, "ms a step": 1e3 * value, "ratio": value / per["by hand"]} for name, value in per.items()]
    report(f"Training step, {STEPS} Langevin steps of {BATCH} chains, {COLUMNS} columns, {HIDDEN}", rows)
    return per["ours"] <= LIMIT * per["by hand"]


def sampling() -> bool:
    """Whether the least effective sample size a second is within a tenth of blackjax's by hand, and 20 times torchebm's
    (where that is installed)."""
    good, peers = True, ["ours", "direct"]
    if importlib.util.find_spec("torchebm") is None:
        print("Left out, as it is not installed: pip install torchebm")
    else:
        peers.append("torchebm")
    for problem, title in (("gaussian", "50-d normal of condition number 1000"), ("rings", "two rings")):
        found = {who: in_process("energy_sampling_peer.py", who, problem) for who in peers}
        speed = {who: each["ess"] / each["seconds"] for who, each in found.items()}
        rows = [{"4 x (500 + 1000) (torchebm: HMC)": who, "least ESS": found[who]["ess"], "s": found[who]["seconds"],
                 "ESS/s": rate, "ours, times": speed["ours"] / rate} for who, rate in speed.items()]  # fmt: skip
        report(title, rows)
        good &= speed["ours"] >= 0.9 * speed["direct"] and speed["ours"] >= 20 * speed.get("torchebm", 0.0)
    return good


PARTS = {"training": training, "sampling": sampling}


if __name__ == "__main__":
    chosen = sys.argv[1:] or list(PARTS)
    results = [PARTS[name]() for name in chosen]
    sys.exit(not all(results))
