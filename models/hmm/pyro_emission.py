r"""What a state says about a time step, in torch, function by function the twin of ``numpyro_emission``.

``sites`` are the global sites with the fixed ones among them. The table (N, T, K) of the densities of all steps is made
over the stacked time steps; a missing entry leaves its factor out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution

from ppl_gen.backends.pyro_normal import as_float, component_log_prob, marginal_tril
from ppl_gen.models.hmm import pyro_chain as chain
from ppl_gen.models.hmm import pyro_switching as switching
from ppl_gen.models.hmm import pyro_walks as walks
from ppl_gen.models.hmm.hyperparameters import Block, Hyperparameters

if TYPE_CHECKING:
    from ppl_gen.data import View

Sites = Mapping[str, torch.Tensor]


def priors(hyper: Hyperparameters) -> dict[str, TorchDistribution]:
    """The prior of each global site, a fixed one included."""
    result = {"initial_probs": dist.Dirichlet(as_float(hyper.initial_concentration))} if hyper.initial == "free" else {}
    result["transition_matrix"] = dist.Dirichlet(as_float(hyper.transition_concentration)).to_event(1)
    if hyper.num_context:
        result["transition_coefs"] = dist.Normal(0.0, as_float(hyper.coef_scale)).to_event(3)
    make = {"normal": dist.Normal, "half_normal": dist.HalfNormal, "gamma": dist.Gamma, "beta": dist.Beta}
    for name, (kind, parameters) in hyper.sites.items():
        if kind == "dirichlet":
            prior = dist.Dirichlet(as_float(parameters[0]))
        elif kind == "lkj":
            prior = dist.LKJCholesky(parameters[0], as_float(parameters[1]))
        else:
            prior = make[kind](*map(as_float, parameters))
        result[name] = prior.to_event(len(prior.batch_shape))
    return result


def complete(hyper: Hyperparameters, sites: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The sites with the fixed ones among them, as tensors of one dtype."""
    dtype = next(iter(sites.values())).dtype if sites else torch.get_default_dtype()
    return {name: torch.as_tensor(value, dtype=dtype) for name, value in {**hyper.fixed, **sites}.items()}


def first_state(hyper: Hyperparameters, sites: Sites) -> torch.Tensor:
    """(K,): probabilities of the first state; ones with ``initial="none"``, which are none."""
    k, transition = hyper.num_states, sites["transition_matrix"]
    if hyper.initial == "free":
        return sites["initial_probs"]
    if hyper.initial == "stationary":
        return chain.stationary(transition)
    return torch.full((k,), 1.0 if hyper.initial == "none" else 1 / k, dtype=transition.dtype)


def has_zeros(hyper: Hyperparameters) -> bool:
    """Whether the chain's fixed parameters forbid a step, so that its recursions need log space."""
    return any((hyper.fixed[name] == 0).any() for name in ("initial_probs", "transition_matrix") if name in hyper.fixed)


def transitions(hyper: Hyperparameters, sites: Sites, context: Any) -> torch.Tensor:
    """The transition matrix (K, K); with covariates the context (..., T, C) gives each step but the last its own log
    probabilities, (..., T - 1, K, K)."""
    if not hyper.num_context:
        return sites["transition_matrix"]
    matrix, coefs = sites["transition_matrix"], sites["transition_coefs"]
    return switching.log_transitions(matrix, coefs, context[..., :-1, :], has_zeros(hyper))


def emission_log_prob(hyper: Hyperparameters, sites: Sites, view: View) -> torch.Tensor:
    """(N, T, K): log density of the observed entries of each time step in each state."""
    x = view.x.reshape(-1, view.x.shape[-1])
    mask = None if view.mask is None else view.mask.reshape(x.shape)
    total: Any = 0.0
    for block in hyper.blocks:
        part, seen = stacked(block, x, mask)
        if block.kind == "gaussian_full":
            pattern = None if view.pattern is None else view.pattern.reshape(-1)
            total = total + component_log_prob(part, sites["locs"], full_scale(sites), seen, view.patterns, pattern)
        else:
            total = total + _TABLES[block.kind](block, sites, part, seen)
    return total.reshape(*view.x.shape[:-1], hyper.num_states)


def stacked(block: Block, x: torch.Tensor, mask: Any) -> tuple[torch.Tensor, Any]:
    """The block's columns of the rows x (n, D), and of their mask."""
    if len(block.columns) == x.shape[-1]:
        return x, mask
    columns = list(block.columns)
    return x[:, columns], None if mask is None else mask[:, columns]


