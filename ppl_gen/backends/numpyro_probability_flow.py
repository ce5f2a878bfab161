"""The probability flow of a diffusion model in JAX; :mod:`ppl_gen.probability_flow` has its mathematics."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import ndtr, ndtri
from numpyro.distributions import constraints

from ppl_gen.probability_flow import FEW_STEPS, NUM_STEPS, probes
from ppl_gen.runge_kutta import step

if TYPE_CHECKING:
    from ppl_gen.noising import Noising
    from ppl_gen.view import View

Pairs = tuple[jax.Array, jax.Array]


class ProbabilityFlow(dist.Distribution):
    """The distribution of z_0, (F,) of each row, or with ``of_rows`` that of x, for tables of real columns.

    :param parameters: those of the noising process, of one member.
    :param context: (n, C) what each of n rows is conditioned on: the batch shape is (n,) then, else ().
    :param num_steps: of the solver; None: as many as a density of these takes.
    """

    pytree_data_fields = ("parameters", "context")
    pytree_aux_fields = ("noising", "of_rows", "num_steps")
    support = constraints.real_vector
    reparametrized_params: tuple[str, ...] = ()

    def __init__(
        self, noising: Noising, parameters: Any, context: jax.Array | None = None, *, of_rows: bool = False,
        num_steps: int | None = None,
    ) -> None:  # fmt: skip
        self.noising, self.parameters, self.context = noising, parameters, context
        self.of_rows = of_rows
        self.num_steps = num_steps or (NUM_STEPS if of_rows else FEW_STEPS)
        super().__init__(() if context is None else context.shape[:1], (noising.size,), validate_args=False)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """The flow from normal noise."""
        shape = (*sample_shape, *self.batch_shape)
        noise = jax.random.normal(key, (*shape, self.noising.size))
        flat, context = _flat(noise, self.context)
        z, _ = solve(self.noising, self.parameters, flat, context, self.num_steps, to_noise=False, trace=False)
        return (from_start(self.noising, self.parameters, z) if self.of_rows else z).reshape(noise.shape)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """(...): of values (..., F), nats."""
        flat, context = _flat(jnp.broadcast_to(value, (*_lead(value, self.context), value.shape[-1])), self.context)
        found = log_prob(self.noising, self.parameters, flat, context, self.num_steps, self.of_rows).mean(-1)
        return found.reshape(_lead(value, self.context))


def _lead(value: jax.Array, context: jax.Array | None) -> tuple[int, ...]:
    return value.shape[:-1] if context is None else jnp.broadcast_shapes(value.shape[:-1], context.shape[:-1])


def _flat(z: jax.Array, context: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """Values (..., F) as rows (n, F), and the context of each."""
    number = math.prod(z.shape[:-1])
    if context is not None:
        context = jnp.broadcast_to(context, (*z.shape[:-1], context.shape[-1])).reshape(number, context.shape[-1])
    return z.reshape(number, z.shape[-1]), context


def log_prob(
    noising: Noising, parameters: Any, value: jax.Array, context: jax.Array | None, num_steps: int, of_rows: bool
) -> jax.Array:
    """(n, K) log density of z_0 (n, F), or of rows x, under each of K probes; K is 1 where the trace is exact."""
    z, log_unit = to_start(noising, parameters, value) if of_rows else (value, jnp.zeros((), value.dtype))
    noise, log_det = solve(noising, parameters, z, context, num_steps, to_noise=True)
    return _log_normal(noise)[:, None] + log_det + log_unit


def to_start(noising: Noising, parameters: Any, x: jax.Array) -> Pairs:
    """z_0 (n, F) of rows of real columns, and log |det dz_0 / dx| ()."""
    # A unit is an affine map of each column alone, so that one direction has all of its derivatives.
    e, slope = jax.jvp(partial(noising.encode, parameters), (x,), (jnp.ones_like(x),))
    alpha = jnp.sqrt(jax.nn.sigmoid(_ends(noising, parameters, x.dtype)[0]))
    return alpha * e, jnp.log(alpha * slope[0]).sum()


def from_start(noising: Noising, parameters: Any, z: jax.Array) -> jax.Array:
    """The likeliest rows of z_0 (n, F)."""
    return noising.decode(parameters, z / jnp.sqrt(jax.nn.sigmoid(_ends(noising, parameters, z.dtype)[0])))


def _log_normal(z: jax.Array) -> jax.Array:
    return -0.5 * (z**2).sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


def _ends(noising: Noising, parameters: Any, dtype: Any) -> Pairs:
    first, last = (noising.log_snr(parameters, jnp.asarray(t, dtype)) for t in (0.0, 1.0))
    return first, last


def code_of(noising: Noising, parameters: Any, x: jax.Array, context: jax.Array | None) -> jax.Array:
    """(n, F): z_1, where the flow brings a row's own numbers; standard normal as far as the model is right."""
    first, _ = _ends(noising, parameters, x.dtype)
    z = jnp.sqrt(jax.nn.sigmoid(first)) * noising.encode(parameters, x)
    return solve(noising, parameters, z, context, NUM_STEPS, to_noise=True, trace=False)[0]


