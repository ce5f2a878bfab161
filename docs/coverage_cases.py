"""Whether intervals of log p(x) hold the truth: each family fitted to tables drawn from a density that is known.

Called by make_calibration.py with ``--coverage``. An interval over draws is about the parameters: it can hold the true
log p(x) only where the family can be the truth, and only as often as its draws differ as fits to fresh tables do.
"""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm
from tables import put, table

import ppl_gen as pg
from ppl_gen import parallel

PROB = 0.9
SHARES, CENTRES = np.array([0.6, 0.4]), np.array([[0.0, 0.0], [3.0, -2.0]])
SCALES = np.array([[1.0, 1.0], [0.7, 1.2]])
STAY, LEVELS, LENGTH = 0.85, np.array([0.0, 2.5]), 25
ON = np.array([[0.9, 0.8, 0.2, 0.7, 0.5], [0.2, 0.3, 0.9, 0.3, 0.5]])  # p(x_j = 1) in each of two classes


@dataclasses.dataclass(frozen=True)
class Truth:
    """``draw(rng, n)`` gives n observations as a table, ``log_prob(table)`` log p of each in nats."""

    words: str
    draw: Callable[[np.random.Generator, int], pd.DataFrame]
    log_prob: Callable[[pd.DataFrame], np.ndarray]


def draw_mixture(rng: np.random.Generator, n: int) -> pd.DataFrame:
    k = rng.choice(2, n, p=SHARES)
    return pd.DataFrame(CENTRES[k] + SCALES[k] * rng.normal(size=(n, 2)), columns=["u", "v"])


def log_mixture(rows: pd.DataFrame) -> np.ndarray:
    parts = [norm.logpdf(rows, m, s).sum(1) + np.log(w) for w, m, s in zip(SHARES, CENTRES, SCALES, strict=True)]
    return np.asarray(logsumexp(parts, axis=0))


NORMAL = multivariate_normal([0.0, 0.0], [[1.0, 0.7], [0.7, 1.0]])


def draw_normal(rng: np.random.Generator, n: int) -> pd.DataFrame:
    return pd.DataFrame(NORMAL.rvs(n, random_state=rng), columns=["u", "v"])


def log_normal(rows: pd.DataFrame) -> np.ndarray:
    return np.asarray(NORMAL.logpdf(rows.to_numpy()))


def draw_chain(rng: np.random.Generator, n: int) -> pd.DataFrame:
    state = np.cumsum(rng.random((n, LENGTH)) > np.where(np.arange(LENGTH), STAY, 0.5), axis=1) % 2
    x = LEVELS[state] + rng.normal(size=state.shape)
    return pd.DataFrame({"who": np.repeat(np.arange(n), LENGTH), "x": x.ravel()})


def log_chain(rows: pd.DataFrame) -> np.ndarray:
    emitted = norm.logpdf(rows["x"].to_numpy().reshape(-1, LENGTH, 1), LEVELS, 1.0)
    moves = np.log([[STAY, 1 - STAY], [1 - STAY, STAY]])
    alpha = np.log(0.5) + emitted[:, 0]
    for t in range(1, LENGTH):
        alpha = logsumexp(alpha[:, :, None] + moves, axis=1) + emitted[:, t]
    return np.asarray(logsumexp(alpha, axis=1))


def draw_classes(rng: np.random.Generator, n: int) -> pd.DataFrame:
    return pd.DataFrame((rng.random((n, 5)) < ON[rng.integers(0, 2, n)]).astype(int), columns=list("abcde"))


def log_classes(rows: pd.DataFrame) -> np.ndarray:
    x = rows.to_numpy()[:, None]
    return np.asarray(logsumexp((x * np.log(ON) + (1 - x) * np.log1p(-ON)).sum(2), axis=1) + np.log(0.5))


MIXTURE = Truth("two normals", draw_mixture, log_mixture)
ONE = Truth("a normal of correlation 0.7", draw_normal, log_normal)
CHAIN = Truth("a chain of two states", draw_chain, log_chain)
CLASSES = Truth("two classes of binary columns", draw_classes, log_classes)