def full_scale(sites: Sites) -> torch.Tensor:
    """Cholesky factors (K, D, D) of the covariances; of a single column standard deviations (K, 1)."""
    scales = sites["scales"]
    return scales[..., None] * sites["corr_cholesky"] if "corr_cholesky" in sites else scales


def _gaussian(block: Block, sites: Sites, x: torch.Tensor, mask: Any) -> torch.Tensor:
    return component_log_prob(x, sites["locs"], sites["scales"], mask)


def _student_t(block: Block, sites: Sites, x: torch.Tensor, mask: Any) -> torch.Tensor:
    y = (x[:, None, :] - sites["locs"]) / sites["scales"]
    df = sites["df"][:, None]
    gammas = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2)
    peak = gammas - 0.5 * (math.pi * df).log() - sites["scales"].log()
    value = peak - 0.5 * (df + 1) * torch.log1p(y * y / df)
    return (value if mask is None else torch.where(mask[:, None, :], value, 0.0)).sum(-1)


def mixture_joint(sites: Sites, x: torch.Tensor, mask: Any) -> torch.Tensor:
    """(n, K, M): log density of each component of each state's mixture, its weight included."""
    locs, scales = sites["locs"], sites["scales"]
    k, m, d = locs.shape
    parts = component_log_prob(x, locs.reshape(k * m, d), scales.reshape(k * m, d), mask)
    return parts.reshape(-1, k, m) + chain.safe_log(sites["mixture_weights"])


def _mixture(block: Block, sites: Sites, x: torch.Tensor, mask: Any) -> torch.Tensor:
    value = torch.logsumexp(mixture_joint(sites, x, mask), -1)
    return value if mask is None else torch.where(mask.any(-1, keepdim=True), value, 0.0)


def _poisson(block: Block, sites: Sites, x: torch.Tensor, mask: Any) -> torch.Tensor:
    rates = sites["rates"]
    constant = torch.lgamma(x + 1).sum(-1, keepdim=True)  # x is 0 where it is missing
    expected = rates.sum(-1) if mask is None else mask.to(x.dtype) @ rates.mT
    return x @ chain.safe_log(rates).mT - expected - constant


def _bernoulli(block: Block, sites: Sites, x: torch.Tensor, mask: Any) -> torch.Tensor:
    limits = torch.finfo(x.dtype)
    probs = sites["probs"].clamp(limits.tiny, 1 - limits.eps)
    log_no = torch.log1p(-probs)
    return x @ (probs.log() - log_no).mT + (log_no.sum(-1) if mask is None else mask.to(x.dtype) @ log_no.mT)


def _categorical(block: Block, sites: Sites, x: torch.Tensor, mask: Any) -> torch.Tensor:
    total: Any = 0.0
    for i, j in enumerate(block.columns):
        value = chain.safe_log(sites[f"category_probs_{j}"]).mT[x[:, i].long()]
        total = total + (value if mask is None else torch.where(mask[:, i, None], value, 0.0))
    return total


_TABLES = {
    "gaussian": _gaussian, "student_t": _student_t, "mixture": _mixture, "poisson": _poisson,
    "bernoulli": _bernoulli, "categorical": _categorical,
}  # fmt: skip


def block_distribution(
    block: Block, sites: Sites, z: torch.Tensor, mask: Any = None, patterns: Any = None, pattern: Any = None
) -> TorchDistribution:
    """The distribution (event: the block's columns) of time steps in the states z, by the library's own densities."""
    if block.kind == "gaussian_full" and "corr_cholesky" in sites:
        locs, scale = sites["locs"], full_scale(sites)
        if mask is None:
            return dist.MultivariateNormal(locs[z], scale_tril=scale[z])
        # With missing entries at location 0, see marginal_tril; x is 0 there too.
        return dist.MultivariateNormal(locs[z] * mask, scale_tril=marginal_tril(scale, patterns)[pattern, z])
    if block.kind == "mixture":
        parts = dist.Normal(sites["locs"][z], sites["scales"][z])
        parts = (parts if mask is None else parts.mask(mask[..., None, :])).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(sites["mixture_weights"][z]), parts)
    if block.kind == "poisson":
        columns = dist.Poisson(sites["rates"][z])
    elif block.kind == "bernoulli":
        columns = dist.Bernoulli(sites["probs"][z])
    elif block.kind == "student_t":
        columns = dist.StudentT(sites["df"][z][..., None], sites["locs"][z], sites["scales"][z])
    else:
        columns = dist.Normal(sites["locs"][z], sites["scales"][z])
    return (columns if mask is None else columns.mask(mask)).to_event(1)


