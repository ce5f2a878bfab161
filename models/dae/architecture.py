"""A denoising autoencoder resolved for a table's columns: groups of columns, what corrupts them, layout of weights."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ppl_gen.conditionals import LEAST_SCALE, Group, group_columns, unit_layout
from ppl_gen.models.vae.architecture import MAX_STARTING_VALUES, Grouped, num_outputs, start_outputs
from ppl_gen.networks import Layout, Weight, initial_weights, perceptron_layout

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.dae import DenoisingAutoencoder

LEAST_LOG_SCALE = 1e-3  # of log(1 + count) of a column that hardly varies


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture(Grouped):
    """``family`` for D columns. Of a corrupted row numbers are in standard deviations of their columns, with mean 0,
    labels as they are.

    ``numbers``  the places of real and count columns
    ``is_number`` (D,), ``is_logged`` (D,): those columns, and those of them that stand for log(1 + count)
    ``others``   (D,) float, of a label how many others there are; 1 of numbers
    ``layout``   that of the weights: units, corruption (``noise_*``), network, and the states of the ``chain``
    """

    family: DenoisingAutoencoder
    numbers: np.ndarray
    is_number: np.ndarray
    is_logged: np.ndarray
    others: np.ndarray
    layout: Layout

    @property
    def num_dense(self) -> int:
        """Dense layers of the network."""
        return len(self.family.hidden) + 1

    @property
    def labels(self) -> tuple[Group, ...]:
        """The groups of binary and categorical columns."""
        return tuple(group for group in self.groups if group.kind in ("binary", "categorical"))

    @property
    def num_steps(self) -> tuple[int, int]:
        """Steps of the chain before the first state that is kept, and from one to the next."""
        return self.family.num_warmup, self.family.thinning


def resolve(family: DenoisingAutoencoder, schema: Schema) -> Architecture:
    """The architecture for these columns."""
    groups = group_columns(schema.target_columns, num_outputs, schema.greatest_count)
    width = len(schema.target_columns)
    is_number, is_logged, others = np.zeros(width, bool), np.zeros(width, bool), np.ones(width)
    for group in groups:
        places = np.array(group.columns)
        is_number[places] = group.kind in ("real", "count")
        is_logged[places] = group.kind == "count" and group.upper is None
        others[places] = max(group.num_inputs - 1, 1)
    layout = {name: weight for name, weight in unit_layout(groups).items() if "_input_" not in name}
    layout |= {"noise_shift": Weight((width,)), "noise_log_scale": Weight((width,))}
    reads = sum(group.num_inputs * group.size for group in groups)
    says = sum(group.num_parameters * group.size for group in groups)
    network = perceptron_layout([reads, *family.hidden, says])
    layout |= {f"network_{name}": weight for name, weight in network.items()}
    real = [group.size for group in groups if group.kind == "real"]
    layout |= {"real_raw_scale": Weight((sum(real),))} if real else {}
    layout["chain"] = Weight((family.num_chains, family.num_states, width))
    numbers = np.flatnonzero(is_number).astype(np.int32)
    return Architecture(width, groups, family, numbers, is_number, is_logged, others, layout)


def initialize(architecture: Architecture, view: View, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """Independent starts of the weights, each (num_starts, *shape): numbers are left as the corruption made them,
    labels are as frequent as in the table, and the states of the chain are rows of it at random."""
    values = initial_weights({**unit_layout(architecture.groups), **architecture.layout}, seed, num_starts)
    x = np.asarray(view.x)
    step = max(1, -(-x.size // MAX_STARTING_VALUES))
    some = np.asarray(x[::step], np.float64)
    start_outputs(architecture, values, values[f"network_bias_{architecture.num_dense - 1}"], some)
    read = np.where(architecture.is_logged, np.log1p(np.maximum(some, 0)), some)
    least = np.where(architecture.is_logged, LEAST_LOG_SCALE, LEAST_SCALE["real"])
    for group in architecture.groups:
        if group.upper is not None:
            least[list(group.columns)] = LEAST_SCALE["count"]
    values["noise_shift"] += np.where(architecture.is_number, read.mean(0), 0.0)
    values["noise_log_scale"] += np.where(architecture.is_number, np.log(np.maximum(read.std(0), least)), 0.0)
    chosen = np.random.default_rng([seed, 1]).integers(len(x), size=values["chain"].shape[:3])
    values["chain"] += x[chosen]
    return {name: values[name] for name in architecture.layout}