def row_of(noising: Noising, parameters: Any, codes: jax.Array, context: jax.Array | None) -> jax.Array:
    """(n, D): the likeliest rows of z_1 (n, F)."""
    z, _ = solve(noising, parameters, codes, context, NUM_STEPS, to_noise=False, trace=False)
    return from_start(noising, parameters, z)


def to_uniform(noising: Noising, parameters: Any, view: View) -> jax.Array:
    """(n, D, 2), the ends equal: each row of real columns as normal noise, and that as uniform numbers."""
    codes = code_of(noising, parameters, view.x, view.context)
    at = ndtr(codes)
    return jnp.stack([at, at], -1)


def from_uniform(noising: Noising, parameters: Any, u: jax.Array, context: jax.Array | None = None) -> jax.Array:
    """Rows of real columns (n, D) from the uniform numbers of their noise."""
    tiny = jnp.finfo(u.dtype).eps
    return row_of(noising, parameters, ndtri(jnp.clip(u, tiny, 1 - tiny)), context)


def log_prob_error(noising: Noising, parameters: Any, view: View) -> jax.Array:
    """(n,): how far log p(x) of rows of real columns may be off, in nats: what twice the step changes it by, and the
    standard error over the probes where the trace is estimated."""
    return log_prob_with_error(noising, parameters, view)[..., 1]


def log_prob_with_error(noising: Noising, parameters: Any, view: View) -> jax.Array:
    """(n, 2): log p(x) of rows of real columns, and its error."""
    found, coarse = (
        log_prob(noising, parameters, view.x, view.context, steps, True) for steps in (NUM_STEPS, NUM_STEPS // 2)
    )
    variance = found.var(-1, ddof=1) / found.shape[-1] if found.shape[-1] > 1 else 0.0
    error = jnp.sqrt((found - coarse).mean(-1) ** 2 + variance)
    return jnp.stack([found.mean(-1), error], -1)


def solve(
    noising: Noising, parameters: Any, z: jax.Array, context: jax.Array | None, num_steps: int, *, to_noise: bool,
    trace: bool = True,
) -> Pairs:  # fmt: skip
    """z (n, F) at the other end, and the integral (n, K) of the trace on the way from z_0 to z_1."""
    first, last = _ends(noising, parameters, z.dtype)
    start, span = (-0.5 * first, 0.5 * (first - last)) if to_noise else (-0.5 * last, 0.5 * (last - first))
    field, number = _field(noising, parameters, context, z, trace)
    length = span / num_steps

    @partial(jax.checkpoint, prevent_cse=False)
    def once(state: Pairs, index: jax.Array) -> tuple[Pairs, None]:
        return step(field, start, index, length, *state), None

    origin = (z, jnp.zeros((len(z), number), z.dtype))
    return jax.lax.scan(once, origin, jnp.arange(num_steps, dtype=z.dtype))[0]


def _field(
    noising: Noising, parameters: Any, context: jax.Array | None, like: jax.Array, trace: bool
) -> tuple[Callable[[jax.Array, jax.Array], Pairs], int]:
    """``f(tau, z) -> (dz / dtau (n, F), divergence (n, K))``, and K."""
    directions, exact = probes(noising.size)
    vectors, rows = jnp.asarray(directions, like.dtype), len(like)
    number = 1 if exact or noising.linearize is not None or not trace else len(vectors)

    def estimate(z: jax.Array, log_snr: jax.Array) -> Pairs:
        if not trace:
            return noising.denoise(parameters, z, log_snr, context), jnp.zeros((rows, 1), z.dtype)
        if noising.linearize is not None:
            e, found = noising.linearize(parameters, z, log_snr, context)
            return e, found[:, None]
        e, derivative = jax.linearize(lambda z: noising.denoise(parameters, z, log_snr, context), z)
        along = jax.vmap(lambda v: (derivative(jnp.broadcast_to(v, z.shape)) * v).sum(-1), out_axes=-1)(vectors)
        return e, along.sum(-1, keepdims=True) if exact else along

    def field(tau: jax.Array, z: jax.Array) -> Pairs:
        alpha = jnp.sqrt(jax.nn.sigmoid(-2 * tau))
        e, along = estimate(z, -2 * tau)
        return alpha * (alpha * z - e), alpha * (alpha * z.shape[-1] - along)

    return field, number


# Hooks of a pair for tables of real columns, ``(noising, parameters, ...)``.
OF_REAL_ROWS: dict[str, Callable[..., Any]] = {
    "log_prob_error": log_prob_error, "log_prob_with_error": log_prob_with_error, "to_uniform": to_uniform,
    "from_uniform": from_uniform,
}  # fmt: skip
