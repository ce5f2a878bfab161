"""Make what the pages show of real fits, pictures and printed diagnoses: python docs/make_pictures.py

The tables are those that scikit-learn ships; the pictures of uses are those of the scripts in examples/. It takes some
minutes. Read the pages afterwards: their text speaks of what the pictures show.
"""

from __future__ import annotations

import io
import runpy
import shutil
import subprocess
import tempfile
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
    keep(Image.open(buffer), path)


def keep(picture: Image.Image, path: Path) -> None:
    """Write a picture with few colours."""
    image = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    path.parent.mkdir(exist_ok=True)
    image.save(path, optimize=True)


def report_picture(path: Path) -> None:
    """What a browser shows of a report on three fits, if there is one: a window on a desk, and a phone in the dark."""
    browser = shutil.which("chromium")
    if browser is None:
        return
    table = load_iris(as_frame=True).data
    engine = pg.EM(num_bootstraps=16)
    fits = {f"{k} components": pg.fit(pg.GMM(k), table, engine=engine, seed=0) for k in (2, 3)}
    flow = pg.SVI(num_members=3, max_steps=1500)
    with tempfile.TemporaryDirectory() as folder:
        page = pg.report(fits | {"flow": pg.fit(pg.Flow(), table, engine=flow, seed=0)}, Path(folder) / "report.html")
        shots = []
        for width, theme in ((1000, 1), (390, 0)):
            shot = Path(folder) / f"{width}.png"
            command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            command += [f"--user-data-dir={folder}/profile", f"--blink-settings=preferredColorScheme={theme}"]
            command += [f"--window-size={width},1560", f"--screenshot={shot}", page.as_uri()]
            subprocess.run(command, check=True)
            shots.append(Image.open(shot).convert("RGB"))
    whole = Image.new("RGB", (1000 + 30 + 390, 1560), "#8c96a3")
    whole.paste(shots[0], (0, 0))
    whole.paste(shots[1], (1030, 0))
    keep(whole, path)


def main() -> None:
    printed = {}
    for name, shown in pictures():
        if isinstance(shown, str):
            printed[name] = shown
            print(f"\n{name}\n{shown}", flush=True)
        else:
            write(shown, HERE / "images" / f"{name}.png")
    report_picture(HERE / "images" / "report.png")
    runpy.run_path(str(HERE / "blocks.py"))["refresh"](printed)


if __name__ == "__main__":
    main()
