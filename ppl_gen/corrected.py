r"""Rows of a generator, mended by the discriminator's log ratio :math:`r(x) = \log p_{data}(x) - \log p_G(x)`: draws of
:math:`p_G(x)\, e^{r(x)}`, which is the data's distribution where r is right.

``"rejection"``   a row is kept with probability :math:`e^{r(x) - M}`, M being the largest log ratio of 10,240 rows
                  (discriminator rejection sampling; Azadi, Olsson, Darrell, Goodfellow & Odena 2019, arXiv:1810.06758,
                  sec. 3.1). A larger one later on is kept as surely as those of M
``"latent_hmc"``  z is drawn from :math:`p(z)\, e^{r(G(z))}` (discriminator driven latent sampling; Che et al. 2020,
                  arXiv:2003.06060, eq. 6, lemma 1): many chains from draws of the prior along the path :math:`p(z)\,
                  e^{\beta r(G(z))}`, weighted and resampled, so that parts of the latent space between which no chain
                  crosses have their share, then moved on by Hamiltonian Monte Carlo at :math:`\beta = 1`.
                  Instead of the path's end, 61,440 draws of the prior are weighted where these are worth more
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import FitError, SettingError, UnsupportedError, did_you_mean, warn
from ppl_gen.implicit import backend_of, is_implicit, moves_of, pilot
from ppl_gen.latent_paths import RATIO
from ppl_gen.normalizer import AIS
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.pair import Pair
    from ppl_gen.result import Fit

CORRECTIONS = ("none", "rejection", "latent_hmc")
PROPOSALS = 10_240  # rows proposed at once, and looked at for M
MAX_PROPOSALS = 5_000_000
PATH = AIS(num_temperatures=200, num_leapfrogs=5, target_accept=0.65)
CONDITIONAL_ESS = 0.9  # of the steps of a path
CHAINS = (256, 2048)  # side by side, for few rows and for many
CHAINS_A_ROW, ROWS = 32, 32  # of each row with a condition of its own, of which so many at once
PRIOR_BLOCKS = 6  # of as many draws of the prior, weighted at once instead of along a path where that is the better
MAX_BLOCK = 1_000_000  # numbers in the rows of one, of which there is only one where there are more
MOVES = 20  # from the end of the path to a row, and from one row of a chain to the next


def resolve(fit: Fit, correct: Any) -> str:
    """How samples are mended; None is not at all.

    :raises SettingError: an unknown way.
    :raises UnsupportedError: the family has no discriminator.
    """
    if correct is None:
        return "none"
    if correct not in CORRECTIONS:
        raise SettingError(f"Unknown correction {correct!r}: {did_you_mean(str(correct), CORRECTIONS)}")
    if correct != "none" and (not is_implicit(fit) or fit.pair.log_ratio is None):
        raise UnsupportedError(f"correct={correct!r} follows a discriminator's log ratio, and {fit.family.name} has "
                               "none: leave it out.")  # fmt: skip
    if correct != "none" and fit.draws.figures.get("converged", 1) == 0:
        warn("The log ratio was not trained to its end, so corrected rows may be worse than those that are not: raise "
             "ratio_steps.")  # fmt: skip
    return str(correct)


def draw(
    pair: Pair, posterior: Mapping[str, np.ndarray], index: np.ndarray, seed: int, context: np.ndarray | None,
    correct: str,
) -> np.ndarray:  # fmt: skip
    """(len(index), D): row i by member ``index[i]``, given ``context[i]``, mended by its own discriminator, in model
    space."""
    way = {"rejection": reject, "latent_hmc": follow}[correct]
    used, whose = np.unique(index, return_inverse=True)
    drawn: np.ndarray | None = None
    for at, member in enumerate(used):
        parameters = {name: value[member] for name, value in posterior.items()}
        given = None if context is None else context[whose == at]
        rows = way(pair, parameters, int((whose == at).sum()), (seed + 7919 * int(member)) % 2**31, given)
        drawn = np.empty((len(index), rows.shape[1]), rows.dtype) if drawn is None else drawn
        drawn[whose == at] = rows
    assert drawn is not None
    return drawn


def reject(
    pair: Pair, parameters: Mapping[str, np.ndarray], number: int, seed: int, context: np.ndarray | None
) -> np.ndarray:
    """(number, D) rows by rejection.

    :raises FitError: next to none is kept.
    """
    backend, rng = backend_of(pair), np.random.default_rng(seed)

    def propose(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = rng.standard_normal((PROPOSALS, pair.latent_size))
        return backend.generate(pair, parameters, z, None if context is None else context[rows])

    waiting, x, ratio = np.arange(number), *propose(np.arange(PROPOSALS) % number)
    most, proposed, found = float(ratio.max()), 0, np.empty((number, x.shape[1]), x.dtype)
    if not np.isfinite(most):
        raise FitError("The discriminator's log ratio is not a finite number: the training went wrong.")
    while len(waiting):
        # Each row that is not there yet has as many proposals as the others; of those without conditions any will do.
        rows = np.resize(waiting, PROPOSALS)
        x, ratio = propose(rows)
        proposed += PROPOSALS
        kept = np.flatnonzero(np.log(rng.random(PROPOSALS)) < ratio - most)
        if context is None:
            kept = kept[: len(waiting)]
            found[waiting[: len(kept)]], waiting = x[kept], waiting[len(kept) :]
        else:
            which, first = np.unique(rows[kept], return_index=True)
            found[which], waiting = x[kept[first]], np.setdiff1d(waiting, which)
        if len(waiting) and proposed >= MAX_PROPOSALS:
            done = number - len(waiting)
            raise FitError(
                f"Rejection kept {done:,} of {proposed:,} proposals, and {len(waiting):,} rows are missing: the "
                "generator is too far from the data for it. Use correct='latent_hmc', or train longer."
            )
    return found


def follow(
    pair: Pair, parameters: Mapping[str, np.ndarray], number: int, seed: int, context: np.ndarray | None
) -> np.ndarray:
    """(number, D) rows by Hamiltonian Monte Carlo over z."""
    if context is None:
        return _of_one_density(pair, parameters, number, seed)
    parts = []
    for start in range(0, number, ROWS):
        rows = np.arange(start, start + ROWS) % number
        parts.append((context[rows], min(ROWS, number - start), seed + start))
    backend = backend_of(pair)

    def one(part: tuple[np.ndarray, int, int]) -> np.ndarray:
        return _states(pair, parameters, View(None, context=part[0]), CHAINS_A_ROW, 1, part[2])[:, 0, 0]  # any will do

    found = zip(backend.over_blocks(one, parts), parts, strict=True)
    return np.concatenate([backend.generate(pair, parameters, z, given)[0][:new] for z, (given, new, _) in found])


def _of_one_density(pair: Pair, parameters: Mapping[str, np.ndarray], number: int, seed: int) -> np.ndarray:
    chains, backend = CHAINS[number > CHAINS[0]], backend_of(pair)
    states = backend.over_blocks(
        lambda size: _states(pair, parameters, View(None), chains, size, seed)[0], [-(-number // chains)]
    )[0]  # (K, T, L)
    each = [backend.generate(pair, parameters, z, None)[0] for z in states.swapaxes(0, 1)]
    return np.concatenate(each)[:number]


def _states(
    pair: Pair, parameters: Mapping[str, np.ndarray], view: View, num_chains: int, num_states: int, seed: int
) -> np.ndarray:
    """(R, K, T, L): z of K chains of each of R conditions, in random order."""
    backend, rng = backend_of(pair), np.random.default_rng(seed)
    settings = PATH.replace(num_chains=num_chains)
    seeds = rng.integers(2**32, size=1 if view.context is None else len(view.context))
    moves = moves_of(settings)._replace(conditional_ess=CONDITIONAL_ESS)
    end = pilot(backend, pair, RATIO, parameters, view, settings, seeds, moves)
    z, log_weights = end.z, end.log_weights
    if view.context is None:
        # Where the generator is near the data, as good as all draws of the prior count: more than there are chains.
        many, ratios = from_prior(pair, parameters, rng)
        if effective(ratios) > effective(log_weights[0]):
            z, log_weights = many[None], ratios[None]
    z, states = resampled(z, log_weights, num_chains, rng), []
    for _ in range(num_states):
        own = rng.integers(2**32, size=len(seeds))
        found, _ = backend.walk(pair, RATIO, parameters, view, z, end.log_step[-1], moves, 1, MOVES, own)
        z = found[:, :, -1]
        states.append(z)
    return np.stack(states, axis=2)


def from_prior(
    pair: Pair, parameters: Mapping[str, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the prior (n, L), and log ratios (n,) at their rows: fewer where rows are long."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(PRIOR_BLOCKS):
        z = rng.standard_normal((PROPOSALS, pair.latent_size))
        x, ratio = backend_of(pair).generate(pair, parameters, z, None)
        parts.append((z, np.asarray(ratio, np.float64)))
        if x.size > MAX_BLOCK:
            break
    return np.concatenate([z for z, _ in parts]), np.concatenate([ratio for _, ratio in parts])


def effective(log_weights: np.ndarray) -> float:
    """How many draws of equal weights those of log weights (K,) are worth (Kong 1992)."""
    w = np.exp(log_weights - log_weights.max())
    return float(w.sum() ** 2 / (w**2).sum())


def resampled(z: np.ndarray, log_weights: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """(R, number, L): of chains (R, K, L) by their weights (R, K), systematically, in random order."""
    w = np.exp(log_weights - log_weights.max(1, keepdims=True))
    chosen = np.empty((len(z), number), int)
    for row, share in enumerate(np.cumsum(w, axis=1) / w.sum(1, keepdims=True)):
        at = (np.arange(number) + rng.random()) / number
        chosen[row] = rng.permutation(np.minimum(np.searchsorted(share, at), len(share) - 1))
    return np.take_along_axis(z, chosen[..., None], axis=1)
