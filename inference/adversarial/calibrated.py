r"""Engines that fit a generator of rows, and after it the log ratio of the density of the rows and its own."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppl_gen.engine import Engine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibrated(Engine):
    """What such engines share: members, splits, the mean of the generator's weights, and the second phase, in which the
    pair's ``ratio`` is trained by the logistic loss while the averaged generator is held fixed."""

    hooks: ClassVar[tuple[str, ...]] = ("adversary",)
    trains_weights: ClassVar[bool] = True
    label: ClassVar[str]

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.99)
    ema: float = 0.999
    max_steps: int = 10_000
    batch_size: int = 256
    num_members: int = 4
    validation: float = 0.1
    ratio_steps: int = 5_000
    ratio_learning_rate: float = 2e-3
    patience: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rate", "ratio_learning_rate"):
            self.require_number(name, 0.0)
        betas = self.betas
        ok = isinstance(betas, tuple) and len(betas) == 2 and all(_share(beta) and beta < 1 for beta in betas)
        self.require("betas", ok, "two numbers from 0 to below 1")
        self.require("ema", _share(self.ema) and self.ema < 1, "a number from 0 to below 1")
        self.require("validation", _share(self.validation) and self.validation <= 0.5, "a number from 0 to 0.5")
        for name in ("max_steps", "num_members", "ratio_steps", "patience"):
            self.require_integer(name, 1)
        self.require_integer("batch_size", 2)

    @property
    def batches_per_step(self) -> int:
        """Batches of rows that a step takes."""
        return 1

    @property
    def figures(self) -> tuple[str, ...]:
        """What is recorded of the first phase, a number for each member and window."""
        return ("generator_loss",)


def _share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
