"""Speed of flows beside their peers, in a fresh process: ``python flow_peer.py TASK LIBRARY TRANSFORM D``. Prints JSON.

Tasks: ``step`` (training by one member, in nats and ms), ``ensemble`` (4 members against 1) and ``rows`` (scoring and
drawing 100k rows). LIBRARY is jax (ours in NumPyro, and flowjax) or torch (ours in Pyro, and zuko). The two take turns,
so that a change of the machine's speed meets both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from common import gaussian_clusters
from training import BACKENDS, Job, in_turn, windows

from ppl_gen.backends import ops

LAYERS = {"realnvp": 8, "nsf": 4, "maf": 5, "nsf_ar": 3, "iaf": 5}
HIDDEN = {"realnvp": (64,)}  # others (64, 64)
TRAIN, HELD_OUT, ROWS, BATCH, RATE, TURNS = 20_480, 10_000, 100_000, 512, 2e-3, 12
BOUND, BINS = 5.0, 8


def by_flowjax(transform: str, columns: int, key: int = 0) -> tuple[Any, Callable[[Any], Any]]:
    """Trainable arrays of flowjax's modules of the same architecture, and the distribution of such arrays."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import paramax
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow, masked_autoregressive_flow

    hidden = HIDDEN.get(transform, (64, 64))
    make = coupling_flow if transform in ("realnvp", "nsf") else masked_autoregressive_flow
    spline = RationalQuadraticSpline(knots=BINS - 1, interval=BOUND) if transform.startswith("nsf") else None
    flow = make(
        jax.random.key(key), base_dist=Normal(jnp.zeros(columns)), transformer=spline, nn_width=hidden[0],
        flow_layers=LAYERS[transform], nn_depth=len(hidden), invert=transform != "iaf",
    )  # fmt: skip
    arrays, static = eqx.partition(
        flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
    )
    return arrays, lambda arrays: paramax.unwrap(eqx.combine(arrays, static))


def by_zuko(transform: str, columns: int) -> Any:
    """zuko's module of the same architecture."""
    import torch
    import zuko
    from zuko.transforms import MonotonicRQSTransform

    torch.manual_seed(0)
    hidden = HIDDEN.get(transform, (64, 64))
    if transform == "cnf":
        return zuko.flows.CNF(columns, hidden_features=hidden, activation=torch.nn.Tanh)
    spline = {"univariate": MonotonicRQSTransform, "shapes": [(BINS,), (BINS,), (BINS - 1,)]}
    make = zuko.flows.NICE if transform in ("realnvp", "nsf") else zuko.flows.MAF
    options = {} if transform in ("realnvp", "nsf") else {"randperm": False}
    if transform.startswith("nsf"):
        options |= spline
    return make(columns, transforms=LAYERS[transform], hidden_features=hidden, **options)


def ours(backend: str, transform: str, x: np.ndarray, members: int, steps: int = BATCH) -> tuple[Any, Any]:
    """The pair, and settings with which a window is two passes over the table without a validation."""
    import ppl_gen as pg

    family = pg.Flow(transform, num_layers=LAYERS[transform], hidden=HIDDEN.get(transform, (64, 64)), bound=BOUND)
    data = family.prepare(x, standardize=False)
    pair = family.build(backend, data.schema, len(data), data.view(backend))
    return pair, pg.SVI(num_members=members, batch_size=steps, validation=0.0, learning_rate=RATE)


def flowjax_loop(transform: str, x: np.ndarray, steps: int) -> tuple[Job, Callable[[], tuple[Any, Any]]]:
    """A call that trains on by so many steps of a scanned loop by hand, with optax; and what it has trained."""
    import jax
    import jax.numpy as jnp
    import optax

    arrays, distribution = by_flowjax(transform, x.shape[1])
    rows, optimizer = jnp.asarray(x, jnp.float32), optax.adam(RATE)
    now = [arrays, optimizer.init(arrays), jax.random.key(0)]

    @jax.jit
    def scan(arrays: Any, state: Any, key: Any) -> tuple[Any, Any]:
        def step(carry: tuple[Any, Any], key: Any) -> tuple[tuple[Any, Any], Any]:
            arrays, state = carry
            batch = rows[jax.random.randint(key, (BATCH,), 0, len(rows))]
            loss, gradient = jax.value_and_grad(lambda a: -distribution(a).log_prob(batch).mean())(arrays)
            updates, state = optimizer.update(gradient, state, arrays)
            return (optax.apply_updates(arrays, updates), state), loss

        return jax.lax.scan(step, (arrays, state), jax.random.split(key, steps))[0]

    def job() -> None:
        key, mine = jax.random.split(now[2])
        now[:] = [*jax.block_until_ready(scan(now[0], now[1], mine)), key]

    return job, lambda: (now[0], distribution)


