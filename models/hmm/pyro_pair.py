"""The hidden Markov model in Pyro, the twin of ``numpyro_pair``."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch

from ppl_gen.backends.pyro_normal import as_float
from ppl_gen.backends.pyro_pairs import make_guide, row_weights
from ppl_gen.family import Pair
from ppl_gen.models.hmm import pyro_em, pyro_paths
from ppl_gen.models.hmm.hyperparameters import Hyperparameters, resolve
from ppl_gen.models.hmm.initialize import initialize
from ppl_gen.models.hmm.pyro_chain import safe_log
from ppl_gen.models.hmm.pyro_emission import Emission, HiddenMarkov, first_state, priors
from ppl_gen.view import batch_of, num_rows

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.hmm import HMM


def build_pair(family: HMM, schema: Schema, num_obs: int) -> Pair:
    """The pair for sequences of this schema."""
    hyper = resolve(family, schema)
    make = partial(make_guide, partial(collapsed, hyper), partial(initialize, hyper))
    obstacle = hyper.obstacle
    names = ("step_log_prob", "filtered", "smoothed", "most_probable_path", "sample_paths", "forecast")
    hooks: dict[str, Any] = {name: partial(getattr(pyro_paths, name), hyper) for name in names}
    return Pair(
        family=family, backend="pyro", model=partial(model, hyper), guide=make("mean_field"),
        collapsed=partial(collapsed, hyper), initialize=partial(initialize, hyper), make_guide=make,
        log_prior=partial(pyro_em.log_prior, hyper), is_degenerate=partial(pyro_em.is_degenerate, hyper),
        e_step=partial(pyro_em.e_step, hyper) if not obstacle else None,
        m_step=partial(pyro_em.m_step, hyper) if not obstacle else None,
        lacking=dict.fromkeys(("e_step", "m_step"), obstacle) if obstacle else {},
        **hooks,
    )  # fmt: skip


def model(
    hyper: Hyperparameters, data: View | None, *, num_obs: int | None = None, num_steps: int | None = None,
    subsample_size: int | None = None,
) -> None:  # fmt: skip
    """The definition: every step of every sequence has a state, enumerated in parallel along ``pyro.markov``.

    The sites of step t are ``z_t`` and ``x_t`` (Pyro's loop is Python's, so each needs a name). Under enumeration z has
    shape (K, 1) or (K, 1, 1): the states of two neighbouring steps take the two dimensions left of the plate in turn.
    Only the observation is masked: past the end the states are summed out to 1. A sequence's weight w enters as the
    missing part of the log density, (w - 1) log p(x), as in a mixture.
    """
    sites = _global_sites(hyper)
    start, log_matrix = safe_log(first_state(hyper, sites)), safe_log(sites["transition_matrix"])
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        steps = _num_steps(view, num_steps)
        z: Any = None
        for t in pyro.markov(range(steps)):
            logits = start if t == 0 else log_matrix[z]
            if t > 0 and view is not None and view.context is not None:
                # Of the step before: covariates (N, C) beside states (K, 1), (K, 1, 1) or (N,).
                logits = logits + torch.einsum("...kc,...c->...k", sites["transition_coefs"][z], view.context[:, t - 1])
            z = pyro.sample(f"z_{t}", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            seen = None if view is None or view.x is None else view.x[:, t]
            pyro.sample(f"x_{t}", _step(hyper, sites, z, view, t), obs=seen)
        if view is None or view.x is None:
            return
        if hyper.initial == "none":  # the first state was drawn from 1 / K, which counts as 1
            pyro.factor("unnormalized", torch.full((len(view.x),), math.log(hyper.num_states)))
        if view.weights is not None:
            log_prob = HiddenMarkov(hyper, sites, steps, view).log_prob(view.x)
            pyro.factor("row_weights", (view.weights - 1) * log_prob)


def _step(hyper: Hyperparameters, sites: dict[str, torch.Tensor], z: torch.Tensor, view: View | None, t: int) -> Any:
    if view is None or view.mask is None:
        return Emission(hyper, sites, z)
    return Emission(
        hyper, sites, z, view.mask[:, t], view.patterns, None if view.pattern is None else view.pattern[:, t]
    )


def collapsed(
    hyper: Hyperparameters, data: View | None, *, num_obs: int | None = None, num_steps: int | None = None,
    subsample_size: int | None = None,
) -> None:  # fmt: skip
    """The same density with the paths summed out by the forward recursion."""
    sites = _global_sites(hyper)
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        steps = _num_steps(view, num_steps)
        with row_weights(view):
            pyro.sample("x", HiddenMarkov(hyper, sites, steps, view), obs=None if view is None else view.x)


def _num_steps(view: View | None, num_steps: int | None) -> int:
    if view is None:
        return num_steps or 1
    return int((view.context if view.x is None else view.x).shape[1])


def _global_sites(hyper: Hyperparameters) -> dict[str, torch.Tensor]:
    sites = {}
    for name, prior in priors(hyper).items():
        fixed = hyper.fixed.get(name)
        sites[name] = pyro.sample(name, prior) if fixed is None else pyro.deterministic(name, as_float(fixed))
    return sites
