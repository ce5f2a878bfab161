"""What a fit of an unnormalised density does with its log Z and chains: errors of scores, new rows, another log Z."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from ppl_gen import backends
from ppl_gen.annealing import Moves, Walk
from ppl_gen.engine import out_of_bag
from ppl_gen.errors import UnsupportedError, warn
from ppl_gen.normalizer import SITES, is_normalized, normalize
from ppl_gen.registry import import_backend

if TYPE_CHECKING:
    from ppl_gen.pair import Pair
    from ppl_gen.result import Fit

SAMPLE_MOVES = 20  # of a state of a chain, to a new row
SAMPLE_ROWS = (256, 4096)  # moved in one call, for few rows and for many


def renormalize(fit: Fit, method: Any, seed: int) -> Fit:
    """See :meth:`ppl_gen.result.Fit.normalize`."""
    from ppl_gen.scoring import check_seed

    check_seed(seed)
    if fit.pair.generate is not None:
        raise UnsupportedError(f"{fit.family.name} has no density that could be normalised; fit.score has surrogates.")
    if fit.pair.tempered is None:
        raise UnsupportedError(f"The density of {fit.family.name} is normalised as it is: its log Z is 0.")
    view = fit.train.view(fit.backend)
    found = normalize(fit.pair, fit.posterior, view, method, int(seed))
    shape = (fit.draws.num_chains, fit.draws.num_draws)
    posterior = {name: value.reshape(*shape, *value.shape[1:]) for name, value in found.items()}
    held_out = fit.draws.held_out
    if held_out is not None:  # densities, which another log Z changes
        counts = np.ones((len(found["log_normalizer"]), len(fit.train)))
        np.put_along_axis(counts, fit.draws.parameters["validation_rows"], 0, axis=1)
        held_out = out_of_bag(backends.ops(fit.backend).log_prob(fit.pair, found, view), counts)
    result = dataclasses.replace(fit, draws=dataclasses.replace(fit.draws, posterior=posterior, held_out=held_out))
    result.__dict__["pair"] = fit.pair  # and with it the compiled programs
    return result


def draw_table(pair: Pair, parameters: Mapping[str, np.ndarray], number: int, seed: int) -> np.ndarray:
    """(number, *row): rows from the density of one member, as :func:`draw`."""
    return draw(pair, {name: np.asarray(v)[None] for name, v in parameters.items()}, np.zeros(number, int), seed)


def draw(pair: Pair, posterior: Mapping[str, np.ndarray], index: np.ndarray, seed: int) -> np.ndarray:
    """(len(index), *row): row i from the density of member ``index[i]``, in model space: a state of its chains at
    random, moved on at temperature 1."""
    tempering = import_backend("ppl_gen.backends", f"{pair.backend}_tempering", pair.backend)
    used, whose, counts = np.unique(index, return_inverse=True, return_counts=True)
    size = SAMPLE_ROWS[int(counts.max()) > SAMPLE_ROWS[0]]
    plan = Walk(Moves(), SAMPLE_MOVES, 1, SAMPLE_MOVES)

    def one(at: int) -> np.ndarray:
        values = {name: np.asarray(value[used[at]]) for name, value in posterior.items()}
        states = values["chain"].reshape(-1, *values["chain"].shape[2:])
        parameters = tempering.member({name: value for name, value in values.items() if name not in SITES})
        rng = np.random.default_rng([seed, int(used[at])])
        flat = states.reshape(len(states), -1).astype(np.float64)
        scale = np.maximum(flat.std(0), 1e-3 * flat.std(0).max() + 1e-6)
        starts = states[rng.integers(len(states), size=-(-int(counts[at]) // size) * size)]
        parts = [
            tempering.walk(pair, parameters, part, scale, plan, int(rng.integers(2**31 - 1)))[0][:, 0]
            for part in np.split(starts, len(starts) // size)
        ]
        return np.concatenate(parts)[: counts[at]]

    found = tempering.over_members(one, len(used))
    drawn = np.empty((len(index), *found[0].shape[1:]), found[0].dtype)
    for at, rows in enumerate(found):
        drawn[whose == at] = rows
    return drawn


def row_error(posterior: Mapping[str, np.ndarray], log_prob: np.ndarray) -> np.ndarray:
    r"""(rows,): standard error of the log of a mean density over members, :math:`\log \frac1S \sum_s p_s(x)`, that the
    log Z of each leaves: members' errors are independent, so :math:`\sqrt{\sum_s (r_s e_s)^2}` with member s's share
    :math:`r_s` of the sum (delta method).

    :param log_prob: (members, rows).
    """
    errors = posterior["log_normalizer_error"].astype(np.float64)
    if not np.isfinite(errors).all():
        return np.full(log_prob.shape[1], np.inf)
    shares = np.exp(log_prob - logsumexp(log_prob, axis=0))
    return np.asarray(np.sqrt(((shares * errors[:, None]) ** 2).sum(0)))


def precision(fit: Fit, error: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None, bool]:
    """Of a score whose rows' errors these are: errors and k-hats (rows,), None where log Z is exact; and whether it is
    known at all, else there is a warning."""
    if not is_normalized(fit.posterior):
        warn("These scores lack log Z: only differences between rows of the same fit mean anything. "
             "fit.normalize('smc') estimates it.")  # fmt: skip
        return error, None, False
    if not (fit.posterior["log_normalizer_error"] > 0).any():
        return None, None, True
    return error, np.full(len(error), float(fit.posterior["log_normalizer_k_hat"].max())), True
