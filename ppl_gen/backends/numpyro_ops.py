"""What can be derived from any NumPyro pair: densities, draws and local posteriors, by effect handlers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import funsor
import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.contrib.funsor import config_enumerate, enum, plate_to_enum_plate, trace
from numpyro.contrib.funsor import log_density as enum_log_density
from numpyro.infer.util import log_density as plain_log_density
from numpyro.infer.util import potential_energy

from ppl_gen import importance, reverse, unnormalised
from ppl_gen.backends import numpyro_local
from ppl_gen.backends.numpyro_programs import PIECE, Program, one_per_core, rows_over_cores, small
from ppl_gen.labels import joint_sites
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.family import Pair

# The plate over observations is the rightmost batch dimension, so enumerated latents start one to its left.
_FIRST_AVAILABLE_DIM = -2


def _enumerated(model: Callable) -> Callable:
    return enum(config_enumerate(model), first_available_dim=_FIRST_AVAILABLE_DIM)


def log_density_fn(pair: Pair) -> Callable[..., jax.Array]:
    """``f(unconstrained sites, view, rows=None)``: log joint density in unconstrained space, transform Jacobians
    included; with ``rows`` (B,) its unbiased estimate from these rows."""
    enumerated = pair.collapsed is None
    model = _enumerated(pair.model) if pair.collapsed is None else pair.collapsed

    def log_density(values: Mapping[str, Any], view: View, rows: Any = None) -> jax.Array:
        if rows is None:
            return -potential_energy(model, (view,), {}, values, enum=enumerated)
        batch = handlers.substitute(model, data={"obs": rows})
        return -potential_energy(batch, (view,), {"subsample_size": len(rows)}, values, enum=enumerated)

    return log_density


def log_joint_fn(pair: Pair, enumerated: bool = False) -> Callable[[Mapping[str, Any], View], jax.Array]:
    """``f(constrained sites, view)``: log p(theta, x), discrete latents summed out; no transform Jacobian."""
    if pair.collapsed is not None and not enumerated:
        return lambda values, view: plain_log_density(pair.collapsed, (view,), {}, values)[0]
    model = _enumerated(pair.model)
    return lambda values, view: enum_log_density(model, (view,), {}, values)[0]


def log_joint(pair: Pair, parameters: Mapping[str, Any], view: View, enumerated: bool = False) -> float:
    """log p(theta, x) at constrained values, discrete latents summed out; no transform Jacobian."""
    return float(log_joint_fn(pair, enumerated)(as_jax(parameters), view))


def _collapsed_row_log_prob(pair: Pair, parameters: Mapping[str, Any], view: View) -> jax.Array:
    conditioned = handlers.seed(handlers.substitute(pair.density, data=parameters), jax.random.key(0))
    sites = handlers.trace(conditioned).get_trace(view)
    return sum(sites[name]["fn"].log_prob(sites[name]["value"]) for name in joint_sites(pair))


def _local_factors(pair: Pair, parameters: Mapping[str, Any], view: View) -> tuple[Any, frozenset[str]]:
    """Log joint of each observation's sites as one funsor over (enumerated latents, obs), and the latents' names."""
    model = handlers.seed(handlers.substitute(pair.model, data=parameters), jax.random.key(0))
    with plate_to_enum_plate():
        sites = trace(_enumerated(model)).get_trace(view)
    total: Any = 0.0
    latents = set()
    for name, site in sites.items():
        if site["type"] != "sample" or not any(frame.name == "obs" for frame in site["cond_indep_stack"]):
            continue
        log_prob = site["fn"].log_prob(site["value"])
        dim_to_name = site["infer"]["dim_to_name"]
        if not dim_to_name:  # one row, one label: funsor gives dimensions of size 1 no name
            log_prob = jnp.reshape(log_prob, ())
        total = total + funsor.to_funsor(log_prob, funsor.Real, dim_to_name=dim_to_name)
        if not site["is_observed"] and name not in pair.local:
            latents.add(name)
    return total, frozenset(latents)


def _enumerated_row_log_prob(pair: Pair, parameters: Mapping[str, Any], view: View) -> jax.Array:
    joint, latents = _local_factors(pair, parameters, view)
    summed = joint.reduce(funsor.ops.logaddexp, latents & frozenset(joint.inputs))
    return jnp.broadcast_to(funsor.to_data(summed, name_to_dim={"obs": -1}), (len(view.x),))


def _local_posterior(pair: Pair, parameters: Mapping[str, Any], view: View) -> dict[str, jax.Array]:
    joint, latents = _local_factors(pair, parameters, view)
    result = {}
    for name in latents:
        marginal = joint.reduce(funsor.ops.logaddexp, (latents - {name}) & frozenset(joint.inputs))
        table = funsor.to_data(marginal, name_to_dim={"obs": -2, name: -1})
        table = jnp.broadcast_to(table, (len(view.x), table.shape[-1] if name in marginal.inputs else 1))
        result[name] = jax.nn.softmax(table, axis=-1)
    return result


class _Programs:
    """Compiled functions of one pair."""

    def __init__(self, pair: Pair) -> None:
        row = _collapsed_row_log_prob if pair.collapsed is not None else _enumerated_row_log_prob

        def over_draws(function: Callable) -> Callable:
            return lambda draws, view: jax.lax.map(lambda one: function(pair, one, view), draws)

        self.log_prob = Program(over_draws(row), limit=small(pair))
        self.local_posterior = Program(over_draws(_local_posterior), limit=small(pair))


def _draw(
    pair: Pair, parameters: Mapping[str, Any], key: Any, number: int, context: Any, options: dict[str, int]
) -> jax.Array:
    """(number, d) new rows under these parameters, for ``context`` (number, c) where there is one."""
    model = handlers.seed(handlers.substitute(pair.density, data=parameters), key)
    view = None if context is None else View(None, context=context)
    return handlers.trace(model).get_trace(view, num_obs=number, **options)["x"]["value"]


def _programs(pair: Pair) -> _Programs:
    return pair.cached("ops", lambda: _Programs(pair))


def _num_draws(posterior: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(posterior.values())))


def as_jax(posterior: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """In the default float: a fit made in single precision is used in double precision where that is turned on."""
    return {
        name: jnp.asarray(value, dtype=float if np.issubdtype(np.asarray(value).dtype, np.floating) else None)
        for name, value in posterior.items()
    }


def log_prob(pair: Pair, posterior: Mapping[str, np.ndarray], view: View) -> np.ndarray:
    """(draws, obs): log p(x | theta_s) of each row in model space, discrete latents summed out; weights are ignored.
    Where a guide proposes local latents it is estimated, see :mod:`ppl_gen.importance`."""
    if pair.local:
        return importance.log_prob(pair, posterior, jax.tree.map(np.asarray, view))
    size = _num_draws(posterior) * len(view.x) * max(view.x.shape[-1] // 64, 1)  # a row of an image is more work
    draws, program = as_jax(posterior), _programs(pair).log_prob
    if pair.has_weights:
        return rows_over_cores(lambda rows: program(size, draws, rows), view._replace(weights=None))
    return np.asarray(program(size, draws, view._replace(weights=None)))


def local_size(pair: Pair, posterior: Mapping[str, np.ndarray], view: View) -> int:
    """How many numbers the local latents of an observation are that the guide proposes."""
    first = {name: jnp.asarray(value[0]) for name, value in posterior.items()}
    return numpyro_local.local_size(pair, first, jax.tree.map(jnp.asarray, view._replace(weights=None)))


def log_weights(
    pair: Pair, posterior: Mapping[str, np.ndarray], view: View, uniforms: np.ndarray, seed: int,
    by_label: bool = False,
) -> np.ndarray:  # fmt: skip
    """(draws, particles, obs): log importance weights of local latents at quantiles ``uniforms`` (particles, size).

    :param seed: of latents whose distributions have no quantile function.
    :param by_label: (draws, particles * C, obs), before a label is summed out.
    """
    row = _collapsed_row_log_prob if pair.collapsed or pair.label else _enumerated_row_log_prob
    program = pair.cached(("log_weights", by_label), lambda: jax.jit(numpyro_local.log_weights_fn(pair, row, by_label)))
    keys = jax.random.split(jax.random.key(seed), len(uniforms))
    at = jnp.asarray(uniforms, dtype=float)
    return np.asarray(program(as_jax(posterior), at, keys, view._replace(weights=None)))


def local_posterior(pair: Pair, posterior: Mapping[str, np.ndarray], view: View) -> dict[str, np.ndarray]:
    """{site: (draws, obs, K)}: p(z = k | x, theta_s) of each enumerated local latent."""
    size = _num_draws(posterior) * len(view.x)
    result = _programs(pair).local_posterior(size, as_jax(posterior), view._replace(weights=None))
    return {name: np.asarray(value) for name, value in result.items()}


def sample_rows(
    pair: Pair, posterior: Mapping[str, np.ndarray], index: np.ndarray, seed: int, context: np.ndarray | None = None,
    **options: int,
) -> np.ndarray:  # fmt: skip
    """(len(index), d): row i drawn from the model under draw ``index[i]``, in model space.

    :param context: (len(index), c) what row i is conditioned on; of sequences (len(index), num_steps, c).
    :param options: for a model of sequences ``num_steps``; they are then (len(index), num_steps, d).
    """
    if pair.tempered is not None:
        return unnormalised.draw(pair, posterior, np.asarray(index), seed)
    if pair.noising is not None:
        return reverse.draw(pair, posterior, index, seed, context)
    if pair.has_weights:
        return _sample_by_draw(pair, posterior, index, seed, context, options)
    chosen = {name: jnp.asarray(value[index]) for name, value in posterior.items()}
    keys = jax.random.split(jax.random.key(seed), len(index))

    def one(parameters: Mapping[str, jax.Array], key: Any, y: jax.Array | None) -> jax.Array:
        return _draw(pair, parameters, key, 1, None if y is None else y[None], options)[0]

    program = pair.cached(("sample_rows", *options.values()), lambda: Program(jax.vmap(one), limit=4096))  # rows
    given = None if context is None else jnp.asarray(context, dtype=float)
    return np.asarray(program(len(index) * options.get("num_steps", 1), chosen, keys, given))


def _sample_by_draw(
    pair: Pair, posterior: Mapping[str, np.ndarray], index: np.ndarray, seed: int, context: np.ndarray | None,
    options: dict[str, int],
) -> np.ndarray:  # fmt: skip
    """The same where a draw is a whole network: rows that share one are drawn together, never a network per row; many
    in pieces, of which each core draws one at a time."""
    used, whose, counts = np.unique(index, return_inverse=True, return_counts=True)
    pieces = -(-int(counts.max()) // PIECE)
    size = -(-int(counts.max()) // (256 * pieces)) * 256  # of few sizes, so that few programs are compiled
    place = np.empty(len(index), int)  # the how-manieth row of its draw each is
    order = np.argsort(whose, kind="stable")
    place[order] = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    given: Any = [None] * (len(used) * pieces)
    if context is not None:
        given = np.zeros((len(used), pieces * size, context.shape[1]), jnp.result_type(float))
        given[whose, place] = context
        given = given.reshape(-1, size, context.shape[1])
    program = pair.cached(
        ("sample_by_draw", size, *options.values()),
        lambda: jax.jit(lambda parameters, key, given: _draw(pair, parameters, key, size, given, options)),
    )
    keys = jax.random.split(jax.random.key(seed), len(given))
    networks = [{name: value[draw] for name, value in posterior.items()} for draw in used for _ in range(pieces)]
    drawn = np.stack([np.asarray(piece) for piece in one_per_core(program, networks, keys, given)])
    return drawn.reshape(len(used), -1, *drawn.shape[2:])[whose, place]


def sample_table(
    pair: Pair, parameters: Mapping[str, np.ndarray], num_obs: int, seed: int, context: np.ndarray | None = None,
    **options: int,
) -> np.ndarray:  # fmt: skip
    """(num_obs, d): new observations under one set of parameters, drawn at once, in model space.

    :param context: (num_obs, c) what each is conditioned on; of sequences (num_obs, num_steps, c).
    :param options: for a model of sequences ``num_steps``; they are then (num_obs, num_steps, d).
    """
    if pair.tempered is not None:
        return unnormalised.draw_table(pair, parameters, num_obs, seed)
    if pair.noising is not None:
        return reverse.draw_table(pair, parameters, num_obs, seed, context)
    program = pair.cached(
        ("sample_table", num_obs, *options.values()),
        lambda: Program(lambda one, key, y: _draw(pair, one, key, num_obs, y, options), limit=100_000),  # values
    )
    given = None if context is None else jnp.asarray(context, dtype=float)
    return np.asarray(program(num_obs * options.get("num_steps", 1), as_jax(parameters), jax.random.key(seed), given))


def hook_over_draws(
    pair: Pair, hook: str, posterior: Mapping[str, np.ndarray], view: View, seed: int | None = None, **options: int
) -> Any:
    """A hook ``(parameters, view, *options, key)`` of the pair under each draw: (draws, ...), as numpy.

    :param seed: of the key, for hooks that draw at random; the others take none.
    """
    function = getattr(pair, hook)

    def run(draws: Mapping[str, jax.Array], keys: jax.Array | None, view: View) -> Any:
        if keys is None:
            return jax.lax.map(lambda one: function(one, view, *options.values()), draws)
        return jax.lax.map(lambda both: function(both[0], view, *options.values(), both[1]), (draws, keys))

    program = pair.cached((hook, *options.values()), lambda: Program(run, limit=small(pair)))
    number = _num_draws(posterior)
    keys = None if seed is None else jax.random.split(jax.random.key(seed), number)
    size = number * int(np.prod(view.x.shape[:2]))
    return jax.tree.map(np.asarray, program(size, as_jax(posterior), keys, view._replace(weights=None)))


def from_uniform(pair: Pair, posterior: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """(draws, *u.shape): the rows of uniform numbers u under each draw, by the pair's hook."""
    program = pair.cached("from_uniform", lambda: jax.jit(pair.from_uniform))
    at = jnp.asarray(u, dtype=float)
    draws = as_jax(posterior)
    return np.stack([program({k: v[i] for k, v in draws.items()}, at) for i in range(_num_draws(posterior))])


def sample_prior(pair: Pair, num_draws: int, seed: int) -> dict[str, np.ndarray]:
    """{site: (num_draws, *event)}: the global latent sites drawn from their prior."""

    def one(key: Any) -> dict[str, jax.Array]:
        sites = handlers.trace(handlers.seed(pair.density, key)).get_trace(None, num_obs=1)
        return {
            name: site["value"]
            for name, site in sites.items()
            if site["type"] in ("sample", "deterministic") and not site.get("cond_indep_stack")
        }

    draws = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), num_draws))
    return {name: np.asarray(value) for name, value in draws.items()}
