"""The hidden Markov model in NumPyro."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import autoguide
from numpyro.infer.initialization import init_to_uniform, init_to_value

from ppl_gen.family import Pair
from ppl_gen.models.hmm import numpyro_em, numpyro_paths
from ppl_gen.models.hmm.hyperparameters import Hyperparameters, resolve
from ppl_gen.models.hmm.initialize import initialize
from ppl_gen.models.hmm.numpyro_chain import safe_log
from ppl_gen.models.hmm.numpyro_emission import Emission, first_state, priors
from ppl_gen.models.hmm.numpyro_markov import HiddenMarkov

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.hmm import HMM


def build_pair(family: HMM, schema: Schema, num_obs: int) -> Pair:
    """The pair for sequences of this schema."""
    hyper = resolve(family, schema)
    make = partial(make_guide, hyper)
    closed = hyper.has_closed_form
    names = ("step_log_prob", "filtered", "smoothed", "most_probable_path", "sample_paths", "forecast")
    hooks: dict[str, Any] = {name: partial(getattr(numpyro_paths, name), hyper) for name in names}
    return Pair(
        family=family, backend="numpyro", model=partial(model, hyper), guide=make("mean_field"),
        collapsed=partial(collapsed, hyper), initialize=partial(initialize, hyper), make_guide=make,
        log_prior=partial(numpyro_em.log_prior, hyper), is_degenerate=partial(numpyro_em.is_degenerate, hyper),
        e_step=partial(numpyro_em.e_step, hyper) if closed else None,
        m_step=partial(numpyro_em.m_step, hyper) if closed else None,
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
    start, log_transition = safe_log(first_state(hyper, sites)), safe_log(sites["transition_matrix"])

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
        (before, first), (x, mask, pattern) = carry, inputs
        logits = jnp.where(first, start, log_transition[before])
        infer = {"enumerate": "parallel"} if hyper.num_states > 1 else {}  # its own in each step: NumPyro writes to it
        with plate:
            z = numpyro.sample("z", dist.Categorical(logits=logits), infer=infer)
            patterns = None if view is None else view.patterns
            numpyro.sample("x", Emission(hyper, sites, z, mask, patterns, pattern), obs=x)
        return (z, False), None

    inputs: tuple[Any, ...] = (None, None, None)
    if view is not None:
        inputs = tuple(None if a is None else jnp.swapaxes(a, 0, 1) for a in (view.x, view.mask, view.pattern))
    with plate as rows:
        nowhere = jnp.zeros(len(rows), int)
    scan(step, (nowhere, True), inputs, length=steps)
    if view is None:
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
    with plate, _row_weights(view):
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
    if data is None and num_obs is None:
        raise ValueError("Give the data, or num_obs, the number of sequences to draw.")
    size = num_obs if data is None else len(data.x)
    plate = numpyro.plate("obs", size, subsample_size, dim=-1)
    if data is None:
        return plate, None, num_steps or 1
    if subsample_size is not None:
        with plate as rows:
            chosen = {n: v[rows] for n, v in data._asdict().items() if v is not None and n != "patterns"}
        data = data._replace(**chosen)
    return plate, data, data.x.shape[1]


def _row_weights(view: View | None) -> Any:
    if view is None or view.weights is None:
        return nullcontext()
    # The handler refuses a scale of 0.
    return handlers.scale(scale=jnp.maximum(view.weights, jnp.finfo(view.x.dtype).tiny))


def make_guide(
    hyper: Hyperparameters, kind: str, values: Mapping[str, Any] | None = None, *, seed: int = 0
) -> Callable[..., Any]:
    """A guide over the global sites: ``"mean_field"`` or ``"multivariate"``, normal in unconstrained space.

    Its location starts at ``values`` (constrained site values), or at a k-means solution of the data that it is first
    called with (NumPyro's random start where that call is traced, as the data then is not known yet).
    """
    base = {"mean_field": autoguide.AutoNormal, "multivariate": autoguide.AutoMultivariateNormal}[kind]

    class Guide(base):  # type: ignore[misc, valid-type]
        def _setup_prototype(self, data: View | None, **kwargs: Any) -> None:
            start = values
            if start is None and data is not None and not isinstance(data.x, jax.core.Tracer):
                start = {name: value[0] for name, value in initialize(hyper, data, seed, 1).items()}
            if start is not None:
                start = {name: jnp.asarray(np.asarray(value), dtype=float) for name, value in start.items()}
                self.init_loc_fn = init_to_value(values=start)
            super()._setup_prototype(data, **kwargs)

    Guide.__name__ = Guide.__qualname__ = base.__name__
    # The collapsed model has the same global sites, and no discrete one that a guide would have to be kept from.
    return Guide(partial(collapsed, hyper), init_loc_fn=init_to_uniform)
