"""What engines have in common that walk along noisy gradients: their settings, the plan of their steps, the units that
they walk in, and how the step size is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ppl_gen.engine import Draws, Engine
from ppl_gen.errors import FitError, SettingError

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

INFLATION = 0.05  # of the variance in the stiffest direction, which the step size is chosen for
CHUNK = 500  # steps per call of the compiled program
NUM_PARTICLES = 16  # of local latents
POWER_ITERATIONS = 20
CURVATURE_ROWS = 5_000  # at most, in the power iteration
DIFFERENCES = (
    0.1,
    0.01,
)  # in a gradient: a tenth of a posterior sd, over the kinks of a network; and without its units
FISHER_BATCHES = 100
HALVINGS = 6  # of a step size that was chosen here, at which chains ran away, before it is given up
SPREAD = 0.05  # noise on starts that EM found, so that chains that begin at the same mode do not begin at one point


@dataclasses.dataclass(frozen=True)
class Walking(Engine):
    """Settings that :class:`ppl_gen.inference.sgld.SGLD` explains."""

    takes_bounds: ClassVar[bool] = True

    num_samples: int = 200
    num_warmup: int = 5000
    num_chains: int = 4
    thinning: int = 100
    batch_size: int | None = None
    precondition: bool = True
    step_size: float | None = None
    decay: float = 0.0
    decay_start: int = 1000
    num_pilot: int = 3000
    learning_rate: float = 2e-3
    num_starts: int = 10
    num_particles: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("num_samples", 4)
        for name in ("num_warmup", "num_pilot"):
            self.require_integer(name, 0)
        for name in ("num_chains", "thinning", "decay_start", "num_starts"):
            self.require_integer(name, 1)
        if self.batch_size is not None:
            self.require_integer("batch_size", 1)
        if self.step_size is not None:
            self.require_number("step_size", 0.0)
        if self.decay != 0:
            self.require_number("decay", 0.0, 1.0 + 1e-12)
        self.require("precondition", isinstance(self.precondition, bool), "true or false")
        self.require_number("learning_rate", 0.0)
        if self.num_particles is not None:
            self.require_integer("num_particles", 1)

    def run(self, pair: Pair, data: Data, *, seed: int, monitor: Monitor) -> Draws:
        """Fit the pair to the data.

        :raises SettingError: particles are asked for, and the pair has no local latents.
        """
        if self.num_particles is not None and not pair.local:
            raise SettingError(f"{self.name}: num_particles is for families with a guide over local latents, such as "
                               f"vae; {pair.family.name} has none here: leave it out.")  # fmt: skip
        return super().run(pair, data, seed=seed, monitor=monitor)

    @property
    def particles(self) -> int:
        """Of local latents: K, of the bound that stands for the likelihood."""
        return self.num_particles or NUM_PARTICLES

    def rate_of_guide(self, number: Any, library: Any) -> Any:
        """The learning rate of the weights of a guide over local latents at this step of the warm-up.

        :param library: whose cosine it is, NumPy or a backend's.
        """
        return self.learning_rate * 0.5 * (1 + library.cos(np.pi * number / max(self.num_warmup, 1)))

    def rows_per_step(self, num_obs: int) -> int | None:
        """The size of a batch for a table of this many rows; None means all rows."""
        size = self.batch_size or (num_obs if num_obs <= 1_000 else 500)
        return size if size < num_obs else None

    def difference(self, num_obs: int) -> float:
        """Half the distance of the gradients whose difference is taken for the curvature."""
        return DIFFERENCES[self.rows_of_fisher(num_obs) is None]

    def rows_of_fisher(self, num_obs: int) -> int | None:
        """The size of the batches that tell how rows' gradients vary; None where there is no preconditioner."""
        return (
            min(self.rows_per_step(num_obs) or num_obs, num_obs // 10, 50)
            if num_obs >= 20 and self.precondition
            else None
        )

    @property
    def total(self) -> int:
        """Steps of the dynamics."""
        return self.num_warmup + self.num_samples * self.thinning

    def noise_factor(self, num_obs: int) -> float:
        """1 + N/B, or 1 where all rows are used."""
        batch = self.rows_per_step(num_obs)
        return 1.0 if batch is None else 1.0 + num_obs / batch

    def inflation(self, step: float, num_obs: int) -> float:
        """By how much steps of this size overstate the variance of a direction where the precision is 1."""
        return step * self.noise_factor(num_obs) / 4

    def largest_step(self, num_obs: int) -> float:
        """The step whose :meth:`inflation` is :data:`INFLATION`."""
        return 4 * INFLATION / self.noise_factor(num_obs)


class Plan:
    """The steps of a run: their sizes, and after which of them the position is looked at.

    ``sizes``   (step,) relative to the first
    ``bounds``  (call, interval + 1): from one look to the next are the intervals of a call; those of the warm-up come
                first, and some at the end may be empty, so that all calls have one shape
    """

    def __init__(self, settings: Walking) -> None:
        self.settings, warmup, number = settings, settings.num_warmup, settings.num_samples
        self.sizes = (1 + np.arange(settings.total) / settings.decay_start) ** -settings.decay
        time = np.cumsum(self.sizes[warmup:])
        wanted = time[-1] * np.arange(1, number + 1) / number
        self.ends = warmup + np.searchsorted(time, wanted * (1 - 1e-9)) + 1
        looks = -(-warmup // settings.thinning)
        self.num_discarded = looks
        bounds = np.concatenate([np.linspace(0, warmup, looks + 1).astype(int), self.ends])
        width = max(1, CHUNK // settings.thinning)
        calls = -(-(len(bounds) - 1) // width)
        bounds = np.concatenate([bounds, np.full(calls * width + 1 - len(bounds), bounds[-1])])
        self.bounds = np.stack([bounds[i * width : (i + 1) * width + 1] for i in range(calls)])

    def kept(self, looks: np.ndarray) -> np.ndarray:
        """Of the positions at all looks so far (chain, look, ...), those after the warm-up: the draws."""
        return looks[:, self.num_discarded : self.num_discarded + self.settings.num_samples]

    def rates(self) -> np.ndarray:
        """(num_pilot,) learning rates of the climb."""
        share = np.arange(self.settings.num_pilot) / max(self.settings.num_pilot, 1)
        return self.settings.learning_rate * 0.5 * (1 + np.cos(np.pi * share))


def climbs(pair: Pair) -> bool:
    """Whether the chains of this pair start with a climb."""
    return pair.e_step is None or pair.m_step is None


def of_guide(pair: Pair, starts: Mapping[str, np.ndarray], sites: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
    """Of the starts {name: (chain, ...)} those that are weights of a guide over local latents, by chain."""
    chains = len(next(iter(starts.values())))
    names = [name for name in starts if pair.local and name not in sites]
    return [{name: np.asarray(starts[name][c]) for name in names} for c in range(chains)]


def with_guide(posterior: dict[str, np.ndarray], guides: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The draws with the weights of each chain's guide, which are the same in all of its draws."""
    draws, found = next(iter(posterior.values())).shape[1], dict(posterior)
    for name in guides[0]:
        values = np.stack([np.asarray(guide[name]) for guide in guides])[:, None]
        found[name] = np.broadcast_to(values, (len(guides), draws, *values.shape[2:])).copy()
    return found


def scales(variances: np.ndarray | None, settings: Walking, num_obs: int, size: int) -> np.ndarray:
    """(dimension,) the units of the walk.

    :param variances: (chain, dimension) of the gradients of batches of ``rows_of_fisher`` rows.
    """
    batch = settings.rows_of_fisher(num_obs)
    if variances is None or batch is None:
        return np.ones(size)
    return 1 / np.sqrt(np.nan_to_num(variances).mean(0) * batch / num_obs + 1)


def choose_step(
    settings: Walking, curvatures: np.ndarray, num_obs: int, halvings: int = 0
) -> tuple[float, dict[str, float]]:
    """The first step size, and figures about it.

    :param curvatures: (chain,) the largest second derivative of minus the log joint at each start.
    :param halvings: how often chains ran away; away from the start the density may be more curved than there.
    :raises FitError: a curvature is not a finite number.
    """
    curvature = float(np.max(curvatures))
    if not np.isfinite(curvature) or curvature <= 0:
        raise FitError(f"{settings.name}: the gradient of the log density is not a number at the start; lower "
                       f"learning_rate (now {settings.learning_rate:g}), or look for outliers.")  # fmt: skip
    step = settings.step_size or settings.largest_step(num_obs) / curvature / 2**halvings
    inflation = settings.inflation(step * curvature, num_obs)
    return step, {"step_size": step, "curvature": curvature, "variance_inflation": inflation}


def ran_away(positions: np.ndarray, done: int, step: float, settings: Walking, halvings: int) -> bool:
    """Whether a chain has run away, and all are to begin anew with half the step.

    :raises FitError: the step size is the user's, or was halved often enough.
    """
    if np.isfinite(positions).all():
        return False
    if settings.step_size is not None or halvings >= HALVINGS:
        raise FitError(f"{settings.name}: the dynamics ran away within {done} steps; lower step_size (now {step:.3g}).")
    return True


def result(
    posterior: dict[str, np.ndarray], settings: Walking, plan: Plan, figures: dict[str, float], num_obs: int,
    interrupted: bool,
) -> Draws:  # fmt: skip
    """The draws with the size of the step that led to each."""
    chains, number = next(iter(posterior.values())).shape[:2]
    sizes = figures["step_size"] * plan.sizes[plan.ends[:number] - 1]
    return Draws(
        posterior=posterior, uncertainty="posterior", interrupted=interrupted,
        sample_stats={"step_size": np.broadcast_to(sizes, (chains, number)).copy()},
        figures={
            **figures, "num_warmup": settings.num_warmup, "thinning": settings.thinning,
            "batch_size": settings.rows_per_step(num_obs) or num_obs,
        },
    )  # fmt: skip
