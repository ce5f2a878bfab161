"""Variational autoencoders beside loops by hand, in a fresh process: ``python vae_peer.py TASK ...``. Prints JSON.

Tasks: ``epoch LIBRARY`` (a pass over 28 x 28 binary images: ours, and a loop by hand in Flax with optax, or in torch),
``ensemble LIBRARY`` (4 members against 1), ``memory LIBRARY`` (scoring 10k images with 1000 particles) and ``mnist
EPOCHS`` (binarized MNIST, held-out nats by importance sampling after so many passes).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from common import peak_megabytes, seconds
from hmm_peer import shared_data
from training import BACKENDS, Job, in_turn, windows

ROWS, PIXELS, HIDDEN, LATENT, BATCH, RATE, TURNS = 20_480, 784, 200, 20, 128, 1e-3, 7
IMAGES, PARTICLES = 10_000, 1_000
MNIST_LATENT, MNIST_PARTICLES, MNIST_IMAGES = 50, 5_000, 1_000


def images(number: int) -> np.ndarray:
    """Binary images of blurred random patterns, so that there is something to learn."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(10, PIXELS))
    logits = 2 * patterns[rng.integers(10, size=number)] + rng.normal(size=(number, 1))
    return (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)


def ours(library: str, x: np.ndarray, members: int = 1) -> tuple[Any, Any]:
    """The pair, and settings under which a window is one pass, without validation rows."""
    import ppl_gen as pg

    family = pg.VAE(LATENT, hidden=(HIDDEN, HIDDEN), likelihood="bernoulli")
    data = family.prepare(x)
    pair = family.build(BACKENDS[library], data.schema, len(data), data.view(BACKENDS[library]))
    return pair, pg.SVI(num_members=members, batch_size=BATCH, validation=0.0, learning_rate=RATE)


