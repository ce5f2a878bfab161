"""The checks of a fit to sequences that take the place of those of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppl_gen.diagnostics import Check
from ppl_gen.evidence import Evidence

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

Found = tuple[list[Check], dict[str, "pd.DataFrame"]]
P_VALUE = 0.01
MIN_STEPS = 2.0  # time steps below which a state describes single points


def left_future_out(fit: Fit) -> Found:
    """Few sequences: the end of each is predicted from what came before."""
    import pandas as pd

    from ppl_gen.one_step_ahead import leave_future_out

    elpd, khat = leave_future_out(fit, Evidence.of(fit).train)
    there = np.isfinite(elpd)
    frame = pd.DataFrame({"step": np.flatnonzero(there), "elpd": elpd[there], "k_hat": khat[there]})
    table = {"leave_future_out": frame}
    if not there.any():
        return [Check("held-out ELPD", info="the draws do not bear leaving out even the last step")], table
    number, values = int(there.sum()), elpd[there]
    error = np.sqrt(number) * values.std(ddof=1) if number > 1 else np.nan
    info = f"± {error:.1f} nats, {values.mean():.3f} a step (leave-future-out, the last {number} steps)"
    return [Check("held-out ELPD", float(values.sum()), info=info)], table


def _rarest_state(fit: Fit) -> Check | None:
    """How many time steps the state that holds the fewest is expected to hold; a state without data says nothing."""
    from ppl_gen.timeseries import over_draws, spread

    size, data = fit.family.num_labels, Evidence.of(fit).train
    if size < 2:
        return None
    steps = over_draws(fit, "smoothed", data, spread(fit, 100), size).sum(1, dtype=np.float64).mean(0)
    rarest = int(np.argmin(steps))
    return Check.of(
        "steps in rarest state", float(steps[rarest]), "at least", MIN_STEPS, info=f"state {rarest} of {size}",
        advice="The data do not bear so many states: use fewer.",
    )  # fmt: skip


def with_residuals(fit: Fit, found: list[Check], details: dict[str, pd.DataFrame]) -> Found:
    """Sequences: where each entry falls in its one-step-ahead predictive distribution."""
    import pandas as pd

    from ppl_gen import metrics
    from ppl_gen.one_step_ahead import pseudo_residuals

    rarest = _rarest_state(fit)
    found += [] if rarest is None else [rarest]
    columns, cells = fit.schema.target_columns, pseudo_residuals(fit, Evidence.of(fit).train)
    if cells is None:
        return found, details
    low, high = cells
    pit = low + (high - low) * np.random.default_rng(fit.seed).random(low.shape)
    tests = [metrics.uniformity(pit[np.isfinite(pit[:, j]), j]) for j in range(len(columns))]
    worst = int(np.argmin([test.p_value for test in tests]))
    found.append(Check.of(
        "pseudo-residual p", tests[worst].p_value, "at least", P_VALUE / len(columns),
        info=f"lowest of {len(columns)}: {columns[worst].name}",
        advice=f"The one-step-ahead predictions of {columns[worst].name} are off: use a richer family, with more "
        "states or layers, or another emission.",
    ))  # fmt: skip
    return found, details | {"pit": pd.DataFrame(pit, columns=[c.name for c in columns])}
