"""An energy-based model resolved for a table's columns: the layout of its weights, their starts, and what is not
trained."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.models.flow import Flow
from ppl_gen.models.flow import architecture as flow_layers
from ppl_gen.networks import Layout, Weight, initial_weights, perceptron_layout

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.ebm import EBM

TAPS = 3  # of a convolution, along each side
MAX_FULL = 100  # columns up to which the normal base has a full covariance of its own accord
ROWS_PER_COLUMN = 10  # from which it has
LEAST_SCALE = 1e-6
GAIN = 2.0  # variance of a weight at first, times the inputs of its layer


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
    """``family`` for D columns.

    ``layout``  the weights: ``shift`` and ``log_scale`` (D,), by which columns are standardized, ``base_*``,
                ``energy_*``
    ``is_full`` whether the normal base has a full covariance
    ``levels``  (height, width, channels) of an image as it is read, and after each convolution; () of a table
    ``flow``    the layers of the flow base
    """

    family: EBM
    num_columns: int
    layout: Layout
    is_full: bool
    levels: tuple[tuple[int, int, int], ...] = ()
    flow: flow_layers.Architecture | None = None

    @property
    def num_dense(self) -> int:
        """Dense layers of the energy."""
        return len(self.family.hidden) + 1


def resolve(family: EBM, schema: Schema, num_obs: int) -> Architecture:
    """The architecture for these columns."""
    width, image, flow = len(schema.targets), None, None
    layout = {"shift": Weight((width,)), "log_scale": Weight((width,))}
    enough = num_obs >= ROWS_PER_COLUMN * width and width <= MAX_FULL
    is_full = family.base == "normal" and (family.covariance == "full" or (family.covariance == "auto" and enough))
    if is_full:
        layout |= {"base_lower": Weight((width, width)), "base_log_diagonal": Weight((width,))}
    if family.base == "uniform":
        layout |= {"base_centre": Weight((width,)), "base_log_half_width": Weight((width,))}
    if family.base == "flow":
        flow = flow_layers.resolve(Flow("realnvp", num_layers=family.num_layers, hidden=family.hidden), schema)
        layout |= {f"base_{name}": weight for name, weight in flow.layout.items()}
    levels, reads = [], width
    if family.energy == "conv":
        assert schema.image is not None
        height, breadth, *image = schema.image
        levels.append((height, breadth, image[0] if image else 1))
        for i, channels in enumerate(family.channels):
            height, breadth, inputs = levels[-1]
            taps = TAPS**2 * inputs
            layout |= {
                f"energy_conv_{i}_weight": Weight((taps, channels), (GAIN / taps) ** 0.5),
                f"energy_conv_{i}_bias": Weight((channels,)),
            }
            levels.append((-(-height // 2), -(-breadth // 2), channels))
        reads = int(np.prod(levels[-1]))
    if not family.is_given:
        layout |= {f"energy_{n}": w for n, w in perceptron_layout([reads, *family.hidden, 1], gain=GAIN).items()}
    return Architecture(family, width, layout, is_full, tuple(levels), flow)


def initialize(architecture: Architecture, view: View, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """Independent starts of the weights, each (num_starts, *shape); the base is that of the rows."""
    values = initial_weights(architecture.layout, seed, num_starts)
    x = np.asarray(view.x, np.float64)
    weights = np.ones(len(x)) if view.weights is None else np.asarray(view.weights, np.float64)
    share = weights / weights.sum()
    mean = share @ x
    scale = np.maximum(np.sqrt(share @ (x - mean) ** 2), LEAST_SCALE)
    values["shift"] += mean
    values["log_scale"] += np.log(scale)
    if architecture.is_full:
        z = (x - mean) / scale
        covariance = (share[:, None] * z).T @ z + LEAST_SCALE * np.eye(len(mean))
        chol = scale[:, None] * np.linalg.cholesky(covariance)
        values["base_lower"] += np.tril(chol, -1)
        values["base_log_diagonal"] += np.log(np.diag(chol))
    if architecture.family.base == "uniform":
        low, high = x.min(0), x.max(0)
        half = (0.5 + architecture.family.margin) * np.maximum(high - low, LEAST_SCALE)
        values["base_centre"] += 0.5 * (low + high)
        values["base_log_half_width"] += np.log(half)
    if architecture.flow is not None:
        values["base_shift"] += mean
        values["base_log_scale"] += np.log(scale)
    return values


def idle(architecture: Architecture, view: Any) -> tuple[str, ...]:
    """The weights that are not trained: what is known of the rows, and the base but for a flow."""
    own = ("shift", "log_scale")
    return (
        own if architecture.flow is not None else tuple(n for n in architecture.layout if n[:5] == "base_" or n in own)
    )
