r"""What a state says about a time step, in JAX: the densities of all steps as one table, and as distributions.

``sites`` are the global sites with the fixed ones among them. The table (N, T, K) is made by products of matrices over
the stacked time steps where the density is linear in functions of x (normal, Poisson, Bernoulli, categorical); a
missing entry leaves its factor out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.distributions.util import clamp_probs

from ppl_gen.backends.numpyro_normal import HALF_LOG_2PI, component_log_prob, marginal_tril
from ppl_gen.models.hmm import numpyro_chain as chain
from ppl_gen.models.hmm import numpyro_switching as switching
from ppl_gen.models.hmm.hyperparameters import Block, Hyperparameters

if TYPE_CHECKING:
    from ppl_gen.data import View

Sites = Mapping[str, Any]
ONE_HOT = 64  # categories up to which a product with one-hot rows beats looking values up (its gradient scatters)
MAX_COLUMNS = 32  # of independent normals that are written out one by one
FACTORIALS = 16  # below it log x! is looked up


def priors(hyper: Hyperparameters) -> dict[str, dist.Distribution]:
    """The prior of each global site, a fixed one included."""
    array = partial(jnp.asarray, dtype=float)
    result = {"initial_probs": dist.Dirichlet(array(hyper.initial_concentration))} if hyper.initial == "free" else {}
    result["transition_matrix"] = dist.Dirichlet(array(hyper.transition_concentration)).to_event(1)
    if hyper.num_context:
        result["transition_coefs"] = dist.Normal(0.0, array(hyper.coef_scale)).to_event(3)
    make = {"normal": dist.Normal, "half_normal": dist.HalfNormal, "gamma": dist.Gamma, "beta": dist.Beta}
    for name, (kind, parameters) in hyper.sites.items():
        if kind == "dirichlet":
            prior = dist.Dirichlet(array(parameters[0]))
        elif kind == "lkj":
            prior = dist.LKJCholesky(parameters[0], array(parameters[1]))
        else:
            prior = make[kind](*map(array, parameters))
        result[name] = prior.to_event(len(prior.batch_shape))
    return result


def complete(hyper: Hyperparameters, sites: Sites) -> dict[str, jax.Array]:
    """The sites with the fixed ones among them, as arrays of one dtype."""
    dtype = jnp.asarray(next(iter(sites.values()))).dtype if sites else float
    return {name: jnp.asarray(value, dtype) for name, value in {**hyper.fixed, **sites}.items()}


def first_state(hyper: Hyperparameters, sites: Sites) -> jax.Array:
    """(K,): probabilities of the first state; ones with ``initial="none"``, which are none."""
    k, transition = hyper.num_states, sites["transition_matrix"]
    if hyper.initial == "free":
        return jnp.asarray(sites["initial_probs"])
    if hyper.initial == "stationary":
        return chain.stationary(transition)
    return jnp.full(k, 1.0 if hyper.initial == "none" else 1 / k, transition.dtype)


def has_zeros(hyper: Hyperparameters) -> bool:
    """Whether the chain's fixed parameters forbid a step, so that its recursions need log space."""
    return any((hyper.fixed[name] == 0).any() for name in ("initial_probs", "transition_matrix") if name in hyper.fixed)


def transitions(hyper: Hyperparameters, sites: Sites, context: Any) -> jax.Array:
    """The transition matrix (K, K); with covariates the context (..., T, C) gives each step but the last its own log
    probabilities, (..., T - 1, K, K)."""
    if not hyper.num_context:
        return sites["transition_matrix"]
    matrix, coefs = sites["transition_matrix"], sites["transition_coefs"]
    return switching.log_transitions(matrix, coefs, context[..., :-1, :], has_zeros(hyper))


def emission_log_prob(hyper: Hyperparameters, sites: Sites, view: View) -> jax.Array:
    """(N, T, K): log density of the observed entries of each time step in each state."""
    x = view.x.reshape(-1, view.x.shape[-1])
    mask = None if view.mask is None else view.mask.reshape(x.shape)
    total: Any = 0.0
    for block in hyper.blocks:
        columns = list(block.columns)
        everything = len(columns) == x.shape[-1]
        part, seen = (x, mask) if everything else (x[:, columns], None if mask is None else mask[:, columns])
        if block.kind == "gaussian_full":
            total += _full(sites, part, seen, view)
        else:
            total += _TABLES[block.kind](block, sites, part, seen)
    return total.reshape(*view.x.shape[:-1], hyper.num_states)


def _full(sites: Sites, x: jax.Array, mask: Any, view: View) -> jax.Array:
    """Normal with a covariance matrix: the marginal of the observed entries, by their pattern."""
    locs, scales = sites["locs"], sites["scales"]
    scale = scales[..., None] * sites["corr_cholesky"] if "corr_cholesky" in sites else scales
    pattern = None if view.pattern is None else view.pattern.reshape(-1)
    return component_log_prob(x, locs, scale, mask, view.patterns, pattern)


