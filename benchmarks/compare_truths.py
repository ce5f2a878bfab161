"""Tables drawn from known families, for benchmarks/compare.py."""

from __future__ import annotations

import numpy as np
import pandas as pd


def gmm(seed: int, rows: int = 1000) -> pd.DataFrame:
    """Three normals in three columns, with covariances of their own."""
    rng = np.random.default_rng(seed)
    label = rng.choice(3, size=rows, p=[0.5, 0.3, 0.2])
    means, factors = 2.5 * rng.normal(size=(3, 3)), 0.5 * rng.normal(size=(3, 3, 3)) + 0.6 * np.eye(3)
    x = means[label] + np.einsum("nij,nj->ni", factors[label], rng.normal(size=(rows, 3)))
    return pd.DataFrame(x, columns=list("abc"))


def hmm(seed: int, sequences: int = 30, steps: int = 40) -> pd.DataFrame:
    """Three states that mostly stay, seen through two columns."""
    rng = np.random.default_rng(seed)
    transitions, means = 0.85 * np.eye(3) + 0.05, 2 * rng.normal(size=(3, 2))
    scales, rows = rng.uniform(0.5, 1.5, size=(3, 2)), []
    for sequence in range(sequences):
        state = rng.integers(3)
        for step in range(steps):
            rows.append([sequence, step, *(means[state] + scales[state] * rng.normal(size=2))])
            state = rng.choice(3, p=transitions[state])
    return pd.DataFrame(rows, columns=["who", "step", "a", "b"]).astype({"who": int, "step": int})


def flow(seed: int, rows: int = 2000) -> pd.DataFrame:
    """Normal noise through four layers of affine coupling, by perceptrons with random weights (Dinh et al. 2017)."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(rows, 3))
    for layer in range(4):
        kept = np.arange(3) % 2 == layer % 2
        hidden = np.tanh(u[:, kept] @ (1.5 * rng.normal(size=(kept.sum(), 8))) + rng.normal(size=8))
        shift, log_scale = (hidden @ rng.normal(size=(8, (~kept).sum())) / 8**0.5 for _ in range(2))
        u[:, ~kept] = u[:, ~kept] * np.exp(np.tanh(log_scale)) + 1.5 * shift
    return pd.DataFrame(u, columns=list("abc"))


def vae(seed: int, rows: int = 2000) -> pd.DataFrame:
    """Two latent numbers through a perceptron with random weights, and normal noise, in six columns."""
    rng = np.random.default_rng(seed)
    hidden = np.tanh(rng.normal(size=(rows, 2)) @ (1.5 * rng.normal(size=(2, 8))) + rng.normal(size=8))
    x = hidden @ rng.normal(size=(8, 6)) + 0.3 * rng.normal(size=(rows, 6))
    return pd.DataFrame(x, columns=list("abcdef"))


TRUTHS = {"gmm": (gmm, {}), "hmm": (hmm, {"sequence": "who", "order": "step"}), "flow": (flow, {}), "vae": (vae, {})}
