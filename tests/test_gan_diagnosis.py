"""Generators that collapse, miss modes, copy rows, or were trained badly are caught, and a good one passes; pictures of
generators show what they say."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pandas as pd
import pytest
from implicit_toys import (
    CENTRES,
    HELD,
    MEMBERS,
    MODES,
    ROWS,
    UNITS,
    WINDOWS,
    Toy,
    held_out,
    ring,
    snapshots,
    toy,
    traces,
    training_rows,
)  # fmt: skip
from test_plots import check

import ppl_gen as pg
from ppl_gen import checks_adversarial, checks_implicit, plots
from ppl_gen.checks_implicit import of_implicit
from ppl_gen.errors import SettingError, UnsupportedError

STEADY = traces(np.full(WINDOWS, 0.55))
OF_SAMPLES = {"mode coverage", "precision", "recall", "MMD p", "classifier two-sample p", "copies of rows", "collapse"}
OF_TRAINING = {"discriminator saturation", "oscillation", "mode hopping"}


@cache
def good() -> pg.Fit:
    """A generator whose distribution is that of the rows."""
    course = snapshots(CENTRES[:1], CENTRES[:3], CENTRES, CENTRES)
    return toy(**STEADY, snapshots=course, snapshot_steps=np.array([100, 400, 1600, 2000]))


@cache
def failed(kind: str) -> dict[str, pg.diagnostics.Check]:
    fit = {
        "collapsed": lambda: toy(CENTRES[:1], 1e-4),
        "lacking": lambda: toy(CENTRES[:4]),
        "copying": lambda: toy(training_rows(), 1e-4),
        "blurred": lambda: toy(sd=0.35),
    }[kind]()
    return {c.name: c for c in of_implicit(fit)[0] if not c.passed}


def test_a_good_generator_passes_every_check() -> None:
    diagnosis = good().diagnose()
    assert diagnosis.passed, diagnosis
    names = [check.name for check in diagnosis.checks]
    assert set(names) - {"AIS gap"} == OF_SAMPLES | OF_TRAINING | {"posterior predictive p", "PIT p"}  # no density
    assert set(diagnosis.details) == {"course", "modes", "generators", "predictive", "pit"}
    assert "held-out rows" in diagnosis["precision"].info


def test_samples_are_compared_with_rows_that_their_members_did_not_see() -> None:
    members, rows = checks_implicit.held_out_pairs(good())
    held = held_out()
    assert all(row in held[member] for member, row in zip(members, rows, strict=True))
    assert sorted(rows) == sorted(np.unique(held))
    there = checks_implicit.material(good())
    assert (len(there.fresh), len(there.others), len(there.samples)) == (len(rows), len(rows), 2 * len(rows))
    seen = np.setdiff1d(np.arange(ROWS), held)
    assert set(map(tuple, np.round(there.others, 6).to_numpy())) <= set(
        map(tuple, np.round(ring().iloc[seen], 6).to_numpy())
    )
    few = toy(validation_rows=held[:, :10])
    assert checks_implicit.held_out_pairs(few) is None
    assert not checks_implicit.material(few).held_out


def test_a_collapsed_generator_is_caught() -> None:
    found = failed("collapsed")
    assert {"mode coverage", "recall", "MMD p", "classifier two-sample p", "collapse"} <= set(found)
    assert "pack" in found["collapse"].advice
    assert found["recall"].figure == 0


def test_missed_modes_are_counted() -> None:
    """Two of six modes: a third of the rows, within 4 standard errors of a half of the rows that are compared."""
    fit = toy(CENTRES[:4])
    assert {"mode coverage", "recall", "MMD p"} <= set(failed("lacking"))
    clusters = checks_implicit.clusters_of(fit)
    assert clusters.share == pytest.approx(2 / MODES, abs=4 * np.sqrt(2 / 9 / clusters.rows.sum()))
    assert (clusters.samples[clusters.missed] == 0).all()


def test_copies_of_training_rows_are_caught() -> None:
    found = failed("copying")
    assert "copies of rows" in found
    assert found["copies of rows"].figure < -5
    assert not {"mode coverage", "precision", "recall"} & set(found)


def test_samples_where_no_rows_are_are_caught() -> None:
    found = failed("blurred")
    assert {"precision"} <= set(found)
    assert not {"recall", "collapse", "copies of rows"} & set(found)


def verdicts(**parameters: np.ndarray) -> dict[str, bool | None]:
    return {c.name: c.passed for c in checks_adversarial.of_training(toy(**parameters))[0]}


def test_a_discriminator_that_is_sure_is_saturated() -> None:
    late = traces(np.where(np.arange(WINDOWS) < WINDOWS / 2, 0.6, 0.99))
    assert not verdicts(**late)["discriminator saturation"]
    early = traces(np.where(np.arange(WINDOWS) < WINDOWS / 2, 0.99, 0.6))
    assert verdicts(**early)["discriminator saturation"]
    apart = {"accuracy_data": early["accuracy_data"], "accuracy_fakes": late["accuracy_fakes"]}
    assert np.allclose(
        checks_adversarial.accuracy_of(toy(**apart)), (early["accuracy_data"] + late["accuracy_fakes"]) / 2
    )
    one = traces(np.full(WINDOWS, 0.6))
    one["accuracy_data"][:, 1] = 1.0  # the worst member is shown
    assert not verdicts(**one)["discriminator saturation"]


def test_oscillation_is_told_from_noise_and_from_a_trend() -> None:
    time = np.arange(WINDOWS)
    found = checks_adversarial.of_training(toy(**traces(0.7 + 0.2 * np.sin(2 * np.pi * time / 5))))[0]
    (swing,) = [c for c in found if c.name == "oscillation"]
    assert not swing.passed
    assert swing.figure == pytest.approx(0.2 / np.sqrt(2), rel=0.15)
    assert "period 5 windows" in swing.info
    assert verdicts(**traces(np.linspace(0.9, 0.5, WINDOWS)))["oscillation"]
    assert verdicts(**traces(0.6 + 0.03 * np.random.default_rng(0).normal(size=WINDOWS)))["oscillation"]
    assert "oscillation" not in verdicts(**traces(np.full(6, 0.6)))  # too short to tell


def test_samples_that_hop_from_mode_to_mode_are_caught() -> None:
    assert verdicts(snapshots=snapshots(CENTRES, CENTRES))["mode hopping"]
    hopping = checks_adversarial.of_training(toy(snapshots=snapshots(CENTRES, CENTRES[:1], CENTRES[3:4])))
    assert not hopping[0][0].passed
    course = hopping[1]["course"]
    assert course["spread"].groupby(course["snapshot"]).mean().round(1).tolist()[0] == 1.0
    assert course["spread"].iloc[-1] < 0.2
    assert course["to_rows"].iloc[0] < 0.02 < course["to_rows"].iloc[-1]


def test_the_energy_coefficient_of_a_shift() -> None:
    """Of N(0, 1) and N(m, 1): E|X - Y| is that of a folded normal with mean m and variance 2; the limit is m = 0.45."""
    from scipy.stats import foldnorm

    rng, shift = np.random.default_rng(0), 0.45
    within, between = 2 / np.sqrt(np.pi), foldnorm.mean(shift / np.sqrt(2), scale=np.sqrt(2))
    assert 1 - within / between == pytest.approx(checks_adversarial.HOPPING, abs=0.003)
    x, y = rng.normal(size=(2, 2000, 1))
    assert checks_adversarial.energy_coefficient(x, y + shift) == pytest.approx(1 - within / between, abs=0.02)


def test_members_that_diverged_fail() -> None:
    fit = toy()
    draws = dataclasses.replace(fit.draws, figures={"num_diverged": 1})
    (check,) = checks_adversarial.of_training(dataclasses.replace(fit, draws=draws))[0]
    assert (check.name, check.passed) == ("diverged members", False)


def test_few_rows_tell_nothing() -> None:
    data = Toy().prepare(ring().iloc[:60])
    few = dataclasses.replace(toy(), train=data, schema=data.schema)
    (check,) = of_implicit(few)[0]
    assert check.passed is None
    assert "fewer than 80 rows" in check.info
    assert "fewer than 80 rows" in plots.applicable(few)["modes"]


def test_tables_of_labels_are_compared_as_well() -> None:
    """Rows with an exact copy have no distance to their nearest."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.choice(["x", "y"], 200), "b": rng.integers(0, 2, 200)})
    assert np.isnan(checks_implicit._crowding(table, table)["crowding"])
    assert checks_implicit._copies(table, table.iloc[:100], None, 200, 0)["z"] == pytest.approx(0, abs=4)