def _gaussian(block: Block, sites: Sites, x: jax.Array, mask: Any) -> jax.Array:
    return independent_normals(x, mask, sites["locs"], sites["scales"])


def independent_normals(x: jax.Array, mask: Any, locs: jax.Array, scales: jax.Array) -> jax.Array:
    """(n, K) of (n, D) rows and (K, D) parameters.

    Column by column, as the terms of a column are one fused loop that stores no (n, K, D) numbers: 15 times as fast
    as a sum over the last axis. Tables of many columns would be long to compile.
    """
    if x.shape[-1] > MAX_COLUMNS:
        y = (x[:, None, :] - locs) / scales
        value = -0.5 * y * y - (jnp.log(scales) + HALF_LOG_2PI)
        return (value if mask is None else jnp.where(mask[:, None, :], value, 0.0)).sum(-1)
    total: Any = 0.0
    for j in range(x.shape[-1]):
        y = (x[:, j, None] - locs[:, j]) / scales[:, j]
        value = -0.5 * y * y - (jnp.log(scales[:, j]) + HALF_LOG_2PI)
        total += value if mask is None else jnp.where(mask[:, j, None], value, 0.0)
    return total


def _student_t(block: Block, sites: Sites, x: jax.Array, mask: Any) -> jax.Array:
    y = (x[:, None, :] - sites["locs"]) / sites["scales"]
    df = sites["df"][:, None]
    gammas = jax.scipy.special.gammaln((df + 1) / 2) - jax.scipy.special.gammaln(df / 2)
    peak = gammas - 0.5 * jnp.log(math.pi * df) - jnp.log(sites["scales"])
    value = peak - 0.5 * (df + 1) * jnp.log1p(y * y / df)
    return (value if mask is None else jnp.where(mask[:, None, :], value, 0.0)).sum(-1)


def mixture_joint(sites: Sites, x: jax.Array, mask: Any) -> jax.Array:
    """(n, K, M): log density of each component of each state's mixture, its weight included."""
    locs, scales = sites["locs"], sites["scales"]
    k, m, d = locs.shape
    parts = independent_normals(x, mask, locs.reshape(k * m, d), scales.reshape(k * m, d))
    return parts.reshape(-1, k, m) + chain.safe_log(sites["mixture_weights"])


def _mixture(block: Block, sites: Sites, x: jax.Array, mask: Any) -> jax.Array:
    value = jax.nn.logsumexp(mixture_joint(sites, x, mask), axis=-1)
    return value if mask is None else jnp.where(mask.any(-1, keepdims=True), value, 0.0)


def _poisson(block: Block, sites: Sites, x: jax.Array, mask: Any) -> jax.Array:
    rates = sites["rates"]
    value = x @ jnp.log(rates).T  # x is 0 where it is missing
    if mask is None:
        return value - rates.sum(-1) - _log_factorial(x).sum(-1, keepdims=True)
    seen = mask.astype(x.dtype)
    return value - seen @ rates.T - (seen * _log_factorial(x)).sum(-1, keepdims=True)


def _log_factorial(x: jax.Array) -> jax.Array:
    """log x! of whole numbers: a table, and beyond it Stirling's series, many times faster than gammaln."""
    table = jnp.asarray([math.lgamma(i + 1) for i in range(FACTORIALS)], x.dtype)
    z = jnp.maximum(x, FACTORIALS) + 1
    w = 1 / (z * z)
    series = (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w / 1680))) / z
    large = (z - 0.5) * jnp.log(z) - z + HALF_LOG_2PI + series
    return jnp.where(x < FACTORIALS, table[jnp.clip(x, 0, FACTORIALS - 1).astype(int)], large)


def _bernoulli(block: Block, sites: Sites, x: jax.Array, mask: Any) -> jax.Array:
    probs = clamp_probs(sites["probs"])
    log_no = jnp.log1p(-probs)
    value = x @ (jnp.log(probs) - log_no).T
    return value + (log_no.sum(-1) if mask is None else mask.astype(x.dtype) @ log_no.T)


def _categorical(block: Block, sites: Sites, x: jax.Array, mask: Any) -> jax.Array:
    total: Any = 0.0
    for i, j in enumerate(block.columns):
        table = chain.safe_log(sites[f"category_probs_{j}"]).T
        codes = x[:, i].astype(int)
        few = len(table) <= ONE_HOT
        value = jax.nn.one_hot(codes, len(table), dtype=table.dtype) @ table if few else table[codes]
        total += value if mask is None else jnp.where(mask[:, i, None], value, 0.0)
    return total


