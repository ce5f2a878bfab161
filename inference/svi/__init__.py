r"""Stochastic variational inference (Hoffman, Blei, Wang & Paisley 2013, J. Mach. Learn. Res. 14).

Maximizes the evidence lower bound ``ELBO = E_q[log p(x, theta) - log q(theta)]`` by Adam over the guide's parameters,
enumerated latents summed out. Training stops when the ELBO does, by a rule on its own noise (``stopping.py``), and
the parameters are averaged over the last window (iterate averaging; Dhaka et al. 2020, arXiv:2009.00666). Pareto
k-hat of the importance ratios says whether the guide may be believed (Yao et al. 2018, arXiv:1802.02538).

The weights of networks are parameters without a prior. They are fitted by maximum likelihood, as a deep ensemble of
members from starts of their own (Lakshminarayanan, Pritzel & Blundell 2017, arXiv:1612.01474): Adam (Kingma & Ba 2015,
arXiv:1412.6980) on mini-batches, each member's loss watched on rows that it does not train on. A member's weights are
a running mean of its iterates, as it was when that loss was least.

Where a guide proposes local latents z of each row, as the encoder of an autoencoder does, the weights of model and
guide are fitted together, by one of two bounds, with the family's :math:`\beta` (1 in most):

.. math::
    \text{elbo} = \mathrm{E}_q \log p(x \mid z) - \beta \sum_j \max(\lambda, \mathrm{KL}_j), \qquad
    \text{iwae} = \mathrm{E} \log \tfrac1K \sum_k p(x \mid z_k)\, (p(z_k) / q(z_k \mid x))^\beta

:math:`\mathrm{KL}_j` is that of dimension j of z, averaged over the rows of a step, in closed form between normals, and
:math:`\lambda` the free bits (Kingma et al. 2016, arXiv:1606.04934, eq. 15; Burda, Grosse & Salakhutdinov 2016,
arXiv:1509.00519, eq. 8).

Of a diffusion model the guide is given, and the bound is that of its chain, with KL divergences in closed form and one
time of each row in a step; validation rows are taken at several times each, the same ones at every look.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from ppl_gen.engine import Engine
from ppl_gen.errors import SettingError, UnsupportedError

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

__all__ = ["SVI"]

OBJECTIVES = ("elbo", "iwae")


@dataclasses.dataclass(frozen=True)
class SVI(Engine):
    """Settings of stochastic variational inference.

    Where the family has priors, a guide is fitted to the posterior. The weights of networks have none: an ensemble of
    members is fitted by maximum likelihood then, and options of a guide are not used.

    :param guide: ``"mean_field"`` (independent normals in unconstrained space), ``"multivariate"`` (one normal with
        full covariance), or a guide function of the user's own in the backend's PPL. Not used by an ensemble.
    :param learning_rate: Adam's, at its height. None: 0.02 of a guide, 0.002 of an ensemble. A guide's decays as
        1/sqrt(t) after the first window, a member's falls to a fifth, and once more, where its loss stalls.
    :param max_steps: optimizer steps at most (of each member), rounded up to whole windows.
    :param window: steps between looks at a guide's loss; the stopping rule compares windows. An ensemble's window is as
        many whole passes over the training rows as have at least 50 steps, whatever is said here.
    :param patience: windows without a rise of the ELBO beyond its standard error before training stops; of a member
        windows without a new best validation loss before its learning rate is lowered, or the third time it stops.
    :param batch_size: rows per step. None: of a guide all rows up to 10,000, else 1,000; of an ensemble 256, and 512
        from 20,000 rows on.
    :param num_particles: guide draws per step. None: 4 of a guide; of local latents 1 under ``"elbo"`` and 8 under
        ``"iwae"``. Not used by an ensemble without local latents.
    :param objective: of local latents: ``"elbo"``, or ``"iwae"``, the bound of K = ``num_particles`` particles.
    :param annealing: of local latents: steps in which beta rises from 0 to the family's, so that the decoder learns to
        use them before they have a price (Bowman et al. 2016, arXiv:1511.06349). Training goes on for as long at least.
    :param free_bits: of local latents under ``"elbo"``: nats of each dimension that have no price.
    :param num_samples: draws kept from the fitted guide. Not used by an ensemble.
    :param num_starts: k-means starts, the best EM solution of which the guide is centred on at first. Not used by an
        ensemble.
    :param num_members: of an ensemble: networks, each with a start, a split and an order of the rows of its own.
    :param validation: of an ensemble: share of the rows, 10,000 of them at most, that each member holds out of its
        training. Their loss says when it stops, and which of its weights are kept; with 0 the training loss does.
    :param clip: of an ensemble: the largest norm of a step's gradient, of nats a row; a longer one is shortened to it.
    """

    name: ClassVar[str] = "svi"
    title: ClassVar[str] = "stochastic variational inference: draws from a fitted guide, or an ensemble of networks"
    trains_weights: ClassVar[bool] = True

    guide: str | Callable[..., Any] = "mean_field"
    learning_rate: float | None = None
    max_steps: int = 20_000
    window: int = 500
    patience: int = 2
    batch_size: int | None = None
    num_particles: int | None = None
    num_samples: int = 1000
    num_starts: int = 10
    num_members: int = 4
    validation: float = 0.1
    clip: float = 10.0
    objective: str = "elbo"
    annealing: int = 0
    free_bits: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.guide):
            self.require_choice("guide", ("mean_field", "multivariate"))
        if self.learning_rate is not None:
            self.require_number("learning_rate", 0.0)
        for name in ("max_steps", "window", "patience", "num_samples", "num_starts", "num_members"):
            self.require_integer(name, 1)
        for name in ("batch_size", "num_particles"):
            if getattr(self, name) is not None:
                self.require_integer(name, 1)
        self.require_choice("objective", OBJECTIVES)
        self.require_integer("annealing", 0)
        bits = self.free_bits
        real = isinstance(bits, int | float) and not isinstance(bits, bool) and 0 <= bits < float("inf")
        self.require("free_bits", real, "a number of at least 0")
        if self.annealing >= self.max_steps:
            raise SettingError(f"SVI: beta would rise over annealing={self.annealing} steps, but max_steps is "
                               f"{self.max_steps}: lower the one or raise the other.")  # fmt: skip
        if self.objective == "iwae" and self.free_bits:
            raise SettingError("SVI: free_bits are of the KL divergence in objective='elbo', 'iwae' has none: leave "
                               "one out.")  # fmt: skip
        if self.objective == "iwae" and self.num_particles == 1:
            raise SettingError("SVI: objective='iwae' with num_particles=1 is the ELBO: raise num_particles.")
        share = self.validation
        ok = isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 0.5
        self.require("validation", ok, "a number from 0 to 0.5")
        self.require_number("clip", 0.0)

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
    def num_particles_of_guide(self) -> int:
        """Draws per step of a guide over parameters."""
        return self.num_particles or 4

    @property
    def num_particles_of_weights(self) -> int:
        """Draws per step of local latents."""
        return self.num_particles or (8 if self.objective == "iwae" else 1)

    def run(self, pair: Pair, data: Data, *, seed: int, monitor: Monitor) -> Draws:
        """Fit the pair to the data.

        :raises UnsupportedError: the density is unnormalised, and so has no evidence lower bound.
        :raises SettingError: a setting is of local latents, and the pair has none.
        """
        if pair.tempered is not None:
            name, able = pair.family.name, " or ".join(pair.family.engines)
            raise UnsupportedError(f"Engine 'svi' maximizes a likelihood, and that of {name} has a normaliser which is "
                                   f"not known: fit it by {able}.")  # fmt: skip
        if pair.noising is not None:
            for name in ("objective", "annealing", "free_bits", "num_particles"):
                if getattr(self, name) != getattr(type(self)(), name):
                    raise SettingError(f"SVI: {name} has no meaning for {pair.family.name}: its guide is given, and a "
                                       "step takes one time of each row's chain. Leave it out.")  # fmt: skip
        elif not pair.local:
            defaults = type(self)()
            for name in ("objective", "annealing", "free_bits"):
                if getattr(self, name) != getattr(defaults, name):
                    raise SettingError(
                        f"SVI: {name} is for families with a guide over local latents, such as vae (and flow over "
                        f"whole-number columns); {pair.family.name} has none here: leave it out."
                    )
        if pair.label is not None and self.objective == "iwae":
            raise SettingError("SVI: objective='iwae' sums a label out by importance sampling, which leaves its "
                               "classifier q(y | x) without a gradient: with label= use objective='elbo'.")  # fmt: skip
        return super().run(pair, data, seed=seed, monitor=monitor)
