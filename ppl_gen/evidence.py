"""What the checks of a fit look at, computed once: log densities of rows under every draw, and replicated tables."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ppl_gen import importance

if TYPE_CHECKING:
    from ppl_gen.arviz_bridge import Loo
    from ppl_gen.result import Fit
    from ppl_gen.scores import Score

MAX_ROWS = 1_000  # training rows that the checks look at: a random subset of a longer table
MAX_STEPS = 20_000  # time steps of sequences, likewise
MAX_PROBES = 50  # of these, the rows whose log p(x) is followed along the chains
NUM_REPLICATES = 400  # replicated tables; a p-value of 0.01 then rests on 4 of them
MAX_REPLICATED = 20_000_000  # replicates x rows x columns
NUM_PARTICLES = 512  # of rows with codes
SAMPLED_AT_ONCE = 50_000  # rows
MAX_PIXELS, MAX_REPLICATED_PIXELS = 12_500, 1_250_000  # of images, which take longer: in a table, in all replicates
MAX_WALKED, MAX_REPLICATED_WALKED = 100, 10_000  # rows that are drawn by moves along gradients, likewise
MAX_DIFFUSED, MAX_REPLICATED_DIFFUSED = 400, 40_000  # rows that are drawn by reverse chains, likewise


class Evidence:
    """The material that checks share. ``Evidence.of(fit)`` makes it once for a fit; each part is found when needed.

    ``rows``            (m,) indices of the training rows looked at
    ``log_likelihood``  (chain, draw, m) log p(x | theta), nats, original units
    ``loo``             PSIS leave-one-out of those rows, where the draws stand for a posterior, else None
    ``observed``        (m, d) those rows in model space, NaN where missing; of sequences their time steps, stacked;
                        only the columns that are modelled, given the others
    ``replicates``      (chain, R, m, d) in model space: tables like ``observed``, each drawn under one draw
    """

    def __init__(self, fit: Fit, most: tuple[int, int] | None = None) -> None:
        self.fit = fit
        limit = MAX_ROWS if fit.schema.image is None else min(MAX_ROWS, -(-MAX_PIXELS // fit.schema.num_columns))
        own = self._most()
        self.most = own if most is None else (min(own[0], most[0]), min(own[1], most[1]))
        self.rows = random_rows(len(fit.train), min(limit, self.most[0]), fit.seed)
        if fit.train.lengths is not None:  # as many sequences as have MAX_STEPS steps together
            steps = np.cumsum(fit.train.lengths[self.rows])
            self.rows = self.rows[: max(1, int((steps <= MAX_STEPS).sum()))]
        self.train = fit.train if len(self.rows) == len(fit.train) else fit.train.take(self.rows)

    def _most(self) -> tuple[int, int]:
        """Rows that are looked at, at most, and those of all replicates together, where drawing is dear."""
        if self.fit.family.density == "unnormalised" and self.fit.pair.gibbs is None:
            return MAX_WALKED, MAX_REPLICATED_WALKED
        return (MAX_ROWS, MAX_REPLICATED) if self.fit.pair.noising is None else (MAX_DIFFUSED, MAX_REPLICATED_DIFFUSED)

    @classmethod
    def of(cls, fit: Fit) -> Evidence:
        """The evidence of this fit, kept with it."""
        return fit.__dict__.setdefault("_evidence", cls(fit))

    @classmethod
    def limit(cls, fit: Fit, rows: int, replicated: int) -> None:
        """Have the checks of this fit look at so many training rows at most, and at so many of replicated tables."""
        fit.__dict__["_evidence"] = cls(fit, (rows, replicated))

    @cached_property
    def log_likelihood(self) -> np.ndarray:
        return draws_of_log_prob(self.fit, self.rows)

    @cached_property
    def score(self) -> Score:
        """The score of those rows; where they have codes, of so many particles that k-hat is not noise."""
        pair = self.fit.pair
        number = NUM_PARTICLES if pair.decode is not None else importance.num_particles(pair)
        return self.fit.score(self.train, p_values=False, keep_draws=False, num_particles=number)

    @cached_property
    def probes(self) -> tuple[list[str], np.ndarray]:
        """Names, and log p(x) (chain, draw, P), of at most :data:`MAX_PROBES` rows, evenly spread; of sequences, of
        time steps given the steps before them."""
        if self.train.lengths is None:
            chosen = np.linspace(0, len(self.rows) - 1, min(MAX_PROBES, len(self.rows))).astype(int)
            return [f"row {row}" for row in self.rows[chosen]], self.log_likelihood[:, :, chosen].astype(np.float64)
        from ppl_gen.padding import starts_of

        mask = self.train.target_mask
        seen = np.arange(self.train.num_steps) if mask is None else np.flatnonzero(mask.any(1))
        chosen = seen[np.linspace(0, len(seen) - 1, min(MAX_PROBES, len(seen))).astype(int)]
        starts = starts_of(self.train.lengths)
        whose = np.searchsorted(starts, chosen, side="right") - 1
        many = len(self.rows) > 1
        names = [
            (f"sequence {self.rows[i]}, " if many else "") + f"step {step - starts[i]}"
            for i, step in zip(whose, chosen, strict=True)
        ]
        values = self.step_log_likelihood[:, chosen].astype(np.float64)
        return names, values.reshape(self.fit.draws.num_chains, self.fit.draws.num_draws, -1)

    @cached_property
    def step_log_likelihood(self) -> np.ndarray:
        """(draws, R): log p(x_t | x_<t, theta) of every time step of the sequences looked at."""
        from ppl_gen.timeseries import step_log_prob

        return step_log_prob(self.fit, self.train, self.fit.posterior)

    @cached_property
    def loo(self) -> Loo | None:
        from ppl_gen.arviz_bridge import loo
        from ppl_gen.held_out import MIN_SEQUENCES

        if self.train.lengths is not None and len(self.fit.train) < MIN_SEQUENCES:
            return None
        return loo(self.log_likelihood, self.train.weights) if self.has_posterior else None

    @property
    def has_posterior(self) -> bool:
        """Whether the draws stand for a posterior: exactly (MCMC) or approximately (a guide)."""
        return self.fit.uncertainty in ("posterior", "guide")

    @cached_property
    def observed(self) -> np.ndarray:
        values = np.asarray(self.train.x, np.float64)
        whole = values if self.train.mask is None else np.where(self.train.mask, values, np.nan)
        return whole[:, self.fit.schema.is_target] if self.fit.schema.conditions else whole

    @property
    def entry_weights(self) -> np.ndarray | None:
        """(m,): the weight of each row of ``observed``."""
        weights = self.train.weights
        return weights if weights is None or self.train.lengths is None else np.repeat(weights, self.train.lengths)

    @cached_property
    def chosen_draws(self) -> np.ndarray:
        """(chain, R): which draw of each chain every replicated table comes from; zeros for a point estimate, of an
        ensemble which member."""
        limit = MAX_REPLICATED if self.fit.schema.image is None else MAX_REPLICATED_PIXELS
        number = max(20, min(NUM_REPLICATES, limit // max(self.observed.size, 1)))
        number = min(number, max(20, self.most[1] // len(self.rows)))
        if self.fit.uncertainty == "ensemble":  # whose density is the mean over its members
            return np.arange(number)[None] % self.fit.draws.num_chains
        if not self.has_posterior:
            return np.zeros((1, number), int)
        chains, draws = self.fit.draws.num_chains, self.fit.draws.num_draws
        per_chain = min(draws, -(-number // chains))
        return np.tile(np.linspace(0, draws - 1, per_chain).astype(int), (chains, 1))

    @cached_property
    def replicates(self) -> np.ndarray:
        from ppl_gen.sampling import sample_at
        from ppl_gen.scoring import point_draw

        posterior = self.fit.posterior if self.has_posterior else (point_draw(self.fit) or self.fit.posterior)
        draws, length = self.flat_draws, len(self.rows)
        if self.train.lengths is not None:
            from ppl_gen.timeseries import sample_sequences

            index, sizes = np.repeat(draws, length), np.tile(self.train.lengths, len(draws))
            given = self.train.view().context  # each table has the conditions of the observed one
            context = None if given is None else np.tile(given, (len(draws), 1, 1))
            steps = np.concatenate(sample_sequences(self.fit, posterior, index, sizes, self.fit.seed, context))
            return steps.reshape(*self.chosen_draws.shape, *self.observed.shape)
        # Calls of one length, the last filled up, so that the backend compiles one program.
        calls = -(-len(draws) * length // SAMPLED_AT_ONCE)
        filled = np.resize(draws, -(-len(draws) // calls) * calls)
        context = self.fit.schema.context(self.train.x)
        if context is not None:
            context = np.tile(context, (len(filled) // calls, 1))
        parts = [
            sample_at(self.fit, posterior, np.repeat(part, length), (self.fit.seed + number) % 2**31, context)
            for number, part in enumerate(np.split(filled, calls))
        ]
        values = np.concatenate(parts)[: len(draws) * length]
        return values.reshape(*self.chosen_draws.shape, *self.observed.shape)

    @property
    def flat_draws(self) -> np.ndarray:
        """(chain * R,): ``chosen_draws`` as indices into the draws with their chains laid end to end."""
        offsets = np.arange(len(self.chosen_draws))[:, None] * self.fit.draws.num_draws
        return (self.chosen_draws + (offsets if self.has_posterior else 0)).ravel()

    def in_original_units(self, values: np.ndarray) -> np.ndarray:
        """Model-space rows (..., d) in the table's units, as float32 (categories stay codes)."""
        columns = self.fit.schema.target_columns
        loc, scale = (np.array([getattr(column, name) for column in columns]) for name in ("loc", "scale"))
        return (values * scale + loc).astype(np.float32)


