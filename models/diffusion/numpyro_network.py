"""The network of a diffusion model in JAX: a perceptron whose hidden layers are scaled and shifted by what it is told
of the noise and of the context (Perez et al. 2018, arXiv:1709.07871)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ppl_gen.models.diffusion.architecture import FREQUENCIES

if TYPE_CHECKING:
    from ppl_gen.backends.numpyro_networks import Weights
    from ppl_gen.models.diffusion.architecture import Architecture

Modulation = list[tuple[jax.Array, jax.Array]]


def output(
    architecture: Architecture, weights: Weights, z: jax.Array, log_snr: jax.Array, given: jax.Array | None
) -> jax.Array:
    """f (n, F) of noisy rows z (n, F) at ``log_snr`` (n,) or (); ``given`` is (n, C + 1) or (C + 1,), the context and
    whether it is there, or None of a model without one."""
    value = z
    for i, (scale, shift) in enumerate(modulation(architecture, weights, log_snr, given)):
        value = jax.nn.silu(value @ weights[f"weight_{i}"] * scale + shift)
    last = len(architecture.family.hidden)
    return value @ weights[f"weight_{last}"] + weights[f"bias_{last}"]


def modulation(
    architecture: Architecture, weights: Weights, log_snr: jax.Array, given: jax.Array | None
) -> Modulation:  # fmt: skip
    """The scale and the shift of each hidden layer, (n, width) or (width,) each: all that does not depend on z."""
    read = embed(architecture, weights, log_snr, given)
    found = []
    for i in range(len(architecture.family.hidden)):
        both = read @ weights[f"modulation_{i}_weight"] + weights[f"modulation_{i}_bias"]
        scale, shift = jnp.split(both, 2, axis=-1)
        found.append((1 + scale, shift))
    return found


def embed(architecture: Architecture, weights: Weights, log_snr: jax.Array, given: jax.Array | None) -> jax.Array:
    """(n, EMBEDDING) or (EMBEDDING,): lambda and what is given, as the layers' scales and shifts read them."""
    read = features(architecture, log_snr)
    if given is not None:
        lead = jnp.broadcast_shapes(read.shape[:-1], given.shape[:-1])
        read = jnp.concatenate([jnp.broadcast_to(part, (*lead, part.shape[-1])) for part in (read, given)], -1)
    return jax.nn.silu(read @ weights["embedding_weight"] + weights["embedding_bias"])


def features(architecture: Architecture, log_snr: jax.Array) -> jax.Array:
    """(..., 1 + 2 * FREQUENCIES): where lambda is in its range, from 1 to -1, and waves over it."""
    least, greatest = architecture.log_snr_range
    place = (2 * log_snr - least - greatest) / (greatest - least)
    angle = place[..., None] * (0.5 * jnp.pi * jnp.arange(1, FREQUENCIES + 1, dtype=place.dtype))
    return jnp.concatenate([place[..., None], jnp.sin(angle), jnp.cos(angle)], -1)


def linearize(
    architecture: Architecture, weights: Weights, z: jax.Array, log_snr: jax.Array, given: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """f (n, F), and the trace of its derivative by z (n,), of one or two hidden layers; see
    :mod:`ppl_gen.models.flow.cnf`."""
    value, slopes = z, []
    for i, (scale, shift) in enumerate(modulation(architecture, weights, log_snr, given)):
        inner = value @ weights[f"weight_{i}"] * scale + shift
        gate = jax.nn.sigmoid(inner)
        value = inner * gate
        slopes.append(gate * (1 + inner * (1 - gate)) * scale)
    last = len(slopes)
    found = value @ weights[f"weight_{last}"] + weights[f"bias_{last}"]
    if last == 1:
        return found, slopes[0] @ (weights["weight_0"] * weights["weight_1"].T).sum(0)
    coupled = weights["weight_1"] * (weights["weight_2"] @ weights["weight_0"]).T
    return found, ((slopes[0] @ coupled) * slopes[1]).sum(-1)
