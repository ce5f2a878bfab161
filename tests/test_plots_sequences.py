"""Pictures of sequences: each renders for each kind of fit, and shows the numbers that it says it shows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import norm

import ppl_gen as pg
from ppl_gen import plots, plots_durations, plots_steps, plots_times
from ppl_gen.arviz_groups import groups
from ppl_gen.engine import Draws
from ppl_gen.errors import UnsupportedError
from ppl_gen.models.hmm import HMM
from ppl_gen.plots_intervals import panels_of
from ppl_gen.result import Fit

CHAINS, DRAWS = 2, 30
TRANSITION = np.array([[0.9, 0.07, 0.03], [0.05, 0.9, 0.05], [0.02, 0.13, 0.85]])
NEW = {"states", "transitions", "durations", "forecast", "residuals"}
NOWHERE = {"pairs", "latents"}
UNCERTAINTY = ("posterior", "guide", "bootstrap", "point")


def states_of(lengths: np.ndarray, seed: int) -> np.ndarray:
    paths = plots_durations.markov_chains(TRANSITION[None], np.zeros((1, len(lengths)), int), lengths, seed)
    return paths[0]


def draws_of(uncertainty: str, centre: dict[str, np.ndarray], number: int) -> Draws:
    """What an engine of that kind would have given: draws near these values."""
    rng = np.random.default_rng(0)
    simplices = ("initial_probs", "transition_matrix")
    posterior = {}
    for name, value in centre.items():
        tiled = np.broadcast_to(value, (CHAINS, DRAWS, *value.shape))
        if name in simplices or name.startswith("category_probs"):
            gamma = rng.gamma(60 * tiled + 0.5)
            posterior[name] = gamma / gamma.sum(-1, keepdims=True)
        elif name == "probs":
            posterior[name] = np.clip(tiled + 0.03 * rng.normal(size=tiled.shape), 0.01, 0.99)
        else:
            posterior[name] = tiled * np.exp(0.04 * rng.normal(size=tiled.shape))
    if uncertainty == "posterior":
        shape = (CHAINS, DRAWS)
        return Draws(posterior, uncertainty, sample_stats={
            "energy": rng.normal(size=shape), "diverging": np.zeros(shape, bool), "lp": rng.normal(size=shape),
        })  # fmt: skip
    flat = {name: value.reshape(1, -1, *value.shape[2:]) for name, value in posterior.items()}
    losses = 300.0 + 10 * np.exp(-np.arange(12.0))
    if uncertainty == "guide":
        return Draws(flat, uncertainty, losses=losses, log_weights=rng.normal(size=100))
    held_out = rng.normal(-2, 1, size=number)
    if uncertainty == "bootstrap":
        return Draws(flat, uncertainty, point=centre, losses=losses, held_out=held_out)
    point = {name: value[None, None] for name, value in centre.items()}
    return Draws(point, uncertainty, point=centre, losses=losses, held_out=held_out)


def fit_of(family: HMM, data: Any, centre: dict[str, np.ndarray], uncertainty: str) -> Fit:
    engine = {"posterior": pg.NUTS(), "guide": pg.SVI()}.get(uncertainty, pg.EM())
    centre = {"initial_probs": np.array([0.4, 0.3, 0.3]), "transition_matrix": TRANSITION, **centre}
    draws = draws_of(uncertainty, centre, len(data))
    return Fit(family, engine, "numpyro", 0, data.schema, draws, data, versions={}, seconds=1.0)


def counts(uncertainty: str = "posterior", steps: int = 110) -> Fit:
    """One sequence of counts, by year."""
    rates = np.array([[12.0], [20.0], [31.0]])
    z = states_of(np.array([steps]), 3)
    count = np.random.default_rng(1).poisson(rates[z, 0])
    family = HMM(3, emission="poisson")
    data = family.prepare(pd.DataFrame({"year": 1900 + np.arange(steps), "count": count}), order="year")
    return fit_of(family, data, {"rates": rates}, uncertainty)


def several(uncertainty: str = "posterior", number: int = 5) -> Fit:
    """Sequences of different lengths, by date: columns of every kind, entries and a whole step missing."""
    rng = np.random.default_rng(2)
    lengths = 20 + 12 * np.arange(number)
    z, starts = states_of(lengths, 4), np.cumsum(lengths) - lengths
    day = np.concatenate([pd.date_range("2024-01-01", periods=n, freq="D") for n in lengths])
    table = pd.DataFrame({
        "patient": np.repeat([f"p{i} $x$" for i in range(number)], lengths), "day": day,
        "pressure": np.array([90.0, 120.0, 160.0])[z] + 8 * rng.normal(size=len(z)),
        "visits": rng.poisson(np.array([1.0, 4.0, 9.0])[z]), "fever": rng.random(len(z)) < np.array([0.1, 0.5, 0.9])[z],
        "ward": np.array(["north", "south", "intensive care"])[np.where(rng.random(len(z)) < 0.8, z, 0)],
    })  # fmt: skip
    table.loc[::9, "pressure"] = np.nan
    table["visits"] = table["visits"].astype("Int64").where(np.arange(len(z)) != starts[-1] + 5)
    family = HMM(3, emission="auto")
    data = family.prepare(table, sequence="patient", order="day")
    column = data.schema.columns[0]
    labels = data.schema.columns[3].categories
    assert labels is not None
    shares = np.full((3, 3), 0.02) + 0.2 * (np.array(labels) == "north")
    for k, name in enumerate(("north", "south", "intensive care")):
        shares[k, labels.index(name)] += 0.8
    centre = {
        "locs": (np.array([[90.0], [120.0], [160.0]]) - column.loc) / column.scale,
        "scales": np.full((3, 1), 8.0 / column.scale), "rates": np.array([[1.0], [4.0], [9.0]]),
        "probs": np.array([[0.1], [0.5], [0.9]]), "category_probs_3": shares / shares.sum(1, keepdims=True),
    }  # fmt: skip
    return fit_of(family, data, centre, uncertainty)


def returns(steps: int = 2_500) -> Fit:
    """A long series without times."""
    scales = np.array([0.5, 1.0, 2.2])
    z = states_of(np.array([steps]), 5)
    family = HMM(3)
    data = family.prepare(scales[z] * np.random.default_rng(6).normal(size=steps))
    scale = data.schema.columns[0].scale
    centre = {"locs": np.full((3, 1), 0.01), "scales": scales[:, None] / scale}
    return fit_of(family, data, centre, "point")


def check(figure: Figure) -> None:
    """It can be drawn; outer axes are labelled; a title says what it shows; nothing leaves the paper."""
    figure.draw_without_rendering()
    for ax in figure.axes:
        place = ax.get_subplotspec()
        assert place is not None
        assert ax.get_xlabel() or not place.is_last_row(), ax
        assert ax.get_ylabel() or not place.is_first_col(), ax
    assert figure.get_suptitle()
    box = figure.get_tightbbox()
    assert box.x0 > -0.02
    assert box.y0 > -0.02
    assert box.x1 < figure.get_figwidth() + 0.02
    assert box.y1 < figure.get_figheight() + 0.02


def title(figure: Figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


@pytest.fixture(scope="module")
def fits() -> dict[str, Fit]:
    return {uncertainty: counts(uncertainty) for uncertainty in UNCERTAINTY}


@pytest.fixture(scope="module")
def mixed() -> Fit:
    return several()


@pytest.mark.parametrize("uncertainty", UNCERTAINTY)
def test_every_picture_of_every_kind_of_fit(fits: dict[str, Fit], uncertainty: str) -> None:
    reasons = plots.applicable(fits[uncertainty])
    there = {kind for kind, reason in reasons.items() if not reason}
    assert there >= NEW | {"score", "pit", "posterior_predictive"}
    assert not there & (NOWHERE | {"khat"})
    assert ("trace" in there) == (uncertainty == "posterior")
    for kind, draw in plots.KINDS.items():
        if kind in there:
            check(draw(fits[uncertainty]))
        else:
            with pytest.raises(UnsupportedError, match=r"\w+"):
                draw(fits[uncertainty])


def test_columns_of_every_kind_in_sequences_of_different_lengths(mixed: Fit) -> None:
    for kind in [*NEW, "score", "parameters"]:
        check(plots.KINDS[kind](mixed))
    for kind in ("states", "forecast"):
        assert "the 3 longest of 5 sequences" in title(plots.KINDS[kind](mixed))
    figure = plots.plot_states(mixed, max_columns=2)
    assert "first 2 of 4 columns" in title(figure)
    assert len(figure.axes) == 3 * (2 + 3)
    assert figure.axes[0].get_title(loc="left") == r"patient p2 \$x\$"


def test_many_sequences_are_scored_and_left_out_one_by_one() -> None:
    fit = several(number=12)
    assert not plots.applicable(fit)["khat"]
    assert "12 sequences" in title(plots.plot_khat(fit))
    figure = plots.plot_score(fit)
    assert figure.axes[0].get_xlabel() == "sequence, lowest density first"
    assert "sequence p" in figure.axes[0].texts[0].get_text()


def test_rows_have_no_pictures_of_sequences() -> None:
    data = pg.GMM(2).prepare(np.random.default_rng(0).normal(size=(50, 2)))
    posterior = {"weights": np.full((1, 4, 2), 0.5), "locs": np.zeros((1, 4, 2, 2)), "scales": np.ones((1, 4, 2, 2)),
                 "corr_cholesky": np.broadcast_to(np.eye(2), (1, 4, 2, 2, 2))}  # fmt: skip
    fit = Fit(pg.GMM(2), pg.NUTS(), "numpyro", 0, data.schema, Draws(posterior, "posterior"), data, versions={},
              seconds=1.0)  # fmt: skip
    reasons = plots.applicable(fit)
    for kind in NEW:
        assert reasons[kind] == "gmm models rows, which have no order in time"
        with pytest.raises(UnsupportedError, match="models rows"):
            plots.KINDS[kind](fit)


def test_states_picture_shows_the_smoothed_probabilities(fits: dict[str, Fit]) -> None:
    fit = fits["posterior"]
    frame = fit.latents()
    figure = plots.plot_states(fit)
    for k, ax in enumerate(figure.axes[1:]):
        values, edges, _ = ax.patches[0].get_data()
        assert np.allclose(values, frame[f"z={k}"], atol=1e-6)
        assert np.allclose(edges, 1900 + np.arange(111) - 0.5)
        high, _, low = ax.patches[2].get_data()
        assert np.all(low <= high)
        assert np.mean((low <= values) & (values <= high)) > 0.95
    (dots,) = figure.axes[0].collections[3:]
    assert np.array_equal(dots.get_offsets()[:, 1], fit.train.x[:, 0])
    point = plots.plot_states(fits["point"])
    assert len(point.axes[1].patches) == 2  # no band


def test_a_long_sequence_is_cut_and_says_so() -> None:
    fit = returns()
    figure = plots.plot_states(fit)
    check(figure)
    assert figure.axes[0].get_title(loc="left") == "first 1,000 of 2,500 steps"
    cut = figure.axes[1].patches[0].get_data().values
    assert len(cut) == 1_000
    assert np.allclose(cut, fit.latents()["z=0"][:1000], atol=1e-6)
    check(plots.plot_residuals(fit))
    check(plots.plot_durations(fit))


def test_categories_go_by_their_column_and_label(mixed: Fit) -> None:
    """In the summary, the ArviZ object and the picture; the site keeps the name that the model gives it."""
    rows = [f"category_probs_3[{k}, ward={name}]" for k in range(3) for name in ("intensive care", "north", "south")]
    assert [name for name in mixed.summary().index if name.startswith("category")] == rows
    posterior = groups(mixed)[0]["posterior"]
    assert posterior["category_probs_3"].dims == ("chain", "draw", "state", "category_3")
    assert posterior["category_3"].values.tolist() == ["ward=intensive care", "ward=north", "ward=south"]
    north = posterior["category_probs_3"].sel(category_3="ward=north", state=0)
    assert float(north.mean()) == pytest.approx(mixed.summary().loc["category_probs_3[0, ward=north]", "mean"])
    (panel,) = [panel for panel in panels_of(mixed) if panel.title == "category_probs_3"]
    assert panel.axis == "category, state"
    assert panel.names[3:6] == [f"ward=north, {k}" for k in range(3)]
    assert np.allclose(panel.draws[:, 3], mixed.posterior["category_probs_3"][:, 0, 1])


def test_transitions_picture_writes_the_matrix(fits: dict[str, Fit]) -> None:
    fit = fits["posterior"]
    draws = fit.posterior["transition_matrix"]
    texts = [text.get_text() for text in plots.plot_transitions(fit).axes[0].texts]
    low, high = np.quantile(draws[:, 0, 1], [0.05, 0.95])
    assert texts[1] == f"{draws[:, 0, 1].mean():.2f}\n[{low:.2f}, {high:.2f}]"
    assert plots.plot_transitions(fits["point"]).axes[0].texts[0].get_text() == "0.90"


def test_chains_have_the_transitions_of_their_matrix() -> None:
    paths = plots_durations.markov_chains(TRANSITION[None], np.zeros((1, 40), int), np.full(40, 500), 0).reshape(
        40, 500
    )
    pairs = np.zeros((3, 3))
    np.add.at(pairs, (paths[:, :-1].ravel(), paths[:, 1:].ravel()), 1)
    assert np.allclose(pairs / pairs.sum(1, keepdims=True), TRANSITION, atol=0.015)
    ragged = plots_durations.markov_chains(TRANSITION[None], np.array([[2, 0]]), np.array([3, 5]), 0)
    assert ragged.shape == (1, 8)
    assert (ragged[0, 0], ragged[0, 3]) == (2, 0)


def test_visits_end_where_a_path_or_a_sequence_does() -> None:
    paths = np.array([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    visits = plots_durations.Visits.of(paths, np.array([4, 2]))
    assert visits.path.tolist() == [0, 0, 0, 0, 1, 1]
    assert visits.state.tolist() == [0, 1, 1, 0, 1, 1]
    assert visits.length.tolist() == [2, 2, 1, 1, 4, 2]
    assert visits.counts(1, np.array([0.5, 1.5, 2.5, 4.5])).tolist() == [[1, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("number", [1, 500])
def test_bins_of_durations_are_whole_and_hold_all(number: int) -> None:
    lengths = np.random.default_rng(number).geometric(0.05, size=number * 10)
    edges = plots_durations.duration_edges(lengths, 10)
    assert edges[0] == 0.5
    assert np.all(np.diff(edges) >= 1)
    assert np.allclose(edges % 1, 0.5)
    assert np.histogram(lengths, edges)[0].sum() == len(lengths)


def test_forecast_picture_shows_the_forecast(fits: dict[str, Fit], mixed: Fit) -> None:
    fit = fits["posterior"]
    (ax,) = plots.plot_forecast(fit, horizon=5, num_draws=300).axes
    draws = fit.forecast(5, num_draws=300, draws=True)
    fan = next(p for p in ax.patches if p.get_label() == "median").get_data()
    assert np.allclose(fan.values, draws.groupby("year")["count"].median())
    assert np.allclose(fan.edges, 2009.5 + np.arange(6))
    figure = plots.plot_forecast(mixed, horizon=4, num_draws=200)
    shares = figure.axes[3].collections[0].get_array()
    assert np.allclose(shares.sum(0), 1.0)


def test_nothing_that_is_drawn_of_the_table_is_cut_at_an_axis(fits: dict[str, Fit], mixed: Fit) -> None:
    """A band of futures may be the lowest thing of a panel, and a count of 0 lies on its axis."""
    for fit in (fits["point"], mixed):
        figure = plots.plot_forecast(fit, horizon=6, num_draws=200)
        for ax in figure.axes:
            low, high = ax.get_ylim()
            room = 0.02 * (high - low)
            values = ax.lines[0].get_ydata()
            bands = [part.get_data() for part in ax.patches if part.get_label() == "90 % of futures"]
            assert np.nanmin(values) > low + room, ax.get_ylabel()
            assert np.nanmax(values) < high - room, ax.get_ylabel()
            assert all(np.min(band.baseline) >= low for band in bands)
            if ax.get_ylabel() == "count":  # far from 0, which the axis still begins with
                assert low == 0


def test_a_state_that_is_never_left_has_no_expected_visit(fits: dict[str, Fit]) -> None:
    fit = fits["point"]
    matrix = np.array([[1 - 2e-8, 1e-8, 1e-8], [0.0005, 0.999, 0.0005], [0.2, 0.2, 0.6]])
    point = {**fit.draws.point, "transition_matrix": matrix}
    draws = dataclasses.replace(fit.draws, point=point, posterior={n: v[None, None] for n, v in point.items()})
    (ax,) = plots.plot_transitions(dataclasses.replace(fit, draws=draws)).axes
    (right,) = ax.child_axes
    assert [text.get_text() for text in right.get_yticklabels()] == ["> 1,000,000", "1,000", "2.5"]


def test_residuals_of_the_true_model_stay_in_their_bands(fits: dict[str, Fit]) -> None:
    left, middle, right = plots.plot_residuals(fits["point"]).axes
    values = np.concatenate([c.get_offsets()[:, 1] for c in left.collections])
    assert len(values) == 110
    assert np.mean(np.abs(values) < 1.96) > 0.88
    assert len(middle.collections[-1].get_offsets()) == 0  # none outside
    assert len(right.collections[-1].get_segments()) == 30


def test_the_simultaneous_band_holds_together() -> None:
    ranks, low, high = plots_steps.envelope(100)
    assert ranks.tolist() == list(range(1, 101))
    samples = np.sort(np.random.default_rng(9).random((2_000, 100)), axis=1)
    assert np.mean(((samples >= low) & (samples <= high)).all(1)) == pytest.approx(0.95, abs=0.025)
    assert low[0] < 1 / 101 < high[0]


def test_autocorrelation_keeps_to_its_sequence_and_skips_gaps() -> None:
    values = np.tile([1.0, -1.0], 30)
    found, pairs = plots_steps.autocorrelation(values, np.array([30, 30]))
    assert np.allclose(found, np.where(np.arange(1, 11) % 2, -1, 1))
    assert pairs.tolist() == [60 - 2 * lag for lag in range(1, 11)]
    values[5] = np.nan
    assert plots_steps.autocorrelation(values, np.array([30, 30]))[1].tolist()[0] == 56
    noise = norm.rvs(size=2_000, random_state=0)
    assert np.abs(plots_steps.autocorrelation(noise, np.array([2_000]))[0]).max() < 0.08


@pytest.mark.parametrize(
    ("times", "name", "dates"),
    [
        (pd.date_range("2024-01-01", periods=6, freq="ME"), "t", True),
        (pd.period_range("2024-01", periods=6, freq="M"), "t", True),
        (pd.date_range("2024-01-01", periods=6, freq="h", tz="Asia/Tokyo"), "t", True),
        (pd.to_timedelta(np.arange(6), unit="h"), "t (hours)", False),
        (np.arange(6) / 4, "t", False),
    ],
)
def test_times_of_any_sort_make_an_axis(times: Any, name: str, dates: bool) -> None:
    table = pd.DataFrame({"t": times, "x": [0.0, 1.0, 3.0, 2.0, 5.0, 4.0]})
    data = HMM(2).prepare(table, order="t")
    past, ahead = plots_times.with_future(data, 3)
    assert (past.name, past.dates) == (name, dates)
    assert np.all(np.diff(np.concatenate([past.at, ahead])) > 0)


def test_uneven_times_go_on_as_steps() -> None:
    data = HMM(2).prepare(pd.DataFrame({"t": [0.0, 1.0, 5.0, 6.0], "x": [0.0, 1.0, 3.0, 2.0]}), order="t")
    past, ahead = plots_times.with_future(data, 2)
    assert past.name == "step"
    assert past.at.tolist() == [0, 1, 2, 3]
    assert ahead.tolist() == [4, 5]


def test_windows_keep_starts_or_ends(mixed: Fit) -> None:
    data = mixed.train
    for last in (False, True):
        cut = plots_times.windows(data, 25, last)
        assert cut.lengths is not None
        assert cut.lengths.tolist() == [20, 25, 25, 25, 25]
        before = plots_times.each_sequence(data)
        for old, new in zip(before, plots_times.each_sequence(cut), strict=True):
            kept = (
                slice(max(old.start, old.stop - 25), old.stop)
                if last
                else slice(old.start, min(old.start + 25, old.stop))
            )
            assert np.array_equal(cut.x[new], data.x[kept])
            assert np.array_equal(cut.order[new], data.order[kept])  # type: ignore[index]
