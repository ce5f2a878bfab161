"""The whole path on an embedded table: compare, fit, diagnose, score, sample, save, draw.

The table is Anderson's irises (Fisher 1936, Ann. Eugenics 7) as scikit-learn ships them: nothing is downloaded.
"""

from __future__ import annotations

import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppl_gen import report
from ppl_gen.compare import Comparison, compare
from ppl_gen.fit import fit
from ppl_gen.inference.em import EM
from ppl_gen.inference.nuts import NUTS
from ppl_gen.models.gmm import GMM

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

MAX_COMPONENTS = 4


def run(folder: str | Path = "runs/demo", *, seed: int = 0) -> Fit:
    """Show everything at work, and leave the fit, its pictures and the table in ``folder``; returns the fit."""
    start, folder = time.perf_counter(), Path(folder)
    frame, species = read_iris()
    report.heading("1  The table")
    report.say(f"{len(frame)} irises of three species, {frame.shape[1]} measurements each. The species are held back.")
    report.table(frame.head(3))

    report.heading("2  How many components? Gaussian mixtures by held-out log density")
    best = choose(frame, seed)

    report.heading(f"3  The posterior of {report.describe(best)}, by NUTS")
    result = fit(best, frame, engine=NUTS(num_samples=4000), seed=seed, progress=sys.stderr.isatty())
    report.pairs(report.facts(result))
    report.table(components(result), title="Components: posterior mean ± sd, cm")

    report.heading("4  Whether to believe it")
    with report.working("diagnosing"):
        diagnosis = result.diagnose()
    report.show(diagnosis)

    report.heading("5  What it says about the rows")
    show_rows(result, frame, species)

    report.heading("6  New rows from the model")
    samples = result.sample(1000, seed=seed)
    report.table(samples.head(5))

    report.heading("7  Saved")
    keep(result, frame, samples, folder)
    report.say(f"Done in {time.perf_counter() - start:.0f} s.")
    try_next(folder, best)
    return result


def read_iris() -> tuple[pd.DataFrame, pd.Series]:
    """The measurements (cm), and the species of each row."""
    from sklearn.datasets import load_iris

    iris = load_iris(as_frame=True)
    return iris.data, iris.target.map(dict(enumerate(map(str, iris.target_names)))).rename("species")


def choose(frame: pd.DataFrame, seed: int) -> GMM:
    """The number of components with the highest held-out log density, by EM, which is quick."""
    models = {f"{k} component{'s' * (k > 1)}": GMM(num_components=k) for k in range(1, MAX_COMPONENTS + 1)}
    found: Comparison = compare(models, frame, engine=EM(), seed=seed, progress=sys.stderr.isatty())
    report.show(found)
    return models[found.best]


def components(result: Fit) -> pd.DataFrame:
    """A row per component: its weight and its centre, each with its posterior sd."""
    import pandas as pd

    posterior = result.family.to_original(result.draws.posterior, result.schema)

    def cells(draws: np.ndarray) -> list[str]:
        return [f"{m:.2f} ± {s:.2f}" for m, s in zip(draws.mean((0, 1)), draws.std((0, 1)), strict=True)]

    columns = {"component": [str(k) for k in range(posterior["locs"].shape[2])], "weight": cells(posterior["weights"])}
    columns |= {name: cells(posterior["locs"][..., j]) for j, name in enumerate(result.schema.names)}
    return pd.DataFrame(columns)


def show_rows(result: Fit, frame: pd.DataFrame, species: pd.Series) -> None:
    """Densities with their intervals, the rows that stand out, and the components against the species."""
    import pandas as pd

    with report.working("scoring"):
        score, labels = result.score(), result.latents()
    report.say(f"Mean log p(x) {score.total / len(score):.3f} nats. The five most anomalous rows:")
    rows = score.to_frame()[["row", "log_prob", "hdi_low", "hdi_high", "anomaly_p_value"]]
    rows = rows.rename(columns={"anomaly_p_value": "p-value"}).nsmallest(5, "log_prob")
    report.table(rows.join(frame.rename(columns=lambda name: name.replace(" (cm)", ""))))
    counts = pd.crosstab(labels["z"].rename("component"), species.to_numpy()).rename_axis(columns=None)
    report.table(counts, title="Components against the species, which the model never saw", index=True)


def keep(result: Fit, frame: pd.DataFrame, samples: pd.DataFrame, folder: Path) -> None:
    """Write the fit, its pictures, the table and the new rows; an earlier demo's are replaced."""
    from ppl_gen.files import write_file
    from ppl_gen.plots import plot_all

    with report.working("saving"):
        run_folder = result.save(folder / "fit", overwrite=True)
        for name, table in (("iris.csv", frame), ("samples.csv", samples)):
            write_file(folder / name, partial(table.to_csv, index=False), overwrite=True)
    with report.working("drawing"):
        pictures = plot_all(result, folder / "plots")
    report.pairs([
        (str(folder / "fit"), f"the fit ({sum(f.stat().st_size for f in run_folder.iterdir()) / 1e6:.1f} MB)"),
        (str(folder / "plots"), ", ".join(picture.name for picture in pictures)),
        (str(folder / "iris.csv"), "the table"),
        (str(folder / "samples.csv"), f"{len(samples):,} new rows"),
    ])  # fmt: skip


def try_next(folder: Path, best: GMM) -> None:
    """Commands that work as they stand."""
    fit_folder, table = shlex.quote(str(folder / "fit")), shlex.quote(str(folder / "iris.csv"))
    report.try_next([
        (f"ppl-gen diagnose {fit_folder} --summary", "every parameter, every check"),
        (f"ppl-gen score {fit_folder} {table} -o scores.csv", "log p(x), interval and anomaly p-value of each row"),
        (f"ppl-gen latents {fit_folder} {table}", "which component each row belongs to, and how surely"),
        (f"ppl-gen fit {table} gmm --set num_components={best.num_components} --set covariance=tied -o runs/tied",
         "a model of your own"),
        ("ppl-gen zoo gmm", "what there is to choose"),
    ])  # fmt: skip
