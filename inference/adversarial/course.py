"""The course of training a generator, in any backend: the plan, what is recorded, when a member stops, the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.engine import Draws
from ppl_gen.errors import FitError, SettingError, warn
from ppl_gen.inference.adversarial.calibrated import Calibrated
from ppl_gen.inference.svi import SVI
from ppl_gen.inference.svi.ensemble import DECAYS, MIN_STEPS, Plateau, Split

if TYPE_CHECKING:
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

SNAPSHOTS = (1 / 32, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)  # shares of the windows after which samples are kept
SNAPSHOT_ROWS, SNAPSHOT_VALUES = 500, 50_000  # rows of one, and numbers in one at most
LOOK_ROWS = 2048  # held-out rows that a discriminator's accuracy is found from
SEED = 7  # of the noise that samples of a course are made of, and validation losses: the same at each time
RATIO_FIGURES = ("ratio_train_loss", "ratio_validation_loss")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings resolved for a pair and a number of rows.

    ``size``          rows of a batch, a multiple of the pair's pack
    ``batches``       in a pass over the training rows
    ``passes``        of a window of the first phase, and ``ratio_passes`` of the second
    ``steps``         of a window of the first phase, ``ratio_steps`` of the second
    ``total``         windows of the first phase, at most ``ratio_total`` of the second
    """

    settings: Calibrated
    split: Split
    pack: int
    ratio: tuple[str, ...] = ()

    @classmethod
    def of(cls, pair: Pair, settings: Calibrated, num_obs: int, seed: int) -> Plan:
        own = SVI(num_members=settings.num_members, validation=settings.validation, batch_size=settings.batch_size)
        split = Split.of(num_obs, own, seed)
        assert pair.adversary is not None
        pack = pair.adversary.pack
        if split.batch_size < pack:
            raise SettingError(f"{settings.label}: a batch has {split.batch_size} rows, and the discriminator judges "
                               f"{pack} at once (pack): raise batch_size, or lower pack.")  # fmt: skip
        return cls(settings, split, pack, pair.adversary.ratio)

    @property
    def members(self) -> range:
        return range(self.settings.num_members)

    @property
    def size(self) -> int:
        return self.split.batch_size // self.pack * self.pack

    @property
    def batches(self) -> int:
        return self.split.train.shape[1] // self.size

    @property
    def passes(self) -> int:
        return -(-MIN_STEPS * self.settings.batches_per_step // self.batches)

    @property
    def steps(self) -> int:
        return self.passes * self.batches // self.settings.batches_per_step

    @property
    def total(self) -> int:
        return -(-self.settings.max_steps // self.steps)

    @property
    def half(self) -> float:
        """The steps after which learning rates fall."""
        return 0.5 * self.total * self.steps

    @property
    def ratio_passes(self) -> int:
        return -(-MIN_STEPS // self.batches)

    @property
    def ratio_steps(self) -> int:
        return self.ratio_passes * self.batches

    @property
    def ratio_total(self) -> int:
        return -(-self.settings.ratio_steps // self.ratio_steps)

    @property
    def snapshots(self) -> tuple[int, ...]:
        """The windows after which samples are kept."""
        return tuple(sorted({max(round(share * self.total), 1) for share in SNAPSHOTS}))

    def snapshot_rows(self, num_columns: int, num_obs: int) -> int:
        return max(min(SNAPSHOT_ROWS, SNAPSHOT_VALUES // num_columns, num_obs), 1)

    @property
    def look_rows(self) -> int:
        """Rows that figures of the discriminator are found from: held-out ones where there are enough."""
        number = self.split.validation.shape[1] or self.split.train.shape[1]
        return min(number, LOOK_ROWS) // self.pack * self.pack

    @property
    def key(self) -> tuple[object, ...]:
        """What programs depend on."""
        return (self.settings, self.split.train.shape, self.split.validation.shape)


class Course:
    """What is known of the members so far: figures of each window, {name: [(M,), ...]}, samples, who has stopped."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.settings = plan, plan.settings
        self.figures: dict[str, list[np.ndarray]] = {name: [] for name in (*self.settings.figures, *RATIO_FIGURES)}
        self.snapshots: list[np.ndarray] = []
        self.diverged_at = np.full(self.settings.num_members, -1)  # steps, or -1
        self.plateau = Plateau(self.settings.num_members, self.settings.patience)

    @property
    def windows(self) -> int:
        return len(self.figures["generator_loss"])

    @property
    def ratio_windows(self) -> int:
        return len(self.figures["ratio_train_loss"])

    @property
    def going(self) -> np.ndarray:
        """Which members are yet to train their generators."""
        return self.diverged_at < 0

    @property
    def trained(self) -> bool:
        """Whether the first phase is over."""
        return self.windows >= self.plan.total or not self.going.any()

    @property
    def calibrated(self) -> bool:
        """Whether the second phase is over."""
        return self.ratio_windows >= self.plan.ratio_total or bool(self.plateau.stopped.all())

    def update(self, found: Sequence[Mapping[str, float] | None]) -> np.ndarray:
        """Take the figures of a window, of each member that still goes; which are well.

        :param found: with ``finite``, whether all weights are finite.
        :raises FitError: a member has diverged before there were any weights to keep.
        """
        well = np.zeros(len(found), bool)
        values = {name: np.full(len(found), np.nan) for name in self.settings.figures}
        for i, each in enumerate(found):
            if each is not None:
                well[i] = bool(each["finite"]) and np.isfinite(each["generator_loss"])
                for name in values:
                    values[name][i] = each[name]
        self._take(values, well)
        if self.windows == 1 and not well.all():
            raise FitError(
                f"{self.settings.label}: losses are no longer finite within {self.plan.steps} steps; lower "
                f"learning_rate (now {self.settings.learning_rate:g}), or choose another loss or regularizer."
            )
        return well

    def _take(self, values: Mapping[str, np.ndarray], well: np.ndarray) -> None:
        for name in self.settings.figures:
            self.figures[name].append(np.asarray(values[name], np.float64))
        self.diverged_at = np.where(self.going & ~well, self.windows * self.plan.steps, self.diverged_at)

    def update_ratio(self, losses: np.ndarray) -> np.ndarray:
        """Take the losses (M, 2) of a window of the second phase; which members have a new best.

        :raises FitError: a member's loss was never finite.
        """
        for name, values in zip(RATIO_FIGURES, losses.T, strict=True):
            self.figures[name].append(np.asarray(values, np.float64))
        better = self.plateau.update(losses[:, 1])
        if not np.isfinite(self.plateau.best).all():
            raise FitError(f"{self.settings.label}: the logistic loss of the log ratio is not a number; lower "
                           f"ratio_learning_rate (now {self.settings.ratio_learning_rate:g}).")  # fmt: skip
        return better

    def tell(self, monitor: Monitor) -> None:
        """Show where training stands."""
        monitor.worth_keeping = True
        plan, shown = self.plan, {}
        for name in ("generator_loss", "discriminator_loss", "ratio_validation_loss"):
            values = self.figures.get(name)
            if values and np.isfinite(values[-1]).any() and (name.startswith("ratio") or not self.ratio_windows):
                shown[name] = float(np.nanmean(values[-1]))
        done = self.windows * plan.steps + self.ratio_windows * plan.ratio_steps
        monitor.update(done, plan.total * plan.steps + plan.ratio_total * plan.ratio_steps, **shown)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        found = {name: np.array(values) for name, values in self.figures.items() if values}
        return {**found, "snapshots": np.array(self.snapshots)} if self.snapshots else found

    def restore(self, packed: Mapping[str, np.ndarray]) -> None:
        """Go back to a checkpoint."""
        self.snapshots = list(packed.get("snapshots", ()))
        for window in zip(*(packed[name] for name in self.settings.figures), strict=True):
            values = dict(zip(self.settings.figures, window, strict=True))
            self._take(values, np.ones(len(window[0]), bool))
        self.diverged_at = packed["diverged_at"]
        for losses in zip(*(packed.get(name, ()) for name in RATIO_FIGURES), strict=True):
            self.update_ratio(np.stack(losses, 1))

    def checkpoint(self, monitor: Monitor, state: Mapping[str, np.ndarray]) -> None:
        if monitor.checkpoint_path is not None:
            monitor.save({**state, **self.arrays, "diverged_at": self.diverged_at})

    def result(self, parameters: Mapping[str, Any], interrupted: bool) -> Draws:
        """The members as chains of one draw each."""
        plan, settings, arrays = self.plan, self.settings, self.arrays
        members = settings.num_members
        if not self.going.all():
            steps = ", ".join(f"{at:,}" for at in self.diverged_at[~self.going])
            number, rate = int((~self.going).sum()), settings.learning_rate
            warn(f"{settings.label}: {number} of {members} members diverged (after {steps} steps) and keep the weights "
                 f"of the window before; lower learning_rate (now {rate:g}), or choose another loss or regularizer."
                 )  # fmt: skip
        if not self.ratio_windows:
            parameters = {n: np.zeros_like(v) if n in plan.ratio else v for n, v in parameters.items()}
            warn(f"{settings.label}: training stopped before the log ratio was trained: it says 0 of every row.")
        last = np.where(self.going, self.windows, self.diverged_at // plan.steps - 1) - 1
        figures = {f"last_{name}": float(np.mean(arrays[name][last, np.arange(members)])) for name in settings.figures}
        if self.ratio_windows:
            loss = float(arrays["ratio_validation_loss"][self.plateau.kept, np.arange(members)].mean())
            figures |= {"ratio_loss": loss, "jensen_shannon": max(np.log(2) - loss / 2, 0.0)}
        times = np.array(plan.snapshots[: len(self.snapshots)]) * plan.steps
        return Draws(
            posterior={name: np.asarray(value)[:, None] for name, value in parameters.items()}, uncertainty="ensemble",
            interrupted=interrupted,
            parameters={**arrays, "snapshot_steps": times, "validation_rows": plan.split.validation},
            figures={
                "converged": bool((self.plateau.lowered > DECAYS).all()), "num_steps": self.windows * plan.steps,
                "num_members": members, "num_diverged": int((~self.going).sum()),
                "num_ratio_steps": self.ratio_windows * plan.ratio_steps, **figures,
            },
        )  # fmt: skip
