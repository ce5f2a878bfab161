r"""Implicit densities, of rows :math:`x = G(z)` that a network makes of noise: two surrogates of log p(x).

``"ais"``        :math:`\log p_\sigma(x) = \log \int p(z)\, p_\sigma(x \mid z)\, dz` under the family's observation
                 model, by annealed importance sampling through the generator (:mod:`ppl_gen.latent_paths`; Wu, Burda,
                 Salakhutdinov & Grosse 2017, arXiv:1611.04273): a density, of rows under noise about the generator's
``"log_ratio"``  :math:`\log p_{data}(x) - \log p_G(x)` as the discriminator estimates it: no density

Of an ensemble p is the mean over members, so its log ratio is :math:`-\log \frac1S \sum_s e^{-r_s(x)}`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from ppl_gen import backends, importance
from ppl_gen.annealing import Moves
from ppl_gen.errors import SettingError, UnsupportedError, did_you_mean
from ppl_gen.latent_paths import ROW, START_MOVES, Annealed, RowPath
from ppl_gen.metrics import highest_density_interval, standard_deviation
from ppl_gen.normalizer import AIS
from ppl_gen.registry import import_backend
from ppl_gen.scores import Score
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.family import Family
    from ppl_gen.pair import Pair
    from ppl_gen.result import Fit

SURROGATES = ("ais", "log_ratio")
DEFAULT = AIS(num_temperatures=200, num_chains=32, num_leapfrogs=5, target_accept=0.65)
BLOCK = 1024  # chains side by side in one program
POLISH = 10  # moves at the end of the path, before a way back
CONDITIONAL_ESS = 0.75  # of the steps of a pilot
PILOT, FORWARD, REVERSE, ONWARD = range(4)  # runs, each with random numbers of its own


def is_implicit(fit: Fit) -> bool:
    """Whether rows are made by a generator, and have no density."""
    return fit.pair.generate is not None


def resolve(surrogate: Any) -> AIS | str:
    """The settings of annealed importance sampling, or ``"log_ratio"``; None is the default, ``"ais"``.

    :raises SettingError: it is none of them.
    """
    if surrogate is None or surrogate == "ais":
        return DEFAULT
    if isinstance(surrogate, AIS) or surrogate == "log_ratio":
        return surrogate
    names = " Or settings such as AIS(num_temperatures=1000)."
    if not isinstance(surrogate, str):
        raise SettingError(f"surrogate must be 'ais' or 'log_ratio', not of {type(surrogate).__name__}.{names}")
    raise SettingError(f"Unknown surrogate of a density, {surrogate!r}: {did_you_mean(surrogate, SURROGATES)}{names}")


def check_surrogate(families: Sequence[Family], judged: Sequence[Family], surrogate: Any) -> None:
    """Raise a :class:`SettingError` where families without a density would be ranked with others unasked, or can't be.

    :param judged: those of fits that are to be judged by the rows that they were fitted to.
    """
    without = [family.name for family in families if family.density == "implicit"]
    if not without:
        if surrogate is not None:
            raise SettingError("surrogate stands for a density where a family has none, and all of these have one: "
                               "leave it out.")  # fmt: skip
        return
    if surrogate is None and len(without) < len(families):
        raise SettingError(
            f"{without[0]} has no density that could be ranked with those of others. A surrogate can: that of its rows "
            "under noise of observation_sd, by annealed importance sampling. Ask for it by name: surrogate='ais'."
        )
    if resolve(surrogate) == "log_ratio":
        raise SettingError("surrogate='log_ratio' is how a discriminator sees the rows, no density, and ranks no "
                           "models: use surrogate='ais'.")  # fmt: skip
    if any(family.density == "implicit" for family in judged):
        raise SettingError(f"A fit of {without[0]} has no held-out densities: give rows that it has not seen as test, "
                           "or the family, which is refitted to folds.")  # fmt: skip


def refuse(fit: Fit, name: str, value: Any) -> None:
    """Raise an :class:`UnsupportedError` where an option of implicit densities is given to another fit."""
    if value is not None and not is_implicit(fit):
        raise UnsupportedError(f"{name} is for families without a density, such as gan; {fit.family.name} has an "
                               f"{fit.family.density_for(fit.schema)} one: leave it out.")  # fmt: skip


def backend_of(pair: Pair) -> ModuleType:
    """The backend's module of chains in latent space."""
    return import_backend("ppl_gen.backends", f"{pair.backend}_latent_chains", pair.backend)


