"""The course of training by contrasts, in any backend: the plan, what is recorded, when a member has diverged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ppl_gen.engine import Draws, out_of_bag
from ppl_gen.errors import FitError, warn
from ppl_gen.inference.contrastive import ACCEPTED, Contrastive
from ppl_gen.inference.svi import SVI
from ppl_gen.inference.svi.ensemble import Split

if TYPE_CHECKING:
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

FIGURES = ("energy_gap", "validation_gap", "gradient_norm", "acceptance", "step_size")
ADAPT = 0.1  # of what the share of accepted steps is above its target is added to the log of the step size
STEPS = {"gibbs": 5, "langevin": 20, "mala": 20, "hmc": 1, "nuts": 1}  # of a sampler in a training step
START_STEP = 0.1  # of model space, where columns have standard deviation 1
GAP, GAP_PER_COLUMN = 10.0, 2.0  # nats
TRACED, TRACE_LENGTH = 16, 128  # chains that are looked at after training, and states of each
PART_ROWS = 2048  # training rows that validation rows are compared with


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings resolved for a pair and a number of rows.

    ``betas``    (R,) inverse temperatures of the chains, the first 1
    ``blocks``   batches of chains, which are moved in turn
    ``restart``  share of the chains of a batch that begin anew
    ``total``    windows
    ``max_gap``  nats
    """

    settings: Contrastive
    split: Split
    sampler: str
    num_steps: int
    betas: tuple[float, ...]
    blocks: int
    restart: float
    total: int
    max_gap: float

    @classmethod
    def of(cls, pair: Pair, settings: Contrastive, num_obs: int, num_columns: int, seed: int) -> Plan:
        own = SVI(num_members=settings.num_members, validation=settings.validation, batch_size=settings.batch_size)
        split, sampler = Split.of(num_obs, own, seed), settings.sampler_for(pair)
        tempered = settings.num_temperatures > 1
        restart = settings.restart
        if restart is None:
            restart = 0.0 if sampler == "gibbs" or tempered else 0.01
        blocks = -(-(settings.num_chains or 1) // split.batch_size) if settings.persistent else 0
        return cls(
            settings, split, sampler, settings.num_steps or STEPS[sampler],
            tuple(np.linspace(1.0, 0.0, settings.num_temperatures).tolist()) if tempered else (1.0,), blocks, restart,
            -(-settings.max_steps // split.steps), settings.max_gap or GAP + GAP_PER_COLUMN * num_columns,
        )  # fmt: skip

    @property
    def adapts(self) -> bool:
        return self.sampler != "gibbs" and self.settings.step_size is None

    @property
    def target(self) -> float:
        """The share of accepted steps that step sizes are adapted for."""
        return ACCEPTED.get(self.sampler, 0.0)

    @property
    def start_step(self) -> float:
        return self.settings.step_size or START_STEP

    @property
    def rate(self) -> float:
        """The learning rate at first."""
        return self.settings.rate_by(self.sampler)

    @property
    def half(self) -> float:
        """The steps after which the learning rate falls."""
        return 0.5 * self.total * self.split.steps

    @property
    def key(self) -> tuple[object, ...]:
        """What programs depend on."""
        return (self.settings, self.split.train.shape, self.split.validation.shape)


class Course:
    """What is known of the members so far: figures of each window, {name: [(M,), ...]}, and which have diverged."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.windows = plan, 0
        self.figures: dict[str, list[np.ndarray]] = {name: [] for name in FIGURES}
        self.diverged_at = np.full(plan.settings.num_members, -1)  # steps, or -1

    @property
    def going(self) -> np.ndarray:
        return self.diverged_at < 0

    @property
    def done(self) -> bool:
        return self.windows >= self.plan.total or not self.going.any()

    def update(self, found: Mapping[str, np.ndarray]) -> np.ndarray:
        """Take the figures (M,) of a window; which members are well.

        :raises FitError: a member has diverged before there were any weights to keep.
        """
        self.windows += 1
        for name in FIGURES:
            self.figures[name].append(np.asarray(found[name], np.float64))
        gap, norm = self.figures["energy_gap"][-1], self.figures["gradient_norm"][-1]
        well = np.isfinite(gap) & np.isfinite(norm) & (np.abs(gap) <= self.plan.max_gap)
        new = self.going & ~well
        self.diverged_at = np.where(new, self.windows * self.plan.split.steps, self.diverged_at)
        if new.any() and self.windows == 1:
            steps, rate = self.plan.split.steps, self.plan.rate
            raise FitError(f"Contrastive: the energies of rows and negatives ran apart within {steps} steps; lower "
                           f"learning_rate (now {rate:g}), raise num_steps, or drop a column that follows from "
                           "others.")  # fmt: skip
        return self.going

    def tell(self, monitor: Monitor) -> None:
        """Show where training stands."""
        monitor.worth_keeping = True
        going, steps, shown = self.going, self.plan.split.steps, {}
        if going.any():
            shown = {name: float(self.figures[name][-1][going].mean()) for name in ("energy_gap", "acceptance")}
        monitor.update(self.windows * steps, self.plan.total * steps, **shown)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.array(values) for name, values in self.figures.items() if values}

    def restore(self, packed: Mapping[str, np.ndarray]) -> None:
        """Go back to a checkpoint."""
        for values in zip(*(packed[name] for name in FIGURES), strict=True):
            self.update(dict(zip(FIGURES, values, strict=True)))

    def result(
        self, parameters: Mapping[str, np.ndarray], row_log_prob: Callable[[Mapping[str, np.ndarray]], np.ndarray],
        chains: Mapping[str, np.ndarray], num_obs: int, interrupted: bool,
    ) -> Draws:  # fmt: skip
        """The members as chains of one draw each.

        :param parameters: {site: (M, *shape)}, normalised.
        :param chains: ``negative_chain`` (M, C, T, *row) and ``negative_energy`` (M, C, T), with the weights as they
            are in the end; {} where nothing was trained.
        """
        plan, arrays = self.plan, self.arrays
        members, validation = plan.settings.num_members, plan.split.validation
        held_out = None
        if validation.shape[1] and "log_normalizer" in parameters:
            counts = np.ones((members, num_obs))
            np.put_along_axis(counts, validation, 0, axis=1)
            held_out = out_of_bag(row_log_prob(parameters), counts)
        if not self.going.all():
            steps = ", ".join(f"{at:,}" for at in self.diverged_at[~self.going])
            number, rate = int((~self.going).sum()), plan.rate
            warn(f"Contrastive: {number} of {members} members diverged (after {steps} steps) and keep the weights of "
                 f"the window before; lower learning_rate (now {rate:g}), raise num_steps, or set weight_decay or "
                 "energy_decay.")  # fmt: skip
        last = np.where(self.going, self.windows, self.diverged_at // plan.split.steps - 1) - 1
        figures = {
            f"last_{name}": float(np.mean(values[last, np.arange(members)])) for name, values in arrays.items()
        }  # fmt: skip
        return Draws(
            posterior={name: np.asarray(value)[:, None] for name, value in parameters.items()}, uncertainty="ensemble",
            held_out=held_out,
            interrupted=interrupted, parameters={**arrays, **chains, "validation_rows": validation},
            figures={
                "num_steps": self.windows * plan.split.steps, "num_members": members,
                "num_diverged": int((~self.going).sum()), "max_gap": plan.max_gap, **figures,
            },
        )  # fmt: skip
