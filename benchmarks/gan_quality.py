"""How far samples of images are from images: the Fréchet distance in the space of a classifier's features, and how well
another classifier tells samples from images, of a generative adversarial network, a variational autoencoder, a
normalizing flow and diffusion models (a perceptron, and a U-net), and of images against images.

``python gan_quality.py`` runs scikit-learn's 8 x 8 digits. ``--tasks mnist`` runs MNIST, from ``$PPL_GEN_DATA/images``;
``--rows`` cuts its training images. The budget of each family is the same number of steps (``--steps``) in batches of
128 images; seconds, with compilation, stand beside it. The features are the last hidden layer of scikit-learn's
MLPClassifier, trained on labels; its test accuracy is told, as the distance means nothing under one that has learnt
nothing. The classifier two-sample test reads the same features: its accuracy is 0.5 where samples are as images.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import report, seconds
from sklearn.neural_network import MLPClassifier

import ppl_gen as pg

FEATURES = {"digits": 32, "mnist": 64}


def images(task: str, rows: int | None) -> tuple[np.ndarray, ...]:
    """Training images and labels, test images and labels; uint8."""
    if task == "digits":
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        parts = train_test_split(digits.images.astype(np.uint8), digits.target, test_size=0.5, random_state=0)
        train, test, labels, others = parts
        return train, labels, test, others
    with np.load(Path(os.environ["PPL_GEN_DATA"]) / "images" / "mnist.npz") as whole:
        train, labels, test, others = (whole[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    chosen = np.random.default_rng(0).permutation(len(train))[:rows]
    return train[chosen], labels[chosen], test, others


def families(task: str) -> dict[str, Any]:
    """Families of about as many weights, for pixels as real numbers."""
    wide = (128, 128) if task == "digits" else (256, 256)
    return {
        "gan": pg.GAN(latent_dim=16, generator_hidden=wide, discriminator_hidden=wide),
        "vae": pg.VAE(latent_dim=16, hidden=wide, likelihood="normal", scale="shared"),
        "flow": pg.Flow("realnvp", num_layers=6, hidden=(wide[0],)),
        "diffusion": pg.Diffusion(hidden=wide),
        "diffusion, U-net": pg.Diffusion(network="unet", channels=(16, 32)),
    }


def engine(name: str, steps: int, corrected: bool) -> Any:
    """One member, trained for so many steps, without an early stop; the log ratio only where samples are corrected."""
    if name == "gan":
        return pg.Adversarial(num_members=1, max_steps=steps, batch_size=128, ratio_steps=steps if corrected else 1)
    return pg.SVI(num_members=1, max_steps=steps, batch_size=128, learning_rate=1e-3, patience=10_000)


def reals(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Whole-number pixels with noise of their resolution, so that no pixel is constant and densities exist."""
    return x.astype(np.float32) + np.random.default_rng(seed).random(x.shape, np.float32)


def table(task: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    train, labels, test, others = images(task, options.rows)
    classifier = MLPClassifier((128, FEATURES[task]), early_stopping=task == "mnist", random_state=0)
    classifier.fit(train.reshape(len(train), -1) / train.max(), labels)
    number = min(len(test), len(train), options.samples)

    def features(x: np.ndarray) -> np.ndarray:
        from ppl_gen.frechet import feature_function

        pixels = np.clip(np.floor(np.asarray(x, np.float64)), 0, train.max()) / train.max()
        return feature_function(classifier)(pixels.reshape(len(x), -1))

    def row(what: str, x: np.ndarray, **more: Any) -> dict[str, Any]:
        reached = pg.metrics.precision_recall(features(test[:number]), features(x), standardize=False)
        told = pg.metrics.classifier_two_sample_test(features(test[:number]), features(x))
        return {"what": what, **more, "Fréchet distance": pg.metrics.frechet_distance(test[:number], x, features),
                "told apart": told.accuracy,
                "precision": reached.precision, "recall": reached.recall}  # fmt: skip

    accuracy = classifier.score(test.reshape(len(test), -1) / train.max(), others)
    print(
        f"{task}: the classifier is right on {accuracy:.1%} of {len(test):,} test images; {number:,} samples",
        flush=True,
    )
    rows = [row("images, training against test", train[:number])]
    data = reals(train)
    chosen = families(task)
    for name, family in ((name, chosen[name]) for name in options.families or chosen):
        taken, fit = seconds(
            partial(pg.fit, family, data, engine=engine(name, options.steps, options.corrected), seed=0)
        )
        rows.append(row(name, fit.sample(number, seed=1), seconds=taken))
        if name == "vae":  # what its decoder says without the noise of its likelihood
            rows.append(row("vae, samples reconstructed", fit.reconstruct(fit.sample(number, seed=1))))
        if name == "gan" and options.corrected:
            taken, found = seconds(partial(fit.sample, number, seed=1, correct="rejection"))
            rows.append(row("gan, by rejection", found, seconds=taken))
        print(rows[-1], flush=True)
    noise = train[:number].mean(0) + train[:number].std(0) * np.random.default_rng(0).normal(
        size=(number, *train.shape[1:])
    )
    return [*rows, row("independent normal pixels", noise)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["digits"], choices=list(FEATURES))
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rows", type=int, help="training images of MNIST, all by default")
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--families", nargs="+", help="of them, all by default")
    parser.add_argument("--corrected", action="store_true", help="also samples of the gan by rejection")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for task in options.tasks:
        start = time.perf_counter()
        found = table(task, options)
        report(f"{task}: {options.steps:,} steps each, in {time.perf_counter() - start:.0f} s altogether", found)


if __name__ == "__main__":
    main()