def by_flax(x: np.ndarray) -> Job:
    """A pass in Flax and optax: one jitted scan over shuffled batches."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    class Autoencoder(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, key: Any) -> jax.Array:
            h = nn.relu(nn.Dense(HIDDEN)(nn.relu(nn.Dense(HIDDEN)(x))))
            loc, log_scale = nn.Dense(LATENT)(h), nn.Dense(LATENT)(h)
            z = loc + jnp.exp(log_scale) * jax.random.normal(key, loc.shape)
            logits = nn.Dense(PIXELS)(nn.relu(nn.Dense(HIDDEN)(nn.relu(nn.Dense(HIDDEN)(z)))))
            likelihood = -optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
            kl = 0.5 * (jnp.exp(2 * log_scale) + loc**2 - 1 - 2 * log_scale).sum(-1)
            return (kl - likelihood).mean()

    rows, model, optimizer = jnp.asarray(x, jnp.float32), Autoencoder(), optax.adam(RATE)
    weights = model.init(jax.random.key(0), rows[:BATCH], jax.random.key(1))
    now = [weights, optimizer.init(weights), jax.random.key(2)]

    @jax.jit
    def epoch(weights: Any, state: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(rows)).reshape(-1, BATCH)

        def step(carry: Any, inputs: Any) -> Any:
            weights, state = carry
            loss, gradient = jax.value_and_grad(model.apply)(weights, rows[inputs[0]], inputs[1])
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(weights, updates), state), loss

        return jax.lax.scan(step, (weights, state), (order, jax.random.split(key, len(order))))

    def job() -> None:
        key, mine = jax.random.split(now[2])
        now[:] = [*jax.block_until_ready(epoch(now[0], now[1], mine))[0], key]

    return job


def by_torch(x: np.ndarray, threads: int) -> Job:
    """A pass of a plain loop in torch, on so many threads."""
    import torch
    from torch import nn

    def stack(*sizes: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i in range(len(sizes) - 1):
            layers += [nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    torch.manual_seed(0)
    encoder, decoder = stack(PIXELS, HIDDEN, HIDDEN, 2 * LATENT), stack(LATENT, HIDDEN, HIDDEN, PIXELS)
    rows = torch.as_tensor(x, dtype=torch.float32)
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE, fused=True)

    def job() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        for batch in torch.randperm(len(rows)).split(BATCH):
            now = rows[batch]
            loc, log_scale = encoder(now).chunk(2, -1)
            z = loc + log_scale.exp() * torch.randn_like(loc)
            likelihood = -nn.functional.binary_cross_entropy_with_logits(decoder(z), now, reduction="sum")
            kl = 0.5 * (torch.exp(2 * log_scale) + loc**2 - 1 - 2 * log_scale).sum()
            adam.zero_grad()
            ((kl - likelihood) / len(now)).backward()
            adam.step()
        torch.set_num_threads(before)

    return job


def run_epoch(library: str) -> dict[str, float]:
    x = images(ROWS)
    window, _, steps = windows(*ours(library, x))
    jobs: dict[str, Job] = {"ours": window}
    jobs |= {"peer": by_flax(x)} if library == "jax" else {"peer": by_torch(x, 1), "two": by_torch(x, 2)}
    found = in_turn(jobs, TURNS)
    passes = steps / (ROWS // BATCH)
    return {**found, "ours": found["ours"] / passes, "steps": ROWS // BATCH}


def run_ensemble(library: str) -> dict[str, float]:
    x, jobs = images(ROWS), {}
    for members in (1, 4):
        jobs[str(members)], _, _ = windows(*ours(library, x, members))
    return in_turn(jobs, 3)


def run_memory(library: str) -> dict[str, float]:
    """Peak memory of the process, in MB, before and after the scoring."""
    import ppl_gen as pg

    x = images(IMAGES)
    pair, settings = ours(library, x[:2_000])
    fit = pg.fit(pair.family, x[:2_000], engine=settings.replace(max_steps=20), backend=BACKENDS[library], seed=0)
    fit.score(x[:1_000], num_particles=10)
    before = peak_megabytes()
    elapsed, score = seconds(lambda: fit.score(x, num_particles=PARTICLES, p_values=False))
    assert np.isfinite(score.log_predictive).all()
    return {"before": before, "above": peak_megabytes() - before, "seconds": elapsed}


def run_mnist(epochs: str, particles: str) -> dict[str, float]:
    """One member of one stochastic layer, 784-200-200-50, as Burda, Grosse & Salakhutdinov 2016 (arXiv:1509.00519), by
    the ELBO or by their bound of several particles."""
    import ppl_gen as pg

    with np.load(shared_data("images/binarized_mnist.npz")) as arrays:
        some = np.random.default_rng(0).permutation(len(arrays["test"]))[:MNIST_IMAGES]  # they are sorted by digit
        train, test = np.concatenate([arrays["train"], arrays["valid"]]), arrays["test"][some]
    steps = int(epochs) * (58_800 // BATCH)
    engine = pg.SVI(num_members=1, max_steps=steps, batch_size=BATCH, validation=0.02, learning_rate=RATE)
    if int(particles) > 1:
        engine = engine.replace(objective="iwae", num_particles=int(particles))
    family = pg.VAE(MNIST_LATENT, hidden=(HIDDEN, HIDDEN), likelihood="bernoulli")
    elapsed, fit = seconds(lambda: pg.fit(family, train, engine=engine, seed=0))
    score = fit.score(test, num_particles=MNIST_PARTICLES, p_values=False)
    nats = -score.log_predictive
    return {
        "nats": float(nats.mean()), "se": float(nats.std() / np.sqrt(len(nats))), "elbo": float(-score.elbo.mean()),
        "k_hat": float((score.k_hat > 0.7).mean()), "images": len(nats), "seconds": elapsed,
        "steps": fit.draws.figures["num_steps"],
    }  # fmt: skip


def main(task: str, *words: str) -> dict[str, Any]:
    return {"epoch": run_epoch, "ensemble": run_ensemble, "memory": run_memory, "mnist": run_mnist}[task](*words)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
