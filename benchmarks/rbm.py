"""Restricted Boltzmann machines: an epoch of persistent contrastive divergence beside scikit-learn's BernoulliRBM, and
held-out log likelihoods beside published ones.

``python rbm.py`` runs the epoch and scikit-learn's 8 x 8 digits. ``--tasks debd`` runs nltcs, mushrooms and dna, from
``$PPL_GEN_DATA/binary``, and ``--tasks mnist`` binarized MNIST with 500 hidden units, from ``$PPL_GEN_DATA/images``;
``--steps`` sets how long these two are trained, ``--sweeps`` and ``--temperatures`` their negatives.
"""

from __future__ import annotations

import argparse
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import report, seconds
from scipy.special import logsumexp

import ppl_gen as pg

PUBLISHED = {  # mean test log likelihood, nats; see the README of the data
    "nltcs": "Chow-Liu -6.76, mixture of 100 Bernoullis -6.01",
    "mushrooms": "RBM by CD -15.15, mixture of Bernoullis -14.46, MADE -9.68",
    "dna": "RBM by CD -96.74, mixture of Bernoullis -98.19, Chow-Liu -87.73, MADE -83.63",
    "mnist": "RBM by CD-25, AIS -86.34 (Salakhutdinov & Murray 2008), NADE -88.33",
}
HIDDEN = {"nltcs": 16, "mushrooms": 100, "dna": 20}
Found = dict[str, Any]


def exact(weight: np.ndarray, visible: np.ndarray, hidden: np.ndarray, x: np.ndarray) -> float:
    """Mean log likelihood of rows under a machine with weights (F, H): log Z is summed over the hidden states."""
    number = len(hidden)
    states = (np.arange(2**number)[:, None] >> np.arange(number) & 1).astype(float)
    log_z = logsumexp(states @ hidden + np.logaddexp(0, states @ weight.T + visible).sum(1))
    return float((x @ visible + np.logaddexp(0, x @ weight + hidden).sum(1) - log_z).mean())


def engine(steps: int, **settings: Any) -> pg.Engine:
    """One sweep and one member, as scikit-learn has them."""
    return pg.Contrastive(**{"num_members": 1, "num_steps": 1, "validation": 0.0, "max_steps": steps, **settings})


def epoch(rows: int, batch_size: int) -> list[Found]:
    """Seconds of an epoch of rows x 784 with 500 hidden units: that of 5 epochs less that of 1, over 4."""
    from sklearn.neural_network import BernoulliRBM

    x = (np.random.default_rng(0).random((rows, 784)) < 0.15).astype(np.float32)
    steps, found = rows // batch_size, []
    for backend in ("numpyro", "pyro"):
        times = []
        for number in (1, 1, 5):
            settings = engine(number * steps, batch_size=batch_size, normalizer="none")
            job = partial(pg.fit, pg.RBM(500), x.astype(int), engine=settings, backend=backend)
            times.append(seconds(job)[0])
        found.append({"what": backend, "seconds an epoch": (times[2] - times[1]) / 4})
    machine = BernoulliRBM(500, batch_size=batch_size, n_iter=1, random_state=0)
    machine.fit(x)
    found.append({"what": "scikit-learn", "seconds an epoch": seconds(lambda: machine.fit(x))[0]})
    for row in found:
        row["times as fast"] = found[-1]["seconds an epoch"] / row["seconds an epoch"]
    return found