OF_GENERATORS = {"progress", "modes", "ratio", "game"}


@pytest.mark.parametrize("kind", sorted(OF_GENERATORS))
def test_pictures_of_generators(kind: str) -> None:
    assert plots.applicable(good())[kind] == ""
    check(plots.KINDS[kind](good()))


def test_pictures_of_a_density_are_left_out() -> None:
    reasons = plots.applicable(good())
    shown = {kind for kind, reason in reasons.items() if not reason}
    assert shown == OF_GENERATORS | {"pairs", "pit", "posterior_predictive"}
    assert "no formula" in reasons["density"]
    with pytest.raises(UnsupportedError, match="no samples were kept"):
        plots.plot_progress(toy())
    with pytest.raises(UnsupportedError, match="no generator was trained"):
        plots.plot_game(toy())
    with pytest.raises(SettingError, match="from 0 to 1, not 7"):
        plots.plot_progress(good(), member=7)


def test_progress_shows_the_samples_that_were_kept() -> None:
    figure = plots.plot_progress(good(), member=1)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["step 100", "step 400", "step 1,600", "step 2,000"]
    drawn = figure.axes[0].collections[1].get_offsets()
    fit = good()
    columns = fit.schema.columns
    expected = fit.draws.parameters["snapshots"][0, 1] * [c.scale for c in columns] + [c.loc for c in columns]
    assert np.allclose(drawn, expected)
    assert "member 1" in figure.get_suptitle()


