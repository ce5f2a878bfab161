"""Whole numbers as unit cells of a continuous space, in JAX: noise within a cell, and the cell of a point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

if TYPE_CHECKING:
    from ppl_gen.models.flow.architecture import Architecture


def noise(architecture: Architecture) -> jax.Array:
    """The site u (..., number of whole-number columns), uniform on (0, 1)."""
    zeros = jnp.zeros(int(architecture.is_discrete.sum()))
    return numpyro.sample("u", dist.Uniform(zeros, zeros + 1).to_event(1))


def quantize(architecture: Architecture, v: jax.Array) -> jax.Array:
    """(..., D) points as rows of the table: whole numbers where it has such."""
    whole = jnp.clip(jnp.floor(v), 0, jnp.asarray(architecture.highest, v.dtype))
    return jnp.where(architecture.is_discrete, whole, v)