def random_rows(number: int, limit: int, seed: int) -> np.ndarray:
    """All the rows where there are no more than ``limit``, else a random subset in ascending order."""
    if number <= limit:
        return np.arange(number)
    return np.sort(np.random.default_rng(seed).choice(number, limit, replace=False))


def draws_of_log_prob(fit: Fit, rows: np.ndarray) -> np.ndarray:
    """(chain, draw, len(rows)): log p(x | theta) of training rows under every draw, nats, original units."""
    from ppl_gen.scoring import log_prob_rows

    train = fit.train if len(rows) == len(fit.train) else fit.train.take(rows)
    parts = [values for _, values in log_prob_rows(fit, train, fit.posterior)]
    return np.concatenate(parts, axis=1).reshape(fit.draws.num_chains, fit.draws.num_draws, -1)


class Khat(NamedTuple):
    """How many of the ``rows`` looked at have a k-hat that is ``above`` the ``limit``."""

    above: int
    rows: int
    limit: float


def posterior_khat(fit: Fit) -> Khat | None:
    """The k-hats of PSIS-LOO in short; None where the draws do not stand for a posterior."""
    if fit.uncertainty not in ("posterior", "guide"):
        return None
    loo = Evidence.of(fit).loo
    if loo is None:
        return None
    from ppl_gen import arviz_bridge as az

    limit = az.min_khat(loo.log_weights.shape[1])
    return Khat(int(np.sum(~(loo.k <= limit))), len(loo.k), limit)
