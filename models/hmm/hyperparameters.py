"""The prior of a hidden Markov model as arrays of full shape: what both backends build their sites from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import DataError, SettingError
from ppl_gen.models.hmm import FIXABLE, KIND_OF, MAX_CATEGORICAL
from ppl_gen.models.hmm.effects import check_effects_on_kinds

if TYPE_CHECKING:
    from ppl_gen.data import Schema
    from ppl_gen.models.hmm import HMM, HMMPrior

OF_KIND = {"real": "gaussian", "count": "poisson", "binary": "bernoulli", "categorical": "categorical"}


@dataclasses.dataclass(frozen=True)
class Block:
    """Columns that share an emission: ``kind`` is its name, ``columns`` their positions."""

    kind: str
    columns: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Hyperparameters:
    """Numpy arrays, float64; K states, M components within a state, ``blocks`` of columns.

    ``initial_concentration`` (K,); ``transition_concentration`` (K, K), stickiness added; ``coef_scale`` (K, K, C) of
    the C covariates of the transitions, and ``indicators`` where those of each categorical one begin and end;
    ``sites``: for each global site of the emissions its prior, ``(name of the distribution, its parameters at full
    shape)``: ``normal`` (loc, scale), ``half_normal`` (scale,), ``lkj`` (dimension, concentration (K,)), ``gamma``
    (concentration, rate), ``beta`` (a, b), ``dirichlet`` (concentration (..., C),); ``fixed`` {site: value} of the
    sites that are not inferred (their priors are in ``sites`` too).
    """

    num_states: int
    num_mixtures: int
    num_columns: int
    initial: str
    floor: float
    blocks: tuple[Block, ...]
    num_categories: dict[int, int]
    initial_concentration: np.ndarray
    transition_concentration: np.ndarray
    coef_scale: np.ndarray
    indicators: tuple[tuple[int, int], ...]
    sites: dict[str, tuple[str, tuple[Any, ...]]]
    fixed: dict[str, np.ndarray]

    @property
    def num_context(self) -> int:
        """C; 0 where the transitions are the same at every step."""
        return self.coef_scale.shape[-1]

    @property
    def obstacle(self) -> str:
        """Why EM has no M-step, and what to change; empty where it has. There is none of degrees of freedom (an EM of
        its own would be needed), nor of correlations given the scales."""
        inferred = self.sites.keys() - self.fixed.keys()
        if "df" in inferred:
            return "degrees of freedom have no update in closed form: fix them, as in prior=HMMPrior(df=4)"
        if "corr_cholesky" in inferred and "scales" in self.fixed:
            return "correlations have no update in closed form given fixed scales: leave scales out of the prior"
        return ""


def blocks_of(family: HMM, schema: Schema) -> tuple[Block, ...]:
    """The columns that are modelled by emission, in the order of the first column of each."""
    schema = schema.only_targets()
    if family.emission != "auto":
        return (Block(family.emission, tuple(range(schema.num_columns))),)
    kinds = [OF_KIND[kind] for kind in schema.kinds]
    return tuple(
        Block(kind, tuple(j for j, other in enumerate(kinds) if other == kind)) for kind in dict.fromkeys(kinds)
    )


def resolve(family: HMM, schema: Schema) -> Hyperparameters:
    """Every hyperparameter at its full shape.

    :raises SettingError: an array has a shape that does not fit the states and columns, or would be ignored.
    :raises DataError: more categorical columns than can be modelled.
    """
    k, prior = family.num_states, family.prior
    width, indicators = schema.num_context, _indicators(schema)
    schema = schema.only_targets()
    blocks = blocks_of(family, schema)
    if family.emission == "auto":
        check_effects_on_kinds(family, schema.kinds)
    categories = {j: len(c.categories or ()) for j, c in enumerate(schema.columns) if c.kind == "categorical"}
    if len(categories) > MAX_CATEGORICAL:
        raise DataError(f"hmm models at most {MAX_CATEGORICAL} categorical columns, the table has {len(categories)}.")
    sites: dict[str, tuple[str, tuple[Any, ...]]] = {}
    for block in blocks:
        sites |= _sites_of(block, prior, k, family.num_mixtures, categories)
    transition = _fill("transition_concentration", prior.transition_concentration, (k, k))
    coef_scale = _fill("coef_scale", prior.coef_scale, (k, width))
    transition = transition + np.diag(_fill("stickiness", prior.stickiness, (k,)))
    return Hyperparameters(
        num_states=k, num_mixtures=family.num_mixtures, num_columns=schema.num_columns, initial=family.initial,
        floor=float(family.covariance_floor), blocks=blocks, num_categories=categories,
        initial_concentration=_fill("initial_concentration", prior.initial_concentration, (k,)),
        transition_concentration=transition, coef_scale=np.repeat(coef_scale[:, None], k, axis=1),
        indicators=indicators, sites=sites, fixed=_fixed(family, sites, width),
    )  # fmt: skip


def _indicators(schema: Schema) -> tuple[tuple[int, int], ...]:
    """Where in the context those of each categorical column begin and end."""
    widths = [len(c.categories or ()) for c in schema.columns if c.name in schema.conditions]
    ends = np.cumsum([max(width, 1) for width in widths])
    return tuple((int(end) - width, int(end)) for width, end in zip(widths, ends, strict=True) if width)


def _sites_of(
    block: Block, prior: HMMPrior, k: int, m: int, categories: dict[int, int]
) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """The prior of each site of one block."""
    d = len(block.columns)
    fill = lambda name, *shape: _fill(name, getattr(prior, name), shape)  # noqa: E731
    if block.kind == "poisson":
        return {"rates": ("gamma", (fill("rate_concentration", k, d), fill("rate_rate", k, d)))}
    if block.kind == "bernoulli":
        return {"probs": ("beta", (fill("prob_concentration", k, d),) * 2)}
    if block.kind == "categorical":
        return {
            f"category_probs_{j}": ("dirichlet", (fill("category_concentration", k, categories[j]),))
            for j in block.columns
        }
    shape = (k, m, d) if block.kind == "mixture" else (k, d)
    sites: dict[str, tuple[str, tuple[Any, ...]]] = {
        "locs": ("normal", (fill("loc", *shape), fill("loc_scale", *shape))),
        "scales": ("half_normal", (fill("scale", *shape),)),
    }
    if block.kind == "gaussian_full" and d > 1:
        sites["corr_cholesky"] = ("lkj", (d, fill("correlation_concentration", k)))
    if block.kind == "student_t":
        sites["df"] = ("gamma", (fill("df_concentration", k), fill("df_rate", k)))
    if block.kind == "mixture":
        sites["mixture_weights"] = ("dirichlet", (fill("mixture_concentration", k, m),))
    return sites


def _fill(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Broadcast: a 1-d array counts states, a 2-d one states and columns."""
    array = np.asarray(value, np.float64)
    if array.ndim == 1:
        array = array.reshape(-1, *(1,) * (len(shape) - 1))
    elif array.ndim == 2 and len(shape) == 3:
        array = array[:, None, :]
    try:
        return np.array(np.broadcast_to(array, shape))
    except ValueError:
        raise SettingError(
            f"HMMPrior: {name} has shape {np.shape(value)}, which does not fit {shape} (states first, columns last); "
            "give one number, one per state, or the whole array."
        ) from None