class Emission(TorchDistribution):
    """A time step given its state z (batch shape): the blocks of columns are independent. Event shape (D,).

    With the mask (and patterns) of a View, entries that were not observed leave their factor out.
    """

    support = constraints.real_vector
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own convention)

    def __init__(
        self, hyper: Hyperparameters, sites: Sites, z: torch.Tensor, mask: Any = None, patterns: Any = None,
        pattern: Any = None, *, batch_shape: tuple[int, ...] = (), validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.arguments = hyper, sites, z, mask, patterns, pattern
        rows = () if mask is None else mask.shape[:-1]
        batch_shape = torch.broadcast_shapes(batch_shape, z.shape, rows)
        super().__init__(batch_shape, torch.Size((hyper.num_columns,)), validate_args=validate_args)

    def expand(self, batch_shape: tuple[int, ...], _instance: Any = None) -> Emission:
        return Emission(*self.arguments, batch_shape=batch_shape, validate_args=self._validate_args)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        total: Any = 0.0
        for columns, part in self._parts():
            total = total + part.log_prob(value[..., columns] if part.event_shape else value[..., columns[0]])
        return total

    def sample(self, sample_shape: tuple[int, ...] = torch.Size()) -> torch.Tensor:
        order, drawn = [], []
        for columns, part in self._parts():
            draw = part.expand(self.batch_shape).sample(sample_shape)
            order += columns
            drawn.append((draw if part.event_shape else draw[..., None]).to(torch.get_default_dtype()))
        whole = torch.cat(drawn, -1)
        return whole if order == sorted(order) else whole[..., [order.index(j) for j in range(len(order))]]

    def _parts(self) -> list[tuple[list[int], TorchDistribution]]:
        """The columns and distributions that a time step consists of."""
        hyper, sites, z, mask, patterns, pattern = self.arguments
        parts: list[tuple[list[int], TorchDistribution]] = []
        for block in hyper.blocks:
            seen = None if mask is None else mask[..., list(block.columns)]
            if block.kind != "categorical":
                parts.append((list(block.columns), block_distribution(block, sites, z, seen, patterns, pattern)))
                continue
            for i, j in enumerate(block.columns):
                column = dist.Categorical(sites[f"category_probs_{j}"][z])
                parts.append(([j], column if seen is None else column.mask(seen[..., i])))
        return parts


class HiddenMarkov(TorchDistribution):
    """Whole sequences with their paths summed out. Event shape (T, D); batch shape (N,) with the mask or the context of
    a View.

    ``log_prob`` is of the observed entries, ``sample`` draws whole sequences.
    """

    support = constraints.independent(constraints.real, 2)
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self, hyper: Hyperparameters, sites: Sites, num_steps: int, view: View | None = None, *,
        batch_shape: tuple[int, ...] = (), validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.hyper, self.sites, self.view = hyper, sites, view
        parts = () if view is None else (view.mask, view.context)
        batch_shape = torch.broadcast_shapes(batch_shape, *((len(part),) for part in parts if part is not None))
        event_shape = torch.Size((num_steps, hyper.num_columns))
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=validate_args)

    def expand(self, batch_shape: tuple[int, ...], _instance: Any = None) -> HiddenMarkov:
        return HiddenMarkov(
            self.hyper, self.sites, self.event_shape[0], self.view, batch_shape=batch_shape,
            validate_args=self._validate_args,
        )  # fmt: skip

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        from ppl_gen.data import View

        missing = () if self.view is None else (self.view.mask, None, self.view.patterns, self.view.pattern)
        view = View(value.reshape(-1, *self.event_shape), *missing)
        table = emission_log_prob(self.hyper, self.sites, view)
        start, transition = first_state(self.hyper, self.sites), self._transitions()
        recursions = switching if self.hyper.num_context else chain
        return recursions.chain_log_prob(start, transition, table, has_zeros(self.hyper)).reshape(value.shape[:-2])

    def _transitions(self) -> torch.Tensor:
        return transitions(self.hyper, self.sites, None if self.view is None else self.view.context)

    def sample(self, sample_shape: tuple[int, ...] = torch.Size()) -> torch.Tensor:
        with torch.no_grad():
            start = first_state(self.hyper, self.sites)
            start = (start / start.sum()).expand(*sample_shape, *self.batch_shape, self.hyper.num_states)
            if self.view is not None and self.view.context is not None:
                z = switching.simulate(start, self._transitions())
            else:
                z = walks.simulate(start, self.sites["transition_matrix"], self.event_shape[0])
            return Emission(self.hyper, self.sites, z).sample()
