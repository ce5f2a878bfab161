"""The diffusion model in NumPyro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers

from ppl_gen.backends.numpyro_networks import Weights, weight_sites
from ppl_gen.backends.numpyro_pairs import row_weights
from ppl_gen.backends.numpyro_probability_flow import OF_REAL_ROWS, ProbabilityFlow
from ppl_gen.family import Pair
from ppl_gen.models.diffusion import numpyro_denoiser as denoiser
from ppl_gen.models.diffusion import numpyro_schedule as schedule
from ppl_gen.models.diffusion.architecture import SCORE_LEVEL, UNITS, Architecture, initialize, inputs, resolve
from ppl_gen.models.diffusion.numpyro_chain import ReverseChain, marginal, normal, posterior
from ppl_gen.models.diffusion.numpyro_encoding import Rows, encode
from ppl_gen.models.diffusion.numpyro_proposal import Proposal
from ppl_gen.view import batch_of, num_rows

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.diffusion import Diffusion
    from ppl_gen.noising import Noising

READ = (*UNITS, "schedule_raw")  # weights that the guide reads


def build_pair(family: Diffusion, schema: Schema, num_obs: int) -> Pair:
    """The pair for tables of this schema: the model has the denoiser, the guide the noise."""
    architecture = resolve(family, schema)
    noising = denoiser.noising(architecture)
    exact = bool(architecture.is_real.all())
    hooks: dict[str, Any] = {name: partial(hook, noising) for name, hook in OF_REAL_ROWS.items() if exact}
    return Pair(
        family=family, backend="numpyro", has_weights=True, noising=noising,
        model=partial(model, architecture), collapsed=partial(density, architecture, noising),
        guide=partial(guide, architecture), initialize=partial(initialize, architecture),
        idle=lambda view: tuple(name for name in UNITS if name in architecture.layout),
        local=() if exact else ("z_0",), proposal=None if exact else partial(proposal, architecture), **hooks,
        score_function=partial(score_function, architecture) if architecture.is_real.any() else None,
    )  # fmt: skip


def model(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """Rows come of a chain from noise; the weights are parameters. With data one step of each row's chain, at a time of
    its own, stands for them all."""
    weights = weight_sites(architecture.layout)
    number = num_rows(data, num_obs)
    if data is None or data.x is None:
        with numpyro.plate("obs", number, dim=-1):
            _draw(architecture, weights, number, None if data is None else data.context)
        return
    u = numpyro.sample("u", dist.Uniform(0.0, 1.0))
    with numpyro.plate("obs", number, subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        assert view is not None
        with row_weights(view):
            e = encode(architecture, weights, view.x)
            step = schedule.step_at(architecture, weights, u, len(e))
            numpyro.sample("z_1", normal(jnp.zeros_like(e), 1.0))
            z = numpyro.sample("z_t", marginal(e, step.log_snr))
            given = denoiser.given(architecture, view.context, _kept(architecture))
            estimate = denoiser.estimate(architecture, weights, z, step.log_snr, given)
            _step(step, z, estimate)
            if architecture.family.schedule == "learned" and step.before is None:
                numpyro.factor("schedule", _even_terms(architecture, weights, step, e - estimate))
            z_0 = numpyro.sample("z_0", marginal(e, _end(architecture, weights, 0.0)))
            numpyro.sample("x", Rows(architecture, weights, z_0), obs=view.x)


def density(
    architecture: Architecture, noising: Noising, data: View | None, *, num_obs: int | None = None,
    subsample_size: int | None = None,
) -> None:  # fmt: skip
    """The model with all of the chain but z_0 integrated out, by the probability flow: real columns are z_0 in their
    units, others are drawn given it."""
    weights = weight_sites(architecture.layout)
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        x, context = (None, None) if view is None else (view.x, view.context)
        with row_weights(view):
            if architecture.is_real.all():
                numpyro.sample("x", ProbabilityFlow(noising, weights, context, of_rows=True), obs=x)
            else:
                z_0 = numpyro.sample("z_0", ProbabilityFlow(noising, weights, context))
                numpyro.sample("x", Rows(architecture, weights, z_0), obs=x)


def guide(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """Noise is added to each row's numbers.

    :raises ValueError: without data there is nothing to add it to.
    """
    if data is None or data.x is None:
        raise ValueError("The guide adds noise to rows: give it the data.")
    weights = weight_sites({name: architecture.layout[name] for name in READ if name in architecture.layout})
    u = numpyro.sample("u", dist.Uniform(0.0, 1.0))
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        assert view is not None
        with row_weights(view):
            e = encode(architecture, weights, view.x)
            step = schedule.step_at(architecture, weights, u, len(e))
            numpyro.sample("z_1", marginal(e, _end(architecture, weights, 1.0)))
            z = numpyro.sample("z_t", marginal(e, step.log_snr))
            _kept(architecture)
            _step(step, z, e)
            numpyro.sample("z_0", marginal(e, _end(architecture, weights, 0.0)))


def proposal(
    architecture: Architecture, data: View, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """What the guide says of z_0, and the rest of the cells that counts stand for, for importance sampling."""
    weights = weight_sites({name: architecture.layout[name] for name in UNITS if name in architecture.layout})
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        assert view is not None
        with row_weights(view):
            numpyro.sample("z_0", Proposal(architecture, weights, view.x))


def _draw(architecture: Architecture, weights: Weights, number: int, context: jax.Array | None) -> None:
    z = numpyro.sample("z_1", normal(jnp.zeros((number, architecture.size)), 1.0))
    given = denoiser.given(architecture, context)
    path = numpyro.sample("path", ReverseChain(architecture, weights, z, given))
    numpyro.sample("x", Rows(architecture, weights, path[..., -1, :]))


def _end(architecture: Architecture, weights: Weights, t: float) -> jax.Array:
    return schedule.log_snr(architecture, weights, jnp.full((1,), t))


def _kept(architecture: Architecture) -> jax.Array | None:
    """(n,): 1 for rows whose context the network sees in this step; None where it always does."""
    if not architecture.drops:
        return None
    u = numpyro.sample("kept", dist.Uniform(0.0, 1.0))
    return (u >= architecture.family.condition_dropout).astype(u.dtype)


def _step(step: schedule.Step, z: jax.Array, e: jax.Array) -> None:
    """The chain's step from z_t, if its numbers are e (n, F): to z_s, or the rate at which z moves in continuous time,
    in units in which KL divergences are those of the path's two laws per unit of time."""
    with handlers.scale(scale=step.scale):
        if step.before is None:
            level = step.log_snr[:, None]
            noise = (z - jnp.sqrt(jax.nn.sigmoid(level)) * e) * jnp.exp(0.5 * jax.nn.softplus(level))
            numpyro.sample("dz", normal(jnp.sqrt(step.rate)[:, None] * noise, 1.0))
        else:
            numpyro.sample("z_s", posterior(z, e, step.before, step.log_snr))


