"""Make what the pages show of real fits, pictures and printed diagnoses: python docs/make_pictures.py

The tables are those that scikit-learn ships; the pictures of uses are those of the scripts in examples/. It takes some
minutes. Read the pages afterwards: their text speaks of what the pictures show.
"""

from __future__ import annotations

import io
import runpy
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_iris, make_moons

import ppl_gen as pg
from ppl_gen import plots

HERE = Path(__file__).parent
DPI = 110
COLOURS = 128  # a palette makes the files a third as large


def pictures() -> Iterator[tuple[str, Figure | str]]:
    """The name of each picture with its figure, and of each printed text with its lines."""
    table = load_iris(as_frame=True).data
    models = {f"{k} components": pg.GMM(k) for k in (1, 2, 3, 4)}
    comparison = pg.compare(models, table, engine="em", seed=0)
    yield "numbers of components", str(comparison)
    yield "compare", plots.plot_compare(comparison)

    two = pg.fit(pg.GMM(num_components=2), table, engine=pg.NUTS(), seed=0)
    yield "two components", str(two.diagnose())
    yield "pairs", plots.plot_pairs(two)
    yield "score", plots.plot_score(two)
    yield "rank", plots.plot_rank(two, max_quantities=4)
    yield "posterior_predictive", plots.plot_posterior_predictive(two)

    one = pg.fit(pg.GMM(num_components=1), table, engine=pg.NUTS(), seed=0)
    yield "one component", str(one.diagnose())
    yield "pit-misfit", plots.plot_pit(one)

    uniform = pg.GMM(num_components=3, prior=pg.GMMPrior(concentration=1.0))
    three = pg.fit(uniform, table, engine=pg.NUTS(), seed=17)
    yield "three components", str(three.diagnose())
    yield "trace-disagree", plots.plot_trace(three, max_quantities=4)

    settled = pg.fit(pg.GMM(num_components=3), table, engine=pg.NUTS(), seed=17)
    yield "three filled components", str(settled.diagnose())
    yield "latents", plots.plot_latents(settled)

    moons = pd.DataFrame(make_moons(2000, noise=0.07, random_state=0)[0], columns=["east", "north"])
    diffusion = pg.fit(pg.Diffusion(), moons, seed=0)
    yield "diffusion-trajectory", plots.plot_trajectory(diffusion, num_steps=100)
    yield "diffusion-loss", plots.plot_loss_by_time(diffusion)

    for path in sorted((HERE.parent / "examples").glob("use_*.py")):
        yield path.stem.replace("_", "-"), runpy.run_path(str(path))["main"]()


def write(figure: Figure, path: Path) -> None:
    """A small PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    image = Image.open(buffer).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    path.parent.mkdir(exist_ok=True)
    image.save(path, optimize=True)


def main() -> None:
    printed = {}
    for name, shown in pictures():
        if isinstance(shown, str):
            printed[name] = shown
            print(f"\n{name}\n{shown}", flush=True)
        else:
            write(shown, HERE / "images" / f"{name}.png")
    runpy.run_path(str(HERE / "blocks.py"))["refresh"](printed)


if __name__ == "__main__":
    main()
