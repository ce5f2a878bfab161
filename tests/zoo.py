"""The table of constructors that feeds the property tests: whoever adds a family adds a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

import ppl_gen as pg
from ppl_gen.inference.contrastive import Contrastive
from ppl_gen.models.autoregressive import Autoregressive
from ppl_gen.models.dae import DenoisingAutoencoder
from ppl_gen.models.ebm import EBM
from ppl_gen.models.flow import Flow
from ppl_gen.models.hmm import HMM, HMMPrior
from ppl_gen.models.hmm.effects import BY_KIND, FIELDS
from ppl_gen.models.rbm import RBM
from ppl_gen.models.vae import VAE
from ppl_gen.normalizer import SMC


def clusters(num_rows: int = 120, seed: int = 0) -> pd.DataFrame:
    """Two correlated clusters in two named columns, in units far from 1."""
    rng = np.random.default_rng(seed)
    label = rng.random(num_rows) < 0.4
    x = rng.normal(size=(num_rows, 2)) @ np.array([[1.0, 0.5], [0.0, 0.8]])
    x[label] += [4.0, -3.0]
    return pd.DataFrame({"height": 170 + 10 * x[:, 0], "mass": 0.07 + 0.004 * x[:, 1]})


def columns_of(kind: str = "binary", num_rows: int = 60, seed: int = 0) -> pd.DataFrame:
    """Columns of one kind, or of several: ``"binary"``, ``"categorical"``, ``"real"`` or ``"mixed"``."""
    rng = np.random.default_rng(seed)
    binary = pd.DataFrame(rng.integers(0, 2, (num_rows, 6)), columns=list("abcdef"))
    labels = pd.DataFrame({name: rng.choice(["red", "green", "blue"], num_rows) for name in "pq"})
    real = pd.DataFrame(rng.normal(size=(num_rows, 2)), columns=list("uv"))
    mixed = pd.concat([labels["p"], real["u"], binary[["a"]], labels["q"], real["v"]], axis=1)
    return {"binary": binary, "categorical": labels, "real": real, "mixed": mixed}[kind]


@dataclasses.dataclass(frozen=True)
class Case:
    """A family, a table for it, and an engine that fits it in about a second."""

    family: pg.Family
    table: Callable[[], pd.DataFrame]
    engine: pg.Engine


NETWORKS = pg.SVI(num_members=2, max_steps=300, learning_rate=1e-2)


CASES = {
    "gmm-full": Case(pg.GMM(2), clusters, pg.EM(num_starts=3, num_bootstraps=8)),
    "gmm-tied": Case(pg.GMM(2, covariance="tied"), clusters, pg.EM(num_starts=3, num_bootstraps=8)),
    "gmm-diag": Case(pg.GMM(2, covariance="diag"), clusters, pg.EM(num_starts=3, num_bootstraps=8)),
    "gmm-spherical": Case(pg.GMM(2, covariance="spherical"), clusters, pg.EM(num_starts=3, num_bootstraps=8)),
    "gmm-auto": Case(
        pg.GMM("auto", max_components=6, expected_components=2.0),
        clusters,
        pg.EM(objective="map", num_starts=3, num_bootstraps=8),
    ),
    "flow-nsf": Case(Flow("nsf", num_layers=2, hidden=(8,), num_bins=3), clusters, NETWORKS),
    "flow-realnvp": Case(Flow("realnvp", num_layers=4, hidden=(8,)), clusters, NETWORKS),
    "dae": Case(
        DenoisingAutoencoder(0.7, hidden=(16,), num_chains=2, num_states=16, num_warmup=50, thinning=5),
        clusters,
        NETWORKS,
    ),
    "ebm": Case(
        EBM(hidden=(8,)),
        clusters,
        Contrastive(num_members=2, max_steps=150, num_steps=5, normalizer=SMC(num_particles=4096, num_states=200)),
    ),
    "gan": Case(
        pg.GAN(latent_dim=2, generator_hidden=(8,), discriminator_hidden=(8,), observation_sd=0.3),
        clusters,
        pg.Adversarial(num_members=2, max_steps=100, batch_size=32, ratio_steps=50),
    ),
    "diffusion": Case(pg.Diffusion(schedule="learned", hidden=(16,)), clusters, NETWORKS),
    "vae": Case(VAE(latent_dim=1, hidden=(8,)), clusters, NETWORKS),
    "rbm": Case(RBM(4), clusters, pg.Contrastive(num_members=2, max_steps=600, batch_size=64)),
    "autoregressive-made": Case(Autoregressive(hidden=(16,), num_mixture_components=2), clusters, NETWORKS),
}


def visits(kind: str = "gaussian", lengths: tuple[int, ...] = (50, 30, 40), seed: int = 0) -> pd.DataFrame:
    """Sequences of two states that stay with probability 0.9 and differ in each column, in units far from 1."""
    rng = np.random.default_rng(seed)
    frames = []
    for who, length in zip("abcdefghijkl", lengths, strict=False):
        state = np.cumsum(rng.random(length) < 0.1) % 2
        noise = rng.normal(size=(length, 2))
        frame = pd.DataFrame({"who": who, "day": np.arange(length)})
        if kind in ("gaussian", "auto"):
            frame["height"] = 170 + 10 * (noise[:, 0] + 4 * state)
        if kind == "gaussian":
            frame["mass"] = 0.07 + 0.004 * (noise[:, 1] + 0.5 * noise[:, 0] - 3 * state)
        if kind in ("poisson", "auto"):
            frame["quakes"] = rng.poisson(np.where(state, 30, 8))
        if kind in ("bernoulli", "auto"):
            frame["open"] = rng.integers(0, 10, length) < np.where(state, 8, 2)
        if kind in ("categorical", "auto"):
            frame["sky"] = np.array(["clear", "cloud", "rain"])[np.minimum(rng.integers(0, 4, length) + state, 3) % 3]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def effective(prior: HMMPrior, emission: str = "gaussian", initial: str = "free") -> HMMPrior:
    """The prior without what an HMM of this emission and start would refuse, since it has no effect there."""
    own = {name for each in (BY_KIND if emission == "auto" else (emission,)) for name in FIELDS[each]}
    others = {name for names in FIELDS.values() for name in names} - own
    others |= {"coef_scale"}  # without covariates
    others |= set() if initial == "free" else {"initial_probs", "initial_concentration"}
    return prior.replace(**{f.name: f.default for f in dataclasses.fields(prior) if f.name in others})


def hmm(emission: str, table: str = "gaussian", **options: object) -> Case:
    engine = pg.EM(num_starts=4, num_bootstraps=0)
    if emission == "student_t":  # its degrees of freedom have no closed M-step
        engine = pg.SVI(max_steps=500, window=100, num_samples=50, num_starts=2)
    return Case(HMM(2, emission=emission, **options), partial(visits, table), engine)


SEQUENCE_CASES = {
    "hmm-gaussian": hmm("gaussian"),
    "hmm-gaussian_full": hmm("gaussian_full", initial="stationary"),
    "hmm-student_t": hmm("student_t"),
    "hmm-mixture": hmm("mixture"),
    "hmm-poisson": hmm("poisson", "poisson", initial="uniform"),
    "hmm-bernoulli": hmm("bernoulli", "bernoulli"),
    "hmm-categorical": hmm("categorical", "categorical"),
    "hmm-auto": hmm("auto", "auto"),
    "autoregressive-causal_conv": Case(
        Autoregressive("causal_conv", hidden=(16,), channels=6, num_layers=2, num_mixture_components=2),
        partial(visits, "auto"),
        NETWORKS,
    ),
}
