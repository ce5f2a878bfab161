r"""Stochastic variational inference (Hoffman, Blei, Wang & Paisley 2013, J. Mach. Learn. Res. 14).

Maximizes the evidence lower bound ``ELBO = E_q[log p(x, theta) - log q(theta)]`` by Adam over the guide's parameters,
enumerated latents summed out. Training stops when the ELBO does, by a rule on its own noise (``stopping.py``), and
the parameters are averaged over the last window (iterate averaging; Dhaka et al. 2020, arXiv:2009.00666). Pareto
k-hat of the importance ratios says whether the guide may be believed (Yao et al. 2018, arXiv:1802.02538).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from ppl_gen.engine import Engine

if TYPE_CHECKING:
    from ppl_gen.family import Pair

__all__ = ["SVI"]


@dataclasses.dataclass(frozen=True)
class SVI(Engine):
    """Settings of stochastic variational inference.

    :param guide: ``"mean_field"`` (independent normals in unconstrained space), ``"multivariate"`` (one normal with
        full covariance), or a guide function of the user's own in the backend's PPL.
    :param learning_rate: Adam's, at its height; it decays as 1/sqrt(t) after the first window.
    :param max_steps: optimizer steps at most.
    :param window: steps between looks at the loss; the stopping rule compares windows.
    :param patience: windows without a rise of the ELBO beyond its standard error before training stops.
    :param batch_size: rows per step; None: all rows up to 10,000, else 1,000.
    :param num_particles: guide draws per step.
    :param num_samples: draws kept from the fitted guide.
    :param num_starts: k-means starts, the best EM solution of which the guide is centred on at first.
    """

    name: ClassVar[str] = "svi"
    title: ClassVar[str] = "stochastic variational inference: draws from a fitted guide"
    trains_weights: ClassVar[bool] = True

    guide: str | Callable[..., Any] = "mean_field"
    learning_rate: float | None = None
    max_steps: int = 20_000
    window: int = 500
    patience: int = 2
    batch_size: int | None = None
    num_particles: int = 4
    num_samples: int = 1000
    num_starts: int = 10
    num_members: int = 4
    validation: float = 0.1
    clip: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.guide):
            self.require_choice("guide", ("mean_field", "multivariate"))
        if self.learning_rate is not None:
            self.require_number("learning_rate", 0.0)
        for name in ("max_steps", "window", "patience", "num_particles", "num_samples", "num_starts", "num_members"):
            self.require_integer(name, 1)
        if self.batch_size is not None:
            self.require_integer("batch_size", 1)

    def rows_per_step(self, num_obs: int) -> int | None:
        """The mini-batch size for a table of this many rows; None means all rows."""
        size = self.batch_size or (num_obs if num_obs <= 10_000 else 1_000)
        return size if size < num_obs else None

    @property
    def rate_of_guide(self) -> float:
        """The learning rate of a guide's parameters."""
        return 0.02 if self.learning_rate is None else self.learning_rate

    @property
    def rate_of_weights(self) -> float:
        """The learning rate of network weights."""
        return 2e-3 if self.learning_rate is None else self.learning_rate

    def rate_for(self, pair: Pair) -> float:
        """The learning rate of a guide over this pair's parameters."""
        return self.rate_of_weights if pair.has_weights else self.rate_of_guide

    @property
    def num_particles_of_weights(self) -> int:
        return 1
