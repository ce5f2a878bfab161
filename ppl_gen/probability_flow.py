r"""The density of a diffusion model by its probability flow, apart from a backend: its solver and its probes.

With :math:`\tau = -\lambda / 2`, half the log of noise over signal, rows z of the noise level :math:`\tau` follow

.. math::
    \frac{dz}{d\tau} = \alpha (\alpha z - \hat e(z)), \qquad
    \log p(z_0) = \log \mathrm{N}(z_1; 0, I)
        + \int_{\tau_0}^{\tau_1} \alpha^2 F - \alpha \operatorname{tr} \frac{\partial \hat e}{\partial z}\, d\tau

(Song et al. 2021, arXiv:2011.13456, eqs. 13 and 39, in the time in which neither end is steep), solved by
``NUM_STEPS`` equal steps (``FEW_STEPS`` for particles of z_0) of Dormand & Prince's method
(:mod:`ppl_gen.runge_kutta`). A row of real columns is :math:`z_0 / \alpha_0` but for its unit.

The trace is exact where the denoiser has it in closed form, and by as many directional derivatives as there are
numbers for up to 20 numbers. Beyond, it is Hutchinson's estimate, the mean of v' (de/dz) v over ``NUM_PROBES`` vectors
v of random signs (Grathwohl et al. 2019, arXiv:1810.01367, eq. 7), the same for every row, fit and backend, so that a
density is the same whenever it is asked for.
"""

from __future__ import annotations

import numpy as np

MAX_EXACT = 20  # numbers up to which the trace is exact, whatever the denoiser
NUM_PROBES = 8
NUM_STEPS, FEW_STEPS = 32, 16  # of rows; of z_0, whose particles are further apart than the solver is off


def probes(size: int) -> tuple[np.ndarray, bool]:
    """The directions (K, F) of the derivatives that make the trace, and whether they make it exactly, as a sum, or in
    the mean."""
    if size <= MAX_EXACT:
        return np.eye(size), True
    return np.random.default_rng(0).choice([-1.0, 1.0], (NUM_PROBES, size)), False
