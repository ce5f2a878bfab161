"""The label of a semi-supervised autoencoder in torch: its classifier, and rows that hold it. The twin of
``numpyro_label``."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch

from ppl_gen.backends import pyro_labels as labels
from ppl_gen.backends.pyro_networks import Weights, perceptron
from ppl_gen.models.vae.architecture import Architecture, part
from ppl_gen.models.vae.pyro_network import Columns, Raw
from ppl_gen.view import View


def site(architecture: Architecture, logits: torch.Tensor) -> torch.Tensor | None:
    """The site of the label, None where there is none."""
    if architecture.label is None:
        return None
    return pyro.sample(architecture.label.site, dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


def proposed(architecture: Architecture, logits: torch.Tensor, view: View) -> torch.Tensor:
    """The site of the label in the guide: where the column has one, no other is proposed. The classifier's own logits
    (n, C), which it learns from there, are kept with the site."""
    label = architecture.label
    assert label is not None
    possible = labels.allowed(label, view)[0]
    fn = dist.Categorical(logits=torch.where(possible.T, logits, labels.NEVER))
    return pyro.sample(label.site, fn, infer={"enumerate": "parallel", "logits": logits})


def indicator(architecture: Architecture, y: torch.Tensor | None) -> torch.Tensor | None:
    """(..., C): 1 at the label, else 0."""
    return None if y is None else (y[..., None] == torch.arange(architecture.num_labels)).to(torch.get_default_dtype())


def readable(architecture: Architecture, mask: torch.Tensor | None) -> torch.Tensor | None:
    """The mask as encoder and classifier read it: whether there is a label is not for them to see."""
    if mask is None or architecture.label is None:
        return mask
    return mask | (torch.arange(architecture.num_columns) == architecture.label.column)


def classify(
    architecture: Architecture, weights: Weights, rows: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """(n, C): logits of q(y | x), of rows as ``inputs`` has them."""
    own = part(weights, "classifier_")
    if mask is not None:
        own["bias_0"] = own["bias_0"] + (~mask).to(rows.dtype) @ own["missing_weight"]
    return perceptron(own, rows, architecture.num_dense)


class Labelled(Columns):
    """Rows whose label is y (...): the others are independent given what the decoder says of them."""

    def __init__(
        self, architecture: Architecture, weights: Weights, raw: Raw, mask: torch.Tensor | None, y: torch.Tensor, *,
        validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.y = y
        super().__init__(architecture, weights, raw, mask, validate_args=validate_args)

    def expand(self, batch_shape: tuple[int, ...], _instance: Any = None) -> Labelled:
        raw = [part.expand(len(part), *batch_shape, part.shape[-1]) for part in self.raw]
        y = self.y.expand(batch_shape)
        return Labelled(self.architecture, self.weights, raw, self.mask, y, validate_args=self._validate_args)  # type: ignore[arg-type]

    @property
    def place(self) -> int:
        label = self.architecture.label  # type: ignore[attr-defined]
        return int(label.column)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        agrees = value[..., self.place] == self.y
        if self.mask is not None:
            agrees = agrees | ~self.mask[..., self.place]
        return super().log_prob(value) + torch.where(agrees, 0.0, labels.NEVER)

    def sample(self, sample_shape: tuple[int, ...] = torch.Size()) -> torch.Tensor:
        return self._with_label(super().sample(sample_shape))

    @property
    def typical(self) -> torch.Tensor:
        """The median of each column, of labels the likeliest."""
        return self._with_label(super().typical)

    def _with_label(self, others: torch.Tensor) -> torch.Tensor:
        own = self.y.to(others.dtype).expand(others.shape[:-1])[..., None]
        return torch.cat([others[..., : self.place], own, others[..., self.place :]], -1)


def rows(
    architecture: Architecture, weights: Weights, raw: Raw, mask: torch.Tensor | None, y: torch.Tensor | None
) -> Columns:
    """The distribution of rows given what the decoder says, and the label where there is one."""
    return Columns(architecture, weights, raw, mask) if y is None else Labelled(architecture, weights, raw, mask, y)
