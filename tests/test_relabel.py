"""Relabelling undoes label switching exactly, and puts labels in an order that two fits share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_gen.relabel import fraction_relabelled, relabel

AXES = {"weights": (0,), "locs": (0,), "transition": (0, 1)}


def mixture_draws(rng, num_labels, chains=2, draws=40, separation=4.0):
    """Draws around one mode (labels in order of falling weight), with their responsibilities at probe rows."""
    weights = np.sort(rng.dirichlet(np.full(num_labels, 20.0)))[::-1]
    locs = separation * np.arange(num_labels)
    shape = (chains, draws)
    clean = {
        "weights": np.abs(weights + 0.01 * rng.normal(size=(*shape, num_labels))),
        "locs": locs + 0.3 * rng.normal(size=(*shape, num_labels)),
        "transition": rng.normal(size=(*shape, num_labels, num_labels)),
        "shared": rng.normal(size=(*shape, 3)),
    }
    labels = rng.choice(num_labels, size=200, p=weights)
    probes = locs[labels] + rng.normal(size=200)
    flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in clean.items()}
    log_joint = np.log(flat["weights"])[:, None] - 0.5 * (probes[:, None] - flat["locs"][:, None]) ** 2
    responsibilities = np.exp(log_joint - log_joint.max(-1, keepdims=True))
    return clean, responsibilities / responsibilities.sum(-1, keepdims=True)


def scramble(clean, responsibilities, permutations):
    """Each draw's labels permuted: new label k is old label ``permutations[s, k]``."""
    flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in clean.items()}
    rows = np.arange(len(permutations))[:, None]
    mixed = {k: flat[k][rows, permutations] for k in ("weights", "locs")}
    mixed["transition"] = flat["transition"][rows[:, :, None], permutations[:, :, None], permutations[:, None, :]]
    mixed["shared"] = flat["shared"]
    mixed = {k: v.reshape(clean[k].shape) for k, v in mixed.items()}
    return mixed, np.take_along_axis(responsibilities, permutations[:, None, :], axis=2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), num_labels=st.integers(2, 6))
def test_random_permutations_are_undone_exactly(seed, num_labels):
    rng = np.random.default_rng(seed)
    clean, responsibilities = mixture_draws(rng, num_labels)
    permutations = np.argsort(rng.random((80, num_labels)), axis=1)
    expected, _ = relabel(clean, responsibilities, AXES)
    mended, found = relabel(*scramble(clean, responsibilities, permutations), AXES)
    for name, values in expected.items():
        np.testing.assert_array_equal(mended[name], values)
    assert found.shape == (80, num_labels)


def test_labels_come_in_order_of_falling_responsibility_whatever_draw_is_first():
    rng = np.random.default_rng(1)
    clean, responsibilities = mixture_draws(rng, 3)
    reversed_labels = np.tile([2, 1, 0], (80, 1))
    draws, _ = relabel(*scramble(clean, responsibilities, reversed_labels), AXES)
    assert np.all(np.diff(draws["weights"].mean((0, 1))) < 0)
    np.testing.assert_array_equal(draws["locs"], clean["locs"])


def test_the_pivot_keeps_its_own_order():
    rng = np.random.default_rng(2)
    clean, responsibilities = mixture_draws(rng, 3)
    permutations = np.argsort(rng.random((80, 3)), axis=1)
    mixed = scramble(clean, responsibilities, permutations)
    draws, _ = relabel(*mixed, AXES, pivot=responsibilities[0][:, [1, 0, 2]])
    np.testing.assert_array_equal(draws["locs"], clean["locs"][..., [1, 0, 2]])


def test_sites_without_labels_and_draws_that_agree_are_left_alone():
    rng = np.random.default_rng(3)
    clean, responsibilities = mixture_draws(rng, 3)
    draws, permutations = relabel(clean, responsibilities, AXES, log_density=rng.normal(size=80))
    for name, values in clean.items():
        np.testing.assert_array_equal(draws[name], values)
    assert fraction_relabelled(permutations) == 0.0


@pytest.mark.parametrize("switched", [1, 30])
def test_the_share_of_relabelled_draws_is_counted(switched):
    rng = np.random.default_rng(4)
    clean, responsibilities = mixture_draws(rng, 2)
    permutations = np.tile([0, 1], (80, 1))
    permutations[:switched] = [1, 0]
    _, found = relabel(*scramble(clean, responsibilities, permutations), AXES)
    assert fraction_relabelled(found) == pytest.approx(switched / 80)


def test_overlapping_components_are_aligned_by_what_they_do():
    """Components that overlap heavily: agreement of chains, not exact recovery, is what can be had."""
    rng = np.random.default_rng(5)
    clean, responsibilities = mixture_draws(rng, 2, separation=2.0)
    permutations = np.argsort(rng.random((80, 2)), axis=1)
    draws, _ = relabel(*scramble(clean, responsibilities, permutations), AXES)
    means = draws["locs"].mean(1)
    np.testing.assert_allclose(means[0], means[1], atol=0.3)
