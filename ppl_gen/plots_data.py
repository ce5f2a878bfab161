"""What pictures show, as numbers: marginal densities, regions of highest density, hard labels of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import UnsupportedError

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

NUM_DRAWS = 100  # draws that a picture averages over: more can't be seen
NO_FORMULA = "the density is implicit: it has no formula, and surrogates take long (see Fit.score, Fit.latents)"
MAX_POINTS = 2_000  # points of a scatter; beyond, a random subset


def thinned(fit: Fit, number: int = NUM_DRAWS) -> Fit:
    """The fit with at most ``number`` evenly spaced draws, as one chain; a point estimate stays."""
    size = len(next(iter(fit.posterior.values())))
    index = np.linspace(0, size - 1, min(number, size)).astype(int)
    posterior = {name: value[index][None] for name, value in fit.posterior.items()}
    draws = dataclasses.replace(fit.draws, posterior=posterior, sample_stats={}, held_out=None)
    return dataclasses.replace(fit, draws=draws)


def subset(fit: Fit, limit: int = MAX_POINTS) -> tuple[np.ndarray, Data, str]:
    """At most ``limit`` training rows: their indices, the rows, and words for a title (empty where all are shown)."""
    from ppl_gen.evidence import random_rows

    number = len(fit.train)
    rows = random_rows(number, limit, fit.seed)
    if len(rows) == number:
        return rows, fit.train, ""
    return rows, fit.train.take(rows), f"{len(rows):,} random {fit.train.unit}s of {number:,}"


def names_of(data: Data, positions: Iterable[int]) -> list[Any]:
    """How the table labels some of its rows or sequences; their positions where it does not."""
    labels = data.index if data.lengths is None else data.sequence_ids
    return list(positions) if labels is None else [labels[i] for i in positions]


def original_units(fit: Fit, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """(..., d) model-space values as float64 in the table's units, NaN where missing; labels stay codes. They are of
    all columns, or of those that are modelled."""
    columns = fit.schema.columns if np.shape(x)[-1] == fit.schema.num_columns else fit.schema.target_columns
    values = np.asarray(x, np.float64) * [c.scale for c in columns] + [c.loc for c in columns]
    return values if mask is None else np.where(mask, values, np.nan)


def no_marginal(fit: Fit, columns: Iterable[int]) -> str:
    """Why the density of these columns alone is not known; an empty string where it is. A missing entry is integrated
    out by the families that take such; the others have the density of all their columns only."""
    if fit.pair.generate is not None:
        return NO_FORMULA
    if fit.schema.conditions:
        return "the density is p(x | y), another one for each y"
    if fit.family.allows_missing or set(columns) == set(range(fit.schema.num_columns)):
        return ""
    return f"{fit.family.name} can't integrate its other columns out (see the pairs picture)"


def drawn_rows(fit: Fit, number: int) -> np.ndarray:
    """(number, d) rows drawn from the fit, as :func:`original_units`; what it conditions on comes from the table."""
    drawn = fit.schema.encode(fit.sample(number, seed=fit.seed))
    return original_units(fit, drawn.x, drawn.mask)


def density_draws(fit: Fit, columns: Sequence[int], points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Marginal density of some columns at points in the table's units: the other columns are missing.

    :param columns: indices of c columns. :param points: (m, c).
    :returns: the predictive density (m,): the mean over draws, or that of the point estimate where there is one;
        and that of each of the draws looked at (S, m). Per unit of the columns multiplied.
    """
    from ppl_gen.scoring import log_prob_rows, point_draw

    schema, width = fit.schema, fit.schema.num_columns
    chosen = [schema.columns[j] for j in columns]
    x = np.zeros((len(points), width), fit.train.x.dtype)
    x[:, list(columns)] = (points - [c.loc for c in chosen]) / [c.scale for c in chosen]
    mask = np.broadcast_to(np.isin(np.arange(width), list(columns)), x.shape).copy()
    rows = dataclasses.replace(fit.train, x=x, mask=None if mask.all() else mask, weights=None, index=None)

    def density(posterior: dict[str, np.ndarray]) -> np.ndarray:
        parts = [np.exp(np.asarray(values, np.float64)) for _, values in log_prob_rows(fit, rows, posterior)]
        return np.concatenate(parts, axis=1)

    draws = density(thinned(fit).posterior)
    point = point_draw(fit)
    return draws.mean(0) if point is None else density(point)[0], draws


def axis_values(values: np.ndarray, kind: str, number: int, pad: float = 0.25) -> np.ndarray:
    """Where to evaluate a density along a column: an even grid a little beyond the data, or each whole number."""
    low, high = np.nanmin(values), np.nanmax(values)
    if kind != "real":
        step = max(1, int((high - low) // 200))  # a count with a long tail is looked at here and there
        return np.arange(int(low), int(high) + 1, step, dtype=float)
    gap = pad * (high - low) or 1.0
    return np.linspace(low - gap, high + gap, number)


def density_grid(fit: Fit, columns: tuple[int, int], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(len(y), len(x)): the predictive density of two columns, the others integrated out, in the table's units."""
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return density_draws(fit, columns, grid)[0].reshape(len(y), len(x))


def mass_levels(density: np.ndarray, cell: float, masses: Sequence[float]) -> list[float]:
    """Levels whose regions {density >= level} hold the given masses: highest density regions (Hyndman 1996, Am. Stat.
    50). The density is on an even grid with cells of area ``cell``; a mass that the grid does not hold has level 0."""
    ordered = np.sort(density.ravel())[::-1]
    total = np.cumsum(ordered) * cell
    return [float(ordered[i]) if (i := int(np.searchsorted(total, mass))) < len(ordered) else 0.0 for mass in masses]


def hard_labels(fit: Fit, rows: Data) -> tuple[str, np.ndarray, list[str]] | None:
    """The name of each row's discrete latent, the number of its most probable value (n,), and what the values are
    called; None where a row has no such latent."""
    if fit.pair.generate is not None:  # it would take a chain for each row
        return None
    try:
        frame = thinned(fit).latents(rows)
    except UnsupportedError:
        return None
    names = latent_names(list(frame.columns))
    if not names:  # codes alone
        return None
    values = [c for c in frame.columns if c.startswith(f"{names[0]}=") and not c.endswith("_sd")]
    return names[0], frame[values].to_numpy().argmax(1), [c.removeprefix(f"{names[0]}=") for c in values]


def latent_names(columns: Sequence[str]) -> list[str]:
    """The discrete latents in the columns of :meth:`Fit.latents <ppl_gen.result.Fit.latents>`."""
    return [name for name in columns if f"{name}_agreement" in columns]
