"""What is known of the hidden path, in torch: the hooks of a pair for sequences, the twin of ``numpyro_paths``.

Each is for one set of parameters. Where noise is drawn, a seed fixes it; without one it comes from torch's global
state, and under ``torch.func.vmap(..., randomness="different")`` anew for each draw of the parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ppl_gen.models.hmm import pyro_chain as chain
from ppl_gen.models.hmm import pyro_switching as switching
from ppl_gen.models.hmm import pyro_walks as walks
from ppl_gen.models.hmm.pyro_emission import (
    Emission,
    Sites,
    complete,
    emission_log_prob,
    first_state,
    has_zeros,
    transitions,
)

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.hmm.hyperparameters import Hyperparameters


def _tables(
    hyper: Hyperparameters, parameters: Sites, view: View
) -> tuple[Sites, torch.Tensor, torch.Tensor, torch.Tensor]:
    """All sites, the first state's probabilities, the transitions and the emission table."""
    sites, steps = complete(hyper, parameters), view.x.shape[1]
    transition = transitions(hyper, sites, None if view.context is None else view.context[:, :steps])
    return sites, first_state(hyper, sites), transition, emission_log_prob(hyper, sites, view)


def _recursions(hyper: Hyperparameters) -> Any:
    """The module of the recursions: of transitions that are the same at every step, or not."""
    return switching if hyper.num_context else chain


def _walks(hyper: Hyperparameters) -> Any:
    return switching if hyper.num_context else walks


def step_log_prob(hyper: Hyperparameters, parameters: Sites, view: View) -> torch.Tensor:
    """(N, T): log p(x_t | x_1..t-1), 0 past the end; sums over t to log p(x)."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    steps = _recursions(hyper).forward(initial, transition, table, has_zeros(hyper))[1]
    if view.mask is None:
        return steps
    # Nothing observed has log density 0 but for rounding, and for a first step whose states' weights sum to K.
    return torch.where(view.mask.any(-1) | (torch.arange(steps.shape[1]) == 0), steps, 0.0)


def filtered(hyper: Hyperparameters, parameters: Sites, view: View) -> torch.Tensor:
    """(N, T, K): p(z_t | x_1..t); past the end the prediction."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    return _recursions(hyper).forward(initial, transition, table, has_zeros(hyper))[0]


def smoothed(hyper: Hyperparameters, parameters: Sites, view: View) -> torch.Tensor:
    """(N, T, K): p(z_t | x) given the whole sequence; past the end the prediction."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    return _recursions(hyper).expectations(initial, transition, table, exact=has_zeros(hyper))[3]


def most_probable_path(hyper: Hyperparameters, parameters: Sites, view: View) -> torch.Tensor:
    """(N, T): the path of largest joint density given the sequence; past the end its last state."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    return _walks(hyper).most_probable_path(initial, transition, table, view.lengths)


def sample_paths(hyper: Hyperparameters, parameters: Sites, view: View, seed: int | None = None) -> torch.Tensor:
    """(N, T): a draw of the path given the sequence; past the end a draw of its continuation."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    probs = _recursions(hyper).forward(initial, transition, table, has_zeros(hyper))[0]
    with walks.seeded(seed):
        return _walks(hyper).sample_paths(transition, probs)


def forecast(
    hyper: Hyperparameters, parameters: Sites, view: View, horizon: int, seed: int | None = None
) -> dict[str, torch.Tensor]:
    """A draw of the continuation of each sequence: states ``z`` (N, horizon) and time steps ``x`` (N, horizon, D). With
    covariates those of the future follow those of the past in the context, (N, T + horizon, C)."""
    sites, initial, transition, table = _tables(hyper, parameters, view)
    probs = _recursions(hyper).forward(initial, transition, table, has_zeros(hyper))[0]
    lengths = torch.full((len(probs),), view.x.shape[1]) if view.lengths is None else view.lengths.long()
    last = torch.take_along_dim(probs, lengths[:, None, None] - 1, 1)[:, 0]
    with walks.seeded(seed):
        if hyper.num_context:
            ahead = (lengths[:, None] + torch.arange(-1, horizon))[..., None]
            following = transitions(hyper, sites, torch.take_along_dim(view.context, ahead, 1))
            z = switching.simulate(last, following)[:, 1:]
        else:
            z = walks.simulate(last @ transition, transition, horizon)
        return {"z": z, "x": Emission(hyper, sites, z).sample()}
