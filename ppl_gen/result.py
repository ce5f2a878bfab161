"""What a fit is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_gen.generation import Generation
from ppl_gen.scores import Score
from ppl_gen.uses import Uses

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ppl_gen.bracket import Bracket
    from ppl_gen.chains import Chains
    from ppl_gen.data import Data, Schema
    from ppl_gen.diagnostics import Diagnosis
    from ppl_gen.engine import Draws, Engine
    from ppl_gen.family import Family, Pair


@dataclasses.dataclass(frozen=True, eq=False)
class Fit(Generation, Uses):
    """A fitted family. Frozen: holds draws, the schema of the table, versions and seed; every verb derives from them.

    ``train`` is the training data; ``reasons`` says in words which engine and backend were chosen and why.
    """

    family: Family
    engine: Engine
    backend: str
    seed: int
    schema: Schema
    draws: Draws
    train: Data
    versions: Mapping[str, str]
    seconds: float
    reasons: tuple[str, ...] = ()

    def __repr__(self) -> str:
        data = self.train
        width = self.schema.num_columns
        size = f"{len(data):,} {data.unit}s x {width} column{'s' * (width != 1)}"
        if self.schema.image is not None:
            size = f"{len(data):,} images of {' x '.join(map(str, self.schema.image))}"
        return f"<Fit of {self.family} by {self.engine} in {self.backend}, seed {self.seed}: {size}>"

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: the fields, and what refits have found. Pairs are made anew there."""
        kept = {*(field.name for field in dataclasses.fields(self)), "held_out", "_leave_one_out"}
        return {name: value for name, value in self.__dict__.items() if name in kept}

    @property
    def uncertainty(self) -> str:
        """What the spread of the draws means: posterior, guide, bootstrap, ensemble or point."""
        return self.draws.uncertainty

    @cached_property
    def pair(self) -> Pair:
        return self.family.build(self.backend, self.schema, len(self.train))

    @cached_property
    def posterior(self) -> dict[str, np.ndarray]:
        """{site: (chain * draw, *event)}: the draws with their chains laid end to end."""
        return {k: v.reshape(-1, *v.shape[2:]) for k, v in self.draws.posterior.items()}

    def score(self, table: Any = None, *, hdi_prob: float = 0.9, keep_draws: bool | None = None,
              p_values: bool = True, per_step: bool = False, num_particles: int | None = None,
              seed: int = 0, surrogate: Any = None, method: str = "auto") -> Score:  # fmt: skip
        """Log density of each row or sequence (of the training rows by default), with its interval. See :class:`Score`.

        :param per_step: of sequences, one number for each time step: its density given the steps before it, the
            one-step-ahead log predictive density. Those of a sequence sum to the sequence's own.
        :param num_particles: where the density is estimated by importance sampling, particles of each row, rounded up
            to a multiple of 8 (64; of a diffusion model 16); ``seed`` decides which. They are not used where it is
            exact. Of ``method="bound"`` times and noises of each row (512).
        :param surrogate: of an implicit density, what stands for it: ``"ais"`` (the default), log p(x) under the
            family's observation model by annealed importance sampling (some minutes of a core a thousand rows and
            member), or settings such as ``AIS(num_temperatures=1000)``; or ``"log_ratio"``, the discriminator's log
            p_data(x) - log p_model(x), which is no density. See :mod:`ppl_gen.implicit`.
        :param method: of a diffusion model: ``"flow"``, the density of its probability flow, with the variational bound
            beside it in ``elbo``; ``"bound"``, the variational bound of its chain alone; ``"auto"``, the flow, but the
            bound where the flow would take long (:attr:`ppl_gen.noising.Noising.is_dear`). Others have but ``"auto"``.
        :raises DataError: the table lacks a column of the training table, or a value has the wrong kind.
        """
        from ppl_gen.scoring import score

        if per_step:
            from ppl_gen.timeseries import score_steps

            return score_steps(self, table, hdi_prob)
        return score(self, table, hdi_prob=hdi_prob, keep_draws=keep_draws, p_values=p_values,
                     num_particles=num_particles, seed=seed, surrogate=surrogate, method=method)  # fmt: skip

    def latents(
        self, table: Any = None, *, method: str | None = None, num_draws: int = 100, seed: int = 0,
        member: int | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """Local latents of each row. Discrete ones: p(z = k | x), its sd over draws, the hard label and how sure it is.
        Codes, vectors z of real numbers: mean and sd of each of their dimensions, ``z0``, ``z0_sd``, ``z1``, ... Of a
        ``label`` y that some rows lack, p(y | x) as of other discrete ones, under the label's own names. Of binary
        hidden units p(h_j = 1 | x): ``h0``, ``h1``, ...

        :param method: for sequences, how the state of each time step is told: ``"smoothing"`` (given the whole
            sequence, the default), ``"filtering"`` (given what came so far), ``"viterbi"`` (the most probable path) or
            ``"draws"`` (``num_draws`` paths drawn from the posterior). Of codes ``"guide"`` (what the encoder says, the
            default), ``"importance"`` (mean and sd of p(z | x) by importance sampling with the encoder as proposal, and
            Pareto k-hat of the weights) or ``"draws"`` (``num_draws`` draws from p(z | x) of each row). Of the noise of
            a generator ``"chains"`` (the default: mean and sd of p(z | x), and ``r_hat`` of the chains) or ``"draws"``.
            Of a diffusion model ``"flow"``, the noise that the probability flow makes of the row: ``z0``, ``z1``, ...
        :param member: of codes and hidden units, whose: the members of an ensemble have latent spaces of their own, 0
            by default.
        :raises UnsupportedError: the family has no local latents.
        :raises SettingError: an unknown method, or one that is for other families; no such member.
        """
        from ppl_gen import inversion, latents, noising_codes, scoring, timeseries

        if self.pair.generate is not None:
            return inversion.latents(self, table, method, num_draws, seed, 0 if member is None else member)
        if self.pair.noising is not None:
            return noising_codes.table(self, table, method, 0 if member is None else member)
        if self.pair.features is not None:
            return latents.features(self, table, method, 0 if member is None else member)
        if self.pair.decode is not None:
            return latents.latents(self, table, method, num_draws, seed, 0 if member is None else member)
        scoring.refuse_member(self, member)
        if self.family.sequences:
            return timeseries.latents(self, table, method or "smoothing", num_draws, seed)
        scoring.refuse_method(self, method)
        return scoring.latents(self, table)

    def reconstruct(self, table: Any = None, *, member: int = 0) -> Any:
        """Each row (of the training table by default) as it is decoded from its code, the mean that the encoder says:
        the median of each column's conditional given the code, of labels the likeliest. A table, or images, like those
        that came in; no entry of it is missing.

        :param member: of an ensemble, by whose networks.
        :raises UnsupportedError: the family has no codes.
        """
        from ppl_gen.latents import reconstruct

        return reconstruct(self, table, member)

    def interpolate(self, first: Any, second: Any, num_steps: int = 10, *, member: int = 0) -> Any:
        """Rows, or images, decoded from ``num_steps`` codes evenly spaced on the line (of a diffusion model's noise the
        great circle) from the code of ``first`` to that of ``second``, both included.

        :param first: a table of one row, or of several; the lines then follow each other. ``second``: as many rows.
        :param member: of an ensemble, in whose latent space.
        :raises UnsupportedError: the family has no codes.
        :raises DataError: the tables have different numbers of rows, or differ in a column that is conditioned on.
        """
        from ppl_gen.latents import interpolate

        return interpolate(self, first, second, num_steps, member)

    def score_function(self, table: Any = None) -> pd.DataFrame:
        r"""The score of each row, the gradient of its log density by its real columns, given the others: the direction
        to the data. By a denoising autoencoder it is that of rows corrupted by noise of standard deviation
        :math:`\sigma`, and tends to that of the rows as :math:`\sigma` falls (Alain & Bengio 2014).

        Columns: row, and each real column's own name, in nats per unit of the column: the mean over the members of an
        ensemble; ``<name>_sd`` is their standard deviation.

        :raises UnsupportedError: the family has none (the message names those that have), or no column is real.
        """
        from ppl_gen.denoising import score_function

        return score_function(self, table)

    def normalize(self, method: Any = "auto", *, seed: int = 0) -> Fit:
        r"""Of an unnormalised density, the same fit with another estimate of each member's
        :math:`\log Z = \log \int e^{-E(x)} dx`, its standard error and k-hat.

        :param method: ``"exact"`` (closed form or enumeration, where the family has it), ``"smc"`` (tempered sequential
            Monte Carlo), ``"ais"`` (annealed importance sampling), settings such as ``AIS(num_temperatures=10_000)``,
            ``"auto"`` (exact, else SMC), or ``"none"``: log Z is left out; only differences of scores mean anything.
        :raises UnsupportedError: the family's density is normalised as it is.
        """
        from ppl_gen.unnormalised import renormalize

        return renormalize(self, method, seed)

    def chains(
        self, sampler: Any = "nuts", *, seed: int = 0, member: int = 0, given: Any = None, **options: Any
    ) -> Chains:
        """Of an unnormalised density, Markov chains of rows, in the table's units: ``.data`` is an ArviZ object with a
        variable for each column, ``.diagnose()`` says whether they mixed. See :mod:`ppl_gen.chains`. Of a generator,
        chains of its noise z under the prior and the discriminator's log ratio (:mod:`ppl_gen.latent_chains`).

        :param sampler: ``"nuts"``, ``"hmc"``, ``"sgld"``, ``"sghmc"``, ``"tempered"`` (parallel tempering, which goes
            from mode to mode, and the only one for labels), or settings such as ``HMC(target_accept=0.9)``.
        :param member: of an ensemble, whose density.
        :param given: of a generator that is conditioned on columns, the row of them that the chains are of.
        :param options: those of the sampler: ``num_chains``, ``num_samples``, ``num_warmup`` and so on.
        :raises UnsupportedError: the family's density is normalised as it is; a sampler by gradients for labels.
        """
        from ppl_gen.chains import chains_of_fit

        return chains_of_fit(self, sampler, seed, member, given, options)

    def bracket(self, num_rows: int = 64, *, surrogate: Any = None, seed: int = 0) -> Bracket:
        """Of an implicit density, how far annealed importance sampling is off: bounds of log p(x) from below and above
        (bidirectional Monte Carlo) on rows that the model makes; :meth:`diagnose` then looks at it. See
        :class:`ppl_gen.bracket.Bracket`.

        :param surrogate: settings such as ``AIS(num_temperatures=1000)``; by default those of :meth:`score`.
        :raises UnsupportedError: the family has a density.
        """
        from ppl_gen.bracket import bracket

        return bracket(self, num_rows, surrogate, seed)

    @cached_property
    def held_out(self) -> np.ndarray:
        """(obs,) log predictive density of each training row under fits that left it out (nats, original units):
        PSIS leave-one-out where the draws are a posterior, out-of-bag for a bootstrap of the rows, of an ensemble
        under the members that did not train on it (NaN where all did), else 5-fold refits; NaN for a point estimate
        of fewer than 10 sequences, and of an implicit density."""
        from ppl_gen.held_out import held_out

        return held_out(self)

    @cached_property
    def data(self) -> Any:
        """The ArviZ object: posterior, sample_stats, log_likelihood, posterior_predictive, observed_data."""
        from ppl_gen.arviz_bridge import to_arviz

        return to_arviz(self)

    def summary(self, *, hdi_prob: float = 0.9) -> pd.DataFrame:
        """Mean, sd, HDI, MCSE, ESS and R-hat of each parameter, labels aligned, in original units."""
        from ppl_gen.diagnostics import summary

        return summary(self, hdi_prob=hdi_prob)

    def diagnose(self) -> Diagnosis:
        """Each check with its figure, threshold, verdict and advice."""
        from ppl_gen.diagnostics import diagnose

        return diagnose(self)

    def information_criteria(self) -> dict[str, float]:
        """AIC, BIC, ICL and the log likelihood of a maximum likelihood fit (original units); lower is better.

        :raises UnsupportedError: the fit is no maximum likelihood fit.
        """
        from ppl_gen.criteria import information_criteria

        return information_criteria(self)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the fit to a folder (fit.json, parameters.safetensors, inference_data.nc), whole or not at all."""
        from ppl_gen.storage import save

        return save(self, path, overwrite=overwrite)
