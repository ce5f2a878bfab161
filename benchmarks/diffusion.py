"""Diffusion models: training steps beside loops by hand in JAX and in torch, and samples by 50 steps of DDIM beside a
scan by hand.

``python benchmarks/diffusion.py [--tasks step sample]``

Ours has what every fit has: the whole evidence lower bound as its loss, gradients that are clipped, a running mean of
the weights, and rows in random order; the loops by hand have the diffusion term alone, Adam, and a mean of weights.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

import numpy as np
from common import gaussian_clusters, report
from training import Job, in_turn, windows

ROWS, COLUMNS, BATCH, HIDDEN, TURNS = 12_800, 10, 256, 128, 5
WAVES, EMBEDDING, RATE, EMA, ENDS = 8, 32, 2e-3, 0.999, (-10.0, 10.0)
SAMPLES, DDIM_STEPS = 20_000, 50
OURS_JAX, OURS_TORCH, OURS_SCAN = 1.1, 1.15, 1.1


def shapes() -> dict[str, tuple[int, ...]]:
    """Weights of the perceptron by hand."""
    found = {"embed": (1 + 2 * WAVES, EMBEDDING), "embed_bias": (EMBEDDING,), "out": (HIDDEN, COLUMNS),
             "out_bias": (COLUMNS,)}  # fmt: skip
    for i, size in enumerate((COLUMNS, HIDDEN)):
        found |= {f"in_{i}": (size, HIDDEN), f"film_{i}": (EMBEDDING, 2 * HIDDEN), f"film_bias_{i}": (2 * HIDDEN,)}
    return found


def starts() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) / shape[0] ** 0.5 for name, shape in shapes().items()}


def jax_network(weights: Any, z: Any, log_snr: Any) -> Any:
    import jax
    import jax.numpy as jnp

    place = log_snr / ENDS[1]
    angle = place[..., None] * (0.5 * jnp.pi * jnp.arange(1, WAVES + 1))
    read = jnp.concatenate([place[..., None], jnp.sin(angle), jnp.cos(angle)], -1)
    read = jax.nn.silu(read @ weights["embed"] + weights["embed_bias"])
    for i in range(2):
        scale, shift = jnp.split(read @ weights[f"film_{i}"] + weights[f"film_bias_{i}"], 2, -1)
        z = jax.nn.silu(z @ weights[f"in_{i}"] * (1 + scale) + shift)
    return z @ weights["out"] + weights["out_bias"]


def jax_by_hand(x: np.ndarray) -> Job:
    """The same network, loss, optimizer and batches in one ``lax.scan``, for this model alone."""
    import jax
    import jax.numpy as jnp
    import optax

    data, optimizer = jnp.asarray(x, float), optax.adam(RATE)
    first, last = (float(np.arctan(np.exp(-0.5 * end))) for end in ENDS[::-1])

    def loss(weights: Any, rows: jax.Array, key: Any) -> jax.Array:
        one, other = jax.random.split(key)
        e = data[rows]
        t = (jax.random.uniform(one) + jnp.arange(BATCH) / BATCH) % 1
        angle = first + (last - first) * t
        log_snr, slope = -2 * jnp.log(jnp.tan(angle)), 4 * (last - first) / jnp.sin(2 * angle)
        alpha, sigma = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
        noise = jax.random.normal(other, e.shape)
        z = alpha * e + sigma * noise
        velocity = jax_network(weights, z, log_snr)
        return 0.5 * (slope * ((noise - sigma * z - alpha * velocity) ** 2).sum(1)).mean()

    def step(state: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
        weights, mean, moments, key = state
        key, now = jax.random.split(key)
        value, gradient = jax.value_and_grad(loss)(weights, rows, now)
        updates, moments = optimizer.update(gradient, moments)
        weights = optax.apply_updates(weights, updates)
        mean = jax.tree.map(lambda m, w: EMA * m + (1 - EMA) * w, mean, weights)
        return (weights, mean, moments, key), value

    @jax.jit
    def epoch(state: Any) -> Any:
        order = jax.random.permutation(state[-1], len(data)).reshape(-1, BATCH)
        return jax.lax.scan(step, state, order)

    weights = {name: jnp.asarray(value) for name, value in starts().items()}
    state = (weights, weights, optimizer.init(weights), jax.random.key(0))

    def window() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(epoch(state))

    return window


def torch_by_hand(x: np.ndarray) -> Job:
    """The same in torch, as it is usually written: modules, autograd and torch's own Adam."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(1 + 2 * WAVES, EMBEDDING)
            self.layers = nn.ModuleList(nn.Linear(size, HIDDEN, bias=False) for size in (COLUMNS, HIDDEN))
            self.films = nn.ModuleList(nn.Linear(EMBEDDING, 2 * HIDDEN) for _ in range(2))
            self.out = nn.Linear(HIDDEN, COLUMNS)

        def forward(self, z: Any, log_snr: Any) -> Any:
            place = (log_snr / ENDS[1])[:, None]
            angle = place * (0.5 * torch.pi * torch.arange(1, WAVES + 1))
            read = nn.functional.silu(self.embed(torch.cat([place, angle.sin(), angle.cos()], -1)))
            for layer, film in zip(self.layers, self.films, strict=True):
                scale, shift = film(read).chunk(2, -1)
                z = nn.functional.silu(layer(z) * (1 + scale) + shift)
            return self.out(z)

    network, data = Network(), torch.as_tensor(x, dtype=torch.float32)
    mean = [weight.detach().clone() for weight in network.parameters()]
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    first, last = (float(np.arctan(np.exp(-0.5 * end))) for end in ENDS[::-1])

    def window() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # more are slower at these sizes
        for rows in torch.randperm(len(data)).split(BATCH):
            e = data[rows]
            angle = first + (last - first) * ((torch.rand(()) + torch.arange(BATCH) / BATCH) % 1)
            alpha, sigma = angle.cos()[:, None], angle.sin()[:, None]
            noise = torch.randn_like(e)
            z = alpha * e + sigma * noise
            error = noise - sigma * z - alpha * network(z, -2 * angle.tan().log())
            loss = 0.5 * (4 * (last - first) / (2 * angle).sin() * (error**2).sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(mean, list(network.parameters()), 1 - EMA)
        torch.set_num_threads(before)

    return window


def pair_of(backend: str, x: np.ndarray) -> Any:
    from ppl_gen.models.diffusion import Diffusion

    return Diffusion(schedule="cosine", hidden=(HIDDEN, HIDDEN), log_snr_range=ENDS).pair(backend, x)


def step() -> bool:
    """Whether steps take at most a tenth more than by hand in JAX, and Pyro's at most 15 % more than in torch."""
    from ppl_gen.inference.svi import SVI

    x = gaussian_clusters(ROWS, COLUMNS, 3)
    settings = SVI(num_members=1, batch_size=BATCH, validation=0.0, learning_rate=RATE)
    by_hand = {"lax.scan by hand": jax_by_hand(x), "torch loop": torch_by_hand(x)}
    jobs, numbers = dict(by_hand), dict.fromkeys(by_hand, ROWS // BATCH)
    for name, backend in (("ours, NumPyro", "numpyro"), ("ours, Pyro", "pyro")):
        jobs[name], _, numbers[name] = windows(pair_of(backend, x), settings)
    per = {name: took / numbers[name] for name, took in in_turn(jobs, TURNS).items()}
    rows = [{"loop": name, "ms a step": 1e3 * each, **{f"times {other}": each / per[other] for other in by_hand}}
            for name, each in per.items()]  # fmt: skip
    report(f"Training steps, batch {BATCH}, {COLUMNS} columns, {(HIDDEN, HIDDEN)}", rows)
    return (per["ours, NumPyro"] <= OURS_JAX * per["lax.scan by hand"]
            and per["ours, Pyro"] <= OURS_TORCH * per["torch loop"])  # fmt: skip


def sample() -> bool:
    """Whether samples by DDIM take at most a tenth more than a scan by hand, on as many cores."""
    import jax
    import jax.numpy as jnp

    from ppl_gen.backends import numpyro_reverse
    from ppl_gen.samplers import Sampler

    x = gaussian_clusters(ROWS, COLUMNS, 3)
    pair = pair_of("numpyro", x)
    posterior = pair.initialize(pair.data, 0, 1)
    index, seeds = np.zeros(SAMPLES, int), iter(range(10**6))
    first, last = (float(np.arctan(np.exp(-0.5 * end))) for end in ENDS[::-1])
    angles = jnp.linspace(last, first, DDIM_STEPS + 1)
    weights = {name: jnp.asarray(value) for name, value in starts().items()}
    shift, scale = jnp.asarray(x.mean(0), float), jnp.asarray(x.std(0), float)

    @jax.jit
    def by_hand(weights: Any, key: Any) -> jax.Array:
        def body(z: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            alpha, sigma = jnp.cos(ends[0]), jnp.sin(ends[0])
            velocity = jax_network(weights, z, -2 * jnp.log(jnp.tan(ends[0])))
            e, noise = alpha * z - sigma * velocity, sigma * z + alpha * velocity
            return jnp.cos(ends[1]) * e + jnp.sin(ends[1]) * noise, None

        z, _ = jax.lax.scan(body, jax.random.normal(key, (SAMPLES, COLUMNS)), (angles[:-1], angles[1:]))
        return shift + scale * z / jnp.cos(first)

    ours = partial(numpyro_reverse.draw, pair, posterior, index, context=None,
                   sampler=Sampler("ddim", num_steps=DDIM_STEPS))  # fmt: skip
    jobs = {"scan by hand": lambda: np.asarray(by_hand(weights, jax.random.key(next(seeds)))),
            "ours, NumPyro": lambda: ours(seed=next(seeds))}  # fmt: skip
    took = in_turn(jobs, TURNS)
    rows = [{"sampler": name, "ms": 1e3 * each, "times by hand": each / took["scan by hand"]}
            for name, each in took.items()]  # fmt: skip
    report(f"{SAMPLES:,} rows by {DDIM_STEPS} steps of DDIM, {COLUMNS} columns, {(HIDDEN, HIDDEN)}", rows)
    return took["ours, NumPyro"] <= OURS_SCAN * took["scan by hand"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=("step", "sample"), default=["step", "sample"])
    results = [{"step": step, "sample": sample}[task]() for task in parser.parse_args().tasks]
    sys.exit(not all(results))
