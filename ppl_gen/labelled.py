r"""What fits with a label say of it: p(y | x), and codes that are decoded together with a label.

With the weights :math:`w_{ky} = p(x, y, z_{ky}) / q(z_{ky} \mid x, y)` of K particles for each label y, the z of all
labels at the same points of the unit cube,

.. math:: \hat p(y \mid x) = \sum_k w_{ky} \Big/ \sum_{k, y'} w_{ky'}

under each member of an ensemble; a row that has a label has probability 1 there. The guide's classifier q(y | x) is
the other answer: it is what the labels trained, p(y | x) what the whole model says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp, softmax

from ppl_gen import backends, importance, latents

if TYPE_CHECKING:
    from ppl_gen.columns import Column
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

Posterior = dict[str, np.ndarray]


def probabilities(fit: Fit, data: Data, posterior: Posterior, seed: int) -> np.ndarray:
    """(draws, n, C): p(y | x) of each row under each draw."""
    label = fit.pair.label
    assert label is not None
    ops, found, uniforms = backends.ops(fit.backend), list[np.ndarray](), None
    draws, number = len(next(iter(posterior.values()))), importance.NUM_PARTICLES
    for _, view, kept in latents.parts(fit, data, max(1, importance.CHUNK_VALUES // (number * draws * label.size))):
        if uniforms is None:
            uniforms = importance.points(number, ops.local_size(fit.pair, posterior, view.take(slice(0, 1))), seed)
        weights = ops.log_weights(fit.pair, posterior, view, uniforms, seed, by_label=True)[..., kept]
        each = weights.astype(np.float64).reshape(draws, -1, label.size, weights.shape[-1])
        found.append(softmax(logsumexp(each, axis=1), axis=1).transpose(0, 2, 1))
    return np.concatenate(found, axis=1)


def classified(fit: Fit, data: Data, posterior: Posterior) -> np.ndarray:
    """(draws, n, C): q(y | x) of each row under each draw."""
    local, found = backends.codes(fit.backend), []
    for _, view, kept in latents.parts(fit, data):
        found.append(local.label_probs(fit.pair, posterior, view)[:, kept].astype(np.float64))
    return np.concatenate(found, axis=1)


def column_of(fit: Fit) -> Column:
    """The label's column."""
    assert fit.pair.label is not None
    return fit.schema.target_columns[fit.pair.label.column]


def table(fit: Fit, data: Data, seed: int) -> dict[str, Any]:
    """The columns of :meth:`Fit.latents <ppl_gen.result.Fit.latents>` that say p(y | x), of all members together,
    and what their classifiers say, q(y | x)."""
    column, each = column_of(fit), probabilities(fit, data, fit.posterior, seed)
    centre, name, guess = each.mean(0), column.name, classified(fit, data, fit.posterior).mean(0)
    best = centre.argmax(1)
    found: dict[str, Any] = {
        name: column.to_table(best).to_numpy(), f"{name}_prob": centre.max(1),
        f"{name}_agreement": (each.argmax(2) == best).mean(0),
        f"{name}_classifier": column.to_table(guess.argmax(1)).to_numpy(), f"{name}_classifier_prob": guess.max(1),
    }  # fmt: skip
    for k, value in enumerate(column.levels):
        found[f"{name}={value}"] = centre[:, k]
        found[f"{name}={value}_sd"] = each[:, :, k].std(0)
    return found


def drawn(fit: Fit, chosen: np.ndarray) -> dict[str, Any]:
    """The labels of particles that were chosen (n,) by their numbers among those of all labels."""
    if fit.pair.label is None:
        return {}
    column = column_of(fit)
    return {column.name: column.to_table(chosen % fit.pair.label.size).to_numpy()}


def placed(fit: Fit, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(n, L + C): codes (n, L) with the indicators of their labels, as ``decode`` takes them; codes alone without a
    label.

    :param chosen: (n,) labels, or numbers of particles.
    """
    label = fit.pair.label
    if label is None:
        return values
    return np.concatenate([values, chosen[..., None] % label.size == np.arange(label.size)], -1, dtype=values.dtype)


def likeliest(fit: Fit, data: Data, posterior: Posterior) -> np.ndarray:
    """(n,): the likeliest label of each row under one member; 0 where rows have none."""
    if fit.pair.label is None:
        return np.zeros(len(data), int)
    return np.asarray(probabilities(fit, data, posterior, 0)[0].argmax(1))
