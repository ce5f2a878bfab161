r"""Contrastive divergence: maximum likelihood of an unnormalised density, by samples of a Markov chain.

With :math:`f_\theta(x) = \log p_\theta(x) + \log Z(\theta)`, the pair's ``tempered`` at inverse temperature 1 (minus
the energy, or the free energy where there are hidden units),

.. math::
    \nabla_\theta \mathrm{E}_{data} \log p_\theta(x)
    = \mathrm{E}_{data} \nabla_\theta f_\theta(x) - \mathrm{E}_{p_\theta} \nabla_\theta f_\theta(x)

The second mean is that of negatives, k steps of a Markov chain that leaves :math:`p_\theta` as it is. They begin at
the rows of the batch (CD-k; Hinton 2002, Neural Comput. 14, eq. 5), or where they were left (persistent CD; Tieleman
2008, Proc. 25th Int. Conf. Mach. Learn.), from a buffer of which a share begins anew at the base (Du & Mordatch 2019,
arXiv:1903.08689, sec. 3.2). Steps are those of block Gibbs sampling where the pair has the hook ``gibbs``, else of

``"langevin"``  :math:`x' = x + \frac{\epsilon^2}{2} \nabla f(x) + \epsilon \xi`, without a test; a chain whose density
                is 0 goes back to where it was
``"mala"``      the same with Metropolis and Hastings' test (Roberts & Tweedie 1996, Bernoulli 2)
``"hmc"``       ``num_leapfrog`` leapfrog steps and the test (Neal 2011, arXiv:1206.1901)
``"nuts"``      the no-U-turn sampler (Hoffman & Gelman 2014, J. Mach. Learn. Res. 15)

:math:`\epsilon` follows the share of steps that the test accepts, or would accept: after each training step
:math:`\log \epsilon` rises by a tenth of what that share is above its target (Robbins & Monro 1951). Persistent chains
may have sisters at ``num_temperatures - 1`` lower inverse temperatures, down to the base, whose draws are independent,
and change places with their neighbours (parallel tempering; Desjardins et al. 2010, Proc. 13th AISTATS).

The gap :math:`\bar f_{data} - \bar f_{negatives}` is near 0 where training goes well. Where it runs away, or a
gradient is no longer finite, the member stops and keeps the weights of the window before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ppl_gen.engine import Engine
from ppl_gen.errors import SettingError

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.normalizer import AIS, SMC
    from ppl_gen.progress import Monitor

__all__ = ["Contrastive"]

SAMPLERS = ("auto", "gibbs", "langevin", "mala", "hmc", "nuts")
OPTIMIZERS = ("adam", "sgd")
ACCEPTED = {"langevin": 0.9, "mala": 0.57, "hmc": 0.8, "nuts": 0.8}  # shares that step sizes are adapted for


@dataclasses.dataclass(frozen=True)
class Contrastive(Engine):
    """Settings of contrastive divergence. An ensemble of members is trained, each from a start of its own.

    :param sampler: of the negatives: ``"gibbs"``, ``"langevin"``, ``"mala"``, ``"hmc"`` or ``"nuts"``. ``"auto"``:
        gibbs where the pair has it, else langevin.
    :param num_steps: k, steps of the sampler in a training step. None: 5 of gibbs, 1 of nuts and hmc, 20 of the others.
    :param persistent: chains go on from one training step to the next; else they begin at the batch's rows (CD-k).
    :param num_chains: persistent chains of each member, rounded up to whole batches, that are moved in turn, a batch in
        a step. None: as many as a batch has rows.
    :param restart: share of the persistent chains that begin anew at the base each time that they are moved. None:
        0.01, and 0 by gibbs or with parallel tempering.
    :param num_temperatures: inverse temperatures of parallel tempering, evenly spaced from 1 to 0; 1 is none.
    :param step_size: :math:`\\epsilon` of the samplers by gradients, in model space. None: adapted.
    :param num_leapfrog: leapfrog steps of a trajectory of hmc.
    :param optimizer: ``"adam"`` or ``"sgd"``.
    :param momentum: of sgd.
    :param learning_rate: at first; it falls to 0 in the second half of the steps. None: 0.002 of adam (0.01 by
        gibbs), 0.05 of sgd.
    :param max_steps: training steps of each member, rounded up to whole windows of at least 50 steps and one pass.
    :param batch_size: rows, and negatives, in a step. None: 256, and 512 from 20,000 rows on.
    :param weight_decay: half of it times the sum of squares of the weights (not of biases) is added to the loss.
    :param energy_decay: it times the mean squares of the energies of rows and negatives is added (Du & Mordatch 2019,
        eq. 3).
    :param clip: the largest norm of a step's gradient; a longer one is shortened to it.
    :param max_gap: a member whose rows and negatives differ by more in their mean log density has diverged, nats. None:
        10, and 2 for each column.
    :param num_members: networks, each with a start, a split and an order of the rows of its own.
    :param validation: share of the rows, 10,000 of them at most, that each member holds out of its training.
    :param normalizer: how log Z is found after training: ``"auto"`` (exactly where that is possible, else by SMC),
        ``"exact"``, ``"ais"``, ``"smc"``, ``"none"``, or settings, ``AIS(...)`` or ``SMC(...)``.
    """

    name: ClassVar[str] = "contrastive"
    title: ClassVar[str] = "contrastive divergence: an ensemble of unnormalised densities by negatives of Markov chains"
    hooks: ClassVar[tuple[str, ...]] = ("tempered",)
    trains_weights: ClassVar[bool] = True

    sampler: str = "auto"
    num_steps: int | None = None
    persistent: bool = True
    num_chains: int | None = None
    restart: float | None = None
    num_temperatures: int = 1
    step_size: float | None = None
    num_leapfrog: int = 5
    optimizer: str = "adam"
    momentum: float = 0.0
    learning_rate: float | None = None
    max_steps: int = 5_000
    batch_size: int | None = None
    weight_decay: float = 0.0
    energy_decay: float = 0.0
    clip: float = 10.0
    max_gap: float | None = None
    num_members: int = 4
    validation: float = 0.1
    normalizer: str | AIS | SMC = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("sampler", SAMPLERS)
        self.require_choice("optimizer", OPTIMIZERS)
        self.require("persistent", isinstance(self.persistent, bool), "true or false")
        for name in ("num_temperatures", "num_leapfrog", "max_steps", "num_members"):
            self.require_integer(name, 1)
        for name in ("num_steps", "num_chains", "batch_size"):
            if getattr(self, name) is not None:
                self.require_integer(name, 1)
        for name in ("step_size", "learning_rate", "max_gap"):
            if getattr(self, name) is not None:
                self.require_number(name, 0.0)
        self.require_number("clip", 0.0)
        for name in ("weight_decay", "energy_decay"):
            self.require(name, _is_number(getattr(self, name)) and getattr(self, name) >= 0, "a number of at least 0")
        for name, high in (("momentum", 1.0), ("restart", 1.0), ("validation", 0.5)):
            value = getattr(self, name)
            ok = value is None if name == "restart" and value is None else _is_number(value) and 0 <= value <= high
            self.require(name, ok, f"a number from 0 to {high:g}")
        self._check_chains()
        object.__setattr__(self, "normalizer", read_method(self.normalizer))

    def _check_chains(self) -> None:
        if not self.persistent:
            for name, default in (("num_chains", None), ("restart", None), ("num_temperatures", 1)):
                if getattr(self, name) != default:
                    raise SettingError(
                        f"Contrastive: {name} is of persistent chains: leave it or persistent=False out."
                    )
        if self.momentum and self.optimizer == "adam":
            raise SettingError("Contrastive: momentum is of optimizer='sgd', adam has its own: leave one out.")

    def rate_by(self, sampler: str) -> float:
        """The learning rate at first."""
        adam = 1e-2 if sampler == "gibbs" else 2e-3
        return self.learning_rate or {"adam": adam, "sgd": 0.05}[self.optimizer]

    def sampler_for(self, pair: Pair) -> str:
        """The sampler of the negatives of this pair.

        :raises SettingError: it has no conditionals to sample from by gibbs, or no gradient.
        """
        if self.sampler == "gibbs" and pair.gibbs is None:
            raise SettingError("Contrastive: sampler='gibbs' needs conditionals in closed form, and "
                               f"{pair.family.name} has none: use sampler='langevin'.")  # fmt: skip
        if self.sampler == "auto":
            return "langevin" if pair.gibbs is None else "gibbs"
        return self.sampler

    def run(self, pair: Pair, data: Data, *, seed: int, monitor: Monitor) -> Draws:
        """Fit the pair to the data.

        :raises SettingError: the sampler does not fit the pair or its columns.
        """
        if pair.tempered is not None:
            sampler = self.sampler_for(pair)
            other = [column.name for column in data.schema.target_columns if column.kind != "real"]
            if sampler != "gibbs" and other:
                raise SettingError(f"Contrastive: sampler={sampler!r} follows gradients by real columns, and "
                                   f"{other[0]!r} is none: use sampler='gibbs'.")  # fmt: skip
        return super().run(pair, data, seed=seed, monitor=monitor)


def read_method(method: Any) -> Any:
    """How log Z is to be found, read from a file or an option.

    :raises SettingError: it is unknown.
    """
    from ppl_gen.normalizer import AIS, SMC, resolve

    if isinstance(method, Mapping):  # settings, as they are stored
        method = (AIS if "num_chains" in method else SMC)().replace(**method)
    resolve(method)
    return method


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
