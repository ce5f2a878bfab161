r"""The checks of training by contrasts: whether negatives were draws of the density, and what it was when it ended.

=======================  =========================  ==================================================================
check                    threshold                  source
=======================  =========================  ==================================================================
diverged members         0                          energies of rows and negatives that run apart, or are not numbers
negative chains R-hat    1.1                        Gelman et al. 2013, Bayesian Data Analysis, section 11.4: the chains
                                                    go on with the weights as they are in the end; a gradient needs
                                                    less than an interval does
data against samples     3 standard errors, or 0.1  at the maximum of the likelihood both have the same mean of every
                         nats a column              log density that a weight multiplies (Hinton 2002)
learnt log Z             3 standard errors, or 0.1  Gutmann & Hyvärinen 2012, J. Mach. Learn. Res. 13
=======================  =========================  ==================================================================

The worst member is shown. Norms of gradients, the share of accepted steps and the gap between training and validation
rows inform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppl_gen import backends
from ppl_gen.diagnostics import Check, chain_statistics
from ppl_gen.evidence import MAX_ROWS, random_rows
from ppl_gen.normalizer import SITES
from ppl_gen.view import View, backend_arrays

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

Found = tuple[list[Check], dict[str, "pd.DataFrame"]]

RHAT = 1.1
ERRORS, GAP = 3.0, 0.1
MAX_COLUMNS = 64  # of wide rows, so many of which chains are looked at, besides the energy


def of_contrasts(fit: Fit) -> Found:
    """All of them; none where the density is normalised as it is, or nothing was trained."""
    if fit.pair.tempered is None:
        return [], {}
    found, details = _of_negatives(fit)
    more, tables = _of_samples(fit)
    return _of_training(fit) + found + more, details | tables


def _of_training(fit: Fit) -> list[Check]:
    figures, found = fit.draws.figures, []
    if figures.get("last_gradient_norm") is not None:
        found += [
            Check.of("diverged members", figures["num_diverged"], "at most", 0, info=f"of {fit.draws.num_chains}",
                     advice="They keep the weights of the window before: lower learning_rate, raise num_steps, or set "
                     "weight_decay or energy_decay."),
            Check("gradient norm", figures["last_gradient_norm"], info="mean of the last window, nats"),
            Check("energy gap of validation rows", figures["last_validation_gap"],
                  info="nats, how much higher log densities of training rows are"),
        ]  # fmt: skip
        if fit.pair.gibbs is None:
            found.append(Check("negatives' step size", figures["last_step_size"], info="model space; share of steps "
                               f"that a test accepts {figures['last_acceptance']:.2f}"))  # fmt: skip
    off = figures.get("learnt_log_normalizer_off")
    if off is not None and np.isfinite(fit.posterior["log_normalizer_error"]).all():
        limit = max(GAP, ERRORS * float(fit.posterior["log_normalizer_error"].max()))
        found.append(Check.of(
            "learnt log Z", off, "at most", float(f"{limit:.3g}"), info="nats from the estimate after training",
            advice="The weight is not log Z, as the noise is too unlike the rows: raise num_noise or max_steps, or "
            "use another noise.",
        ))  # fmt: skip
    return found


def _of_negatives(fit: Fit) -> Found:
    """R-hat of the chains of negatives, of energies and columns, as they go on after training."""
    import pandas as pd

    chains = fit.draws.parameters.get("negative_chain")
    if chains is None:
        return [], {}
    energies = np.asarray(fit.draws.parameters["negative_energy"], np.float64)
    columns = random_rows(chains.shape[-1], MAX_COLUMNS, fit.seed)
    names, tables = ["energy", *(str(fit.schema.targets[j]) for j in columns)], []
    for m, (states, energy) in enumerate(zip(chains, energies, strict=True)):
        values = np.concatenate([energy[..., None], np.asarray(states[..., columns], np.float64)], -1)
        varies = np.ptp(values, axis=(0, 1)) > 0
        table = chain_statistics(values[..., varies])
        table.insert(0, "quantity", [name for name, keep in zip(names, varies, strict=True) if keep])
        tables.append(table.assign(member=m))
    whole = pd.concat(tables, ignore_index=True)
    worst = whole.iloc[whole["r_hat"].argmax()]
    number, kept = energies.shape[1:]
    return [Check.of(
        "negative chains R-hat", worst["r_hat"], "at most", RHAT,
        info=f"{worst['quantity']}, worst of {len(whole)}; {number} chains x {kept} training steps",
        advice="Negatives were no draws of the density, so its gradient was another: raise num_steps, or "
        "num_temperatures.",
    )], {"negatives": whole}  # fmt: skip


def _of_samples(fit: Fit) -> Found:
    """How much higher log densities of training rows are than those of the model's own chains."""
    import pandas as pd

    if "chain" not in fit.posterior or fit.schema.conditions:
        return [], {}
    rows = random_rows(len(fit.train), MAX_ROWS, fit.seed)
    data = fit.train.take(rows)
    weights = np.ones(len(rows)) if data.weights is None else np.asarray(data.weights, np.float64)
    share, ops, frame = weights / weights.sum(), backends.ops(fit.backend), []
    as_float = backend_arrays(fit.backend)[0]
    chains = np.asarray(fit.posterior["chain"])
    if chains.shape[1] * chains.shape[2] < 8:
        return [], {}
    for m, states in enumerate(chains):
        one = {name: value[m : m + 1] for name, value in fit.posterior.items() if name not in SITES[1:]}
        own = np.asarray(ops.log_prob(fit.pair, one, data.view(fit.backend))[0], np.float64)
        flat = as_float(states.reshape(-1, *states.shape[2:]))
        drawn = np.asarray(ops.log_prob(fit.pair, one, View(flat))[0], np.float64).reshape(states.shape[:2])
        mean, ess = share @ own, 1.0
        if np.ptp(drawn) > 0:
            ess = float(chain_statistics(drawn[..., None])["ess_bulk"].iloc[0])
        error = np.sqrt(share**2 @ (own - mean) ** 2 + drawn.var() / max(np.nan_to_num(ess, nan=1.0), 1.0))
        frame.append((m, mean, drawn.mean(), mean - drawn.mean(), error))
    table = pd.DataFrame(frame, columns=["member", "rows", "samples", "gap", "error"])
    limits = np.maximum(ERRORS * table["error"], GAP * len(fit.schema.targets))
    worst = int((table["gap"].abs() - limits).argmax())
    gap, error = table["gap"].iloc[worst], table["error"].iloc[worst]
    return [Check.of(
        "data against samples", abs(gap), "at most", float(f"{limits.iloc[worst]:.3g}"),
        info=f"nats {'more' if gap > 0 else 'less'} in the mean log density of rows, ± {error:.2g}",
        advice="The density's own draws are not as likely as the rows: train longer, with a larger network, more "
        "steps of the chains or num_temperatures, and less weight_decay or energy_decay.",
    )], {"samples": table}  # fmt: skip
