"""The noise z behind a row of a generator: draws from its posterior under the observation model.

Chains that annealed importance sampling left at the posterior (:mod:`ppl_gen.latent_paths`) are resampled by their
weights, so that each of several modes has its share of them, and walk on. Where chains stay in modes of their own R-hat
says so; their draws then have the modes' shares as the weights had them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import arviz_bridge as az
from ppl_gen.corrected import resampled
from ppl_gen.errors import SettingError, warn
from ppl_gen.implicit import DEFAULT, ONWARD, backend_of, blocks, estimate, moves_of, row_seeds, rows_of
from ppl_gen.latent_paths import ROW
from ppl_gen.latents import check_count, member_of
from ppl_gen.scoring import check_seed, encode

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data
    from ppl_gen.result import Fit

METHODS = ("chains", "draws")
STATES, THINNING, LEAPFROGS = 25, 6, 10  # kept of each chain, moves between them, and steps of each
MAX_RHAT = 1.1  # of some dozens of short chains


def latents(fit: Fit, table: Any, method: str | None, num_draws: int, seed: int, member: int) -> pd.DataFrame:
    """See :meth:`ppl_gen.result.Fit.latents`: of each coordinate of the noise that the generator's network reads."""
    import pandas as pd

    method = method or METHODS[0]
    if method not in METHODS:
        raise SettingError(f"method must be one of {', '.join(METHODS)} for {fit.family.name}, not {method!r}.")
    check_count("num_draws", num_draws)
    check_seed(seed)
    data = encode(fit, table)
    states = draws(fit, data, int(seed), member, num_draws if method == "draws" else 0)
    size = min(getattr(fit.family, "latent_dim", states.shape[-1]), states.shape[-1])
    rows, (chains, number) = np.arange(len(data)), states.shape[1:3]
    flat = states[..., :size].reshape(len(data), chains * number, size)
    if method == "draws":
        chosen = np.random.default_rng(seed).permutation(chains * number)[:num_draws]
        frame = pd.DataFrame({"row": rows.repeat(num_draws), "draw": np.tile(np.arange(num_draws), len(data))})
        return frame.assign(**{f"z{j}": flat[:, chosen, j].ravel() for j in range(size)})
    found: dict[str, Any] = {"row": rows}
    for j in range(size):
        found |= {f"z{j}": flat[..., j].mean(1), f"z{j}_sd": flat[..., j].std(1, ddof=1)}
    found["r_hat"] = r_hat(states[..., :size])
    above = int((found["r_hat"] > MAX_RHAT).sum())
    if above:
        warn(f"r_hat is above {MAX_RHAT:g} in {above:,} of {len(data):,} {data.unit}s: their chains of z disagree, as "
             "where several z make the same row. Look at method='draws'.")  # fmt: skip
    return pd.DataFrame(found)


def draws(fit: Fit, data: Data, seed: int, member: int, num_draws: int = 0) -> np.ndarray:
    """(n, K, T, L): states of K chains at the posterior of each row under one member, in float64.

    :param num_draws: at least so many of each row.
    """
    parameters = {name: value[0] for name, value in member_of(fit, member).items()}
    view, backend = rows_of(data), backend_of(fit.pair)
    number = max(STATES, -(-num_draws // DEFAULT.num_chains))
    if not len(data):
        return np.empty((0, DEFAULT.num_chains, number, fit.pair.latent_size))
    found = estimate(fit.pair, parameters, view, DEFAULT, seed)
    moves = moves_of(DEFAULT)._replace(num_leapfrogs=LEAPFROGS)
    starts = resampled(found.z, found.log_weights, DEFAULT.num_chains, np.random.default_rng(seed))

    def one(rows: np.ndarray) -> np.ndarray:
        part, begin = view.take(rows), (starts[rows], found.log_step[rows])
        own = row_seeds(part, seed, ONWARD)
        return backend.walk(fit.pair, ROW, parameters, part, *begin, moves, number, THINNING, own)[0]

    parts = blocks(view, len(data), DEFAULT.num_chains)
    states = backend.over_blocks(one, [rows for rows, _ in parts])
    kept = [each[:new] for each, (_, new) in zip(states, parts, strict=True)]
    return np.concatenate(kept).astype(np.float64)


def r_hat(states: np.ndarray) -> np.ndarray:
    """(n,): R-hat of the worst coordinate of chains (n, K, T, L)."""
    return az.rhat(np.moveaxis(states, 0, 2)).max(-1) if len(states) else np.empty(0)
