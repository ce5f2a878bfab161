r"""Whether chains have found all of a density, asked of particles that come to it from farther out than they have been.

Chains that all begin in one mode agree with each other however much mass lies elsewhere. So particles are drawn from
a normal :math:`q` three times as wide as states and base together, and brought to the density :math:`f` along
:math:`q^{1-\beta} f^\beta` by tempered sequential Monte Carlo (Del Moral, Doucet & Jasra 2006, J. R. Stat. Soc. B 68)
in independent groups, then moved on at temperature 1. Means of each column, of its distance from the chains' median,
and of log f are compared. A gap beyond a tenth of a standard deviation (of which chains without a test of each step
may be off) is counted in standard errors, of the chains and of the groups together: a t statistic. Particles that
miss a mode themselves tell nothing: what passes has not been found to be wrong, which is not a proof.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppl_gen.annealing import START_MOVES, Path, Walk
from ppl_gen.diagnostics import Check
from ppl_gen.normalizer import SMC
from ppl_gen.pair import Pair

WIDER = 3.0
PARTICLES, GROUPS, STEPS = 1024, 16, 300
POLISH = 20  # moves at temperature 1
SLACK = 0.1  # standard deviations
LOC, SCALE = "widened_loc", "widened_scale"
LEVEL = 0.001  # of the worst of all comparisons, by chance
ADVICE = (
    "Particles that came by tempering from farther out lie elsewhere: all chains began in a part of the density and "
    "stayed there, though they agree. Use sampler='tempered' with a base, or a table, that covers the other parts."
)


@dataclasses.dataclass(frozen=True)
class Particles:
    """Weighted draws in G groups, one after the other: ``x`` (N, D) in model space, ``log_density`` (N,) and
    ``log_weights`` (N,), whose mean over a group estimates its Z."""

    x: np.ndarray
    log_density: np.ndarray
    log_weights: np.ndarray


def particles(tempering: Any, pair: Pair, parameters: Mapping[str, Any], states: np.ndarray, seed: int) -> Particles:
    """Draws of the density from a normal wider than ``states`` (C, T, *row), model space, and its base together."""
    rng, row = np.random.default_rng(seed), states.shape[2:]
    flat = states.reshape(-1, *row).astype(np.float64)
    base = tempering.base(pair, parameters, PARTICLES, seed)
    known = np.concatenate([flat[rng.integers(len(flat), size=PARTICLES)], base])
    loc, scale = known.mean(0), WIDER * known.std(0) + 1e-6
    wide = pair.cached("widened", lambda: _widened(pair))
    parameters_wide = {**parameters, **tempering.member({LOC: loc, SCALE: scale})}
    settings, size = SMC(num_particles=PARTICLES, num_groups=GROUPS), loc.size
    start = Path(np.zeros(1), np.ones((1, size)), np.zeros(1), STEPS + START_MOVES).padded(STEPS + START_MOVES)
    x = loc + scale * rng.standard_normal((PARTICLES, *row))
    found = tempering.run(wide, parameters_wide, x, start, settings.moves, seed, groups=GROUPS, adaptive=True)
    plan = Walk(settings.moves, POLISH, 1, POLISH)
    moved = tempering.walk(wide, parameters_wide, found.x, found.scale[-1], plan, seed)[0][:, 0]
    return Particles(moved.reshape(PARTICLES, -1), tempering.log_density(pair, parameters, moved), found.log_weights)


def _widened(pair: Pair) -> Pair:
    """The pair with a normal, whose mean and standard deviation are among its parameters, for its base."""
    density = pair.tempered
    assert density is not None

    def tempered(parameters: Mapping[str, Any], x: Any, beta: Any) -> Any:
        own = {name: value for name, value in parameters.items() if name not in (LOC, SCALE)}
        z = ((x - parameters[LOC]) / parameters[SCALE]).reshape(len(x), -1)
        return beta * density(own, x, 1.0) - (1 - beta) * 0.5 * (z**2).sum(-1)

    return Pair(pair.family, pair.backend, model=None, tempered=tempered)  # type: ignore[arg-type]


def check(names: Sequence[str], states: np.ndarray, lp: np.ndarray, found: Particles) -> Check:
    """The check of chains ``states`` (C, T, D), model space, with log densities ``lp`` (C, T)."""
    from scipy.stats import t

    from ppl_gen.arviz_bridge import mcse

    middle = np.median(states, axis=(0, 1))

    def quantities(x: np.ndarray, log_density: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.abs(x - middle), log_density[..., None]], axis=-1).astype(np.float64)

    ours, theirs = quantities(states, lp), quantities(found.x, found.log_density)
    labels = [*names, *(f"distance of {name} from its median" for name in names), "log density"]
    weights = np.exp(found.log_weights - found.log_weights.max())
    weights = np.where(np.isfinite(found.log_density), weights, 0.0)
    theirs = np.where(weights[:, None] > 0, theirs, 0.0)
    weights = weights / weights.sum()
    mean = weights @ theirs
    sums = (weights[:, None] * (theirs - mean)).reshape(GROUPS, -1, theirs.shape[1]).sum(1)
    error = np.sqrt((sums**2).sum(0) * GROUPS / (GROUPS - 1))  # delta method, of a ratio of means over groups
    spread = np.sqrt((ours.var((0, 1)) + weights @ (theirs - mean) ** 2) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = (np.abs(ours.mean((0, 1)) - mean) - SLACK * spread) / np.hypot(error, np.nan_to_num(mcse(ours)))
    gap = np.maximum(np.nan_to_num(gap, nan=0.0), 0.0)
    worst, limit = int(gap.argmax()), float(t.isf(LEVEL / (2 * len(labels)), GROUPS - 1))
    return Check.of(
        "mass elsewhere", gap[worst], "at most", limit,
        info=f"standard errors; {labels[worst]}, worst of {len(labels)}; {PARTICLES:,} particles from farther out",
        advice=ADVICE,
    )  # fmt: skip
