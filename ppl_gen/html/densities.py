"""How probable rows are, and how sure that is: log densities at quantiles of the held-out ones, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.html.markup import Markup, table, tag
from ppl_gen.html.wording import UNKNOWN, figure, several, share, shortened

if TYPE_CHECKING:
    from ppl_gen.html.sources import Run
    from ppl_gen.result import Fit

LEVELS = ((0.0, "lowest"), (0.05, "5 %"), (0.25, "25 %"), (0.5, "median"), (0.75, "75 %"), (0.95, "95 %"),
          (1.0, "highest"))  # fmt: skip
MAX_ROWS = 200  # scored where no held-out densities are known
PROB = 0.9


def densities(run: Run, fit: Fit) -> Markup:
    """A table: at each quantile of the rows' log densities the row, its held-out density, and the fit's own with its
    interval; of an implicit density the discriminator's log ratio, which is none."""
    ratio = fit.family.density == "implicit"
    held_out = np.full(len(fit.train), np.nan) if ratio else np.asarray(fit.held_out, np.float64)
    known = np.flatnonzero(np.isfinite(held_out))
    from ppl_gen.evidence import random_rows

    rows = known if len(known) else random_rows(len(fit.train), MAX_ROWS, fit.seed)
    values = held_out[rows]
    if not len(known):
        values = _score(fit, rows, ratio).log_predictive
    finite = np.isfinite(values)
    if not finite.any():
        return tag("p", f"No {fit.train.unit} has a density that is known.")
    rows, values = rows[finite], values[finite]
    order = np.argsort(values, kind="stable")
    names, places = levels_of(len(order))
    picked = order[places]
    found = _score(fit, rows[picked], ratio)
    return Markup(_table(fit, rows[picked], names, values[picked], bool(len(known)), found) + _notes(run, fit, found))


def levels_of(number: int) -> tuple[list[str], list[int]]:
    """The levels of so many rows and where in their order each is: a line for each row, whose name is an end or the
    median rather than a share where few rows are several levels at once."""
    found: dict[int, str] = {}
    for level, name in LEVELS:
        place = round(level * (number - 1))
        found[place] = name if place not in found or not name.endswith("%") else found[place]
    return ["the only one"] if number == 1 else list(found.values()), list(found)


def _score(fit: Fit, rows: np.ndarray, ratio: bool) -> Any:
    surrogate = "log_ratio" if ratio else None
    return fit.score(fit.train.take(rows), hdi_prob=PROB, p_values=False, keep_draws=False, surrogate=surrogate)


def _table(fit: Fit, rows: np.ndarray, names: list[str], values: np.ndarray, is_held_out: bool, found: Any) -> Markup:
    from ppl_gen.plots_data import names_of

    what = "log ratio" if not found.is_density else "log density"
    header = ["quantile", fit.train.unit] + ([f"held-out {what}"] if is_held_out else [])
    header += [f"{what} under the fit", f"{PROB:.0%} interval"]
    lines = []
    for place, name in enumerate(names):
        low, high = found.hdi[place]
        spread = np.isfinite([low, high]).all() and fit.uncertainty != "point" and high > low
        line = [name, shortened(names_of(fit.train, [rows[place]])[0], 24)]
        line += [figure(values[place], 3)] if is_held_out else []
        line += [figure(found.log_predictive[place], 3), f"{figure(low, 3)} to {figure(high, 3)}" if spread else "none"]
        lines.append(line)
    caption = f"{what[0].upper()}{what[1:]} of {fit.train.unit}s that were fitted to (nats, original units)"
    return table(header, lines, caption, numbers=range(1, len(header)))


def _notes(run: Run, fit: Fit, found: Any) -> Markup:
    kind = found.kind if found.surrogate is None else f"{found.kind}, {found.surrogate.replace('_', ' ')}"
    notes = [f"Kind of density: {kind}."]
    if not found.is_density:
        notes.append("A log ratio is log p_data(x) - log p_model(x) by the discriminator. It is no density.")
    if found.precision:
        notes.append(f"How sure the numbers themselves are: {found.precision}.")
    if found.unreliable.any():
        notes.append(f"k-hat says not to trust {share(int(found.unreliable.sum()), len(found))} of these lines.")
    spread = {"posterior": "Intervals are over draws from the posterior.",
              "guide": "Intervals are over draws from the guide.",
              "bootstrap": "Intervals are over refits to resampled rows.",
              "ensemble": "Intervals are over the members of the ensemble.",
              "point": "A point estimate has no intervals."}  # fmt: skip
    notes.append(spread[fit.uncertainty])
    if run.held_out is not None and np.isfinite(run.held_out).any():
        values = run.held_out[np.isfinite(run.held_out)]
        low, middle, high = (figure(v, 3) for v in np.quantile(values, [0.05, 0.5, 0.95]))
        error = figure(values.std(ddof=1) / np.sqrt(len(values)), 3) if len(values) > 1 else UNKNOWN
        held_out = several(len(values), run.unit)
        notes.append(f"Of {held_out} that the comparison held out: mean {figure(values.mean(), 3)} ± {error} "
                     f"nats per {run.unit}, median {middle}, 90 % between {low} and {high}.")  # fmt: skip
    return tag("p", " ".join(notes), class_="note")
