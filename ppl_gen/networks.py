"""Neural weights of a family, the same for both backends: their names, shapes, masks and starting values."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from ppl_gen.errors import SettingError


@dataclasses.dataclass(frozen=True)
class Weight:
    """One array of weights: its shape, the standard deviation of its start, normal about ``centre``, and that of its
    prior, normal about the same, in units of the family's ``prior_scale``."""

    shape: tuple[int, ...]
    spread: float = 0.0
    centre: float = 0.0
    prior: float = 1.0


Layout = Mapping[str, Weight]


def initial_weights(layout: Layout, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """{name: (num_starts, *shape)}, float64: independent starts. The same seed gives the same values."""
    values = {}
    for name, (weight, child) in zip(
        layout, zip(layout.values(), np.random.SeedSequence(seed).spawn(len(layout)), strict=True), strict=True
    ):
        rng = np.random.default_rng(child)
        values[name] = weight.centre + weight.spread * rng.standard_normal((num_starts, *weight.shape))
    return values


def perceptron_layout(sizes: Sequence[int], *lead: int, last: float = 1e-2, gain: float = 2.0) -> dict[str, Weight]:
    """Weights ``weight_i`` (*lead, n_i, n_i+1) and biases ``bias_i`` (*lead, n_i+1) of a perceptron with rectified
    linear units (He et al. 2015, arXiv:1502.01852, eq. 10), its last layer ``last`` times as wide: near 0 at first.

    The prior's standard deviation is 1 of a bias and 1/sqrt(n_i) of a weight, so that a layer's outputs have the same
    scale whatever its width (Neal 1996, Bayesian Learning for Neural Networks, sec. 2.1).

    :param lead: leading axes, of layers that are scanned over.
    :param gain: variance of a weight at first, times n_i: 2 for rectified linear units, 1 for tanh.
    """
    layout, number = {}, len(sizes) - 1
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        spread = np.sqrt(gain / max(fan_in, 1)) if i < number - 1 else last / np.sqrt(max(fan_in, 1))
        prior = 1 / np.sqrt(max(fan_in, 1))
        layout[f"weight_{i}"] = Weight((*lead, fan_in, fan_out), float(spread), prior=float(prior))
        layout[f"bias_{i}"] = Weight((*lead, fan_out))
    return layout


GUIDE_SCALE = 1e-2  # standard deviations of a guide over weights at first: noise in every weight adds up in a layer
MAX_MULTIVARIATE = 2000  # weights up to which a guide may have a full covariance


def check_guide(kind: str, layout: Layout) -> None:
    """Raise a :class:`SettingError` where a guide of this kind over these weights would not fit into memory."""
    number = sum(int(np.prod(weight.shape)) for weight in layout.values())
    if kind == "multivariate" and number > MAX_MULTIVARIATE:
        raise SettingError(
            f"guide='multivariate' would have a covariance of {number:,} x {number:,}: use guide='mean_field', or sgld."
        )


def degree_masks(inputs: np.ndarray, hidden: Sequence[int], outputs: np.ndarray) -> list[np.ndarray]:
    """0/1 masks (n_i, n_i+1) with which an output of degree d depends on the inputs of lower degree only (Germain,
    Gregor, Murray & Larochelle 2015, arXiv:1502.03509, eq. 8 and 9). Hidden units have evenly spread degrees m: they
    see inputs of degree m at most, and are seen by outputs of degree above m.

    :param inputs: (n_0,) degrees: from 1, and 0 of inputs that every output may depend on.
    :param hidden: widths of the hidden layers.
    :param outputs: (n,) degrees, from 1.
    """
    highest = int(outputs.max())
    lowest = 0 if highest == 1 or (inputs == 0).any() else 1
    degrees = [inputs, *(lowest + np.arange(n) * (highest - lowest) // n for n in hidden)]
    masks = [right >= left[:, None] for left, right in itertools.pairwise(degrees)]
    return [mask.astype(float) for mask in [*masks, outputs > degrees[-1][:, None]]]


def autoregressive_masks(
    order: np.ndarray, num_context: int, hidden: Sequence[int], num_outputs: int
) -> list[np.ndarray]:
    """The masks of :func:`degree_masks` for D columns of one input each: output j depends on the inputs that come
    before it in ``order`` only, and on all of the context, which stands after the inputs. Outputs are
    (num_outputs, D) in a row, the column last.

    :param order: (D,) the place of each input, from 0.
    """
    inputs = np.concatenate([order + 1, np.zeros(num_context, int)])
    return degree_masks(inputs, hidden, np.tile(order + 1, num_outputs))
