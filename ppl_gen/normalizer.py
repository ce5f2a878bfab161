r"""The log normaliser of an unnormalised density, :math:`\log Z = \log \int f(x)\, dx`, with its standard error.

Particles go from the base, whose normaliser is 1, along a path of inverse temperatures
(:mod:`ppl_gen.annealing`). A pilot, which resamples, chooses the path and the moves; the estimate is that of a second
run, along this path, so that nothing it rests on was chosen by its own particles, and :math:`E \hat Z = Z`:

SMC   in G groups of particles, each resampled by itself: :math:`\hat Z` is the mean of theirs, and how far they differ
      says how sure it is. k-hat is that of the weights from one resampling to the next, the worst of all.
AIS   without resampling, on many temperatures: :math:`\hat Z` is the mean weight, its standard error that of a mean.
      k-hat is that of the weights: above 0.7 neither number nor error is to be trusted.

By Jensen's inequality :math:`E \log \hat Z \le \log Z`: a stochastic lower bound. The same path backward, from draws of
the density, gives an estimate of 1/Z without bias, so minus its log is a stochastic upper bound (bidirectional Monte
Carlo; Grosse, Ghahramani & Adams 2015, arXiv:1511.02543). It starts from the chains that training left, where it left
some, moved on, else from where the particles ended; so it is a bound as far as these are draws of the density.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from ppl_gen.annealing import START_MOVES, Moves, Path, Run, Walk, estimates, worst_k
from ppl_gen.errors import SettingError, did_you_mean
from ppl_gen.registry import import_backend
from ppl_gen.settings import Settings

if TYPE_CHECKING:
    from ppl_gen.pair import Pair
    from ppl_gen.view import View

SITES = ("log_normalizer", "log_normalizer_error", "log_normalizer_k_hat", "chain", "annealing")
METHODS = ("auto", "exact", "ais", "smc", "none")
TRAJECTORY = ("inverse_temperature", "log_normalizer", "error", "low", "median", "high", "ess", "acceptance",
              "log_step", "reverse", "reverse_error")  # fmt: skip
ROWS = 101  # of it
POLISH = 10  # moves of what the reverse run starts from
LEVEL_ROWS = 2_000  # about so many say how high a member's densities are


@dataclasses.dataclass(frozen=True)
class _Method(Settings):
    """What both ways share."""

    num_moves: int = 1
    num_leapfrogs: int = 5
    target_accept: float = 0.8
    num_states: int = 64
    thinning: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_moves", "num_leapfrogs", "thinning"):
            self.require_integer(name, 1)
        self.require_integer("num_states", 4)
        self.require_number("target_accept", 0.0, 1.0)

    @property
    def moves(self) -> Moves:
        return Moves(self.num_moves, self.num_leapfrogs, self.target_accept)


@dataclasses.dataclass(frozen=True)
class SMC(_Method):
    """Adaptive tempered sequential Monte Carlo (Del Moral, Doucet & Jasra 2006; Chopin & Papaspiliopoulos 2020, An
    Introduction to Sequential Monte Carlo, ch. 17).

    :param num_particles: in all groups together.
    :param num_groups: groups whose estimates are independent given the path; their differences give the error.
    :param ess: the effective share of particles that a step in temperature of the pilot leaves.
    :param num_refined: steps of the estimate for each step of the pilot.
    :param max_temperatures: steps at most; a pilot that comes to so many ends in one to 1, whatever that costs.
    :param num_moves: sweeps of Gibbs, or trajectories of Hamiltonian Monte Carlo, at each temperature.
    :param num_leapfrogs: of a trajectory.
    :param target_accept: its acceptance rate, which the step size is adapted to.
    :param num_states: states kept of each of the chains, one a group, that go on at temperature 1.
    :param thinning: ``num_moves`` from one state to the next, so many times.
    """

    num_particles: int = 2048
    num_groups: int = 16
    ess: float = 0.9
    num_refined: int = 20
    max_temperatures: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("num_groups", 4)
        self.require_integer("num_refined", 1)
        self.require_integer("max_temperatures", 20)
        self.require_integer("num_particles", 2 * self.num_groups)
        self.require_number("ess", 0.0, 1.0)

    @property
    def moves(self) -> Moves:
        return super().moves._replace(conditional_ess=self.ess)

    def length(self, pilot: Run) -> int:
        """Steps of the estimate, given the pilot."""
        return min(self.num_refined * (len(pilot.beta) - 1), self.max_temperatures)

    @property
    def layout(self) -> tuple[int, int, int]:
        """Particles (a multiple of the groups), groups and temperatures."""
        return -(-self.num_particles // self.num_groups) * self.num_groups, self.num_groups, self.max_temperatures


@dataclasses.dataclass(frozen=True)
class AIS(_Method):
    """Annealed importance sampling (Neal 2001), forward and backward.

    :param num_temperatures: steps from the base to the density, spread as a pilot found them to be equally hard.
    :param num_chains: independent chains, each with a weight.
    :param num_moves: sweeps of Gibbs, or trajectories of Hamiltonian Monte Carlo, at each temperature.
    :param num_leapfrogs: of a trajectory.
    :param target_accept: its acceptance rate, which the step size is adapted to.
    :param num_states: states kept of each of the 16 chains that go on at temperature 1.
    :param thinning: ``num_moves`` from one state to the next, so many times.
    """

    num_temperatures: int = 1000
    num_chains: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("num_temperatures", 20)
        self.require_integer("num_chains", 20)

    def length(self, pilot: Run) -> int:
        """Steps of the estimate."""
        return self.num_temperatures

    @property
    def layout(self) -> tuple[int, int, int]:
        """Chains, one group and temperatures."""
        return self.num_chains, 1, self.num_temperatures


def resolve(method: Any) -> Any:
    """The settings, or ``"auto"``, ``"exact"`` or ``"none"``.

    :raises SettingError: it is none of them.
    """
    if isinstance(method, _Method):
        return method
    if method not in METHODS:
        names = f"{did_you_mean(str(method), METHODS)} Or settings such as AIS(num_temperatures=1000)."
        raise SettingError(f"Unknown way to normalise, {method!r}: {names}")
    return {"ais": AIS(), "smc": SMC()}.get(method, method)


def normalize(
    pair: Pair, posterior: Mapping[str, np.ndarray], view: View | None = None, method: Any = "auto", seed: int = 0
) -> dict[str, np.ndarray]:
    """The posterior with log Z of each member.

    Adds the sites ``log_normalizer``, ``log_normalizer_error`` (standard error, nats) and ``log_normalizer_k_hat``,
    each (members,), ``chain`` (members, C, T, *row), states of Markov chains at temperature 1 in model space, and
    ``annealing`` (members, 101, 11), the path to there (columns :data:`TRAJECTORY`; NaN where there was no run).

    :param posterior: {site: (members, *shape)}; a ``chain`` (members, C, T, *row) of training is where the reverse run
        starts.
    :param view: rows of the table, which ``"none"`` reads.
    :param method: ``"exact"`` (closed form or enumeration), ``"ais"``, ``"smc"``, settings of one of them, ``"auto"``
        (exact where the pair has it, else SMC), or ``"none"``: log Z is not known, of infinite error. In its place
        stands each member's mean log density of the rows (0 without them), so that no member outweighs the others.
    :raises SettingError: an unknown method, or ``"exact"`` where there is none.
    """
    chosen = resolve(method)
    if chosen == "auto":
        chosen = "exact" if pair.log_normalizer is not None else SMC()
    if chosen == "exact" and pair.log_normalizer is None:
        why = pair.lacking.get("log_normalizer", "its sum over all states is too long, or an integral")
        raise SettingError(f"{pair.family.name} has no log Z in closed form here ({why}): use 'smc' or 'ais'.")
    tempering = import_backend("ppl_gen.backends", f"{pair.backend}_tempering", pair.backend)

    def one(index: int) -> dict[str, np.ndarray]:
        values = {name: np.asarray(value[index]) for name, value in posterior.items()}
        return _member(tempering, pair, values, view, chosen, (seed + 7919 * index) % 2**31)

    found = tempering.over_members(one, len(next(iter(posterior.values()))))
    added = {name: np.stack([each[name] for each in found]) for name in SITES}
    dtype = next(iter(posterior.values())).dtype
    return {**posterior, **{name: value.astype(dtype) for name, value in added.items()}}


def is_normalized(posterior: Mapping[str, np.ndarray]) -> bool:
    """Whether log Z of every member is known."""
    return bool(np.isfinite(posterior["log_normalizer_error"]).all())


def _member(
    tempering: ModuleType, pair: Pair, values: dict[str, np.ndarray], view: View | None, method: Any, seed: int
) -> dict[str, np.ndarray]:
    trained = values.get("chain")
    parameters = tempering.member({name: value for name, value in values.items() if name not in SITES})
    settings = method if isinstance(method, _Method) else SMC()
    sites: dict[str, Any] = {"annealing": np.full((ROWS, len(TRAJECTORY)), np.nan)}
    if method in ("exact", "none") and trained is not None:
        sites["chain"] = trained
    else:
        found = _Annealed(tempering, pair, parameters, settings, seed)
        if isinstance(method, _Method):
            sites |= found.estimate(trained)
        sites["chain"] = found.chain()
    if method == "exact":
        return sites | {"log_normalizer": np.asarray(tempering.normalizer(pair, parameters)),
                        "log_normalizer_error": np.zeros(()), "log_normalizer_k_hat": np.asarray(-np.inf)}  # fmt: skip
    if method == "none":
        level, unknown = np.zeros(()) if view is None else _mean_log_density(tempering, pair, parameters, view), np.inf
        return sites | dict(zip(SITES[:3], (level, np.asarray(unknown), np.asarray(unknown)), strict=True))
    return sites


def _mean_log_density(tempering: ModuleType, pair: Pair, parameters: Any, view: View) -> np.ndarray:
    found = tempering.log_density(pair, parameters, np.asarray(view.x)[:: max(1, len(view.x) // LEVEL_ROWS)])
    return np.asarray(np.mean(found[np.isfinite(found)], dtype=np.float64) if np.isfinite(found).any() else 0.0)


def pilot(tempering: ModuleType, pair: Pair, parameters: Any, settings: SMC, seed: int) -> Run:
    """The path that a pilot finds for one member."""
    return _Annealed(tempering, pair, parameters, settings, seed).pilot


class _Annealed:
    """The runs of one member."""

    def __init__(self, tempering: ModuleType, pair: Pair, parameters: Any, settings: Any, seed: int) -> None:
        self.tempering, self.pair, self.parameters, self.settings = tempering, pair, parameters, settings
        self.number, self.groups, self.length = settings.layout
        self.seeds = np.random.SeedSequence(seed).generate_state(6).astype(np.int64) % 2**31
        self.room = self.length + max(POLISH, START_MOVES)
        self.end = self.pilot = self._pilot()

    def _base(self, which: int) -> np.ndarray:
        return self.tempering.base(self.pair, self.parameters, self.number, int(self.seeds[which]))

    def _run(self, x: np.ndarray, path: Path, which: int, **options: Any) -> Run:
        return self.tempering.run(self.pair, self.parameters, x, path.padded(self.room), self.settings.moves,
                                  int(self.seeds[which]), groups=self.groups, **options)  # fmt: skip

    def _pilot(self) -> Run:
        x = self._base(0)
        empty = Path(np.zeros(1), np.ones((1, x[0].size)), np.zeros(1), self.room)
        return self._run(x, empty, 1, adaptive=True)

    def estimate(self, trained: np.ndarray | None) -> dict[str, np.ndarray]:
        """Forward and reverse runs: log Z with its error and k-hat, and the trajectory."""
        many = isinstance(self.settings, AIS)
        path = self.pilot.refined(self.settings.length(self.pilot))
        forward = self._run(self._base(2), path, 3, resample=not many)
        self.end = forward
        starts = self._draws() if trained is None else self._spread(trained)
        reverse = self._run(starts, path.reversed().after_ones(POLISH), 4, resample=not many)
        value, error = estimates(forward)
        k_hat = worst_k(forward)
        return {
            "log_normalizer": value[-1], "log_normalizer_error": error[-1], "log_normalizer_k_hat": np.asarray(k_hat),
            "annealing": _trajectory(forward, reverse),
        }  # fmt: skip

    def _draws(self) -> np.ndarray:
        """Particles as they ended, resampled by their weights."""
        weights = np.exp(self.end.log_weights - logsumexp(self.end.log_weights))
        at = (np.arange(self.number) + np.random.default_rng(self.seeds[5]).random()) / self.number
        return self.end.x[np.minimum(np.searchsorted(np.cumsum(weights), at), self.number - 1)]

    def _spread(self, trained: np.ndarray) -> np.ndarray:
        states = trained.reshape(-1, *trained.shape[2:])
        return states[np.random.default_rng(self.seeds[5]).integers(len(states), size=self.number)]

    def chain(self) -> np.ndarray:
        """(C, T, *row): chains at temperature 1 from particles, far from each other in their order."""
        number = min(max(self.groups, 16), self.number)
        starts = self._draws()[(np.arange(number) * self.number) // number]
        plan = Walk(self.settings.moves, POLISH, self.settings.num_states, self.settings.thinning)
        seed = int(self.seeds[4])
        return self.tempering.walk(self.pair, self.parameters, starts, self.end.scale[-1], plan, seed)[0]


def _trajectory(forward: Run, reverse: Run) -> np.ndarray:
    """(ROWS, len(TRAJECTORY)): what to show of the two runs, at rows evenly spread over the path."""
    value, error = estimates(forward)
    low, median, high = np.quantile(forward.total, [0.05, 0.5, 0.95], axis=1)
    back, back_error = (part[POLISH:][::-1] for part in estimates(reverse))
    columns = (
        forward.beta, value, error, low, median, high, forward.ess * forward.total.shape[1], forward.acceptance,
        forward.log_step,
        # From 1 down to beta it estimates log Z_beta - log Z: less what it says at 0, that is log Z_beta.
        back - back[0], np.full_like(back, back_error[0]),
    )  # fmt: skip
    rows = np.round(np.linspace(0, len(forward.beta) - 1, ROWS)).astype(int)
    return np.stack([np.asarray(column)[rows] for column in columns], axis=1)
