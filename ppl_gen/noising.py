r"""What a diffusion model is made of, for samplers, densities and bounds that know no family.

Rows x are encoded as numbers e (F,), to which the guide adds noise: with the log signal-to-noise ratio
:math:`\lambda_t`, falling from t = 0 to t = 1,

.. math::
    z_t = \alpha_t e + \sigma_t \epsilon, \qquad \alpha_t^2 = \mathrm{sigmoid}(\lambda_t), \quad
    \sigma_t^2 = \mathrm{sigmoid}(-\lambda_t)

(Kingma, Salimans, Poole & Ho 2021, arXiv:2107.00630, sec. 3). The model's denoiser estimates
:math:`\hat e(z_t) = \mathrm{E}[e \mid z_t]`, and with it the noise :math:`\hat\epsilon = (z_t - \alpha_t \hat e) /
\sigma_t`, the velocity :math:`\hat v = (\alpha_t z_t - \hat e) / \sigma_t` and the score, the gradient of
:math:`\log p(z_t)`, :math:`-\hat\epsilon / \sigma_t`. In :math:`\tau = -\lambda / 2` rows follow the probability flow

.. math::
    \frac{dz}{d\tau} = \alpha \sigma\, \hat v = \alpha (\alpha z - \hat e)

(Song et al. 2021, arXiv:2011.13456, eq. 13; Salimans & Ho 2022, arXiv:2202.00512, appendix D).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ppl_gen.probability_flow import MAX_EXACT

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Noising:
    """A noising process and the denoiser that undoes it, in one backend.

    ``parameters`` is a plain dictionary of arrays, those of one member. n rows are worked on side by side.

    ``size``            F, numbers that a row is encoded as
    ``is_real``         (F,) which of them are real columns: x is z_0 / alpha_0 there but for its unit, exactly by the
                        probability flow, and but for noise of sd sigma_0 / alpha_0 given z_0. The others are labels
                        and counts, which z_0 only makes likely
    ``num_steps``       T, with times i / T; None in continuous time
    ``log_snr``         ``(parameters, t) -> `` log signal-to-noise ratio at times t in [0, 1], of any shape; falling
    ``encode``          ``(parameters, x (n, D)) -> e (n, F)``
    ``decode``          ``(parameters, e (n, F)) -> x (n, D)``: the likeliest rows of which these are the numbers
    ``log_likelihood``  ``(parameters, x (n, D), z_0 (n, F)) -> (n,)``: log p(x | z_0), nats in model space
    ``denoise``         ``(parameters, z (n, F), log_snr (n,) or (), context (n, C) or None) -> (n, F)``: E[e | z]. Of a
                        conditional model without a context the estimate of one whose condition was dropped
    ``linearize``       ``(parameters, z (n, F), log_snr (), context) -> ((n, F), (n,))``: the same, and the trace of
                        its derivative by z in closed form; None where there is none
    ``steady``          ``(parameters) -> parameters`` of the same bound, but with noise levels that do not change in
                        training, so that losses at the same noise compare; None where the levels do not change anyway
    ``drops_context``   whether conditions were dropped in training, so that ``denoise`` means something without one
    """

    size: int
    is_real: np.ndarray
    log_snr: Callable[..., Any]
    encode: Callable[..., Any]
    decode: Callable[..., Any]
    log_likelihood: Callable[..., Any]
    denoise: Callable[..., Any]
    linearize: Callable[..., Any] | None = None
    steady: Callable[..., Any] | None = None
    num_steps: int | None = None
    drops_context: bool = False

    @property
    def is_dear(self) -> bool:
        """Whether the flow's density is an estimate by probes of the denoiser, which takes far longer than the bound
        and is no surer: the bound is the number that is told then."""
        return self.linearize is None and self.size > MAX_EXACT
