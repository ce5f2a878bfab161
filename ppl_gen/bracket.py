"""How far annealed importance sampling through a generator is off, on rows of which the noise is known.

A run from the prior to the posterior of z bounds log p(x) from below on average, one back from the z that a simulated
row was made of, an exact draw from that posterior, bounds it from above (bidirectional Monte Carlo; Grosse, Ghahramani
& Adams 2015, arXiv:1511.02543).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.checks_surrogates import KEPT
from ppl_gen.errors import SettingError, UnsupportedError
from ppl_gen.implicit import (
    FORWARD,
    PILOT,
    POLISH,
    REVERSE,
    backend_of,
    blocks,
    is_implicit,
    mean_weight,
    members,
    moves_of,
    pilot,
    resolve,
    room,
    row_seeds,
    rows_of,
)
from ppl_gen.latent_paths import ROW
from ppl_gen.latents import check_count
from ppl_gen.normalizer import AIS
from ppl_gen.scoring import check_seed
from ppl_gen.view import View

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.pair import Pair
    from ppl_gen.result import Fit


@dataclasses.dataclass(frozen=True, eq=False)
class Bracket:
    """Stochastic bounds of log p(x) of simulated rows, (n,) each, nats, original units: ``lower`` by runs to the
    posterior of z, ``upper`` by runs back from the z that the row was made of. Their gap bounds how far annealed
    importance sampling is off on average, on rows such as the model makes."""

    lower: np.ndarray
    upper: np.ndarray

    @property
    def gap(self) -> float:
        """Mean of upper minus lower."""
        return float((self.upper - self.lower).mean())

    @property
    def error(self) -> float:
        """Standard error of the gap."""
        return float((self.upper - self.lower).std(ddof=1) / np.sqrt(len(self.lower)))

    def __repr__(self) -> str:
        return f"<Bracket of {len(self.lower):,} simulated rows: gap {self.gap:.2g} ± {self.error:.1g} nats>"

    def to_frame(self) -> pd.DataFrame:
        """Columns row, lower, upper."""
        import pandas as pd

        return pd.DataFrame({"row": np.arange(len(self.lower)), "lower": self.lower, "upper": self.upper})


def bracket(fit: Fit, num_rows: int, surrogate: Any, seed: int) -> Bracket:
    """See :meth:`ppl_gen.result.Fit.bracket`."""
    if not is_implicit(fit):
        raise UnsupportedError(f"bracket is for families without a density, such as gan; the density of "
                               f"{fit.family.name} is {fit.family.density_for(fit.schema)}.")  # fmt: skip
    settings = resolve(surrogate)
    if not isinstance(settings, AIS):
        raise SettingError("A bracket is of annealed importance sampling: surrogate must be 'ais' or settings of AIS.")
    check_count("num_rows", num_rows, 2)
    check_seed(seed)
    rng, context = np.random.default_rng(seed), rows_of(fit.train).context
    if context is not None:
        context = context[rng.integers(len(context), size=num_rows)]
    found = []
    for number, rows in enumerate(np.array_split(np.arange(num_rows), len(members(fit)))):
        if len(rows):
            given = None if context is None else context[rows]
            found.append(_bracket(fit.pair, members(fit)[number], given, len(rows), settings, seed + number))
    lower, upper = (np.concatenate(part) + fit.schema.log_jacobian(None) for part in zip(*found, strict=True))
    result = fit.__dict__[KEPT] = Bracket(lower, upper)
    return result


def _bracket(
    pair: Pair, parameters: Mapping[str, np.ndarray], context: np.ndarray | None, number: int, settings: AIS, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    backend = backend_of(pair)
    z, x = backend.simulate(pair, parameters, number, seed % 2**31, context)
    view = View(x, context=context)

    def one(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        part, chains = view.take(rows), settings.num_chains
        run = partial(backend.anneal, pair, ROW, parameters, part)
        moves = moves_of(settings)
        found = pilot(backend, pair, ROW, parameters, part, settings, row_seeds(part, seed, PILOT))
        path = found.refined(settings.num_temperatures)
        there = run(path.padded(room(settings)), moves, row_seeds(part, seed, FORWARD), chains)
        starts = np.repeat(z[rows][:, None], chains, axis=1)
        back = run(path.reversed_after(POLISH).padded(room(settings)), moves, row_seeds(part, seed, REVERSE), chains,
                   starts=starts)  # fmt: skip
        return mean_weight(there.log_weights)[0], -mean_weight(back.log_weights)[0]

    parts = blocks(view, number, settings.num_chains)
    found = backend.over_blocks(one, [rows for rows, _ in parts])
    kept = [[array[:new] for array in each] for each, (_, new) in zip(found, parts, strict=True)]
    lower, upper = (np.concatenate(each) for each in zip(*kept, strict=True))
    return lower, upper