def moves_of(settings: AIS) -> Moves:
    """How the chains of these settings move."""
    return settings.moves._replace(conditional_ess=CONDITIONAL_ESS)


def row_seeds(view: View, seed: int, run: int) -> np.ndarray:
    """(n,) of each row's random numbers: they depend on what is in the row, not on where it stands."""
    start = zlib.crc32(f"{seed} {run}".encode())
    parts = [np.ascontiguousarray(part, np.float64) for part in (view.x, view.context) if part is not None]
    return np.array([zlib.crc32(b"".join(part[i].tobytes() for part in parts), start) for i in range(len(parts[0]))])


class Estimates(NamedTuple):
    """Of n rows under one member: log density in model space, its standard error, Pareto k-hat of the weights and the
    mean log weight, a lower bound on average, each (n,); where the chains ended, ``z`` (n, K, L), with their
    ``log_weights`` (n, K), and the last ``log_step`` (n,)."""

    log_prob: np.ndarray
    error: np.ndarray
    k_hat: np.ndarray
    elbo: np.ndarray
    z: np.ndarray
    log_weights: np.ndarray
    log_step: np.ndarray


def blocks(view: View, number: int, num_chains: int) -> list[tuple[np.ndarray, int]]:
    """The rows of each block, all of one size, the last filled up, and how many of them are new: one program then
    serves any number of rows."""
    size = max(1, BLOCK // num_chains)
    starts = range(0, number, size)
    return [(np.arange(start, start + size) % number, min(size, number - start)) for start in starts]


def estimate(pair: Pair, parameters: Mapping[str, np.ndarray], view: View, settings: AIS, seed: int) -> Estimates:
    """Annealed importance sampling of each row under one member; see :mod:`ppl_gen.latent_paths`.

    :param view: of numpy arrays.
    """
    backend, shared = backend_of(pair), view._replace(weights=None)
    parts = blocks(shared, len(view.x), settings.num_chains)

    def one(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        part = shared.take(rows)
        found = pilot(backend, pair, ROW, parameters, part, settings, row_seeds(part, seed, PILOT))
        path = found.refined(settings.num_temperatures).padded(room(settings))
        found = backend.anneal(pair, ROW, parameters, part, path, moves_of(settings), row_seeds(part, seed, FORWARD),
                               settings.num_chains)  # fmt: skip
        return found.z, found.log_weights, path.log_step[-1]

    found = backend.over_blocks(one, [rows for rows, _ in parts])
    kept = [[array[:new] for array in each] for each, (_, new) in zip(found, parts, strict=True)]
    z, log_weights, log_step = (np.concatenate(each) for each in zip(*kept, strict=True))
    value, error = mean_weight(log_weights)
    return Estimates(value, error, importance.k_hat(log_weights), log_weights.mean(1), z, log_weights, log_step)


def room(settings: AIS) -> int:
    """Steps for which there is room in the program that pilot, forward and reverse run share."""
    return settings.num_temperatures + max(POLISH, START_MOVES)


def pilot(
    backend: ModuleType, pair: Pair, target: str, parameters: Mapping[str, np.ndarray], view: View, settings: AIS,
    seeds: np.ndarray, moves: Moves | None = None,
) -> Annealed:  # fmt: skip
    """The run that chooses temperatures and step sizes of each row."""
    path = RowPath.empty(room(settings), len(seeds))
    return backend.anneal(pair, target, parameters, view, path, moves or moves_of(settings), seeds, settings.num_chains,
                          adaptive=True)  # fmt: skip


def mean_weight(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of the mean weight over chains (n, K), and its standard error by the delta method, (n,) each."""
    number = log_weights.shape[1]
    value = logsumexp(log_weights, axis=1) - np.log(number)
    return value, np.exp(log_weights - value[:, None]).std(axis=1, ddof=1) / np.sqrt(number)


def members(fit: Fit) -> list[dict[str, np.ndarray]]:
    """{site: (*event)} of each member."""
    number = len(next(iter(fit.posterior.values())))
    return [{name: value[s] for name, value in fit.posterior.items()} for s in range(number)]


def rows_of(data: Data) -> View:
    """The rows, and what they are conditioned on, in numpy."""
    view = data.view("numpy")
    return View(view.x, context=view.context)


def log_prob_rows(fit: Fit, data: Data, posterior: Mapping[str, np.ndarray]) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, log p(x) (draws, rows)) under these draws of weights, nats, original units."""
    if not len(data):
        return
    each = [{name: value[s] for name, value in posterior.items()} for s in range(len(next(iter(posterior.values()))))]
    found = [estimate(fit.pair, one, rows_of(data), DEFAULT, 0).log_prob for one in each]
    yield slice(0, len(data)), np.stack(found) + fit.schema.log_jacobian(None)


def log_ratios(fit: Fit, view: View) -> np.ndarray:
    """(members, n): log p_data / p_G at rows of data, as each member's discriminator estimates it, nats."""
    ops, found = backends.ops(fit.backend), []
    for rows, window in importance.windows(len(view.x), importance.CHUNK_VALUES // max(view.x.shape[1], 1)):
        values = ops.hook_over_draws(fit.pair, "discriminator", fit.posterior, view.take(window))
        found.append(values[:, rows.start - window.start :])
    return np.concatenate(found, axis=1).astype(np.float64)


def score(fit: Fit, data: Data, surrogate: Any, *, hdi_prob: float, keep: bool, seed: int) -> Score:
    """See :meth:`ppl_gen.result.Fit.score`."""
    from ppl_gen.scoring import as_dataarray, is_discrete, num_entries

    chosen, view = resolve(surrogate), rows_of(data)
    error = k_hat = elbo = None
    if not len(data):
        values = np.empty((len(members(fit)), 0))
        predictive = np.empty(0)
    elif chosen == "log_ratio":
        values = log_ratios(fit, data.view(fit.backend))
        predictive = np.log(len(values)) - logsumexp(-values, axis=0)
    else:
        assert isinstance(chosen, AIS)
        found = [estimate(fit.pair, member, view, chosen, seed) for member in members(fit)]
        jacobian = fit.schema.log_jacobian(None)
        values = np.stack([each.log_prob for each in found]) + jacobian
        predictive = logsumexp(values, axis=0) - np.log(len(values))
        shares = np.exp(values - logsumexp(values, axis=0))
        error = np.sqrt(((shares * np.stack([each.error for each in found])) ** 2).sum(0))
        k_hat = np.max([each.k_hat for each in found], axis=0)
        elbo = logsumexp(np.stack([each.elbo for each in found]) + jacobian, axis=0) - np.log(len(values))
    return Score(
        log_predictive=predictive, sd=standard_deviation(values), hdi=highest_density_interval(values, hdi_prob),
        kind=fit.family.density_for(fit.schema), hdi_prob=hdi_prob, uncertainty=fit.uncertainty,
        log_prob=as_dataarray(fit, [values]) if keep else None, steps=data.sequence_labels(),
        num_entries=num_entries(data), discrete=is_discrete(data), error=error, elbo=elbo, k_hat=k_hat,
        surrogate="log_ratio" if chosen == "log_ratio" else "ais",
    )  # fmt: skip
