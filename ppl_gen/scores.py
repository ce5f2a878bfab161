"""What a score is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


MAX_KHAT = 0.7  # of the weights of a row's latents


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
    """Log densities of rows, in nats and in the original units of the table; of an implicit density surrogates of them.

    ``log_predictive``  (obs,) log of the mean density over draws: log (1/S) sum_s p(x | theta_s); for a point
                        estimate with bootstrap refits, log p(x | point)
    ``sd``              (obs,) standard deviation of log p(x | theta) over draws
    ``hdi``             (obs, 2) highest density interval of log p(x | theta) over draws
    ``log_prob``        DataArray (chain, draw, obs) of log p(x | theta), or None where it would not fit in memory
    ``kind``            exact, importance, bound, unnormalised or implicit
    ``error``           (obs,) standard error of the number itself (Monte Carlo; of a continuous flow and a diffusion
                        model's probability flow how far the solver and an estimate of the trace may be off; of an
                        unnormalised density that of log Z, which all rows share), or None where it is exact
    ``elbo``            (obs,) where it is estimated by (annealed) importance sampling, its lower bound, the ELBO, the
                        mean log weight; of a diffusion model the bound of its chain; else None
    ``elbo_error``      (obs,) Monte Carlo standard error of a diffusion model's bound, else None
    ``k_hat``           (obs,) likewise, Pareto k-hat of the weights: above 0.7 number and error are not to be trusted
    ``p_value``         (obs,) anomaly p-value: the rank of the row's density among densities of training rows that
                        were held out (conformal p-value; Vovk, Gammerman & Shafer 2005), or None
    ``steps``           of sequences: which one each number is of, and of its time steps which; else None
    ``num_entries``     (obs,) how many entries of the table (columns, of all its time steps) each density is of
    ``discrete``        whether all columns are discrete, so that densities are probabilities
    ``normalized``      whether log Z of an unnormalised density is known: if not, only differences mean anything
    ``surrogate``       of an implicit density, which: ``"ais"``, log p(x) under an observation model by annealed
                        importance sampling, or ``"log_ratio"``, the discriminator's log p_data(x) - log p_model(x),
                        which is no density and has no units; else None
    """

    log_predictive: np.ndarray
    sd: np.ndarray
    hdi: np.ndarray
    kind: str
    hdi_prob: float
    uncertainty: str
    log_prob: xr.DataArray | None = None
    error: np.ndarray | None = None
    elbo: np.ndarray | None = None
    elbo_error: np.ndarray | None = None
    k_hat: np.ndarray | None = None
    p_value: np.ndarray | None = None
    steps: pd.DataFrame | None = None
    num_entries: np.ndarray | None = None
    discrete: bool = False
    normalized: bool = True
    surrogate: str | None = None

    def __len__(self) -> int:
        return len(self.log_predictive)

    def __repr__(self) -> str:
        mean = np.mean(self.log_predictive, dtype=np.float64) if len(self) else np.nan
        kind = self.kind if self.surrogate is None else f"{self.kind}: {self.surrogate}"
        return f"<Score of {len(self):,} {self.what} ({kind}, {self.uncertainty}): mean {mean:.4g} nats>"

    @property
    def what(self) -> str:
        """What the numbers are, in words."""
        return "log ratios" if self.surrogate == "log_ratio" else "log densities"

    @property
    def is_density(self) -> bool:
        """Whether the numbers are log densities, up to log Z."""
        return self.surrogate != "log_ratio"

    @property
    def total(self) -> float:
        """Sum of the rows' log predictive densities, nats."""
        return float(np.sum(self.log_predictive, dtype=np.float64))

    @property
    def bits_per_dim(self) -> float:
        r"""Mean negative log density an entry, in bits: :math:`-\sum_i \log p(x_i) / (\sum_i D_i \log 2)`, where D_i
        is the number of entries of row i: its columns, of a sequence columns times time steps (nats / (D log 2)).

        For discrete columns the length of an ideal code (Shannon 1948), at least 0. The density of real columns is per
        unit of the table: rescaling a column by c moves it by :math:`\log_2 c / D`. NaN without an entry.
        """
        known = self._entries and self.normalized and self.is_density
        return float(-self.total / (self._entries * np.log(2))) if known else float("nan")

    @property
    def perplexity(self) -> float:
        r"""The exponential of the mean negative log probability a token, :math:`\exp(-\sum_i \log p(x_i) / \sum_i
        D_i)`: among how many equally likely values a token would be as hard to foretell (Jelinek, Mercer, Bahl & Baker
        1977, J. Acoust. Soc. Am. 62). A token is one entry: of a sequence of one column, a time step. NaN where a
        column is real, since a density has no such meaning.
        """
        known = self.discrete and self._entries and self.normalized and self.is_density
        return float(np.exp(-self.total / self._entries)) if known else float("nan")

    @property
    def _entries(self) -> int:
        return 0 if self.num_entries is None else int(np.sum(self.num_entries))

    @property
    def unreliable(self) -> np.ndarray:
        """(obs,) bool: k-hat above 0.7, where neither the number nor its error is to be trusted (Vehtari, Simpson,
        Gelman, Yao & Gabry 2024, J. Mach. Learn. Res. 25); False where the density is not estimated."""
        return np.zeros(len(self), bool) if self.k_hat is None else ~(np.asarray(self.k_hat) <= MAX_KHAT)

    @property
    def precision(self) -> str:
        """How sure the numbers themselves are, in a few words; empty where they are exact."""
        if not self.normalized:
            return "without log Z: only differences mean anything"
        if self.error is None or not len(self.error):
            return ""
        of = {"unnormalised": "error of log Z", "exact": "median error of the solver"}
        what = of.get(self.kind, "median Monte Carlo error")
        return f"{what} ± {np.median(self.error):.2g} nats"

    def to_frame(self) -> pd.DataFrame:
        """Columns row, log_prob, log_prob_sd, hdi_low, hdi_high, anomaly_p_value (where known), kind; where the density
        is estimated also log_prob_error, elbo, of diffusion models elbo_error, and k_hat; of an implicit density also
        surrogate. Of log ratios log_ratio and log_ratio_sd stand for log_prob and log_prob_sd."""
        import pandas as pd

        frame = pd.DataFrame({
            "row": np.arange(len(self)), "log_prob": self.log_predictive, "log_prob_sd": self.sd,
            "hdi_low": self.hdi[:, 0], "hdi_high": self.hdi[:, 1],
        })  # fmt: skip
        of_estimates = {
            "log_prob_error": self.error, "elbo": self.elbo, "elbo_error": self.elbo_error, "k_hat": self.k_hat,
        }  # fmt: skip
        for name, values in of_estimates.items():
            if values is not None:
                frame[name] = np.where(np.isneginf(values), np.nan, values) if name == "k_hat" else values
        if self.p_value is not None:
            frame["anomaly_p_value"] = self.p_value
        frame["kind"] = self.kind
        if self.surrogate is not None:
            frame["surrogate"] = self.surrogate
        if not self.is_density:
            frame = frame.rename(columns={"log_prob": "log_ratio", "log_prob_sd": "log_ratio_sd"})
        return frame if self.steps is None else pd.concat([self.steps, frame.drop(columns="row")], axis=1)