def digits(epochs: int = 60) -> list[Found]:
    """8 x 8 digits, brighter than half or not, 16 hidden units: test log likelihood by exact log Z, at equal epochs."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import BernoulliRBM

    train, test = train_test_split((load_digits().data > 7.5).astype(int), test_size=0.2, random_state=0)
    found = []
    for rate in (0.1, 0.05, 0.01):
        machine = BernoulliRBM(16, learning_rate=rate, n_iter=epochs, random_state=0)
        time, _ = seconds(partial(machine.fit, train))
        value = exact(machine.components_.T, machine.intercept_visible_, machine.intercept_hidden_, test)
        found.append({"what": f"scikit-learn, rate {rate}", "epochs": epochs, "seconds": time, "test nats": value})
    for backend in ("numpyro", "pyro"):
        settings = engine(epochs * (len(train) // 32), batch_size=32)
        time, fit = seconds(partial(pg.fit, pg.RBM(16), train, engine=settings, backend=backend, seed=0))
        own = {name: np.asarray(value[0], np.float64) for name, value in fit.posterior.items()}
        value = exact(own["weight"], own["visible_bias"], own["hidden_bias"], test)
        found.append({"what": backend, "epochs": epochs, "seconds": time, "test nats": value})
        for name, method in (("AIS", pg.AIS()), ("SMC", pg.SMC())):
            again = fit.normalize(method, seed=1).posterior
            off = float(again["log_normalizer"][0] - own["log_normalizer"])
            found.append({"what": f"{backend}, log Z by {name}", "off, nats": off,
                          "standard error": float(again["log_normalizer_error"][0])})  # fmt: skip
    return found


def held_out(name: str, options: argparse.Namespace) -> list[Found]:
    """Test log likelihood of a set, with the error that log Z leaves."""
    folder = Path(os.environ["PPL_GEN_DATA"])
    path = folder / "images" / "binarized_mnist.npz" if name == "mnist" else folder / "binary" / f"{name}.npz"
    with np.load(path) as whole:
        train, test = (whole[part].astype(int) for part in ("train", "test"))
    settings = engine(options.steps, num_steps=options.sweeps, num_temperatures=options.temperatures)
    time, fit = seconds(lambda: pg.fit(pg.RBM(options.hidden or HIDDEN.get(name, 500)), train, engine=settings, seed=0))
    score, k_hat = fit.score(test, p_values=False), float(fit.posterior["log_normalizer_k_hat"][0])
    error = float(fit.posterior["log_normalizer_error"][0])
    found = [{"what": f"rbm, {fit.family.num_hidden} hidden units", "steps": options.steps, "seconds": time,
              "test nats": float(score.log_predictive.mean()), "error": error,
              "k-hat": "exact" if error == 0 else k_hat, "published": PUBLISHED[name]}]  # fmt: skip
    others = {"autoregressive": pg.Autoregressive(), "vae": pg.VAE()} if name != "mnist" else {}
    return found + [of_other(what, family, train, test) for what, family in others.items()]


def of_other(what: str, family: pg.Family, train: np.ndarray, test: np.ndarray) -> Found:
    """The same of another family at its defaults, one member; a vae's by 512 particles."""
    time, fit = seconds(lambda: pg.fit(family, train.astype(bool), engine=pg.SVI(num_members=1), seed=0))
    score = fit.score(test.astype(bool), p_values=False, num_particles=512)
    sure = {} if score.k_hat is None else {"k-hat": f"above 0.7 on {score.unreliable.mean():.0%} of the rows"}
    steps = int(fit.draws.figures.get("num_steps", 0))
    return {"what": what, "steps": steps, "seconds": time, "test nats": float(score.log_predictive.mean())} | sure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["epoch", "digits"],
                        choices=["epoch", "digits", "debd", "nltcs", "mushrooms", "dna", "mnist"])  # fmt: skip
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--sweeps", type=int, default=1)
    parser.add_argument("--temperatures", type=int, default=10)
    parser.add_argument("--hidden", type=int)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*never vary")
    for task in options.tasks:
        if task == "epoch":
            title = f"An epoch of {options.rows:,} x 784, 500 hidden units, batches of {options.batch_size}"
            report(title, epoch(options.rows, options.batch_size))
        elif task == "digits":
            report("8 x 8 digits, 16 hidden units", digits())
        else:
            for name in ("nltcs", "mushrooms", "dna") if task == "debd" else (task,):
                report(f"{name}, mean test log likelihood", held_out(name, options))


if __name__ == "__main__":
    main()
