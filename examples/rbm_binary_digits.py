"""A restricted Boltzmann machine: binary images, their normalizer known exactly, and features for a classifier."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import ppl_gen as pg


def main(num_hidden: int = 16, max_steps: int = 3000, num_rows: int = 1500) -> float:
    digits = load_digits()
    images = (digits.images[:, :, 1:7] > 5).astype(int)  # 8 x 6 pixels, on or off; at the sides nothing varies
    train, test = slice(None, num_rows), slice(num_rows, num_rows + 250)
    engine = pg.Contrastive(num_members=1, max_steps=max_steps)
    fit = pg.fit(pg.RBM(num_hidden), images[train], engine=engine, seed=0)

    score = fit.score(images[test], p_values=False)
    rate = images[train].mean(0).clip(1e-3, 1 - 1e-3)
    alone = np.where(images[test], np.log(rate), np.log1p(-rate)).sum((1, 2))
    print(f"Held-out digits: {score.log_predictive.mean():.2f} nats each; pixels by themselves {alone.mean():.2f}")
    print(f"log Z by enumeration of 2^{num_hidden} hidden states: {fit.posterior['log_normalizer'][0]:.2f}")

    hidden = [fit.latents(images[rows]).filter(regex=r"^h\d+$") for rows in (train, test)]
    classifier = LogisticRegression(max_iter=2000).fit(hidden[0], digits.target[train])
    right = classifier.score(hidden[1], digits.target[test])
    print(f"A linear classifier of the {num_hidden} hidden units (which saw no label) reads {right:.0%} of them right")

    print("\nA new digit:")
    for line in np.asarray(fit.sample(1, seed=3))[0]:
        print("  " + "".join(".#"[pixel] * 2 for pixel in line))
    return right


if __name__ == "__main__":
    main()