def zuko_loop(flow: Any, x: np.ndarray, steps: int, batch: int = BATCH) -> Job:
    """A call that trains on by so many steps of a plain loop, on one thread, as ours."""
    import torch

    rows, adam = torch.as_tensor(x, dtype=torch.float32), torch.optim.Adam(flow.parameters(), lr=RATE, fused=True)

    def job() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for _ in range(steps):
            adam.zero_grad()
            (-flow().log_prob(rows[torch.randint(len(rows), (batch,))]).mean()).backward()
            adam.step()
        torch.set_num_threads(threads)

    return job


def clusters(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and held-out ones."""
    x = gaussian_clusters(TRAIN + HELD_OUT, columns, 8).astype(np.float32)
    return x[:TRAIN], x[TRAIN:]


def run_step(library: str, transform: str, columns: int) -> dict[str, float]:
    x, held_out = clusters(columns)
    backend = BACKENDS[library]
    pair, settings = ours(backend, transform, x, 1)
    window, kept, steps = windows(pair, settings)
    if library == "jax":
        theirs, trained = flowjax_loop(transform, x, steps)
    else:
        flow = by_zuko(transform, columns)
        theirs = zuko_loop(flow, x, steps)
    times = in_turn({"ours": window, "peer": theirs}, TURNS)
    if library == "jax":
        arrays, distribution = trained()
        loss = -float(distribution(arrays).log_prob(held_out).mean())
    else:
        loss = -float(flow().log_prob(_tensor(held_out)).mean())
    return {
        **{name: 1e3 * value / steps for name, value in times.items()}, "steps": steps * (TURNS + 1),
        "our_loss": -float(ops(backend).log_prob(pair, kept(), _view(pair, held_out)).mean()), "peer_loss": loss,
    }  # fmt: skip


def run_ensemble(library: str, transform: str, columns: int) -> dict[str, float]:
    x, _ = clusters(columns)
    backend = BACKENDS[library]
    jobs, steps = {}, 0
    for members in (1, 4):
        jobs[str(members)], _, steps = windows(*ours(backend, transform, x, members))
    return {name: 1e3 * value / steps for name, value in in_turn(jobs, 5).items()}


def run_rows(library: str, transform: str, columns: int) -> dict[str, float]:
    """Both libraries from arrays on the host to arrays on the host, at weights of the start plus noise."""
    backend = BACKENDS[library]
    x = gaussian_clusters(ROWS, columns, 8).astype(np.float32)
    pair, _ = ours(backend, transform, x[:TRAIN], 1)
    rng = np.random.default_rng(0)
    weights = {n: v + 0.02 * rng.normal(size=v.shape) for n, v in pair.initialize(pair.data, 0, 1).items()}
    view, index = _view(pair, x), np.zeros(ROWS, int)
    backend_ops = ops(pair.backend)
    jobs = {"ours": lambda: backend_ops.log_prob(pair, weights, view), "ours drawing": lambda: backend_ops.sample_rows(
        pair, weights, index, 0)}  # fmt: skip
    if library == "jax":
        import jax

        arrays, distribution = by_flowjax(transform, columns)
        score = jax.jit(lambda arrays, x: distribution(arrays).log_prob(x))
        draw = jax.jit(lambda arrays, key: distribution(arrays).sample(key, (ROWS,)))
        jobs |= {"peer": lambda: np.asarray(score(arrays, x)),
                 "peer drawing": lambda: np.asarray(draw(arrays, jax.random.key(0)))}  # fmt: skip
    else:
        import torch

        flow = by_zuko(transform, columns)

        def without_gradients(job: Job) -> Job:
            def run() -> Any:
                with torch.no_grad():
                    return job().numpy()

            return run

        jobs |= {"peer": without_gradients(lambda: flow().log_prob(_tensor(x))),
                 "peer drawing": without_gradients(lambda: flow().sample((ROWS,)))}  # fmt: skip
    return in_turn(jobs, 3 if library == "torch" or transform in ("maf", "iaf", "nsf_ar") else 5)


def _view(pair: Any, x: np.ndarray) -> Any:
    return pair.data._replace(x=_tensor(x) if pair.backend == "pyro" else x)


def _tensor(x: np.ndarray) -> Any:
    import torch

    return torch.as_tensor(x)


def main(task: str, library: str, transform: str = "nsf", columns: str = "8") -> dict[str, float]:
    return {"step": run_step, "ensemble": run_ensemble, "rows": run_rows}[task](library, transform, int(columns))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
