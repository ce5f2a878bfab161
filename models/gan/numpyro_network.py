"""Generator and discriminator in JAX, rows as they see them, and the observation model."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from ppl_gen.backends import numpyro_columns as conditionals
from ppl_gen.backends.numpyro_networks import Weights, perceptron
from ppl_gen.conditionals import MIN_SCALE, REACH, UNIT, Group
from ppl_gen.models.gan.architecture import Architecture
from ppl_gen.models.vae.architecture import part
from ppl_gen.models.vae.numpyro_convolution import convolve, grow
from ppl_gen.models.vae.numpyro_network import Columns, in_order
from ppl_gen.view import View

SLOPE = 0.2  # of the discriminator's leaky rectified linear units below 0
LOGISTIC_SD = 0.5513288954217921  # scale of a logistic of standard deviation 1


def say(architecture: Architecture, weights: Weights, z: jax.Array, context: jax.Array | None) -> list[jax.Array]:
    """What the generator says of rows of noise z (..., L), by group: (parameters, ..., columns) each."""
    read = z[..., : architecture.family.latent_dim]
    if context is not None:
        read = jnp.concatenate([read, jnp.clip(context, -REACH, REACH)], -1)
    own = part(weights, "generator_")
    out = perceptron(own, read, len(architecture.family.generator_hidden) + 1)
    if architecture.family.generator == "conv":
        out = grow(architecture, own, out)  # type: ignore[arg-type]
    return [by_parameter(group, out[..., group.outputs]) for group in architecture.groups]


def by_parameter(group: Group, out: jax.Array) -> jax.Array:
    """(parameters, ..., columns) of numbers (..., parameters * columns)."""
    return jnp.moveaxis(out.reshape(*out.shape[:-1], -1, group.size), -2, 0)


def flat(found: jax.Array) -> jax.Array:
    """(..., parameters * columns): the inverse."""
    return jnp.moveaxis(found, 0, -2).reshape(*found.shape[1:-1], -1)


def forge(architecture: Architecture, weights: Weights, z: jax.Array, context: jax.Array | None) -> jax.Array:
    """(..., F): rows of noise z (..., L) as the discriminator sees them. Labels and whole numbers are hard, with the
    gradient of what they are rounded from."""
    parts = []
    for group, own, where in zip(
        architecture.groups, say(architecture, weights, z, context), architecture.noise, strict=True
    ):
        parts.append(_forged(architecture, weights, group, own, z[..., where]))
    return jnp.concatenate(parts, -1)


def _forged(architecture: Architecture, weights: Weights, group: Group, own: jax.Array, noise: jax.Array) -> jax.Array:
    temperature = architecture.family.temperature
    if group.kind == "count":
        near = own[0]
        return hard(near, conditionals.encode(group, weights, counted(group, weights, near)))
    if group.kind == "binary":
        logits = own[0] + log_ndtr(noise) - log_ndtr(-noise)  # the difference of two Gumbel variables
        return hard(jax.nn.sigmoid(logits / temperature), (logits > 0).astype(logits.dtype))
    if group.kind == "categorical":
        labels = choose(own, by_parameter(group, noise), temperature)
        return jnp.moveaxis(labels, 0, -1).reshape(*labels.shape[1:-1], -1)  # as ``encode`` has them
    if not architecture.has_modes(group):
        return own[0]
    share = weights["mode_log_share"].reshape(_lead(weights, own))
    return jnp.concatenate([own[0], flat(choose(own[1:] + share, by_parameter(group, noise), temperature))], -1)


def choose(logits: jax.Array, noise: jax.Array, temperature: float) -> jax.Array:
    """(labels, ..., columns): the label of the largest logit plus Gumbel noise -log(-log Phi(noise)), one-hot, with the
    gradient of the softmax."""
    perturbed = logits - jnp.log(-log_ndtr(noise))
    chosen = (jnp.arange(len(logits)).reshape(-1, *[1] * (logits.ndim - 1)) == perturbed.argmax(0)).astype(logits.dtype)
    return hard(jax.nn.softmax(perturbed / temperature, axis=0), chosen)


def hard(soft: jax.Array, value: jax.Array) -> jax.Array:
    """The value, with the gradient of ``soft``."""
    return soft + jax.lax.stop_gradient(value - soft)


def expected(architecture: Architecture, weights: Weights, z: jax.Array, context: jax.Array | None) -> jax.Array:
    """(..., F): the same without noise, with probabilities for labels: smooth in z."""
    parts = []
    for group, own in zip(architecture.groups, say(architecture, weights, z, context), strict=True):
        if group.kind == "binary":
            parts.append(jax.nn.sigmoid(own[0]))
        elif group.kind == "categorical":
            parts.append(flat(jax.nn.softmax(own, axis=0)))
        elif architecture.has_modes(group):
            share = weights["mode_log_share"].reshape(_lead(weights, own))
            parts += [own[0], flat(jax.nn.softmax(own[1:] + share, axis=0))]
        else:
            parts.append(own[0])
    return jnp.concatenate(parts, -1)


def _lead(weights: Weights, own: jax.Array) -> tuple[int, ...]:
    """Modes (K, R) as they stand beside what the generator says, (K, ..., R)."""
    number, size = weights["mode_loc"].shape
    return (number, *[1] * (own.ndim - 2), size)


def counted(group: Group, weights: Weights, near: jax.Array) -> jax.Array:
    """The whole number next to what ``near`` stands for, in units of the network's input."""
    return jnp.clip(jnp.round(amount(group, weights, near)), 0.0, group.upper)