def _fixed(family: HMM, sites: dict[str, tuple[str, tuple[Any, ...]]], num_context: int) -> dict[str, np.ndarray]:
    """Values of the sites that the prior fixes, at full shape, or that say nothing of a single state."""
    prior, k = family.prior, family.num_states
    shapes = {name: np.shape(parameters[0]) for name, (_, parameters) in sites.items()}
    shapes |= {"transition_matrix": (k, k), "initial_probs": (k,)}
    fixed = {}
    for name in FIXABLE:
        value = getattr(prior, name)
        if value is not None:
            fixed[name] = _fill(name, value, shapes[name])
    for name in ("initial_probs", "transition_matrix", "mixture_weights"):
        if name in fixed:
            fixed[name] = fixed[name] / fixed[name].sum(-1, keepdims=True)
    if k == 1:
        fixed |= {"transition_matrix": np.ones((1, 1))} | (
            {"initial_probs": np.ones(1)} if family.initial == "free" else {}
        )
        fixed |= {"transition_coefs": np.zeros((1, 1, num_context))} if num_context else {}
    return fixed


def check_prior(prior: HMMPrior) -> None:
    """Raise a :class:`SettingError` where a hyperparameter is no number, or out of range."""
    positive: tuple[Callable[[np.ndarray], Any], str] = (lambda v: v > 0, "positive numbers, evenly nested")
    rules = dict.fromkeys(
        ("initial_concentration", "transition_concentration", "loc_scale", "scale", "df_concentration", "df_rate",
         "rate_concentration", "rate_rate", "prob_concentration", "category_concentration", "mixture_concentration",
         "coef_scale", "scales", "rates", "df"), positive,
    )  # fmt: skip
    rules |= dict.fromkeys(("loc", "locs"), (lambda v: v == v, "numbers, evenly nested"))
    rules["stickiness"] = (lambda v: v >= 0, "numbers of at least 0")
    rules["correlation_concentration"] = (lambda v: v >= 1, "numbers of at least 1")
    rules["probs"] = (lambda v: (v > 0) & (v < 1), "numbers between 0 and 1")
    simplex = (lambda v: (v >= 0) & (np.abs(v.sum(-1, keepdims=True) - 1) < 1e-6), "rows of numbers that sum to 1")
    rules |= dict.fromkeys(("initial_probs", "transition_matrix", "mixture_weights"), simplex)
    for name, (rule, text) in rules.items():
        value = getattr(prior, name)
        if value is None and name in FIXABLE:
            continue
        prior.require(name, _fits(value, rule), f"{'None or ' if name in FIXABLE else ''}{text}")


