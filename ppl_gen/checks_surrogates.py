"""The check of what stands for an implicit density: annealed importance sampling, between its bounds.

=======================  =========  ===================================================================================
check                    threshold  source
=======================  =========  ===================================================================================
AIS gap                  1 nat      Grosse, Ghahramani & Adams 2015 (arXiv:1511.02543): the gap of bounds from below and
                                    above is how far both are off together, on average, on rows that the model makes
=======================  =========  ===================================================================================

Its chains take as long as those of a score, so it looks only at a bracket that was asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppl_gen.diagnostics import Check

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

GAP = 1.0  # nats
KEPT = "_bracket"  # the place of a fit where its last bracket is


def of_bracket(fit: Fit) -> tuple[list[Check], dict[str, pd.DataFrame]]:
    """How far annealed importance sampling is off at most; none where the density is not implicit."""
    if fit.pair.generate is None:
        return [], {}
    found = fit.__dict__.get(KEPT)
    if found is None:
        return [Check("AIS gap", info="not looked at: fit.bracket() says how far scores of kind implicit are off")], {}
    return [Check.of(
        "AIS gap", found.gap, "at most", GAP, info=f"± {found.error:.1g} nats, of {len(found.lower):,} simulated rows",
        advice="Scores are too low by up to this much: score with surrogate=AIS(num_temperatures=1000).",
    )], {"bracket": found.to_frame()}  # fmt: skip