@dataclasses.dataclass(frozen=True)
class Case:
    """A family and engine, a truth, and how many observations it is fitted to and asked about."""

    family: pg.Family
    engine: pg.Engine
    truth: Truth
    num_train: int = 300
    num_test: int = 50
    score: tuple[tuple[str, Any], ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        return {"sequence": "who"} if self.family.sequences else {}


def cases() -> dict[str, Case]:
    """At least one of each family."""
    nuts = pg.NUTS(num_samples=150, num_warmup=250, num_chains=2, num_starts=2)
    members = pg.SVI(num_members=4, max_steps=1000, learning_rate=5e-3)
    walk = pg.SGLD(num_samples=50, num_warmup=500, num_chains=2, thinning=20, num_pilot=500)
    contrastive = pg.Contrastive(num_members=4, max_steps=500)
    made = pg.Autoregressive(hidden=(16,), num_mixture_components=2)
    quick = pg.AIS(num_temperatures=40, num_chains=20, num_leapfrogs=2)
    small = {"latent_dim": 2, "generator_hidden": (16,), "discriminator_hidden": (16,), "observation_sd": 0.3}
    game = pg.Adversarial(num_members=4, max_steps=500, ratio_steps=50)
    return {
        "gmm, nuts": Case(pg.GMM(2), nuts, MIXTURE),
        "gmm, em": Case(pg.GMM(2), pg.EM(num_starts=3, num_bootstraps=40), MIXTURE),
        "hmm, nuts": Case(pg.HMM(2), nuts, CHAIN, 8, 20),
        "hmm, em": Case(pg.HMM(2), pg.EM(num_starts=3, num_bootstraps=40), CHAIN, 8, 20),
        "rbm, contrastive": Case(pg.RBM(2), contrastive, CLASSES),
        "autoregressive, svi": Case(made, members, MIXTURE),
        "flow, svi": Case(pg.Flow("realnvp", num_layers=4, hidden=(16,)), members, MIXTURE),
        "vae, svi": Case(pg.VAE(latent_dim=1, hidden=(16,)), members, ONE),
        "dae, svi": Case(pg.DenoisingAutoencoder(hidden=(16,), num_states=200), members, ONE),
        "ebm, contrastive": Case(pg.EBM(hidden=(16,)), contrastive, ONE),
        "diffusion, svi": Case(pg.Diffusion(hidden=(16, 16)), members, ONE),
        "gan, adversarial": Case(pg.GAN(**small), game, ONE, 300, 15, (("surrogate", quick),)),
        "autoregressive, sgld": Case(made.replace(bayesian=True), walk, MIXTURE),
        "flow, sgld": Case(pg.Flow("realnvp", num_layers=4, hidden=(16,), bayesian=True), walk, MIXTURE),
    }


def replicate(name: str, seed: int, replication: int) -> dict[str, Any]:
    """Of one table: the share of test rows whose true log p(x) is in the interval, the mean width of the intervals and
    the root mean squared error of log p(x), both in nats."""
    case, rng = cases()[name], np.random.default_rng([seed, replication])
    train, test = case.truth.draw(rng, case.num_train), case.truth.draw(rng, case.num_test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = pg.fit(case.family, train, engine=case.engine, seed=replication, **case.options)
        found = fit.score(test, hdi_prob=PROB, p_values=False, **dict(case.score))
    true = case.truth.log_prob(test)
    inside = (found.hdi[:, 0] <= true) & (true <= found.hdi[:, 1])
    return {
        "inside": float(inside.mean()), "width": float(np.mean(found.hdi[:, 1] - found.hdi[:, 0])),
        "error": float(np.sqrt(np.mean((found.log_predictive - true) ** 2))), "intervals": found.uncertainty,
        "kind": found.kind,
    }  # fmt: skip


def measure(name: str, state: Path, replications: int, seed: int, jobs: int) -> dict[str, Any]:
    """The figures of every replication, from the file of the case where they are there."""
    path, settings = state / f"coverage-{name.replace(', ', '-')}.json", f"{cases()[name]!r} {replications} {seed}"
    settings = settings.split(" truth=")[0] + f" {replications} {seed}"  # functions have no lasting name
    if path.exists() and (kept := json.loads(path.read_text(encoding="utf-8")))["settings"] == settings:
        return dict(kept)
    start = time.perf_counter()
    found = parallel.run(replicate, [(name, seed, i) for i in range(replications)], n_jobs=jobs)
    kept = {"settings": settings, "date": time.strftime("%Y-%m-%d"), "found": found,
            "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip
    state.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept), encoding="utf-8")
    return kept


def verdict(share: float, error: float) -> str:
    """Whether 90 % is within two standard errors (of one point at least)."""
    if abs(share - PROB) <= 2 * max(error, 0.01):
        return "as said"
    return "covers too little" if share < PROB else "covers too much"


def row_of(name: str, kept: dict[str, Any] | None) -> tuple[str, ...]:
    """A line of the table."""
    if kept is None:
        return (name, cases()[name].truth.words, "", "", "", "", "", "", "not run")
    frame = pd.DataFrame(kept["found"])
    share, error = frame["inside"].mean(), frame["inside"].std(ddof=1) / np.sqrt(len(frame))
    kind, intervals = frame["kind"][0], frame["intervals"][0]
    case = cases()[name]
    return (
        name, case.truth.words, intervals, kind, str(len(frame)), f"{100 * share:.0f} ± {100 * error:.0f} %",
        f"{frame['width'].mean():.2f}", f"{frame['error'].mean():.2f}", verdict(share, error),
    )  # fmt: skip


def write(page: Path, found: Mapping[str, dict[str, Any]], seed: int) -> None:
    """The table of coverage."""
    header = ("family, engine", "truth", "intervals", "density", "tables", f"inside {PROB:.0%} interval", "width",
              "error", "verdict")  # fmt: skip
    intro = f"Measured {max(kept['date'] for kept in found.values())}, NumPyro, seed {seed}; widths and errors in nats."
    put(page, "coverage", f"{intro}\n\n{table(header, [row_of(name, found.get(name)) for name in cases()])}")


def main(state: Path, page: Path, only: str, jobs: int, replications: int = 10, seed: int = 0) -> None:
    """Measure the cases whose names begin so, and write the table of all that are done."""
    for name in cases():
        if name.startswith(only):
            kept = measure(name, state, replications, seed, jobs)
            print(*row_of(name, kept), f"{kept['seconds']} s", sep="  ", flush=True)
    paths = {name: state / f"coverage-{name.replace(', ', '-')}.json" for name in cases()}
    write(page, {n: json.loads(p.read_text(encoding="utf-8")) for n, p in paths.items() if p.exists()}, seed)
