"""Generative adversarial networks: the grid of 25 and the ring of 8 Gaussians (Srivastava et al. 2017,
arXiv:1705.07761; Lin et al. 2018, arXiv:1712.04086), and training steps beside loops by hand in JAX and in torch.

``python benchmarks/gan.py [--tasks grid ring speed] [--seeds 10] [--normalization auto]``
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import Any

import numpy as np
from common import report
from training import Job, in_turn

ROWS, SAMPLES = 100_000, 2_500
# Means of ten runs as Lin et al. 2018, table 1, have them: modes, and per cent of high quality.
PUBLISHED = {
    "grid": {"GAN": (17.3, 94.8), "ALI": (24.1, 95.7), "PacGAN2": (23.8, 91.3), "PacGAN4": (24.8, 93.6)},
    "ring": {"GAN": (6.3, 98.2), "ALI": (6.6, 97.6), "PacGAN2": (7.9, 95.6), "PacGAN4": (7.8, 95.9)},
}
LEAST_QUALITY, MOST_DIVERGENCE = 97.0, 0.03
BATCH, HIDDEN, LATENT, TURNS = 100, (128, 128), 4, 5
RATE, BETAS, EMA, WEIGHT, STEPS = 1e-3, (0.5, 0.99), 0.999, 1.0, 400
OURS_JAX, TORCH_TIMES, OURS_TORCH = 1.1, 3.0, 1.15


def centres(task: str) -> tuple[np.ndarray, float]:
    """(K, 2) means of the Gaussians, and their standard deviation."""
    if task == "grid":
        return np.array(list(itertools.product((-4, -2, 0, 2, 4), repeat=2)), float), 0.05
    angles = 2 * np.pi * np.arange(8) / 8
    return np.stack([np.cos(angles), np.sin(angles)], 1), 0.01


def judged(task: str, x: np.ndarray) -> dict[str, float]:
    """Modes with a sample of high quality (within three standard deviations), per cent of those, and the reverse
    Kullback-Leibler divergence (nats) of their shares from equal ones."""
    from ppl_gen import metrics

    found = metrics.mode_coverage(x, *centres(task))
    return {"modes": found.modes, "% good": 100 * found.high_quality, "reverse KL": found.reverse_kl}


def modes(task: str, seeds: int, options: dict[str, Any]) -> bool:
    """Whether every seed with default settings finds all modes, at high quality and in equal shares, once corrected."""
    import ppl_gen as pg
    from ppl_gen.inference.adversarial import Adversarial
    from ppl_gen.models.gan import GAN

    means, sd = centres(task)
    names, rows, good = ["modes", "% good", "reverse KL"], [], True
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        x = means[rng.integers(len(means), size=ROWS)] + sd * rng.standard_normal((ROWS, 2))
        start = time.perf_counter()
        fit = pg.fit(GAN(**options), x, engine=Adversarial(num_members=1), seed=seed)
        seconds = time.perf_counter() - start
        found = {how: judged(task, fit.sample(SAMPLES, seed=seed, correct=how).to_numpy())
                 for how in ("none", "rejection", "latent_hmc")}  # fmt: skip
        last = found["latent_hmc"]
        good &= last["modes"] == len(means) and last["% good"] >= LEAST_QUALITY and last["reverse KL"] < MOST_DIVERGENCE
        rows.append(
            {"seed": seed, **{f"{how} {name}": found[how][name] for how in found for name in names}, "s": seconds}
        )
        told = [f"{how}: " + " ".join(f"{each[name]:.4g}" for name in names) for how, each in found.items()]
        print(task, seed, *told, f"{seconds:.0f} s", sep=" | ", flush=True)
    report(f"{task}: samples as they are, and corrected ({options or 'defaults'})", rows)
    report(f"{task}: as published", [{"": who, "modes": a, "% good": b} for who, (a, b) in PUBLISHED[task].items()])
    return good


def training_rows() -> np.ndarray:
    """Standardized rows of the grid."""
    means, sd = centres("grid")
    rng = np.random.default_rng(0)
    x = means[rng.integers(len(means), size=BATCH * STEPS)] + sd * rng.standard_normal((BATCH * STEPS, 2))
    return (x - x.mean(0)) / x.std(0)


def ours(x: np.ndarray, backend: str) -> tuple[Job, int]:
    """A call that goes on with training for a window, and its steps."""
    from ppl_gen.inference.adversarial import Adversarial
    from ppl_gen.inference.adversarial.course import Plan
    from ppl_gen.models.gan import GAN

    family = GAN(latent_dim=LATENT, generator_hidden=HIDDEN, discriminator_hidden=HIDDEN, normalization="standard",
                 regularizer="r1", regularizer_weight=WEIGHT)  # fmt: skip
    settings = Adversarial(num_members=1, batch_size=BATCH, validation=0.0, learning_rate=RATE, betas=BETAS, ema=EMA)
    pair = family.pair(backend, x)
    plan, start = Plan.of(pair, settings, len(x), 0), pair.initialize(pair.data, 0, 1)
    idle = pair.idle(pair.data)
    if backend == "numpyro":
        import jax
        import jax.numpy as jnp

        from ppl_gen.inference.adversarial.numpyro_engine import Game

        arrays = {name: jnp.asarray(value[0], float) for name, value in start.items()}
        game = Game(pair, plan)
        state = game.begin({n: v for n, v in arrays.items() if n not in idle}, jax.random.key(0))
        fixed = {name: arrays[name] for name in idle}
        train, none = (jnp.asarray(rows[0]) for rows in (plan.split.train, plan.split.validation))

        def window() -> None:
            nonlocal state
            state, _ = jax.block_until_ready(game.window(state, fixed, train, none, pair.data, jnp.zeros(())))

        return window, plan.steps
    import torch

    from ppl_gen.backends.pyro_programs import sandbox
    from ppl_gen.inference.adversarial.pyro_engine import Game as TorchGame

    torch_game = TorchGame(pair, plan, {name: value for name, value in start.items() if name not in idle})
    torch_state = torch_game.begin(start, 0)
    torch_fixed = {name: torch.as_tensor(start[name][0], dtype=torch.float32) for name in idle}
    rows = [torch.as_tensor(part[0]) for part in (plan.split.train, plan.split.validation)]

    def torch_window() -> None:
        nonlocal torch_state
        with sandbox(0, threads=1):
            torch_state, _ = torch_game.window(torch_state, torch_fixed, *rows, pair.data, torch.zeros(()))

    return torch_window, plan.steps


def jax_by_hand(x: np.ndarray) -> Job:
    """The same networks, losses, optimizers, batches and mean of weights in one ``lax.scan``, for this model alone."""
    import jax
    import jax.numpy as jnp
    import optax

    data, keys = jnp.asarray(x, float), jax.random.split(jax.random.key(0), 3)

    def network(key: Any, sizes: tuple[int, ...]) -> Any:
        pairs = list(itertools.pairwise(sizes))
        return [(jax.random.normal(k, (n, m)) * (2 / n) ** 0.5, jnp.zeros(m))
                for k, (n, m) in zip(jax.random.split(key, len(pairs)), pairs, strict=True)]  # fmt: skip

    def apply(weights: Any, h: jax.Array, slope: float) -> jax.Array:
        for weight, bias in weights[:-1]:
            h = jax.nn.leaky_relu(h @ weight + bias, slope)
        return h @ weights[-1][0] + weights[-1][1]

    def judge(weights: Any, x: jax.Array) -> jax.Array:
        return apply(weights, x, 0.2)[:, 0]

    def discriminator_loss(weights: Any, generator: Any, x: jax.Array, z: jax.Array) -> jax.Array:
        slope = jax.grad(lambda x: judge(weights, x).sum())(x)
        outputs = judge(weights, jnp.concatenate([x, apply(generator, z, 0.0)]))
        real, fake = outputs[: len(x)], outputs[len(x) :]
        losses = jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()
        return losses + 0.5 * WEIGHT * (slope**2).sum(1).mean()

    def generator_loss(weights: Any, discriminator: Any, z: jax.Array) -> jax.Array:
        return jax.nn.softplus(-judge(discriminator, apply(weights, z, 0.0))).mean()

    slow, fast = optax.adam(RATE, *BETAS), optax.adam(2 * RATE, *BETAS)

    def step(state: Any, rows: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        generator, discriminator, mean, moments, others, key = state
        key, one, other = jax.random.split(key, 3)
        z = jax.random.normal(one, (BATCH, LATENT))
        judged, gradient = jax.value_and_grad(discriminator_loss)(discriminator, generator, data[rows], z)
        updates, others = fast.update(gradient, others)
        discriminator = optax.apply_updates(discriminator, updates)
        z = jax.random.normal(other, (BATCH, LATENT))
        fooled, gradient = jax.value_and_grad(generator_loss)(generator, discriminator, z)
        updates, moments = slow.update(gradient, moments)
        generator = optax.apply_updates(generator, updates)
        mean = jax.tree.map(lambda m, w: EMA * m + (1 - EMA) * w, mean, generator)
        return (generator, discriminator, mean, moments, others, key), (judged, fooled)

    @jax.jit
    def epoch(state: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(data)).reshape(STEPS, BATCH)
        return jax.lax.scan(step, state, order)

    generator, discriminator = network(keys[0], (LATENT, *HIDDEN, 2)), network(keys[1], (2, *HIDDEN, 1))
    state = (generator, discriminator, generator, slow.init(generator), fast.init(discriminator), keys[2])

    def window() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(epoch(state, keys[2]))

    return window


def torch_by_hand(x: np.ndarray) -> Job:
    """The same in torch, as it is usually written: modules, autograd and torch's own Adam."""
    import torch
    from torch import nn

    def network(sizes: tuple[int, ...], unit: Any) -> nn.Sequential:
        layers = [layer for n, m in itertools.pairwise(sizes) for layer in (nn.Linear(n, m), unit())]
        return nn.Sequential(*layers[:-1])

    generator = network((LATENT, *HIDDEN, 2), nn.ReLU)
    discriminator = network((2, *HIDDEN, 1), lambda: nn.LeakyReLU(0.2))
    mean = [weight.detach().clone() for weight in generator.parameters()]
    slow = torch.optim.Adam(generator.parameters(), RATE, BETAS)
    fast = torch.optim.Adam(discriminator.parameters(), 2 * RATE, BETAS)
    data = torch.as_tensor(x, dtype=torch.float32)

    def window() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # more are slower at these sizes
        for rows in torch.randperm(len(data)).split(BATCH):
            x = data[rows].requires_grad_()
            with torch.no_grad():
                fakes = generator(torch.randn(BATCH, LATENT))
            real, fake = discriminator(x), discriminator(fakes)
            (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
            loss = nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean()
            loss = loss + 0.5 * WEIGHT * (slope**2).sum(1).mean()
            fast.zero_grad()
            loss.backward()
            fast.step()
            loss = nn.functional.softplus(-discriminator(generator(torch.randn(BATCH, LATENT)))).mean()
            slow.zero_grad()
            loss.backward()
            slow.step()
            with torch.no_grad():
                torch._foreach_lerp_(mean, list(generator.parameters()), 1 - EMA)
        torch.set_num_threads(before)

    return window


def speed() -> bool:
    """Whether steps take at most a tenth more than by hand in JAX, a third of torch's, and Pyro's at most 15 % more."""
    x = training_rows()
    (numpyro, steps), (pyro, pyro_steps) = ours(x, "numpyro"), ours(x, "pyro")
    by_hand = {"lax.scan by hand": jax_by_hand(x), "torch loop": torch_by_hand(x)}
    jobs = {"ours, NumPyro": numpyro, "ours, Pyro": pyro, **by_hand}
    numbers = {"ours, NumPyro": steps, "ours, Pyro": pyro_steps}
    per = {name: took / numbers.get(name, STEPS) for name, took in in_turn(jobs, TURNS).items()}
    rows = [{"loop": name, "ms a step": 1e3 * each, "20k steps, s": 2e4 * each,
             **{f"times {other}": each / per[other] for other in by_hand}} for name, each in per.items()]  # fmt: skip
    report(f"Adversarial steps, batch {BATCH}, {HIDDEN}", rows)
    return (per["ours, NumPyro"] <= OURS_JAX * per["lax.scan by hand"]
            and TORCH_TIMES * per["ours, NumPyro"] <= per["torch loop"]
            and per["ours, Pyro"] <= OURS_TORCH * per["torch loop"])  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=("grid", "ring", "speed"), default=["grid", "ring", "speed"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--normalization", default="auto")
    chosen = parser.parse_args()
    options = {} if chosen.normalization == "auto" else {"normalization": chosen.normalization}
    results = [speed() if task == "speed" else modes(task, chosen.seeds, options) for task in chosen.tasks]
    sys.exit(not all(results))