_TABLES = {
    "gaussian": _gaussian, "student_t": _student_t, "mixture": _mixture, "poisson": _poisson,
    "bernoulli": _bernoulli, "categorical": _categorical,
}  # fmt: skip


class Emission(dist.Distribution):
    """A time step given its state z (batch shape), by the library's own densities. Event shape (D,).

    The blocks of columns are independent. With the mask (and patterns) of a View, entries that were not observed leave
    their factor out. ``leaves`` are the sites picked by z, batch axes first, as a scan stacks them.
    """

    support = constraints.real_vector
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (NumPyro's own convention)
    pytree_data_fields = ("leaves",)
    pytree_aux_fields = ("hyper",)

    def __init__(
        self, hyper: Hyperparameters, sites: Sites, z: jax.Array, mask: Any = None, patterns: Any = None,
        pattern: Any = None, *, validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        shape = jnp.shape(z) if mask is None else jnp.broadcast_shapes(jnp.shape(z), mask.shape[:-1])
        leaves = {name: sites[name][z] for name in hyper.sites if name != "corr_cholesky"}
        if "corr_cholesky" in hyper.sites:
            scale = sites["scales"][..., None] * sites["corr_cholesky"]
            leaves["tril"] = scale[z] if mask is None else marginal_tril(scale, patterns)[pattern, z]
        if mask is not None:
            leaves["mask"] = jnp.broadcast_to(mask, (*shape, hyper.num_columns))
        self.hyper, self.leaves = hyper, leaves
        super().__init__(shape, (hyper.num_columns,), validate_args=validate_args)

    def stacked_shape(self) -> tuple[int, ...]:
        """The batch shape after a scan has put its axis before those of the leaves."""
        name, (_, parameters) = next(iter(self.hyper.sites.items()))
        leaf = self.leaves[name]
        ahead = leaf.ndim - (np.ndim(parameters[0]) - 1) - len(self.batch_shape)
        return (*leaf.shape[: max(ahead, 0)], *self.batch_shape)

    def log_prob(self, value: Any) -> jax.Array:
        total: Any = 0.0
        for columns, part, single in self._parts():
            entries = value[..., columns]
            log_prob = part.log_prob(entries if part.support.is_discrete is False else entries.astype(int))
            total += log_prob.sum(-1) if single else log_prob
        return total

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        result = jnp.zeros((*sample_shape, *self.batch_shape, self.hyper.num_columns))
        for columns, part, _ in self._parts():
            key, now = jax.random.split(key)
            result = result.at[..., columns].set(part.sample(now, sample_shape).astype(result.dtype))
        return result

    def _parts(self) -> Iterator[tuple[jax.Array, dist.Distribution, bool]]:
        """Columns, their distribution, and whether its event is one column."""
        for block in self.hyper.blocks:
            mask = None if "mask" not in self.leaves else self.leaves["mask"][..., jnp.array(block.columns)]
            if block.kind != "categorical":
                yield jnp.array(block.columns), *_columns(block, self.leaves, mask)
                continue
            for i, j in enumerate(block.columns):
                part = dist.CategoricalProbs(self.leaves[f"category_probs_{j}"][..., None, :])
                yield jnp.array([j]), part if mask is None else part.mask(mask[..., i : i + 1]), True


def _columns(block: Block, leaves: Sites, mask: Any) -> tuple[dist.Distribution, bool]:
    """The distribution of the columns of a block, and whether its event is one column."""
    if "tril" in leaves:
        # With missing entries at location 0, see marginal_tril; x is 0 there too.
        locs = leaves["locs"] if mask is None else leaves["locs"] * mask
        return dist.MultivariateNormal(locs, scale_tril=leaves["tril"]), False
    if block.kind == "mixture":
        parts = dist.Normal(leaves["locs"], leaves["scales"])
        parts = (parts if mask is None else parts.mask(mask[..., None, :])).to_event(1)
        return dist.MixtureSameFamily(dist.CategoricalProbs(leaves["mixture_weights"]), parts), False
    if block.kind == "poisson":
        columns = dist.Poisson(leaves["rates"])
    elif block.kind == "bernoulli":
        columns = dist.BernoulliProbs(leaves["probs"])
    elif block.kind == "student_t":
        columns = dist.StudentT(leaves["df"][..., None], leaves["locs"], leaves["scales"])
    else:
        columns = dist.Normal(leaves["locs"], leaves["scales"])
    return columns if mask is None else columns.mask(mask), True


@promote_batch_shape.register
def _promote_emission(emission: Emission) -> Emission:
    promoted = copy.copy(emission)
    promoted._batch_shape = emission.stacked_shape()
    return promoted