def amount(group: Group, weights: Weights, near: jax.Array) -> jax.Array:
    """The number that an input stands for, in model space."""
    name = "real" if group.kind == "real" else "count_input"
    value = weights[f"{name}_shift"] + jnp.exp(weights[f"{name}_log_scale"]) * near
    # More than e^20 is a start gone wrong, and would overflow.
    return jnp.expm1(jnp.minimum(value, 20.0)) if group.kind == "count" and group.upper is None else value


def relax(architecture: Architecture, weights: Weights, view: View) -> jax.Array:
    """(..., F): rows of data as the networks see them."""
    parts = []
    for group in architecture.groups:
        x = view.x[..., group.where]
        parts.append(_by_mode(weights, x) if architecture.has_modes(group) else conditionals.encode(group, weights, x))
    return jnp.concatenate(parts, -1)


def _by_mode(weights: Weights, x: jax.Array) -> jax.Array:
    """The place in the mode that each number most probably comes from, and that mode."""
    standard = (x - weights["real_shift"]) * jnp.exp(-weights["real_log_scale"])
    number, size = weights["mode_loc"].shape
    lead = (number, *[1] * (x.ndim - 1), size)
    loc, log_scale, share = (weights[f"mode_{name}"].reshape(lead) for name in ("loc", "log_scale", "log_share"))
    place = (standard - loc) * jnp.exp(-log_scale)
    best = (share - log_scale - 0.5 * place**2).argmax(0)
    chosen = (jnp.arange(number).reshape(-1, *[1] * x.ndim) == best).astype(x.dtype)
    return jnp.concatenate([jnp.clip((chosen * place).sum(0), -REACH, REACH), flat(chosen)], -1)


def generate(architecture: Architecture, weights: Weights, z: jax.Array, context: jax.Array | None) -> jax.Array:
    """(..., D): rows of model space, of noise z (..., L)."""
    return restore(architecture, weights, forge(architecture, weights, z, context))


