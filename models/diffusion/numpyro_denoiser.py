"""The estimate of a row's numbers from noisy ones, in JAX; see :mod:`ppl_gen.models.diffusion`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ppl_gen.conditionals import REACH
from ppl_gen.models.diffusion import numpyro_network as perceptron
from ppl_gen.models.diffusion.architecture import code_scale, inputs
from ppl_gen.models.diffusion.numpyro_encoding import Rows, decode, encode, label_logits
from ppl_gen.models.diffusion.numpyro_schedule import log_snr
from ppl_gen.noising import Noising

if TYPE_CHECKING:
    from ppl_gen.backends.numpyro_networks import Weights
    from ppl_gen.models.diffusion.architecture import Architecture


def noising(architecture: Architecture) -> Noising:
    """The process and the denoiser for samplers, densities and bounds."""
    closed = len(architecture.family.hidden) <= 2 and not architecture.labels and not architecture.of_images
    return Noising(
        size=architecture.size, is_real=architecture.is_real, num_steps=architecture.family.num_steps,
        drops_context=architecture.drops, log_snr=partial(log_snr, architecture), encode=partial(encode, architecture),
        decode=partial(decode, architecture), denoise=partial(denoise, architecture),
        log_likelihood=lambda weights, x, z: Rows(architecture, weights, z).log_prob(x),
        linearize=partial(linearize, architecture) if closed else None, steady=steady if architecture.is_free else None,
    )  # fmt: skip


def steady(weights: Weights) -> Weights:
    """The weights with an even schedule."""
    return {**weights, "schedule_raw": jnp.zeros_like(weights["schedule_raw"])}


def given(
    architecture: Architecture, context: jax.Array | None, kept: jax.Array | None = None
) -> jax.Array | None:  # fmt: skip
    """What the network reads of the context (n, C): (n, C + 1), the last number 1 where it is there; zeros, (C + 1,) if
    there is none at all. None of a model without conditions.

    :param kept: (n,) 1 where the context is not hidden; None: everywhere.
    """
    if not architecture.num_context:
        return None
    if context is None:
        return jnp.zeros(architecture.num_given)
    read = jnp.clip(context, -REACH, REACH)
    read = jnp.concatenate([read, jnp.ones_like(read[..., :1])], -1)
    return read if kept is None else read * kept[..., None]


def denoise(
    architecture: Architecture, weights: Weights, z: jax.Array, log_snr: jax.Array, context: jax.Array | None = None
) -> jax.Array:
    """(n, F): E[e | z] of z (n, F) at ``log_snr`` (n,) or ()."""
    return estimate(architecture, weights, z, log_snr, given(architecture, context))


def estimate(
    architecture: Architecture, weights: Weights, z: jax.Array, log_snr: jax.Array, given: jax.Array | None
) -> jax.Array:  # fmt: skip
    """As :func:`denoise`, from what the network reads of the context."""
    if architecture.of_images:
        from ppl_gen.models.diffusion import numpyro_unet

        found = numpyro_unet.output(architecture, weights, z, log_snr, given)
    else:
        found = perceptron.output(architecture, weights, z, log_snr, given)
    level = log_snr[..., None]
    if not architecture.labels:
        return of_numbers(architecture, z, found, level)
    parts = []
    for group in architecture.groups:
        own, said = z[..., inputs(group)], found[..., inputs(group)]
        if group.kind == "binary":
            parts.append(jnp.tanh(0.5 * (said + label_logits(group, own, level))))
        elif group.kind == "categorical":
            logits = said.reshape(*said.shape[:-1], group.size, -1) + label_logits(group, own, level)
            share = jax.nn.softmax(logits, axis=-1) - 1 / group.num_inputs
            parts.append(code_scale(group) * share.reshape(own.shape))
        else:
            parts.append(of_numbers(architecture, own, said, level))
    return jnp.concatenate(parts, -1)


def of_numbers(architecture: Architecture, z: jax.Array, found: jax.Array, level: jax.Array) -> jax.Array:
    """The estimate of numbers from the network's output, by the parametrization."""
    own, said = _shares(architecture, level)
    return own * z + said * found


def linearize(
    architecture: Architecture, weights: Weights, z: jax.Array, log_snr: jax.Array, context: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The estimate (n, F) at ``log_snr`` (), and the trace of its derivative by z (n,)."""
    found, trace = perceptron.linearize(architecture, weights, z, log_snr, given(architecture, context))
    own, said = _shares(architecture, log_snr)
    return own * z + said * found, own * architecture.size + said * trace


def _shares(architecture: Architecture, log_snr: jax.Array) -> tuple[jax.Array | float, jax.Array | float]:
    """a and b of the estimate a z + b f."""
    alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(side * log_snr)) for side in (1, -1))
    kind = architecture.family.parametrization
    if kind == "velocity":
        return alpha, -sigma
    if kind == "data":
        return 0.0, 1.0
    return (1 / alpha, -sigma / alpha) if kind == "noise" else (alpha, sigma / alpha)
