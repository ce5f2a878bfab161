"""The hidden Markov model in NumPyro."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from ppl_gen.backends.numpyro_pairs import make_guide, row_weights
from ppl_gen.family import Pair
from ppl_gen.models.hmm import numpyro_em, numpyro_paths
from ppl_gen.models.hmm.hyperparameters import Hyperparameters, resolve
from ppl_gen.models.hmm.initialize import initialize
from ppl_gen.models.hmm.numpyro_chain import safe_log
from ppl_gen.models.hmm.numpyro_emission import Emission, first_state, priors
from ppl_gen.models.hmm.numpyro_markov import HiddenMarkov
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
    hooks: dict[str, Any] = {name: partial(getattr(numpyro_paths, name), hyper) for name in names}
    return Pair(
        family=family, backend="numpyro", model=partial(model, hyper), guide=make("mean_field"),
        collapsed=partial(collapsed, hyper), initialize=partial(initialize, hyper), make_guide=make,
        log_prior=partial(numpyro_em.log_prior, hyper), is_degenerate=partial(numpyro_em.is_degenerate, hyper),
        e_step=partial(numpyro_em.e_step, hyper) if not obstacle else None,
        m_step=partial(numpyro_em.m_step, hyper) if not obstacle else None,
        lacking=dict.fromkeys(("e_step", "m_step"), obstacle) if obstacle else {},
        **hooks,
    )  # fmt: skip


def model(
    hyper: Hyperparameters, data: View | None, *, num_obs: int | None = None, num_steps: int | None = None,
    subsample_size: int | None = None,
) -> None:  # fmt: skip
    """The definition: every step of every sequence has a state z, enumerated in parallel along a Markov scan.

    Only the observation is masked: a masked state would still be summed over, and add log K to the density. A weight w
    of a sequence enters as the missing part of the log density, (w - 1) log p(x), as in a mixture.
    """
    sites = _global_sites(hyper)
    plate, view, steps = _sequences(data, num_obs, num_steps, subsample_size)
    start, log_matrix = safe_log(first_state(hyper, sites)), safe_log(sites["transition_matrix"])

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
        (before, first), (x, mask, pattern, y) = carry, inputs
        # The covariates of the step before: under enumeration (N, C) go beside states (K, 1) or (N,).
        slopes = 0.0 if y is None else jnp.einsum("...kc,...c->...k", sites["transition_coefs"][before], y)
        logits = jnp.where(first, start, log_matrix[before] + slopes)
        infer = {"enumerate": "parallel"} if hyper.num_states > 1 else {}  # its own in each step: NumPyro writes to it
        with plate:
            z = numpyro.sample("z", dist.Categorical(logits=logits), infer=infer)
            patterns = None if view is None else view.patterns
            numpyro.sample("x", Emission(hyper, sites, z, mask, patterns, pattern), obs=x)
        return (z, False), None

    inputs: tuple[Any, ...] = (None, None, None, None)
    if view is not None:
        parts = (view.x, view.mask, view.pattern, None if view.context is None else jnp.roll(view.context, 1, axis=1))
        inputs = tuple(None if a is None else jnp.swapaxes(a, 0, 1) for a in parts)
    with plate as rows:
        nowhere = jnp.zeros(len(rows), int)
    scan(step, (nowhere, True), inputs, length=steps)
    if view is None or view.x is None:
        return
    with plate:
        if hyper.initial == "none":  # the first state was drawn from 1 / K, which counts as 1
            numpyro.factor("unnormalized", jnp.full(len(view.x), math.log(hyper.num_states)))
        if view.weights is not None:
            log_prob = HiddenMarkov(hyper, sites, steps, view).log_prob(view.x)
            numpyro.factor("row_weights", (view.weights - 1) * log_prob)


def collapsed(
    hyper: Hyperparameters, data: View | None, *, num_obs: int | None = None, num_steps: int | None = None,
    subsample_size: int | None = None,
) -> None:  # fmt: skip
    """The same density with the paths summed out by the forward recursion."""
    sites = _global_sites(hyper)
    plate, view, steps = _sequences(data, num_obs, num_steps, subsample_size)
    with plate, row_weights(view):
        numpyro.sample("x", HiddenMarkov(hyper, sites, steps, view), obs=None if view is None else view.x)


def _global_sites(hyper: Hyperparameters) -> dict[str, jax.Array]:
    sites = {}
    for name, prior in priors(hyper).items():
        fixed = hyper.fixed.get(name)
        if fixed is None:
            sites[name] = numpyro.sample(name, prior)
        else:
            sites[name] = numpyro.deterministic(name, jnp.asarray(fixed, float))
    return sites


def _sequences(
    data: View | None, num_obs: int | None, num_steps: int | None, subsample_size: int | None
) -> tuple[Any, View | None, int]:
    """The plate over sequences, those of a mini-batch (or all), and the number of steps."""
    plate = numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1)
    if data is None:
        return plate, None, num_steps or 1
    steps = (data.context if data.x is None else data.x).shape[1]
    if subsample_size is None:
        return plate, data, steps
    with plate as rows:
        return plate, batch_of(data, rows, subsample_size), steps