def _even_terms(architecture: Architecture, weights: Weights, step: schedule.Step, error: jax.Array) -> jax.Array:
    """(n,): zeros, whose gradient by the learned schedule is minus that of the log second moment of the bound's terms
    (Kingma et al. 2021, sec. 5.1). A piece's terms are in proportion to 1 over the time that it takes."""
    terms = jax.lax.stop_gradient(step.rate * jnp.exp(step.log_snr) * (error**2).sum(-1))
    share = len(terms) * terms**2 / (terms**2).sum()
    value = share * schedule.log_share(architecture, weights, step.log_snr)
    return value - jax.lax.stop_gradient(value)


def score_function(architecture: Architecture, weights: Weights, view: View) -> jax.Array:
    r"""(n, D): :math:`-\hat\epsilon / \sigma` of real columns, in model space; NaN of others. It is the gradient of
    the log density of rows with noise of a tenth of a standard deviation: with much less the network's own errors,
    which are divided by it, are greater than the score (measured on normal data: 13 % of it here, 570 % at t = 0)."""
    e = encode(architecture, weights, view.x)
    log_snr = jnp.asarray(min(SCORE_LEVEL, architecture.log_snr_range[1]), e.dtype)
    alpha = jnp.sqrt(jax.nn.sigmoid(log_snr))
    found = denoiser.denoise(architecture, weights, alpha * e, log_snr, view.context)
    (real,) = (group for group in architecture.groups if group.kind == "real")
    away = (found - e)[:, inputs(real)] * jnp.exp(log_snr - weights["real_log_scale"])
    return jnp.full_like(view.x, jnp.nan).at[:, real.where].set(away)
