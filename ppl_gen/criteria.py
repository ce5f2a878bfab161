"""Information criteria of maximum likelihood fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppl_gen import backends
from ppl_gen.errors import UnsupportedError

if TYPE_CHECKING:
    from ppl_gen.result import Fit


def information_criteria(fit: Fit) -> dict[str, float]:
    r"""AIC, BIC and, where there are labels, ICL of a maximum likelihood fit; lower is better, nats times 2.

    With the log likelihood :math:`\hat\ell` (original units, row weights counted), p free parameters and n
    rows (of sequences, time steps):
    :math:`\mathrm{AIC} = 2p - 2\hat\ell` (Akaike 1974, IEEE Trans. Autom. Control 19),
    :math:`\mathrm{BIC} = p \log n - 2\hat\ell` (Schwarz 1978, Ann. Stat. 6), and
    :math:`\mathrm{ICL} = \mathrm{BIC} - 2 \sum_i \log \max_k p(z_i = k \mid x_i)` (Biernacki, Celeux & Govaert 2000,
    IEEE Trans. Pattern Anal. 22), which charges a mixture for components that overlap.

    :raises UnsupportedError: the fit is no maximum likelihood fit.
    """
    point = fit.draws.point
    free = fit.family.num_free(fit.schema)
    if point is None or free is None or getattr(fit.engine, "objective", None) != "ml":
        raise UnsupportedError(
            "AIC, BIC and ICL are for maximum likelihood fits: fit with engine=EM(objective='ml'), "
            "or compare fits by held-out ELPD with pg.compare."
        )
    weights = np.ones(len(fit.train)) if fit.train.weights is None else fit.train.weights
    log_prob = fit.score(p_values=False, keep_draws=False).log_predictive
    log_likelihood, number = float(weights @ log_prob), float(weights.sum())
    if fit.train.lengths is not None:
        number = float(weights @ fit.train.lengths)
    bic = free * np.log(number) - 2 * log_likelihood
    result = {"log_likelihood": log_likelihood, "num_parameters": float(free), "aic": 2 * free - 2 * log_likelihood,
              "bic": float(bic)}  # fmt: skip
    if fit.family.label_axes() and not fit.family.sequences:
        draw = {name: value[None] for name, value in point.items()}
        view = fit.train.view(fit.backend)
        (table,) = backends.ops(fit.backend).local_posterior(fit.pair, draw, view).values()
        best = np.log(np.maximum(table[0].max(-1), np.finfo(np.float32).tiny))
        result["icl"] = float(bic - 2 * weights @ best)
    return result
