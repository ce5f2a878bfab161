"""Make the picture of each network family's page, and of the hidden Markov model's, from quick fits of real data:
``python docs/make_family_pictures.py [FAMILY ...]``

The data are scikit-learn's irises, moons and digits, and a made series of two states. Read the pages afterwards: their
text speaks of what the pictures show.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.datasets import load_digits, load_iris, make_moons

import ppl_gen as pg
from ppl_gen import plots

HERE = Path(__file__).parent
NETWORK = pg.SVI(num_members=2, max_steps=1000, learning_rate=5e-3)


def moons() -> pd.DataFrame:
    return pd.DataFrame(make_moons(800, noise=0.07, random_state=0)[0], columns=["east", "north"])


def iris() -> pd.DataFrame:
    return load_iris(as_frame=True).data


def digits() -> np.ndarray:
    """1797 images of 8 x 8, each pixel on or off."""
    return (load_digits().images > 7).astype(int)


def hmm() -> Figure:
    rng, state = np.random.default_rng(0), np.repeat([0, 1, 0, 1, 0], [40, 25, 50, 30, 35])
    table = pd.DataFrame({"flow": 4.0 + 3.0 * state + rng.normal(size=len(state)) * np.where(state, 1.4, 0.7)})
    return plots.plot_states(pg.fit(pg.HMM(2), table, engine=pg.NUTS(num_samples=300, num_chains=2), seed=0))


def flow() -> Figure:
    return plots.plot_density(pg.fit(pg.Flow("nsf", num_layers=3, hidden=(32,)), moons(), engine=NETWORK, seed=0))


def autoregressive() -> Figure:
    return plots.plot_pairs(pg.fit(pg.Autoregressive(hidden=(32,)), iris(), engine=NETWORK, seed=0))


def vae() -> Figure:
    family = pg.VAE(latent_dim=2, hidden=(64,))
    return plots.plot_codes(pg.fit(family, digits(), engine=NETWORK.replace(num_members=1), seed=0))


def dae() -> Figure:
    return plots.plot_density(pg.fit(pg.DenoisingAutoencoder(0.3, hidden=(64,)), moons(), engine=NETWORK, seed=0))


def rbm() -> Figure:
    engine = pg.Contrastive(num_members=1, max_steps=1500)
    return plots.plot_filters(pg.fit(pg.RBM(16), digits(), engine=engine, seed=0))


def ebm() -> Figure:
    return plots.plot_density(
        pg.fit(pg.EBM(hidden=(32, 32)), moons(), engine=pg.Contrastive(num_members=1, max_steps=2000), seed=0)
    )


def gan() -> Figure:
    engine = pg.Adversarial(num_members=1, max_steps=1500, ratio_steps=100)
    return plots.plot_pairs(pg.fit(pg.GAN(latent_dim=2), moons(), engine=engine, seed=0))


FIGURES: dict[str, Callable[[], Figure]] = {
    "hmm": hmm, "flow": flow, "autoregressive": autoregressive, "vae": vae, "dae": dae, "rbm": rbm, "ebm": ebm,
    "gan": gan,
}  # fmt: skip


def main() -> None:
    sys.path.insert(0, str(HERE))
    from make_pictures import write

    for name in sys.argv[1:] or FIGURES:
        write(FIGURES[name](), HERE / "images" / f"family-{name}.png")
        print(name, flush=True)


if __name__ == "__main__":
    main()
