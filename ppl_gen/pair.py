"""What a pair is: a model and a guide in one PPL, and what else an engine may ask of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl_gen.adversary import Adversary
    from ppl_gen.family import Family
    from ppl_gen.labels import Label
    from ppl_gen.noising import Noising
    from ppl_gen.view import View


@dataclasses.dataclass(frozen=True)
class Pair:
    """A model and a guide in one PPL, with the hooks that the family's algebra offers to engines.

    ``model(data, *, num_obs=None, subsample_size=None)`` is a plain function of the PPL: ``data`` is a
    :class:`~ppl_gen.data.View` of arrays (or None to draw ``num_obs`` new observations), the observed site is
    ``x``, the plate over observations is ``obs``. ``guide`` takes the same arguments. A conditional model p(x | y)
    draws a row for each row of ``View(None, context=y)``.

    Optional hooks; an engine asks for the hook, never for the family. Parameters are dictionaries of constrained
    site values, without a batch dimension:

    ``collapsed``      the model with its discrete latents summed out in closed form, same signature
    ``initialize``     ``(view, seed, num_starts) -> {site: (num_starts, *shape)}``, numpy, from the data
    ``e_step``         ``(parameters, view) -> (log_prob (n,), statistics)``: row log densities, and expected
                       sufficient statistics that add up over rows (already multiplied by the row weights)
                       (of sequences with a context, which may be kept by time step, those of all rows at once)
    ``m_step``         ``(parameters, statistics, objective) -> parameters``; objective ``"map"`` or ``"ml"``.
                       Never lowers the objective.
    ``log_prior``      ``(parameters, objective) -> scalar``: log prior in the coordinates in which ``m_step`` is
                       monotone for ``"map"``, 0 for ``"ml"``
    ``is_degenerate``  ``(parameters) -> bool array``: whether a solution sits on the boundary of its space
    ``make_guide``     ``(kind, values=None) -> guide``: a guide of the kind ``"mean_field"`` or ``"multivariate"``
                       over the non-enumerated latents, centred on the given constrained values at first
    ``log_prob_error``  ``(parameters, view) -> (n,)``: how far the log density of each row may be off, in nats, where
                       it is computed by a solver or an estimate; None where it is exact
    ``log_prob_with_error``  ``(parameters, view) -> (n, 2)``: log densities and that, where both come cheaper at once
    ``has_weights``    whether its parameters are network weights, ``param`` sites that SVI fits by maximum likelihood,
                       an ensemble of members at once; their starts are those of ``initialize``
    ``from_uniform``   ``(parameters, u) -> x``: rows, or sequences, from uniform numbers u in [0, 1) of their shape
    ``to_uniform``     ``(parameters, view) -> (*x.shape, 2)``: between which numbers each entry's u lies, F(x-) and
                       F(x) given the entries before it; equal of real columns
    ``local``          sites inside ``obs`` that the guide proposes: log p(x) is then estimated by importance sampling
    ``proposal``       a guide of ``local`` alone by which importance sampling proposes them instead
    ``label``          a discrete site beside ``local`` that is summed out: ``local`` is proposed for each of its values
    ``idle``           ``(view) -> names`` of the weights that this view does not read: training leaves them out
    ``beta``           weight of the terms of ``local`` in the training objective of weights; scores ignore it
    ``decode``         ``(parameters, View(latents (n, L), context=y)) -> {"typical": x, "expected": x}``, each (n, D):
                       rows with these values of ``local``, as they would stand in a table, and with probabilities in
                       binary columns; after a latent stand shares of a ``label``. Who has it has codes as local latents
    ``walk``           ``(parameters, view, key) -> (C, T, *row)``: the states of C Markov chains, which the site
                       ``chain`` holds after training
    ``score_function``  ``(parameters, view) -> (n, D)``: gradient of log densities by x, NaN where there is none
    ``features``       ``(parameters, view) -> (n, H)``: p(h_j = 1 | x) of each of H binary hidden units
    ``bayesian``       whether those weights have priors and are sample sites instead, for any engine; where there is a
                       ``local``, those of the model alone, for engines that take bounds in place of row densities

    Of an unnormalised density, of which the model has the site ``energy``, a factor, beside the base ``x``. Between the
    two lies a path of densities by their inverse temperature, from 0, the base, which is normalised, to 1. Parameters
    hold the sites ``log_normalizer`` (), with its standard error and k-hat ``log_normalizer_error``,
    ``log_normalizer_k_hat`` (), ``chain`` (C, T, *row), states of Markov chains, and ``annealing``, the course of the
    estimate (:func:`ppl_gen.normalizer.normalize`), after training:

    ``tempered``        ``(parameters, x (n, *row), inverse_temperature) -> (n,)``: log unnormalised density; at 1 it
                        is log p(x) + log Z
    ``draw_base``       ``(parameters, n, key) -> (n, *row)``: draws of the base
    ``gibbs``           ``(parameters, x, inverse_temperature, key) -> x``: a sweep that leaves the tempered density
                        as it is; None where conditionals have no closed form
    ``log_normalizer``  ``(parameters) -> ()``: log Z in closed form, or by enumeration; None where it is estimated

    Of an implicit density: rows that a network makes of normal noise, the site ``z`` (n, L), the model's only
    randomness. Without data its site ``x`` is deterministic; of data it is observed under an observation model
    p(x | z); ``realness=True`` adds the factor site ``log_ratio``:

    ``latent_size``    L
    ``generate``       ``(parameters, View(z (n, L), context=y)) -> (n, D)``: rows as they would stand in a table
    ``log_ratio``      ``(parameters, View(z (n, L), context=y)) -> (n,)``: log p_data / p_model at the rows that
                       ``generate`` makes, in nats; of labels the gradient by z is that of their relaxation
    ``discriminator``  ``(parameters, View(x (n, D), context=y)) -> (n,)``: the same at rows of data
    ``adversary``      what training by a discriminator needs (:class:`~ppl_gen.adversary.Adversary`)

    Of a diffusion model, whose weights are trained by the evidence lower bound of ``model`` and ``guide``, while
    ``collapsed`` has the density of the probability flow:

    ``noising``  the guide's noise levels and the model's denoiser (:class:`~ppl_gen.noising.Noising`)

    Of a family of sequences, N of up to T steps with K hidden states (backends map them over draws):

    ``step_log_prob``       ``(parameters, view) -> (N, T)``: log p(x_t | x_1..t-1), 0 past the end; sums to log p(x)
    ``filtered``            ``(parameters, view) -> (N, T, K)``: p(z_t | x_1..t)
    ``smoothed``            ``(parameters, view) -> (N, T, K)``: p(z_t | x)
    ``most_probable_path``  ``(parameters, view) -> (N, T)``: the path of largest joint density
    ``sample_paths``        ``(parameters, view, key) -> (N, T)``: a draw of the path given x
    ``forecast``            ``(parameters, view, horizon, key) -> {"z": (N, horizon), "x": (N, horizon, D)}``: a draw
                            of the continuation

    ``key`` is the backend's source of randomness: a key in NumPyro, a seed in Pyro, where ``gibbs`` and ``draw_base``
    also take None: torch's own generator as it stands. Of hooks that these options rule
    out, ``lacking`` says why, and what to change.
    """

    family: Family
    backend: str
    model: Callable[..., Any]
    guide: Callable[..., Any] | None = None
    data: View | None = None
    collapsed: Callable[..., Any] | None = None
    initialize: Callable[..., Mapping[str, Any]] | None = None
    e_step: Callable[..., Any] | None = None
    m_step: Callable[..., Any] | None = None
    log_prior: Callable[..., Any] | None = None
    is_degenerate: Callable[..., Any] | None = None
    make_guide: Callable[..., Callable[..., Any]] | None = None
    has_weights: bool = False
    from_uniform: Callable[..., Any] | None = None
    to_uniform: Callable[..., Any] | None = None
    local: tuple[str, ...] = ()
    proposal: Callable[..., Any] | None = None
    label: Label | None = None
    idle: Callable[[Any], tuple[str, ...]] | None = None
    beta: float = 1.0
    decode: Callable[..., Any] | None = None
    walk: Callable[..., Any] | None = None
    score_function: Callable[..., Any] | None = None
    features: Callable[..., Any] | None = None
    bayesian: bool = False
    log_prob_error: Callable[..., Any] | None = None
    log_prob_with_error: Callable[..., Any] | None = None
    tempered: Callable[..., Any] | None = None
    draw_base: Callable[..., Any] | None = None
    gibbs: Callable[..., Any] | None = None
    log_normalizer: Callable[..., Any] | None = None
    latent_size: int = 0
    generate: Callable[..., Any] | None = None
    log_ratio: Callable[..., Any] | None = None
    discriminator: Callable[..., Any] | None = None
    adversary: Adversary | None = None
    noising: Noising | None = None
    step_log_prob: Callable[..., Any] | None = None
    filtered: Callable[..., Any] | None = None
    smoothed: Callable[..., Any] | None = None
    most_probable_path: Callable[..., Any] | None = None
    sample_paths: Callable[..., Any] | None = None
    forecast: Callable[..., Any] | None = None
    lacking: Mapping[str, str] = dataclasses.field(default_factory=dict)
    programs: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def density(self) -> Callable[..., Any]:
        """The form of the model that engines use: collapsed where there is one."""
        return self.collapsed or self.model

    @property
    def has_priors(self) -> bool:
        """Whether the parameters have priors: all have, but for network weights that are fitted by likelihood alone."""
        return self.bayesian or not self.has_weights

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """``make()``, or what it gave when it was last asked for under this key: a program compiles once a pair."""
        if key not in self.programs:
            self.programs[key] = make()
        return self.programs[key]
