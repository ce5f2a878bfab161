"""A comparison: models in the order of their held-out log density, with the error of each difference."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import DataError
from ppl_gen.metrics import stacking_weights, total_and_error

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data
    from ppl_gen.family import Family
    from ppl_gen.result import Fit

NOT_TOLD_APART = 2.0  # standard errors of the difference
FEW_ROWS = 100  # below which a standard error of a difference tends to be too small (Sivula et al. 2020)


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Models ranked by held-out log density.

    ``frame``      a row per model, best first: ``elpd`` (sum over rows, nats, original units), ``se``,
                   ``difference`` to the best, ``difference_se`` (paired by row), stacking ``weight``, ``density`` (the
                   kind of number: exact, importance, unnormalised, or implicit with its surrogate) and ``engine``
    ``pointwise``  (obs, model) held-out log density of each row, sequence or time step
    ``how``        how rows were held out
    ``warnings``   what to keep in mind when reading the table
    ``unit``       what is scored: "row", "sequence" or "time step"
    """

    frame: pd.DataFrame
    pointwise: pd.DataFrame
    how: str
    warnings: tuple[str, ...] = ()
    unit: str = "row"

    @property
    def best(self) -> str:
        """The name of the model with the highest held-out log density."""
        return str(self.frame.index[0])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = self.frame.reset_index(names="model").to_dict("records")
        clean = [{k: _plain(v) for k, v in row.items()} for row in rows]
        return {"best": self.best, "how": self.how, "models": clean, "warnings": list(self.warnings)}

    def __str__(self) -> str:
        table = self.frame.to_string(float_format=lambda value: f"{value:,.2f}", formatters={"weight": "{:.2f}".format})
        return "\n".join([f"Held-out ELPD, {self.how} (nats, higher is better)", table, *self.warnings])

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"Held-out ELPD, {self.how}", title_justify="left", title_style="bold",
                      header_style="dim", box=None)  # fmt: skip
        table.add_column("model")
        for name in ("elpd", "± se", "difference", "± se", "weight"):
            table.add_column(name, justify="right")
        table.add_column("density", style="dim")
        for place, (name, row) in enumerate(self.frame.iterrows()):
            pair = ("", "") if place == 0 else (f"{row['difference']:,.1f}", f"{row['difference_se']:,.1f}")
            style = "bold green" if place == 0 else ""
            table.add_row(str(name), f"{row['elpd']:,.1f}", f"{row['se']:,.1f}", *pair, f"{row['weight']:.2f}",
                          row["density"], style=style)  # fmt: skip
        return Group(table, *[Text(warning, style="yellow") for warning in self.warnings])


def as_table(columns: Mapping[str, np.ndarray], unit: str) -> tuple[pd.DataFrame, int]:
    """(obs, model), and how many rows had to go because some model has no held-out density for them."""
    import pandas as pd

    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"The models were scored on different numbers of {unit}s: {lengths}.")
    table = pd.DataFrame(columns).rename_axis(index=unit, columns="model")
    known = ~table.isna().any(axis=1)
    return table[known], int((~known).sum())


def rank(pointwise: pd.DataFrame, weights: np.ndarray | None, densities: Mapping[str, str],
         engines: Mapping[str, str]) -> pd.DataFrame:  # fmt: skip
    """The table of a comparison, best first, from held-out densities (obs, model) and row weights (obs,)."""
    import pandas as pd

    values = pointwise.to_numpy(np.float64)
    share = np.ones(len(values)) if weights is None else weights
    best = int(np.argmax(share @ values))
    totals = [total_and_error(values[:, j], share) for j in range(values.shape[1])]
    differences = [total_and_error(values[:, j] - values[:, best], share) for j in range(values.shape[1])]
    frame = pd.DataFrame({
        "elpd": [t[0] for t in totals], "se": [t[1] for t in totals],
        "difference": [d[0] for d in differences], "difference_se": [d[1] for d in differences],
        "weight": stacking_weights(values, share), "density": [densities[name] for name in pointwise],
        "engine": [engines[name] for name in pointwise],
    }, index=pd.Index(list(pointwise), name="model"))  # fmt: skip
    return frame.sort_values("elpd", ascending=False, kind="stable")


def cautions(
    frame: pd.DataFrame, prepared: Mapping[str, Data], number: int, dropped: int, unit: str
) -> tuple[str, ...]:
    """What to keep in mind when reading the table."""
    found = []
    if frame["density"].nunique() > 1:
        kinds = ", ".join(f"{name} is {kind}" for name, kind in frame["density"].items())
        found.append(f"These are not the same kind of number ({kinds}): a bound or a surrogate can't rank a density.")
    if len({data.schema.kinds for data in prepared.values()}) > 1:
        found.append("Columns are read as different kinds: a density and a probability mass can't be ranked together.")
    if len({data.schema.targets for data in prepared.values()}) > 1:
        found.append("Models of different columns (condition_on differs): their densities can't be ranked together.")
    best, rest = frame.index[0], frame.iloc[1:]
    tied = [str(name) for name, row in rest.iterrows() if -row["difference"] < NOT_TOLD_APART * row["difference_se"]]
    if tied:
        found.append(f"Can't be told apart from {best} (within {NOT_TOLD_APART:g} standard errors): {', '.join(tied)}.")
    if len(rest) and number < FEW_ROWS:
        found.append(f"With {number} {unit}s the standard errors are themselves uncertain (Sivula et al. 2020).")
    if dropped:
        found.append(f"{dropped} {unit}s without a held-out density under every model are left out.")
    return tuple(found)


def how_held_out(models: Mapping[str, Family | Fit], folds: int, test: Any, number: str, unit: str) -> str:
    """How rows were held out, in words."""
    from ppl_gen.result import Fit

    if test is not None:
        return f"{number} test {unit}s"
    fits = sum(isinstance(model, Fit) for model in models.values())
    ways = [f"{folds} folds refitted"] if fits < len(models) else []
    ways += [f"each fit's own held-out {unit}s"] if fits else []
    return f"{number} {unit}s, {' and '.join(ways)}"


def weak_loo(name: str, model: Family | Fit) -> str:
    """A warning where a fit's held-out densities are PSIS estimates of which many can't be trusted."""
    from ppl_gen.checks import KHAT_SHARE
    from ppl_gen.evidence import posterior_khat
    from ppl_gen.result import Fit

    if not isinstance(model, Fit):
        return ""
    khat = posterior_khat(model)
    if khat is None or khat.above <= KHAT_SHARE * khat.rows:
        return ""
    share = f"{khat.above} of {khat.rows} {model.train.unit}s"
    return f"PSIS-LOO of {name} is unreliable (k-hat above {khat.limit:.2g} in {share}): compare its family by folds."


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else str(value)
    return value
