"""The probability flow of a diffusion model in torch, the twin of ``numpyro_probability_flow``;
:mod:`ppl_gen.probability_flow` has its mathematics."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from torch.distributions import constraints

from ppl_gen.probability_flow import FEW_STEPS, NUM_STEPS, probes
from ppl_gen.runge_kutta import step

if TYPE_CHECKING:
    from ppl_gen.noising import Noising
    from ppl_gen.view import View

Pairs = tuple[torch.Tensor, torch.Tensor]


class ProbabilityFlow(dist.TorchDistribution):
    """The distribution of z_0, (F,) of each row, or with ``of_rows`` that of x, for tables of real columns.

    :param parameters: those of the noising process, of one member.
    :param context: (n, C) what each of n rows is conditioned on: the batch shape is (n,) then, else ().
    :param num_steps: of the solver; None: as many as a density of these takes.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (a Distribution's own)
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, noising: Noising, parameters: Any, context: torch.Tensor | None = None, *, of_rows: bool = False,
        num_steps: int | None = None, batch_shape: torch.Size | None = None,
    ) -> None:  # fmt: skip
        self.noising, self.parameters, self.context = noising, parameters, context
        self.of_rows = of_rows
        self.num_steps = num_steps or (NUM_STEPS if of_rows else FEW_STEPS)
        shape = torch.Size(()) if context is None else context.shape[:1]
        super().__init__(shape if batch_shape is None else batch_shape, torch.Size((noising.size,)),
                         validate_args=False)  # fmt: skip

    def expand(self, batch_shape: Any, _instance: Any = None) -> ProbabilityFlow:
        """The same for more rows."""
        return ProbabilityFlow(self.noising, self.parameters, self.context, of_rows=self.of_rows,
                               num_steps=self.num_steps, batch_shape=torch.Size(batch_shape))  # fmt: skip

    def rsample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008 (a Distribution's own)
        """The flow from normal noise."""
        noise = torch.randn(*sample_shape, *self.batch_shape, self.noising.size)
        flat, context = _flat(noise, self.context)
        z, _ = solve(self.noising, self.parameters, flat, context, self.num_steps, to_noise=False, trace=False)
        return (from_start(self.noising, self.parameters, z) if self.of_rows else z).reshape(noise.shape)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """(...): of values (..., F), nats."""
        lead = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        flat, context = _flat(value.expand(*lead, value.shape[-1]), self.context)
        found = log_prob(self.noising, self.parameters, flat, context, self.num_steps, self.of_rows).mean(-1)
        return found.reshape(lead)


def _flat(z: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Values (..., F) as rows (n, F), and the context of each."""
    number = math.prod(z.shape[:-1])
    if context is not None:
        context = context.expand(*z.shape[:-1], context.shape[-1]).reshape(number, context.shape[-1])
    return z.reshape(number, z.shape[-1]), context


def log_prob(
    noising: Noising, parameters: Any, value: torch.Tensor, context: torch.Tensor | None, num_steps: int, of_rows: bool
) -> torch.Tensor:
    """(n, K) log density of z_0 (n, F), or of rows x, under each of K probes; K is 1 where the trace is exact."""
    z, log_unit = to_start(noising, parameters, value) if of_rows else (value, 0.0)
    noise, log_det = solve(noising, parameters, z, context, num_steps, to_noise=True)
    return _log_normal(noise)[:, None] + log_det + log_unit


def to_start(noising: Noising, parameters: Any, x: torch.Tensor) -> Pairs:
    """z_0 (n, F) of rows of real columns, and log |det dz_0 / dx| ()."""
    # A unit is an affine map of each column alone, so that one direction has all of its derivatives.
    e, slope = torch.func.jvp(partial(noising.encode, parameters), (x,), (torch.ones_like(x),))
    alpha = torch.sigmoid(_ends(noising, parameters, x)[0]).sqrt()
    return alpha * e, (alpha * slope[0]).log().sum()


def from_start(noising: Noising, parameters: Any, z: torch.Tensor) -> torch.Tensor:
    """The likeliest rows of z_0 (n, F)."""
    return noising.decode(parameters, z / torch.sigmoid(_ends(noising, parameters, z)[0]).sqrt())


def _log_normal(z: torch.Tensor) -> torch.Tensor:
    return -0.5 * (z**2).sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


def _ends(noising: Noising, parameters: Any, like: torch.Tensor) -> Pairs:
    first, last = (noising.log_snr(parameters, torch.tensor(t, dtype=like.dtype)) for t in (0.0, 1.0))
    return first, last


def code_of(noising: Noising, parameters: Any, x: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
    """(n, F): z_1, where the flow brings a row's own numbers; standard normal as far as the model is right."""
    first, _ = _ends(noising, parameters, x)
    z = torch.sigmoid(first).sqrt() * noising.encode(parameters, x)
    return solve(noising, parameters, z, context, NUM_STEPS, to_noise=True, trace=False)[0]


def row_of(noising: Noising, parameters: Any, codes: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
    """(n, D): the likeliest rows of z_1 (n, F)."""
    z, _ = solve(noising, parameters, codes, context, NUM_STEPS, to_noise=False, trace=False)
    return from_start(noising, parameters, z)


def to_uniform(noising: Noising, parameters: Any, view: View) -> torch.Tensor:
    """(n, D, 2), the ends equal: each row of real columns as normal noise, and that as uniform numbers."""
    codes = code_of(noising, parameters, view.x, view.context)
    at = torch.special.ndtr(codes)
    return torch.stack([at, at], -1)


def from_uniform(
    noising: Noising, parameters: Any, u: torch.Tensor, context: torch.Tensor | None = None
) -> torch.Tensor:
    """Rows of real columns (n, D) from the uniform numbers of their noise."""
    tiny = torch.finfo(u.dtype).eps
    return row_of(noising, parameters, torch.special.ndtri(u.clamp(tiny, 1 - tiny)), context)


def log_prob_error(noising: Noising, parameters: Any, view: View) -> torch.Tensor:
    """(n,): how far log p(x) of rows of real columns may be off, in nats: what twice the step changes it by, and the
    standard error over the probes where the trace is estimated."""
    return log_prob_with_error(noising, parameters, view)[..., 1]


def log_prob_with_error(noising: Noising, parameters: Any, view: View) -> torch.Tensor:
    """(n, 2): log p(x) of rows of real columns, and its error."""
    found, coarse = (
        log_prob(noising, parameters, view.x, view.context, steps, True) for steps in (NUM_STEPS, NUM_STEPS // 2)
    )
    variance = found.var(-1) / found.shape[-1] if found.shape[-1] > 1 else 0.0
    error = ((found - coarse).mean(-1) ** 2 + variance).sqrt()
    return torch.stack([found.mean(-1), error], -1)


def solve(
    noising: Noising, parameters: Any, z: torch.Tensor, context: torch.Tensor | None, num_steps: int, *, to_noise: bool,
    trace: bool = True,
) -> Pairs:  # fmt: skip
    """z (n, F) at the other end, and the integral (n, K) of the trace on the way from z_0 to z_1."""
    first, last = _ends(noising, parameters, z)
    start, span = (-0.5 * first, 0.5 * (first - last)) if to_noise else (-0.5 * last, 0.5 * (last - first))
    field = _field(noising, parameters, context, z, trace)
    length, total = span / num_steps, z.new_zeros((len(z), 1))
    for index in range(num_steps):
        z, total = step(field, start, index, length, z, total)
    return z, total


def _field(
    noising: Noising, parameters: Any, context: torch.Tensor | None, like: torch.Tensor, trace: bool
) -> Callable[[torch.Tensor, torch.Tensor], Pairs]:
    """``f(tau, z) -> (dz / dtau (n, F), divergence (n, K))``."""
    directions, exact = probes(noising.size)
    vectors, none = torch.as_tensor(directions, dtype=like.dtype), like.new_zeros((len(like), 1))

    def estimate(z: torch.Tensor, log_snr: torch.Tensor) -> Pairs:
        if not trace:
            return noising.denoise(parameters, z, log_snr, context), none
        if noising.linearize is not None:
            e, found = noising.linearize(parameters, z, log_snr, context)
            return e, found[:, None]

        e, derivative = torch.func.vjp(lambda z: noising.denoise(parameters, z, log_snr, context), z)
        along = torch.func.vmap(lambda v: (derivative(v.expand(z.shape))[0] * v).sum(-1), out_dims=-1)(vectors)
        return e, along.sum(-1, keepdim=True) if exact else along

    def field(tau: torch.Tensor, z: torch.Tensor) -> Pairs:
        alpha = torch.sigmoid(-2 * tau).sqrt()
        e, along = estimate(z, -2 * tau)
        return alpha * (alpha * z - e), alpha * (alpha * z.shape[-1] - along)

    return field


# Hooks of a pair for tables of real columns, ``(noising, parameters, ...)``.
OF_REAL_ROWS: dict[str, Callable[..., Any]] = {
    "log_prob_error": log_prob_error, "log_prob_with_error": log_prob_with_error, "to_uniform": to_uniform,
    "from_uniform": from_uniform,
}  # fmt: skip
