"""What is known of the hidden path, in torch: the hooks of a pair for sequences, the twin of ``numpyro_paths``.

Each is for one set of parameters. Where noise is drawn, a seed fixes it; without one it comes from torch's global
state, and under ``torch.func.vmap(..., randomness="different")`` anew for each draw of the parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppl_gen.models.hmm import pyro_chain as chain
from ppl_gen.models.hmm import pyro_walks as walks
from ppl_gen.models.hmm.pyro_emission import Emission, Sites, complete, emission_log_prob, first_state, has_zeros

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.hmm.hyperparameters import Hyperparameters


def _tables(
    hyper: Hyperparameters, parameters: Sites, view: View
) -> tuple[Sites, torch.Tensor, torch.Tensor, torch.Tensor]:
    """All sites, the first state's probabilities, the transition matrix and the emission table."""
    sites = complete(hyper, parameters)
    return sites, first_state(hyper, sites), sites["transition_matrix"], emission_log_prob(hyper, sites, view)


def step_log_prob(hyper: Hyperparameters, parameters: Sites, view: View) -> torch.Tensor:
    """(N, T): log p(x_t | x_1..t-1), 0 past the end; sums over t to log p(x)."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    steps = chain.forward(initial, transition, table, has_zeros(hyper))[1]
    if view.mask is None:
        return steps
    # Nothing observed has log density 0 but for rounding, and for a first step whose states' weights sum to K.
    return torch.where(view.mask.any(-1) | (torch.arange(steps.shape[1]) == 0), steps, 0.0)


def filtered(hyper: Hyperparameters, parameters: Sites, view: View) -> torch.Tensor:
    """(N, T, K): p(z_t | x_1..t); past the end the prediction."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    return chain.forward(initial, transition, table, has_zeros(hyper))[0]


def smoothed(hyper: Hyperparameters, parameters: Sites, view: View) -> torch.Tensor:
    """(N, T, K): p(z_t | x) given the whole sequence; past the end the prediction."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    return chain.expectations(initial, transition, table, exact=has_zeros(hyper))[3]


def most_probable_path(hyper: Hyperparameters, parameters: Sites, view: View) -> torch.Tensor:
    """(N, T): the path of largest joint density given the sequence; past the end its last state."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    return walks.most_probable_path(initial, transition, table, view.lengths)


def sample_paths(hyper: Hyperparameters, parameters: Sites, view: View, seed: int | None = None) -> torch.Tensor:
    """(N, T): a draw of the path given the sequence; past the end a draw of its continuation."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    probs = chain.forward(initial, transition, table, has_zeros(hyper))[0]
    with walks.seeded(seed):
        return walks.sample_paths(transition, probs)


def forecast(
    hyper: Hyperparameters, parameters: Sites, view: View, horizon: int, seed: int | None = None
) -> dict[str, torch.Tensor]:
    """A draw of the continuation of each sequence: states ``z`` (N, horizon) and time steps ``x`` (N, horizon, D)."""
    sites, initial, transition, table = _tables(hyper, parameters, view)
    probs = chain.forward(initial, transition, table, has_zeros(hyper))[0]
    last = probs[:, -1] if view.lengths is None else probs[torch.arange(len(probs)), view.lengths.long() - 1]
    with walks.seeded(seed):
        z = walks.simulate(last @ transition, transition, horizon)
        return {"z": z, "x": Emission(hyper, sites, z).sample()}
