"""A setting of an HMM that would do nothing is refused, with what to do instead."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from zoo import effective, visits

import ppl_gen as pg
from ppl_gen.errors import SettingError
from ppl_gen.models.hmm import EMISSIONS, FIXABLE, HMM, INITIALS, HMMPrior
from ppl_gen.models.hmm.effects import FIELDS, PRIOR_OF

STAY = [[0.9, 0.1], [0.1, 0.9]]


@pytest.mark.parametrize(
    ("options", "prior", "message"),
    [
        ({"initial": "uniform"}, {"initial_probs": [0.5, 0.5]},
         "initial_probs has no effect with initial='uniform': leave it out, or take initial='free'"),
        ({"initial": "none"}, {"initial_concentration": 2.0}, "_concentration has no effect with initial='none'"),
        ({"initial": "stationary"}, {"initial_concentration": [2.0, 1.0]}, "with initial='stationary'"),
        ({}, {"rates": [1.0, 2.0]}, "rates has no effect with emission='gaussian': .* take emission='poisson'"),
        ({"emission": "poisson"}, {"loc_scale": 3.0},
         "loc_scale has no effect with emission='poisson': .* emission='gaussian' or emission='gaussian_full' or"),
        ({"emission": "auto"}, {"df": 4.0}, "df has no effect with emission='auto': .* emission='student_t'"),
        ({"emission": "gaussian", "num_mixtures": 3}, {},
         "HMM: num_mixtures has no effect with emission='gaussian': leave it out, or take emission='mixture'"),
        ({}, {"transition_matrix": STAY, "stickiness": 5.0}, "stickiness has no effect as transition_matrix is fixed"),
        ({}, {"coef_scale": 2.0}, "coef_scale has no effect without condition_on"),
        ({"condition_on": "dose", "initial": "stationary"}, {}, "have no stationary distribution: take initial='free'"),
        ({"emission": "student_t"}, {"df": 4.0, "df_rate": 1.0}, "df_rate has no effect as df is fixed"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_is_refused(options: dict[str, Any], prior: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        HMM(2, prior=HMMPrior(**prior), **options)


def test_what_has_an_effect_is_accepted() -> None:
    """Every hyperparameter, set where it belongs; fixed sites too; and one prior for a range of K."""
    values = {field.name: field.default for field in dataclasses.fields(HMMPrior) if field.name not in FIXABLE}
    other = HMMPrior(**{name: value + 0.25 for name, value in values.items()})
    fixed = HMMPrior(transition_matrix=STAY, initial_probs=[0.5, 0.5], locs=0.0, scales=1.0, rates=1.0, probs=0.5,
                     df=4.0, mixture_weights=[[0.5, 0.5]])  # fmt: skip
    for (emission, initial), prior in itertools.product(itertools.product(EMISSIONS, INITIALS), (other, fixed)):
        HMM(2, emission, initial, prior=effective(prior, emission, initial))
    HMM(2, condition_on="dose", prior=HMMPrior(coef_scale=2.0))
    for k in (1, 2, 3):
        HMM(k, prior=HMMPrior(stickiness=5.0)).prepare(np.random.default_rng(0).normal(size=30))


def test_every_hyperparameter_is_accounted_for() -> None:
    """A field that is in no table would never be refused."""
    general = {"transition_concentration", "stickiness", "transition_matrix", "initial_concentration", "initial_probs"}
    general |= {"coef_scale"}
    known = {name for names in FIELDS.values() for name in names} | general
    assert known == {field.name for field in dataclasses.fields(HMMPrior)}
    assert set(PRIOR_OF) == set(FIXABLE)
    assert {name for names in PRIOR_OF.values() for name in names} <= known


def test_auto_refuses_once_the_kinds_are_known() -> None:
    """At construction any kind may come; a table without counts has no use for their prior."""
    family = HMM(2, emission="auto", prior=HMMPrior(rate_rate=0.5, loc_scale=3.0))
    family.prepare(visits("auto"), sequence="who", order="day")
    heights = visits("gaussian")
    for verb in (family.prepare, lambda *a, **o: pg.fit(family, *a, **o)):
        with pytest.raises(SettingError, match="rate_rate has no effect, as the table has no count columns: leave it"):
            verb(heights, sequence="who", order="day")
    whole = pd.DataFrame({"n": np.arange(20) % 7, "x": np.random.default_rng(0).normal(size=20)})
    family.prepare(whole)
    with pytest.raises(SettingError, match="no count columns"):
        family.prepare(whole, kinds={"n": "real"})


def test_the_order_of_options_does_not_matter() -> None:
    """On the command line a hyperparameter may come before the emission that it is of."""
    options = {"prior.df": "4", "emission": "student_t", "prior.scale": "2", "num_states": "3"}
    expected = HMM(3, "student_t", prior=HMMPrior(df=4, scale=2))
    for order in itertools.permutations(options):
        assert HMM().with_options({name: options[name] for name in order}) == expected
    assert HMM().with_options({"initial": "none"}).initial == "none"  # a word, not Python's None
    assert pg.EM(num_bootstraps=3).with_options({"num_bootstraps": "none"}).num_bootstraps is None
    with pytest.raises(SettingError, match="prior"):
        HMM().with_options({"prior": "3", "prior.scale": "2"})
