"""Which component of its state's mixture a time step is of: numpy, for both backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax

if TYPE_CHECKING:
    from ppl_gen.data import Schema
    from ppl_gen.models.hmm import HMM, HMMPrior

OVER_COLUMNS = ("loc", "loc_scale", "scale", "locs", "scales")  # of the prior, with one more axis in "mixture"
OVER_COMPONENTS = ("mixture_concentration", "mixture_weights")


def component_probs(
    family: HMM, posterior: Mapping[str, np.ndarray], schema: Schema, x: np.ndarray, mask: np.ndarray | None
) -> np.ndarray:
    r"""(S, P, K, M): :math:`p(c = m \mid z = k, x_t) \propto w_{km} \prod_d \mathrm{Normal}(x_{td} \mid \mu_{kmd},
    \sigma_{kmd})`, over the observed entries of P time steps.

    :param posterior: flat draws {site: (S, *event shape)}; those that the prior fixes may be missing.
    :param x: (P, D) in model space. :param mask: (P, D), False where an entry is missing, or None.
    """
    from ppl_gen.models.hmm.hyperparameters import resolve

    sites = {**resolve(family, schema).fixed, **posterior}
    # (S or 1, 1, K, M, D): a fixed site has no draws.
    locs, scales = (np.asarray(sites[name], np.float64) for name in ("locs", "scales"))
    locs, scales = (v[None, None] if v.ndim == 3 else v[:, None] for v in (locs, scales))
    weights = np.asarray(sites["mixture_weights"], np.float64)
    with np.errstate(divide="ignore"):
        total = np.log(weights[None, None] if weights.ndim == 2 else weights[:, None])
    for d in range(x.shape[1]):  # column by column: all at once would take D times the memory
        y = (x[None, :, None, None, d].astype(np.float64) - locs[..., d]) / scales[..., d]
        part = -0.5 * y * y - np.log(scales[..., d])
        total = total + (part if mask is None else np.where(mask[None, :, None, None, d], part, 0.0))
    return np.exp(log_softmax(total, axis=-1))


def tells_components_apart(prior: HMMPrior) -> bool:
    """Whether the prior says something else of one component of a state than of another."""
    for names, ndim in ((OVER_COLUMNS, 3), (OVER_COMPONENTS, 2)):
        for name in names:
            value = getattr(prior, name)
            if np.ndim(value) == ndim and np.ptp(np.asarray(value, np.float64), axis=1).any():
                return True
    return False