def restore(architecture: Architecture, weights: Weights, forged: jax.Array) -> jax.Array:
    """(..., D): rows of model space that the networks see as these (..., F)."""
    parts, first = [], 0
    for group in architecture.groups:
        own = forged[..., first : first + group.num_parameters * group.size]
        first += group.num_parameters * group.size
        if group.kind == "binary":
            parts.append(jnp.round(own))
        elif group.kind == "categorical":
            hot = own.reshape(*own.shape[:-1], group.size, -1)
            parts.append(hot.argmax(-1).astype(own.dtype))
        elif group.kind == "count":
            parts.append(counted(group, weights, own))
        elif architecture.has_modes(group):
            place, modes = own[..., : group.size], by_parameter(group, own[..., group.size :])
            lead = (len(modes), *[1] * (own.ndim - 1), group.size)
            loc, scale = weights["mode_loc"].reshape(lead), jnp.exp(weights["mode_log_scale"]).reshape(lead)
            parts.append(amount(group, weights, (modes * (loc + scale * place)).sum(0)))
        else:
            parts.append(amount(group, weights, own))
    return in_order(architecture, parts)


def observe(architecture: Architecture, weights: Weights, z: jax.Array, context: jax.Array | None) -> Columns:
    """p(x | z): rows about those of noise z (..., L). The noise of labels is summed out."""
    raw = []
    for group, own in zip(architecture.groups, say(architecture, weights, z, context), strict=True):
        if group.kind in ("binary", "categorical"):
            raw.append(own)
            continue
        logits, loc, sd = jnp.zeros_like(own[:1]), own[:1], architecture.family.observation_sd
        if group.kind == "count":
            centre = amount(group, weights, own[:1])
            loc, sd = (centre - weights["count_shift"]) * jnp.exp(-weights["count_log_scale"]), sd * LOGISTIC_SD
        elif architecture.has_modes(group):
            lead = _lead(weights, own)
            logits = own[1:] + weights["mode_log_share"].reshape(lead)
            loc = weights["mode_loc"].reshape(lead) + jnp.exp(weights["mode_log_scale"]).reshape(lead) * own[:1]
        raw.append(jnp.concatenate([logits, loc, jnp.full_like(loc, raw_scale(sd))]))
    return Columns(architecture.observed, weights, raw)


def raw_scale(sd: float) -> float:
    """What ``conditionals`` turns into this standard deviation."""
    return math.log(math.expm1(max(sd - MIN_SCALE, 1e-6))) - UNIT


def judge(
    architecture: Architecture, weights: Weights, name: str, rows: jax.Array, context: jax.Array | None, pack: int = 1
) -> jax.Array:
    """(n / pack,): outputs of the discriminator of this name at rows (n, F)."""
    return judged(architecture, weights, name, rows, context, pack)[0]


def judged(
    architecture: Architecture, weights: Weights, name: str, rows: jax.Array, context: jax.Array | None, pack: int
) -> tuple[jax.Array, list[jax.Array]]:
    """The same, and the slope of each hidden unit, (n / pack, units) of each dense layer."""
    own, family = part(weights, f"{name}_"), architecture.family
    if context is not None:
        rows = jnp.concatenate([rows, jnp.clip(context, -REACH, REACH)], -1)
    h = rows.reshape(len(rows) // pack, -1)
    if family.discriminator == "conv":
        height, width, channels = architecture.levels[0]
        h = jnp.moveaxis(h.reshape(len(h), pack, height, width, channels), 1, 3)
        h = h.reshape(len(h), height, width, -1)
        for i in range(len(family.channels)):
            h = jax.nn.leaky_relu(convolve(h, own[f"conv_{i}_weight"], 2) + own[f"conv_{i}_bias"], SLOPE)
        h = h.reshape(len(h), -1)
    found, number = [], len(family.discriminator_hidden)
    for i in range(number):
        h = h @ own[f"weight_{i}"] + own[f"bias_{i}"]
        found.append(jnp.where(h > 0, 1.0, SLOPE).astype(h.dtype))
        h = h * found[-1]
    return (h @ own[f"weight_{number}"] + own[f"bias_{number}"])[:, 0], found
