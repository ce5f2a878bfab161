"""The label of a semi-supervised autoencoder in JAX: its classifier, and rows that hold it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from ppl_gen.backends import numpyro_labels as labels
from ppl_gen.backends.numpyro_networks import Weights, perceptron
from ppl_gen.models.vae.architecture import Architecture, part
from ppl_gen.models.vae.numpyro_network import Columns, Raw
from ppl_gen.view import View


def site(architecture: Architecture, logits: jax.Array) -> jax.Array | None:
    """The site of the label, None where there is none."""
    if architecture.label is None:
        return None
    fn = dist.Categorical(logits=logits)
    return numpyro.sample(architecture.label.site, fn, infer={"enumerate": "parallel"})


def proposed(architecture: Architecture, logits: jax.Array, view: View) -> jax.Array:
    """The site of the label in the guide: where the column has one, no other is proposed. The classifier's own logits
    (n, C), which it learns from there, are kept with the site."""
    label = architecture.label
    assert label is not None
    possible = labels.allowed(label, view)[0]
    fn = dist.Categorical(logits=jnp.where(possible.T, logits, labels.NEVER))
    return numpyro.sample(label.site, fn, infer={"enumerate": "parallel", "logits": logits})


def indicator(architecture: Architecture, y: jax.Array | None) -> jax.Array | None:
    """(..., C): 1 at the label, else 0."""
    return None if y is None else (y[..., None] == jnp.arange(architecture.num_labels)).astype(float)


def readable(architecture: Architecture, mask: jax.Array | None) -> jax.Array | None:
    """The mask as encoder and classifier read it: whether there is a label is not for them to see."""
    if mask is None or architecture.label is None:
        return mask
    return mask | (jnp.arange(architecture.num_columns) == architecture.label.column)


def classify(architecture: Architecture, weights: Weights, rows: jax.Array, mask: jax.Array | None) -> jax.Array:
    """(n, C): logits of q(y | x), of rows as ``inputs`` has them."""
    own = part(weights, "classifier_")
    if mask is not None:
        own["bias_0"] = own["bias_0"] + (~mask).astype(rows.dtype) @ own["missing_weight"]
    return perceptron(own, rows, architecture.num_dense)


class Labelled(Columns):
    """Rows whose label is y (...): the others are independent given what the decoder says of them."""

    pytree_data_fields = ("y",)

    def __init__(
        self, architecture: Architecture, weights: Weights, raw: Raw, mask: jax.Array | None, y: jax.Array, *,
        validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.y = y
        super().__init__(architecture, weights, raw, mask, validate_args=validate_args)

    @property
    def place(self) -> int:
        label = self.architecture.label  # type: ignore[attr-defined]
        return int(label.column)

    def log_prob(self, value: Any) -> jax.Array:
        agrees = value[..., self.place] == self.y
        if self.mask is not None:
            agrees = agrees | ~self.mask[..., self.place]
        return super().log_prob(value) + jnp.where(agrees, 0.0, labels.NEVER)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        return self._with_label(super().sample(key, sample_shape))

    @property
    def typical(self) -> jax.Array:
        """The median of each column, of labels the likeliest."""
        return self._with_label(super().typical)

    def _with_label(self, others: jax.Array) -> jax.Array:
        own = jnp.broadcast_to(self.y.astype(others.dtype), others.shape[:-1])[..., None]
        return jnp.concatenate([others[..., : self.place], own, others[..., self.place :]], -1)


def rows(
    architecture: Architecture, weights: Weights, raw: Raw, mask: jax.Array | None, y: jax.Array | None
) -> Columns:
    """The distribution of rows given what the decoder says, and the label where there is one."""
    return Columns(architecture, weights, raw, mask) if y is None else Labelled(architecture, weights, raw, mask, y)
