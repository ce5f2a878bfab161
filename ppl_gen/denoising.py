r"""What a reconstruction of corrupted rows tells of their density: its gradient, and whether its Markov chain mixes.

A chain of corruptions and reconstructions has a stationary distribution, of which its states are draws once it is
there. Chains start from rows at random, so they lie apart in all that the table holds; whether they forget their starts
is judged as of any sampler, column by column in data space:

=====================  ==============  ===============================================================================
check                  threshold       source
=====================  ==============  ===============================================================================
walk-back R-hat        1.01            Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021 (Bayesian Anal. 16), section
                                       4; over many quantities see :func:`ppl_gen.checks.rhat_limit`
walk-back bulk ESS     100 a chain,    Vehtari et al. 2021, section 4.2
                       or half of it
=====================  ==============  ===============================================================================

The worst column of the worst member of an ensemble is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import backends, latents
from ppl_gen.diagnostics import Check, chain_statistics
from ppl_gen.errors import UnsupportedError
from ppl_gen.scoring import encode

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

Found = tuple[list[Check], dict[str, "pd.DataFrame"]]


def score_function(fit: Fit, table: Any) -> pd.DataFrame:
    """See :meth:`ppl_gen.result.Fit.score_function`."""
    import pandas as pd

    latents.require(fit, "score_function")
    columns = fit.schema.target_columns
    real = [j for j, column in enumerate(columns) if column.kind == "real"]
    if fit.pair.score_function is None:
        kinds = ", ".join(sorted({column.kind for column in columns}))
        raise UnsupportedError(f"The score function is the gradient by real columns, and there is none ({kinds} only).")
    data, ops, found = encode(fit, table), backends.ops(fit.backend), []
    for _, view, kept in latents.parts(fit, data):
        each = ops.hook_over_draws(fit.pair, "score_function", fit.posterior, view)
        found.append(each[:, kept][..., real].astype(np.float64))
    values = np.concatenate(found, axis=1) / np.array([columns[j].scale for j in real])
    mean, sd = values.mean(0), values.std(0)
    frame = {"row": np.arange(len(data))}
    for i, j in enumerate(real):
        frame |= {str(columns[j].name): mean[:, i], f"{columns[j].name}_sd": sd[:, i]}
    return pd.DataFrame(frame)


def of_walk(fit: Fit) -> Found:
    """Whether the chain of each member mixes; no check where the pair walks none."""
    from ppl_gen.checks import ESS_PER_CHAIN, rhat_limit

    if fit.pair.walk is None:
        return [], {}
    chains = np.asarray(fit.posterior["chain"], np.float64)  # (members, C, T, D)
    whole = of_columns(fit, chains)
    number, kept = chains.shape[1:3]
    split, slow = whole.iloc[whole["r_hat"].argmax()], whole.iloc[whole["ess_bulk"].argmin()]
    least = ESS_PER_CHAIN * number
    advice = (
        "The chain goes too seldom from one part of the data to another, so draws and densities weigh the parts by "
        "where the chains began: raise noise or flip, or thinning and num_warmup."
    )
    found = [
        Check.of("walk-back R-hat", split["r_hat"], "at most", rhat_limit(number, len(whole), slow["ess_bulk"]),
                 info=f"{split['column']}, worst of {len(whole)}; {number} chains x {kept} states", advice=advice),
        Check.of("walk-back bulk ESS", slow["ess_bulk"], "at least", min(least, number * kept / 2),
                 info=f"{slow['column']}, worst of {len(whole)}", advice=advice),
    ]  # fmt: skip
    return found, {"walk": whole}


def of_columns(fit: Fit, chains: np.ndarray) -> pd.DataFrame:
    """Statistics of each column, in its own units, of the chains (members, C, T, D) of each member; columns of one
    value only, of which nothing can be told, are left out."""
    import pandas as pd

    names, tables = [column.name for column in fit.schema.target_columns], []
    for m, states in enumerate(chains):
        varies = np.ptp(states, axis=(0, 1)) > 0
        table = chain_statistics(states[..., varies])
        table.insert(0, "column", [name for name, keep in zip(names, varies, strict=True) if keep])
        tables.append(table.assign(member=m))
    whole = pd.concat(tables, ignore_index=True)
    scale = whole["column"].map({c.name: c.scale for c in fit.schema.target_columns})
    loc = whole["column"].map({c.name: c.loc for c in fit.schema.target_columns})
    return whole.assign(mean=whole["mean"] * scale + loc, sd=whole["sd"] * scale, mcse_mean=whole["mcse_mean"] * scale)
