r"""A continuous flow, apart from a backend: its layout and its probes.

.. math:: \frac{dx}{dt} = f(x, t; w), \qquad \frac{d \log p(x_t)}{dt} = -\operatorname{tr} \frac{\partial f}{\partial x}

(Chen, Rubanova, Bettencourt & Duvenaud 2018, arXiv:1806.07366, theorem 1), from the base at t = 0 to the rows at t = 1;
f is a perceptron of x, t and the context with tanh between its layers (Grathwohl et al. 2019, arXiv:1810.01367).

The solver takes ``num_layers`` equal steps of Dormand & Prince's method (:mod:`ppl_gen.runge_kutta`).

The trace is exact where the perceptron has one or two hidden layers, as it then costs no more than f itself: with
h_1, h_2 the hidden values and V the rows of W_0 that x meets,

.. math::
    \operatorname{tr} \frac{\partial f}{\partial x} = \sum_{jk} (1 - h_{1j}^2) (W_1)_{jk} (W_2 V)_{kj} (1 - h_{2k}^2)

It is exact too, by as many directional derivatives as there are columns, for up to 20 columns. Beyond, it is
Hutchinson's estimate, the mean of v' (df/dx) v over ``num_probes`` vectors v of random signs (Grathwohl et al., eq. 7),
which are part of the architecture: the same for every row, fit and backend, so that a density is the same whenever it
is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppl_gen.networks import Weight, perceptron_layout

if TYPE_CHECKING:
    from ppl_gen.models.flow import Flow

MAX_EXACT = 20  # columns up to which the trace is exact whatever the number of hidden layers


def layout(family: Flow, columns: int, context: int) -> dict[str, Weight]:
    """The perceptron: its inputs are the columns, the time and the context, in this order."""
    return perceptron_layout([columns + 1 + context, *family.hidden, columns], gain=1.0)


def probes(family: Flow, columns: int) -> tuple[np.ndarray | None, bool]:
    """The directions (K, D) of the derivatives that make the trace, or None where a closed form does; and whether they
    make it exactly, as a sum, or in the mean."""
    if len(family.hidden) <= 2:
        return None, True
    if columns <= MAX_EXACT:
        return np.eye(columns), True
    return np.random.default_rng(0).choice([-1.0, 1.0], (family.num_probes, columns)), False