def test_progress_of_images_and_labels() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (100, 4, 4)).astype(float)
    labels = pd.DataFrame({"sky": rng.choice(["clear", "cloud", "rain"], 100)})
    for family, table, shape in ((pg.GAN(2), images, 16), (pg.GAN(2), labels, 1)):
        data = family.prepare(table)
        kept = rng.integers(0, 3, (2, 1, 30, shape)).astype(float)
        draws = dataclasses.replace(toy().draws, parameters={"snapshots": kept})
        figure = plots.plot_progress(
            dataclasses.replace(toy(), family=family, schema=data.schema, train=data, draws=draws)
        )
        figure.draw_without_rendering()
        assert len(figure.axes) == 2
    heights = [bar.get_height() for bar in figure.axes[1].patches[3:]]
    assert heights == pytest.approx(np.bincount(kept[1, 0, :, 0].astype(int), minlength=3) / 30)


def test_known_modes_are_drawn_with_their_figures() -> None:
    fit = toy(CENTRES[:4])
    # The columns have different units: as one number of standard deviations, those of the wider one.
    figure = plots.plot_modes(fit, modes=CENTRES * UNITS, scale=UNITS[0])
    check(figure)
    assert f" of {MODES} modes" in figure.get_suptitle()
    heights = np.array([bar.get_height() for bar in figure.axes[0].patches[MODES:]])
    # A quarter of 2,500 samples each, within 4 standard errors; a stray one may lie by a mode that is not made.
    assert (np.abs(heights[:4] - 0.25) < 4 * (0.25 * 0.75 / 2500) ** 0.5).all()
    assert (heights[4:] < 0.01).all()
    with pytest.raises(SettingError, match="needs scale="):
        plots.plot_modes(fit, modes=CENTRES)


def test_the_surface_is_the_discriminators() -> None:
    """Its line of zero lies halfway between the two means."""
    figure = plots.plot_ratio(good())
    lines = [c for c in figure.axes[0].collections if len(np.atleast_1d(c.get_linewidths())) and len(c.get_paths())]
    zero = next(c for c in lines if np.allclose(np.atleast_1d(c.get_linewidths()), 0.6))
    points = np.concatenate([p.vertices for p in zero.get_paths() if len(p.vertices)])
    columns = good().schema.columns
    rows = (points - [c.loc for c in columns]) / [c.scale for c in columns]
    mean = good().posterior["centres"][0, 0]
    assert np.allclose(((rows - mean) ** 2).sum(1), (rows**2).sum(1), atol=0.05)
    assert len([ax for ax in figure.axes if ax.get_title(loc="left").startswith("member")]) == MEMBERS


def test_a_held_out_share_is_needed_for_the_toys_to_be_fair() -> None:
    assert held_out().shape == (MEMBERS, HELD)
    assert len(training_rows()) + len(np.unique(held_out())) == ROWS


def test_chains_of_the_latent_vector_are_drawn_with_their_rows() -> None:
    from ppl_gen.latent_chains import LatentChains

    rng, fit = np.random.default_rng(0), good()
    z = np.cumsum(0.1 * rng.normal(size=(3, 100, 3)), axis=1)
    z[:, :, 1] = rng.normal(size=(3, 100))  # mixes well
    rows = CENTRES[rng.integers(MODES, size=(3, 100))] * UNITS
    chains = LatentChains(fit.schema, rows, {}, "toy by nuts in numpyro: 3 chains x 100 draws", "nuts", z=z)
    figure = plots.plot_latent_chains(chains, fit=fit)
    check(figure)
    latent, right = figure.axes
    assert (latent.get_xlabel(), latent.get_ylabel()) == ("z0", "z2")
    assert np.allclose(latent.collections[1].get_offsets(), z[1][:, [0, 2]])
    assert np.allclose(right.collections[-1].get_offsets(), rows[2])
    radii = [patch.get_radius() for patch in latent.patches]
    assert np.allclose(1 - np.exp(-(np.array(radii) ** 2) / 2), [0.5, 0.95])  # of a normal in the plane
    one = dataclasses.replace(chains, z=z[..., :1])
    assert plots.plot_latent_chains(one).axes[0].get_xlabel() == "draw"
    with pytest.raises(UnsupportedError, match="plot_trace and plot_rank"):
        plots.plot_latent_chains(object())
