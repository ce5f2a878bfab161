r"""How rows are drawn from a diffusion model: settings of the reverse chain, from noise z_1 to z_0.

Noise levels :math:`\lambda_N = \lambda(1) < \dots < \lambda_0 = \lambda(0)`; with :math:`\hat e` the denoiser's
estimate at z_t, :math:`\hat\epsilon = (z_t - \alpha_t \hat e) / \sigma_t` and
:math:`\tilde\sigma^2 = \sigma_s^2 (1 - e^{\lambda_t - \lambda_s})`, the variance of q(z_s | z_t, e), a step t -> s is

``"ode"``                  the probability flow, by the two-step exponential integrator DPM-Solver++(2M) (Lu et al.
                           2022, arXiv:2211.01095, algorithm 2): with :math:`h = (\lambda_s - \lambda_t) / 2` and
                           :math:`\bar e = \hat e + h / (2 h') (\hat e - \hat e')` by the estimate before and its step,
                           :math:`z_s = (\sigma_s / \sigma_t) z_t - \alpha_s (e^{-h} - 1) \bar e`. Deterministic
``"ddim"``                 :math:`z_s = \alpha_s \hat e + \sqrt{\sigma_s^2 - \eta^2 \tilde\sigma^2}\, \hat\epsilon +
                           \eta \tilde\sigma \xi` (Song, Meng & Ermon 2021, arXiv:2010.02502, eq. 12); deterministic at
                           :math:`\eta` = 0: the probability flow by steps of first order
``"ancestral"``            the same at :math:`\eta` = 1: a draw of q(z_s | z_t, e) at :math:`\hat e`, the model's own
                           chain (Ho, Jain & Abbeel 2020, arXiv:2006.11239, algorithm 2)
``"predictor_corrector"``  an ancestral step, then steps of Langevin dynamics at the level s, :math:`z + \epsilon \nabla
                           \log p(z) + \sqrt{2 \epsilon}\, \xi`, :math:`\epsilon = 2 (r \sigma_s)^2` (Song et al. 2021,
                           arXiv:2011.13456, algorithm 3; there the ratio of two norms stands for
                           :math:`\sigma_s`, which makes a row depend on those beside it)

In continuous time there may be any number of steps, equal in :math:`\lambda` for the ode and in the angle
:math:`\arctan(\sigma / \alpha)` for the others: measured on mixtures, these have the least error. In discrete time the
model has T noise levels, of which N are used at even distances.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ppl_gen.errors import SettingError
from ppl_gen.settings import Settings

if TYPE_CHECKING:
    from ppl_gen.noising import Noising

METHODS = ("ode", "ddim", "ancestral", "predictor_corrector")
STEPS = {"ode": 50, "ddim": 50, "ancestral": 250, "predictor_corrector": 100}


@dataclasses.dataclass(frozen=True)
class Sampler(Settings):
    """Settings of a sampler of diffusion models; see :mod:`ppl_gen.samplers`.

    ``method``           ``"ode"``, ``"ddim"``, ``"ancestral"`` or ``"predictor_corrector"``
    ``num_steps``        N; None is 50 (ode, ddim), 250 (ancestral) or 100 (predictor_corrector), at most T
    ``eta``              of ``"ddim"``, noise of a step: 0 none, 1 as much as an ancestral one
    ``num_corrections``  of ``"predictor_corrector"``, steps of Langevin dynamics at each noise level
    ``correction``       of ``"predictor_corrector"``, r: their signal-to-noise ratio
    """

    name: ClassVar[str] = "sampler"

    method: str = "ode"
    num_steps: int | None = None
    eta: float = 0.0
    num_corrections: int = 1
    correction: float = 0.16

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("method", METHODS)
        if self.num_steps is not None:
            self.require_integer("num_steps", 1)
        number = isinstance(self.eta, int | float) and not isinstance(self.eta, bool)
        self.require("eta", number and 0 <= self.eta <= 1, "a number from 0 to 1")
        self.require_integer("num_corrections", 1)
        self.require_number("correction", 0, 1)
        self.refuse_idle(("eta",), self.method == "ddim", "the sampler 'ddim'")
        corrects = self.method == "predictor_corrector"
        self.refuse_idle(("num_corrections", "correction"), corrects, "the sampler 'predictor_corrector'")

    @property
    def noise(self) -> float:
        """Eta of the steps from level to level."""
        return {"ode": 0.0, "ddim": self.eta}.get(self.method, 1.0)

    def steps_of(self, noising: Noising) -> int:
        """N for this noising process.

        :raises SettingError: it has fewer noise levels.
        """
        most = noising.num_steps
        if self.num_steps is None:
            return STEPS[self.method] if most is None else min(STEPS[self.method], most)
        if most is not None and self.num_steps > most:
            raise SettingError(
                f"{self.num_steps} steps are more than the {most} noise levels that the model was fitted with: take at "
                f"most {most}, or fit it in continuous time (the family's num_steps=None), which gives any number."
            )
        return int(self.num_steps)


def make(sampler: Any = None, num_steps: int | None = None, **options: Any) -> Sampler:
    """The sampler of this name, or these settings, with options of its own; None is ``"ode"``.

    :raises SettingError: an unknown sampler or option.
    """
    if num_steps is not None:
        options["num_steps"] = num_steps
    if isinstance(sampler, Sampler):
        return sampler.replace(**options) if options else sampler
    if sampler is not None and not isinstance(sampler, str):
        raise SettingError(f"sampler must be one of {', '.join(METHODS)}, or settings such as "
                           f"Sampler('ddim', num_steps=20), not {sampler!r}.")  # fmt: skip
    return Sampler(sampler or METHODS[0], **options)


def of_options(sampler: str | None, options: Mapping[str, str]) -> Sampler:
    """The sampler of this name with ``name=value`` options, as the command line has them."""
    return Sampler().with_options({"method": sampler or METHODS[0], **options})


def times(num_steps: int, most: int) -> np.ndarray:
    """(N + 1,) times of N steps of a model of ``most`` noise levels, from 1 to 0."""
    return np.rint(np.linspace(most, 0, num_steps + 1)) / most
