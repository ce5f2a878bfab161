"""Which hyperparameters say something about which emission: those that would be ignored are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ppl_gen.errors import SettingError

if TYPE_CHECKING:
    from ppl_gen.models.hmm import HMM

NORMAL = ("loc", "loc_scale", "scale", "locs", "scales")
FIELDS: Mapping[str, tuple[str, ...]] = {  # of the prior, by emission
    "gaussian": NORMAL, "gaussian_full": (*NORMAL, "correlation_concentration"),
    "student_t": (*NORMAL, "df_concentration", "df_rate", "df"),
    "mixture": (*NORMAL, "mixture_concentration", "mixture_weights"),
    "poisson": ("rate_concentration", "rate_rate", "rates"), "bernoulli": ("prob_concentration", "probs"),
    "categorical": ("category_concentration",),
}  # fmt: skip
BY_KIND = {"gaussian": "real", "poisson": "count", "bernoulli": "binary", "categorical": "categorical"}  # of "auto"
PRIOR_OF = {  # a site that may be fixed: what says nothing then
    "initial_probs": ("initial_concentration",), "transition_matrix": ("transition_concentration", "stickiness"),
    "locs": ("loc", "loc_scale"), "scales": ("scale",), "rates": ("rate_concentration", "rate_rate"),
    "probs": ("prob_concentration",), "df": ("df_concentration", "df_rate"),
    "mixture_weights": ("mixture_concentration",),
}  # fmt: skip


def check_effects(family: HMM) -> None:
    """Raise a :class:`SettingError` for an option or a hyperparameter that is set but has no effect."""
    emissions = tuple(BY_KIND) if family.emission == "auto" else (family.emission,)
    changed = _changed(family)
    if family.num_mixtures != type(family).num_mixtures and "mixture" not in emissions:
        raise SettingError(_message("HMM", "num_mixtures", family.emission, ["mixture"]))
    for name in ("initial_concentration", "initial_probs"):
        if name in changed and family.initial != "free":
            raise SettingError(
                f"HMMPrior: {name} has no effect with initial={family.initial!r}: leave it out, or take initial='free'."
            )
    if "coef_scale" in changed and not family.condition_on:
        raise SettingError(
            "HMMPrior: coef_scale has no effect without condition_on: leave it out, or name the covariates."
        )
    if family.condition_on and family.initial == "stationary":
        raise SettingError(
            "HMM: transitions that depend on covariates (condition_on) have no stationary distribution: take "
            "initial='free' or initial='uniform'."
        )
    for name in changed:
        owners = [emission for emission, fields in FIELDS.items() if name in fields]
        if owners and not set(owners) & set(emissions):
            raise SettingError(_message("HMMPrior", name, family.emission, owners))
    for site, names in PRIOR_OF.items():
        ignored = [name for name in names if name in changed and site in changed]
        if ignored:
            raise SettingError(f"HMMPrior: {ignored[0]} has no effect as {site} is fixed: leave one of the two out.")


def check_effects_on_kinds(family: HMM, kinds: Collection[str]) -> None:
    """The same for ``emission="auto"``, where it takes the kinds of a table's columns."""
    for name in _changed(family):
        owners = [kind for emission, kind in BY_KIND.items() if name in FIELDS[emission]]
        if owners and not set(owners) & set(kinds):
            raise SettingError(
                f"HMMPrior: {name} has no effect, as the table has no {owners[0]} columns: leave it out, or say in "
                "kinds= which column is one."
            )


def _changed(family: HMM) -> list[str]:
    """The hyperparameters that are not at their defaults."""
    prior = family.prior
    return [field.name for field in dataclasses.fields(prior) if getattr(prior, field.name) != field.default]


def _message(owner: str, name: str, emission: str, others: list[str]) -> str:
    choices = " or ".join(f"emission={other!r}" for other in others)
    return f"{owner}: {name} has no effect with emission={emission!r}: leave it out, or take {choices}."
