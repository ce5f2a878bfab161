r"""Guidance of a reverse chain towards a condition, of a diffusion model that was trained with it or without.

``"free"``        without a classifier (Ho & Salimans 2022, arXiv:2207.12598, eq. 6): of a model that is conditioned on
                  columns, and that saw rows without their condition in training,
                  :math:`\hat e = (1 + w)\, \hat e(z, y) - w\, \hat e(z)`. At w = 0 these are rows of p(x | y)
``"classifier"``  by a classifier of noisy rows (:mod:`ppl_gen.noisy_classifier`)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import SettingError, UnsupportedError

if TYPE_CHECKING:
    from ppl_gen.result import Fit


@dataclasses.dataclass(frozen=True)
class Guidance:
    """``kind``, ``weight`` w, and of a classifier its ``weights`` and the number of the ``label``."""

    kind: str
    weight: float
    weights: Mapping[str, np.ndarray] | None = None
    label: int = 0

    def arrays(self) -> dict[str, Any]:
        """What a program reads."""
        if self.weights is None:
            return {"weight": self.weight}
        return {"weight": self.weight, "weights": dict(self.weights), "label": self.label}


def resolve(fit: Fit, weight: Any, classifier: Any, label: Any) -> Guidance | None:
    """The guidance that is asked for; None is none.

    :raises SettingError: the weight is no finite number; guidance without anything to guide to, of a fit whose
        condition was never dropped, or of one with a condition by a classifier as well; a label without a classifier.
    """
    if weight is not None:
        number = isinstance(weight, int | float | np.integer | np.floating) and not isinstance(weight, bool)
        if not number or not np.isfinite(weight):
            raise SettingError(f"guidance must be a number, the weight of the guidance, not {weight!r}.")
    if classifier is not None:
        return _by_classifier(fit, weight, classifier, label)
    if label is not None:
        raise SettingError("label= is what a classifier guides to: pass the classifier too (fit.train_classifier).")
    if weight is None:
        return None
    noising = fit.pair.noising
    if not fit.schema.conditions:
        raise SettingError(
            "This fit is conditioned on nothing, so guidance= has nothing to guide to: fit it with condition_on, or "
            "pass a classifier of noisy rows (fit.train_classifier) and a label."
        )
    if weight == 0:
        return None  # rows of p(x | y)
    if noising is None or not noising.drops_context:
        raise SettingError(
            "Guidance compares rows with their condition to rows without, which this fit never saw: fit it with "
            "condition_dropout=0.1."
        )
    return Guidance("free", float(weight))


def _by_classifier(fit: Fit, weight: Any, classifier: Any, label: Any) -> Guidance:
    from ppl_gen.noisy_classifier import NoisyClassifier, columns_of, require_columns

    if not isinstance(classifier, NoisyClassifier):
        raise SettingError(f"classifier must be one that fit.train_classifier gives, not {type(classifier).__name__}.")
    if fit.schema.conditions:
        raise SettingError("A classifier guides a fit without conditions; this one has some: use given= instead.")
    require_columns(fit, columns_of(classifier.fit))
    if label is None:
        raise SettingError(f"Pass the label to guide to: label= one of {', '.join(map(repr, classifier.labels))}.")
    return Guidance("classifier", 1.0 if weight is None else float(weight), classifier.weights, classifier.code(label))


def refuse(fit: Fit, **options: Any) -> None:
    """Raise an :class:`UnsupportedError` where options of diffusion models are given to another family."""
    for name, value in options.items():
        if value is not None:
            raise UnsupportedError(f"{name}= is for diffusion models; {fit.family.name} draws its rows at once.")