def _fits(value: Any, rule: Callable[[np.ndarray], Any]) -> bool:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return False
    scalar_in_disguise = isinstance(value, bool | str)
    return (
        not scalar_in_disguise
        and array.size > 0
        and bool(np.isfinite(array).all() and np.all(rule(np.atleast_1d(array))))
    )


def tells_apart(prior: HMMPrior) -> bool:
    """Whether the prior says something else of one state than of another."""
    symmetric = ("stickiness", "transition_concentration")  # a matrix of these may treat all states alike
    for field in dataclasses.fields(prior):
        value = getattr(prior, field.name)
        if value is None or np.ndim(value) == 0:
            continue
        array = np.asarray(value, np.float64)
        if field.name in symmetric and array.ndim == 2:
            off = array[~np.eye(len(array), dtype=bool)]
            if np.ptp(np.diag(array)) > 0 or (off.size and np.ptp(off) > 0):
                return True
        elif np.ptp(array, axis=0).any():
            return True
    return False


def num_parameters(hyper: Hyperparameters) -> int:
    """Free parameters: of the first state, of the transition matrix, of the emissions; fixed ones do not count."""
    k = hyper.num_states
    counts = {"transition_matrix": k * (k - 1), "initial_probs": (k - 1) * (hyper.initial == "free")}
    counts["transition_coefs"] = k * (k - 1) * (hyper.num_context - len(hyper.indicators))  # which sum to 1
    for name, (kind, parameters) in hyper.sites.items():
        size = int(np.prod(np.shape(parameters[0])))
        if kind == "dirichlet":
            size -= size // np.shape(parameters[0])[-1]
        elif kind == "lkj":
            size = k * parameters[0] * (parameters[0] - 1) // 2
        counts[name] = size
    return sum(count for name, count in counts.items() if name not in hyper.fixed)


__all__ = ["KIND_OF", "Block", "Hyperparameters", "blocks_of", "num_parameters", "resolve", "tells_apart"]
