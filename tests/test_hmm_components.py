"""Components within a state of ``emission="mixture"`` mean the same thing in every draw."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from ppl_gen import backends
from ppl_gen.data import Data
from ppl_gen.engine import Draws
from ppl_gen.fit import align_labels
from ppl_gen.models.hmm import HMM, HMMPrior
from ppl_gen.models.hmm.components import component_probs, tells_components_apart
from ppl_gen.models.hmm.hyperparameters import tells_apart

CHAINS, DRAWS = 2, 25
FAMILY = HMM(2, emission="mixture", num_mixtures=3)
LOCS = np.array([[[-6.0, 0.0], [-4.0, 1.0], [-2.0, 0.0]], [[2.0, 0.0], [4.0, -1.0], [6.0, 0.0]]]) / 4
WEIGHTS = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])


@pytest.fixture(scope="module")
def data() -> Data:
    """300 steps in two states of three components each, some entries missing."""
    rng = np.random.default_rng(0)
    state = np.cumsum(rng.random(300) < 0.1) % 2
    component = (rng.random(300)[:, None] > np.cumsum(WEIGHTS, 1)[state]).sum(1)
    x = LOCS[state, component] + 0.1 * rng.normal(size=(300, 2))
    x[::7, 1] = np.nan
    x[40:43] = np.nan
    return FAMILY.prepare(x, standardize=False)


@pytest.fixture(scope="module")
def clean() -> dict[str, np.ndarray]:
    """Draws about the truth whose labels agree."""
    rng = np.random.default_rng(1)
    shape = (CHAINS, DRAWS)
    gammas = {"mixture_weights": rng.gamma(200 * WEIGHTS, size=(*shape, 2, 3)),
              "transition_matrix": rng.gamma([[90.0, 10.0], [20.0, 80.0]], size=(*shape, 2, 2)),
              "initial_probs": rng.gamma(5.0, size=(*shape, 2))}  # fmt: skip
    return {
        "locs": LOCS + 0.02 * rng.normal(size=(*shape, *LOCS.shape)),
        "scales": 0.1 * np.exp(0.1 * rng.normal(size=(*shape, *LOCS.shape))),
        **{name: value / value.sum(-1, keepdims=True) for name, value in gammas.items()},
    }


def scramble(clean: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """The states of each draw permuted, and the components of each of its states."""
    rng = np.random.default_rng(seed)
    mixed = {name: value.copy() for name, value in clean.items()}
    for at in np.ndindex(CHAINS, DRAWS):
        states = rng.permutation(2)
        for name in mixed:
            mixed[name][at] = mixed[name][at][states]
        mixed["transition_matrix"][at] = mixed["transition_matrix"][at][:, states]
        for k in range(2):
            components = rng.permutation(3)
            for name in ("locs", "scales", "mixture_weights"):
                mixed[name][at][k] = mixed[name][at][k][components]
    return mixed


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.pyro)])
def test_permuted_components_come_back_and_the_density_does_not_move(
    data: Data, clean: dict[str, np.ndarray], backend: str
) -> None:
    pair = FAMILY.build(backend, data.schema, len(data), data.view(backend))
    mixed = scramble(clean, 2)
    expected, found = (align_labels(FAMILY, pair, data, Draws(d, "posterior")).posterior for d in (clean, mixed))
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    weights = found["mixture_weights"].mean((0, 1))
    assert (np.diff(weights, axis=-1) < 0).all()  # components by falling weight
    assert (found["locs"].std((0, 1)) < 0.1).all()  # 0.02, and where components had been mixed up above 0.3
    flat = [{name: value.reshape(-1, *value.shape[2:]) for name, value in d.items()} for d in (mixed, found)]
    before, after = (backends.ops(backend).log_prob(pair, d, data.view(backend)) for d in flat)
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_the_share_of_draws_with_exchanged_components_is_told(data: Data, clean: dict[str, np.ndarray]) -> None:
    pair = FAMILY.build("numpyro", data.schema, len(data), data.view("numpyro"))
    aligned = align_labels(FAMILY, pair, data, Draws(clean, "posterior")).posterior
    mixed = {name: value.copy() for name, value in aligned.items()}
    for name in ("locs", "scales", "mixture_weights"):
        mixed[name][1, :5, 0] = mixed[name][1, :5, 0][:, [1, 0, 2]]
    draws = align_labels(FAMILY, pair, data, Draws(mixed, "posterior"))
    assert draws.figures["relabelled_fraction"] == pytest.approx(5 / (CHAINS * DRAWS))


def test_a_point_estimate_is_relabelled_with_its_refits(data: Data, clean: dict[str, np.ndarray]) -> None:
    pair = FAMILY.build("numpyro", data.schema, len(data), data.view("numpyro"))
    mixed = {name: value.reshape(1, -1, *value.shape[2:]) for name, value in scramble(clean, 3).items()}
    point = {name: value[0, 0] for name, value in mixed.items()}
    draws = align_labels(FAMILY, pair, data, Draws(mixed, "bootstrap", point=point))
    assert draws.point is not None
    for name, values in draws.posterior.items():
        np.testing.assert_array_equal(draws.point[name], values[0, 0])
    assert (np.abs(draws.point["locs"] - draws.posterior["locs"].mean((0, 1))) < 0.1).all()


def test_probabilities_of_components_are_bayes_rule(data: Data, clean: dict[str, np.ndarray]) -> None:
    """By hand for one step; a fixed site counts as much as a drawn one; without data they are the weights."""
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in clean.items()}
    fixed = dataclasses.replace(FAMILY, prior=HMMPrior(scales=0.1))
    flat.pop("scales")
    assert data.mask is not None
    found = component_probs(fixed, flat, data.schema, data.x[:60], data.mask[:60])
    s, k = 7, 1
    joint = np.log(flat["mixture_weights"][s, k]) + norm.logpdf(data.x[1], flat["locs"][s, k], 0.1).sum(-1)
    np.testing.assert_allclose(found[s, 1, k], np.exp(joint - logsumexp(joint)))
    np.testing.assert_allclose(found[:, 41], flat["mixture_weights"])


@pytest.mark.parametrize(
    ("prior", "components", "states"),
    [
        (HMMPrior(), False, False),
        (HMMPrior(mixture_weights=[[0.5, 0.5]]), False, False),
        (HMMPrior(mixture_weights=[[0.9, 0.1]]), True, False),
        (HMMPrior(mixture_weights=[[0.9, 0.1], [0.5, 0.5]]), True, True),
        (HMMPrior(mixture_concentration=[1.0, 5.0]), False, True),
        (HMMPrior(mixture_concentration=[[4.0, 1.0]]), True, False),
        (HMMPrior(loc=[-1.0, 1.0]), False, True),
        (HMMPrior(loc=[[[-1.0], [1.0]]]), True, False),
    ],
)
def test_labels_with_a_meaning_are_left_alone(prior: HMMPrior, components: bool, states: bool) -> None:
    family = HMM(2, emission="mixture", prior=prior)
    assert tells_components_apart(prior) == components == (family.component_axes() == {})
    assert tells_apart(prior) == states == (family.label_axes() == {})


def test_components_are_relabelled_where_the_prior_tells_states_apart(clean: dict[str, np.ndarray], data: Data) -> None:
    family = dataclasses.replace(FAMILY, prior=HMMPrior(loc=[-1.0, 1.0]))
    pair = family.build("numpyro", data.schema, len(data), data.view("numpyro"))
    mixed = {name: value.copy() for name, value in clean.items()}
    for name in ("locs", "scales", "mixture_weights"):
        mixed[name][1] = mixed[name][1][:, :, ::-1]
    draws = align_labels(family, pair, data, Draws(mixed, "posterior"))
    assert (draws.posterior["locs"].std((0, 1)) < 0.1).all()
    assert (draws.posterior["locs"][..., 0].mean((0, 1, 3)) * [-1, 1] > 0.5).all()  # states as they were
