"""What an engine is, and what it gives back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.special import logsumexp

from ppl_gen.errors import UnsupportedError
from ppl_gen.registry import import_backend
from ppl_gen.settings import Settings

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Draws:
    """What an engine found, as numpy arrays.

    ``posterior``     {site: (chain, draw, *event shape)}, constrained values of the non-enumerated latents
    ``uncertainty``   what the spread of the draws means: ``"posterior"`` (MCMC), ``"guide"`` (draws from a fitted
                      guide), ``"bootstrap"`` (refits to resampled rows, or to data simulated from the point
                      estimate where ``figures["parametric"]``), ``"ensemble"`` (members trained from starts of their
                      own) or ``"point"`` (no spread)
    ``point``         {site: event shape}: the point estimate, where the engine is an optimizer
    ``sample_stats``  {name: (chain, draw)}, named as ArviZ names them (diverging, energy, tree_depth, ...)
    ``losses``        (step,): the trace of the objective that was minimised (nats); EM: minus the log joint
    ``log_weights``   (particle,): log p(x, theta) - log q(theta) at fresh guide draws, for Pareto k-hat
    ``parameters``    whatever else is needed to use the fit again (a guide's parameters); of an ensemble
                      ``train_loss`` and ``validation_loss`` (window, member), and ``validation_rows`` (member, row):
                      which rows each did not train on
    ``figures``       scalars about the run (log_likelihood, num_steps, converged, ...)
    ``held_out``      (obs,): log densities in model space of the training rows, each under fits that left it out
    ``interrupted``   Ctrl-C came before the end; the arrays hold what there was
    """

    posterior: Arrays
    uncertainty: str
    point: Arrays | None = None
    sample_stats: Arrays = dataclasses.field(default_factory=dict)
    losses: np.ndarray | None = None
    log_weights: np.ndarray | None = None
    parameters: Arrays = dataclasses.field(default_factory=dict)
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    held_out: np.ndarray | None = None
    interrupted: bool = False

    @property
    def num_chains(self) -> int:
        return next(iter(self.posterior.values())).shape[0]

    @property
    def num_draws(self) -> int:
        """Draws per chain."""
        return next(iter(self.posterior.values())).shape[1]

    @property
    def refits(self) -> str:
        """What the draws of a bootstrap are, in words."""
        return "parametric bootstrap refits" if self.figures.get("parametric") else "bootstrap refits"


@dataclasses.dataclass(frozen=True)
class Engine(Settings):
    """An inference engine: settings only. It takes any pair that has the hooks it needs.

    An engine's folder under ``inference/`` holds this class in its ``__init__.py`` and one ``<backend>_engine.py``
    per backend that exports ``run(pair, data, settings, seed, monitor) -> Draws``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    checkpoints: ClassVar[bool] = True  # whether it can write its state and resume from it
    hooks: ClassVar[tuple[str, ...]] = ()  # the optional hooks of a pair that it can't do without
    trains_weights: ClassVar[bool] = False  # whether it fits network weights that have no priors
    takes_bounds: ClassVar[bool] = False  # whether bounds of rows will do where local latents hide their densities

    def run(self, pair: Pair, data: Data, *, seed: int, monitor: Monitor) -> Draws:
        """Fit the pair to the data.

        :raises UnsupportedError: the pair lacks a hook, priors, or the density of a row, that this engine needs.
        """
        missing = [hook for hook in self.hooks if getattr(pair, hook) is None]
        if pair.generate is not None and "adversary" not in self.hooks:
            raise UnsupportedError(f"Engine {self.name!r} follows the density of rows, and {pair.family.name} has none:"
                                   f" use {' or '.join(pair.family.engines)}.")  # fmt: skip
        if not pair.has_priors and not self.trains_weights:
            have = "have with bayesian=True alone" if hasattr(pair.family, "bayesian") else "do not have"
            first = pair.family.engines[0]
            why = f"needs priors, which the weights of {pair.family.name} {have}; without them it is fitted by {first}."
            if missing:
                why = f"maximizes in closed form, which networks of {pair.family.name} don't have: fit it by {first}."
            raise UnsupportedError(f"Engine {self.name!r} {why}")
        if pair.local and pair.has_priors and not self.takes_bounds:
            name = pair.family.name
            raise UnsupportedError(
                f"Engine {self.name!r} can't fit {name} with bayesian=True, as only noisy bounds are known of the "
                "density of a row, whose local latents have to be integrated out: use sgld or sghmc; or leave bayesian "
                "out, and svi fits an ensemble by maximum likelihood."
            )
        if missing:
            from ppl_gen import registry

            able = [
                e for e in pair.family.engines if all(getattr(pair, h) is not None for h in registry.engine(e).hooks)
            ]
            why = pair.lacking.get(missing[0]) or f"the pair has no {', '.join(missing)}"
            others = f" Or use {' or '.join(able)}." if able else ""
            raise UnsupportedError(
                f"Engine {self.name!r} can't fit {pair.family.name} with these options: {why}.{others}"
            )
        module = import_backend(type(self).__module__, f"{pair.backend}_engine", pair.backend)
        return module.run(pair, data, self, seed, monitor)


def out_of_bag(log_prob: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(obs,): log mean density of each row over the refits that did not see it; NaN where every refit did."""
    left_out = counts == 0
    number = left_out.sum(0)
    value = logsumexp(np.where(left_out, log_prob, -np.inf), axis=0, b=np.where(number, 1.0, 0.0)[None, :] * left_out)
    return np.where(number > 0, value - np.log(np.maximum(number, 1)), np.nan)
