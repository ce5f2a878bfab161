"""Each picture renders for each kind of fit, shows the right numbers, and leaves matplotlib as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from scipy.stats import multivariate_normal, norm

import ppl_gen as pg
from ppl_gen import plots, plots_data, plots_intervals, plots_pairs, plots_style
from ppl_gen.compare import Comparison
from ppl_gen.engine import Draws
from ppl_gen.errors import SettingError, StorageError, UnsupportedError
from ppl_gen.family import Family, Pair
from ppl_gen.result import Fit

CHAINS, DRAWS, ROWS = 2, 60, 80
NAMES = ["width ($ per $)", "a name that is far too long to be written below a small panel", *"cdefgh"]
UNCERTAINTY = ("posterior", "guide", "bootstrap", "point")
OF_SEQUENCES, OF_NETWORKS = {"states", "transitions", "durations", "forecast", "residuals"}, {"grid", "calibration"}
OF_CODES = {"reconstructions", "codes", "traversals", "loss_parts"}
OF_ENERGIES = {"course", "surface", "filters", "annealing"}
OF_GENERATORS = {"progress", "modes", "ratio", "game"}
OF_DIFFUSION = {"trajectory", "field", "loss_by_time", "steps", "guidance"}
OF_ROWS = set(plots.KINDS) - OF_SEQUENCES - OF_NETWORKS - OF_CODES - OF_ENERGIES - OF_GENERATORS
OF_ROWS -= {"conditionals", "images"} | OF_DIFFUSION
EXPECTED = {
    "posterior": OF_ROWS - {"loss"},
    "guide": OF_ROWS - {"trace", "rank", "energy"},
    "bootstrap": OF_ROWS - {"trace", "rank", "energy", "khat"},
    "point": OF_ROWS - {"trace", "rank", "energy", "khat", "parameters"},
}
CASES = [(uncertainty, kind) for uncertainty in UNCERTAINTY for kind in sorted(EXPECTED[uncertainty])]


def table_of(num_columns: int, num_rows: int = ROWS, missing: bool = False) -> pd.DataFrame:
    """Two groups, in columns of very different units."""
    rng = np.random.default_rng(num_columns)
    label = rng.random(num_rows) < 0.4
    x = rng.normal(size=(num_rows, num_columns)) + np.where(label, 3.0, -3.0)[:, None]
    x = x * 10.0 ** np.arange(num_columns) + 100.0
    if missing:
        x[::5, 0] = np.nan
    return pd.DataFrame(x, columns=NAMES[:num_columns])


def draws_of(uncertainty: str, posterior: dict[str, np.ndarray], num_rows: int, seed: int) -> Draws:
    """What an engine of that kind would have given, with these draws (chain, draw, ...)."""
    rng = np.random.default_rng(seed)
    point = {name: value[0, 0] for name, value in posterior.items()}
    if uncertainty == "posterior":
        shape = (CHAINS, DRAWS)
        stats = {"energy": rng.normal(size=shape), "diverging": rng.random(shape) < 0.02,
                 "tree_depth": np.full(shape, 3), "lp": rng.normal(size=shape)}  # fmt: skip
        return Draws(posterior, uncertainty, sample_stats=stats)
    flat = {name: value.reshape(1, -1, *value.shape[2:]) for name, value in posterior.items()}
    if uncertainty == "guide":
        losses = 300 * np.exp(-np.arange(400) / 20) + rng.normal(size=400)
        return Draws(flat, uncertainty, losses=losses, log_weights=rng.normal(size=1000))
    losses = 300.0 + 10 * np.exp(-np.arange(12.0))
    if uncertainty == "bootstrap":
        held_out = rng.normal(-2, 1, size=num_rows)
        return Draws(flat, uncertainty, point=point, losses=losses, held_out=held_out)
    return Draws({name: value[:, :1] for name, value in flat.items()}, uncertainty, point=point, losses=losses,
                 held_out=rng.normal(size=num_rows))  # fmt: skip


def hand_made(uncertainty: str, num_columns: int = 2, **options: Any) -> Fit:
    """A fit of two components near the truth that no engine had to make."""
    rng = np.random.default_rng(1)
    family = pg.GMM(2)
    data = family.prepare(table_of(num_columns, **options))
    centres = np.array([[-0.9], [0.9]]) * np.ones(num_columns)
    shape = (CHAINS, DRAWS, 2, num_columns)
    posterior = {
        "weights": rng.dirichlet([60, 40], size=(CHAINS, DRAWS)), "locs": centres + 0.05 * rng.normal(size=shape),
        "scales": rng.uniform(0.25, 0.4, size=shape),
    }  # fmt: skip
    if num_columns > 1:
        factor = np.linalg.cholesky(0.7 * np.eye(num_columns) + 0.3)
        posterior["corr_cholesky"] = np.broadcast_to(factor, (*shape, num_columns)).copy()
    engine = {"posterior": pg.NUTS(), "guide": pg.SVI()}.get(uncertainty, pg.EM())
    draws = draws_of(uncertainty, posterior, len(data), seed=2)
    return Fit(family, engine, "numpyro", 0, data.schema, draws, data, versions={}, seconds=1.0)


@pytest.fixture(scope="module")
def fits() -> dict[str, Fit]:
    return {uncertainty: hand_made(uncertainty) for uncertainty in UNCERTAINTY}


def check(figure: Figure) -> None:
    """It can be drawn; outer axes are labelled; a title says what it shows; nothing leaves the paper."""
    figure.draw_without_rendering()
    shown = [ax for ax in figure.axes if ax.axison]
    for ax in shown:
        place = ax.get_subplotspec()
        assert ax.get_xlabel() or not place.is_last_row(), ax
        assert ax.get_ylabel() or not place.is_first_col(), ax
    texts = [ax.get_title(loc="left") for ax in shown]
    assert figure.get_suptitle() or any(texts)
    box = figure.get_tightbbox()
    assert box.x0 > -0.02
    assert box.y0 > -0.02
    assert box.x1 < figure.get_figwidth() + 0.02
    assert box.y1 < figure.get_figheight() + 0.02


@pytest.mark.parametrize(("uncertainty", "kind"), CASES)
def test_every_picture_of_every_kind_of_fit(fits: dict[str, Fit], uncertainty: str, kind: str) -> None:
    settings, backend, state = dict(matplotlib.rcParams), matplotlib.get_backend(), np.random.get_state()[1].copy()
    figure = plots.KINDS[kind](fits[uncertainty])
    check(figure)
    assert dict(matplotlib.rcParams) == settings
    assert matplotlib.get_backend() == backend
    assert pyplot.get_fignums() == []
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("uncertainty", UNCERTAINTY)
def test_applicable_says_why_not(fits: dict[str, Fit], uncertainty: str) -> None:
    reasons = plots.applicable(fits[uncertainty])
    assert {kind for kind, reason in reasons.items() if not reason} == EXPECTED[uncertainty]
    for kind in set(plots.KINDS) - EXPECTED[uncertainty]:
        with pytest.raises(UnsupportedError, match=r"\w+"):
            plots.KINDS[kind](fits[uncertainty])


def test_plot_all_writes_what_applies(fits: dict[str, Fit], tmp_path: Path) -> None:
    paths = plots.plot_all(fits["posterior"], tmp_path / "new" / "folder", ["trace", "score", "trace"])
    assert [path.name for path in paths] == ["trace.png", "score.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    with pytest.raises(SettingError, match="did you mean 'pairs'"):
        plots.plot_all(fits["posterior"], tmp_path, ["pears"])
    with pytest.raises(UnsupportedError, match="No loss picture of gmm by nuts: this engine minimises no loss"):
        plots.plot_all(fits["posterior"], tmp_path, ["loss"])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="is a file: give the name of a folder"):
        plots.plot_all(fits["posterior"], tmp_path / "file", ["score"])


def test_a_picture_can_be_drawn_in_the_callers_axes(fits: dict[str, Fit]) -> None:
    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    axes = upper.subplots(1, 2)
    assert plots.plot_score(fits["guide"], ax=axes[0]) is figure
    assert plots.plot_khat(fits["guide"], ax=axes[1]) is figure
    assert plots.plot_loss(fits["guide"], fig=lower) is figure
    assert axes[0].has_data()
    assert len(lower.axes) == 2


@pytest.mark.parametrize("uncertainty", ["posterior", "bootstrap"])
def test_ellipses_are_those_of_the_draws(fits: dict[str, Fit], uncertainty: str) -> None:
    fit = fits[uncertainty]
    figure = plots.plot_pairs(fit, num_draws=5, grid=20)
    (panel,) = [ax for ax in figure.axes if any(isinstance(p, Ellipse) for p in ax.patches)]
    drawn = np.array(sorted(p.center for p in panel.patches if isinstance(p, Ellipse)))
    index = np.linspace(0, CHAINS * DRAWS - 1, 5).astype(int)
    columns = fit.schema.columns
    locs = fit.posterior["locs"][index] * [c.scale for c in columns] + [c.loc for c in columns]
    assert np.allclose(drawn, np.array(sorted(map(tuple, locs.reshape(-1, 2)))), rtol=1e-6)


def test_the_density_is_of_the_columns_that_depend_most() -> None:
    x = np.random.default_rng(0).normal(size=(ROWS, 3))
    x[:, 2] += 3 * x[:, 1]
    fit = hand_made("posterior", num_columns=3)
    fit = dataclasses.replace(fit, train=dataclasses.replace(fit.train, x=x))
    figure = plots.plot_density(fit, grid=20)
    check(figure)
    left, right = figure.axes
    assert left.get_xlabel() == plots_style.label(NAMES[1])
    assert (left.get_ylabel(), right.get_ylabel()) == (NAMES[2], "")
    assert "2 of 3 columns, the others integrated out" in figure.get_suptitle().replace("\n", " ")
    assert left.get_title(loc="left") == f"{ROWS} rows, the table"
    assert left.get_xlim() == right.get_xlim()


def test_an_ellipse_is_two_standard_deviations_out() -> None:
    covariance = np.array([[4.0, 1.5], [1.5, 1.0]])
    patch = plots_pairs.ellipse(np.array([1.0, -2.0]), covariance, "black")
    points = patch.get_patch_transform().transform(patch.get_path().vertices) - [1.0, -2.0]
    distance = np.sqrt(np.einsum("ni,ij,nj->n", points, np.linalg.inv(covariance), points))
    assert np.allclose(distance[:-1:3], 2.0, atol=0.03)


@pytest.mark.parametrize("columns", [(0, 1), (2, 1)])
def test_density_of_two_columns_is_the_marginal_and_integrates_to_one(columns: tuple[int, int]) -> None:
    fit = hand_made("posterior", num_columns=3, missing=True)
    schema = [fit.schema.columns[j] for j in columns]
    x, y = (np.linspace(c.loc - 4 * c.scale, c.loc + 4 * c.scale, 60) for c in schema)
    density = plots_data.density_grid(fit, columns, x, y)
    assert density.sum() * (x[1] - x[0]) * (y[1] - y[0]) == pytest.approx(1.0, abs=2e-3)
    grid = np.stack(np.meshgrid(*((v - c.loc) / c.scale for v, c in zip((x, y), schema, strict=True))), axis=-1)
    posterior = plots_data.thinned(fit).posterior
    truth = np.zeros_like(density)
    for weights, locs, scales in zip(posterior["weights"], posterior["locs"], posterior["scales"], strict=True):
        for k in range(2):
            s = scales[k][list(columns)]
            covariance = np.outer(s, s) * [[1, 0.3], [0.3, 1]]
            truth += weights[k] * multivariate_normal(locs[k][list(columns)], covariance).pdf(grid)
    truth /= len(posterior["weights"]) * schema[0].scale * schema[1].scale
    assert np.allclose(density, truth, rtol=1e-3, atol=1e-6 * truth.max())


def test_density_of_a_point_estimate_is_its_own(fits: dict[str, Fit]) -> None:
    fit = fits["bootstrap"]
    column, point = fit.schema.columns[1], fit.draws.point
    assert point is not None
    x = np.linspace(column.loc - 3 * column.scale, column.loc + 3 * column.scale, 31)
    mean, draws = plots_data.density_draws(fit, (1,), x[:, None])
    normals = norm(point["locs"][:, 1], point["scales"][:, 1]).pdf(((x - column.loc) / column.scale)[:, None])
    assert np.allclose(mean, normals @ point["weights"] / column.scale, rtol=1e-4)
    assert draws.shape == (100, 31)


def test_regions_hold_their_mass() -> None:
    axis = np.linspace(-5, 5, 301)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    density = multivariate_normal(np.zeros(2)).pdf(grid)
    masses = (0.95, 0.8, 0.5)
    levels = plots_data.mass_levels(density, (axis[1] - axis[0]) ** 2, masses)
    # The region of mass p of a standard normal in two dimensions ends where the density is (1 - p) / 2 pi.
    assert np.allclose(levels, [(1 - p) / (2 * np.pi) for p in masses], rtol=0.02)
    assert plots_data.mass_levels(density[:20, :20], 1e-3, masses) == [0.0, 0.0, 0.0]


def test_rows_with_missing_entries_are_left_out_of_their_panels_only() -> None:
    fit = hand_made("point", num_columns=3, missing=True)
    figure = plots.plot_pairs(fit, grid=12)
    check(figure)
    sizes = sorted(len(c.get_offsets()) for ax in figure.axes for c in ax.collections if isinstance(c, PathCollection))
    seen = ROWS - ROWS // 5
    assert sizes == [seen, seen, ROWS]
    assert "left out where its entry is missing" in figure.get_suptitle().replace("\n", " ")


@pytest.mark.parametrize("num_columns", [1, 7])
def test_from_one_column_to_many(num_columns: int) -> None:
    fit = hand_made("posterior", num_columns=num_columns)
    figure = plots.plot_pairs(fit, grid=8, max_columns=2)
    check(figure)
    assert ("first 2 of 7 columns" in figure.get_suptitle().replace("\n", " ")) == (num_columns > 2)
    for kind in ("posterior_predictive", "parameters"):
        check(plots.KINDS[kind](fit))


@pytest.mark.parametrize(("texts", "angle"), [(["Köln", "Rome"], 0), (["Köln & Sö…", "Paris <b>", "Rome"], 30)])
def test_labels_below_a_panel_do_not_touch(texts: list[str], angle: int) -> None:
    ax = Figure(figsize=(2, 2)).add_subplot()
    plots_pairs._label_ticks(ax.xaxis, texts)
    assert [(tick.get_text(), tick.get_rotation()) for tick in ax.get_xticklabels()] == [(t, angle) for t in texts]


def test_a_long_table_is_thinned_and_says_so() -> None:
    fit = hand_made("point", num_rows=5_000)
    figure = plots.plot_pairs(fit, grid=8)
    assert "2,000 random rows of 5,000" in figure.get_suptitle().replace("\n", " ")
    assert "2,000 random rows" in plots.plot_score(fit).get_suptitle().replace("\n", " ")
    assert "500 random rows" in plots.plot_latents(fit, max_rows=500).get_suptitle().replace("\n", " ")


def test_score_picture_shows_the_scores(fits: dict[str, Fit]) -> None:
    fit = fits["posterior"]
    ax = plots.plot_score(fit).axes[0]
    heights = np.concatenate([c.get_offsets()[:, 1] for c in ax.collections if isinstance(c, PathCollection)])
    score = fit.score()
    assert np.allclose(np.sort(heights), np.sort(score.log_predictive))
    figure = plots.plot_score(fit, table_of(2).iloc[:7])
    assert sum(len(c.get_offsets()) for c in figure.axes[0].collections if isinstance(c, PathCollection)) == 7
    assert "new rows" in figure.get_suptitle()


def test_predictive_picture_counts_every_row(fits: dict[str, Fit]) -> None:
    figure = plots.plot_posterior_predictive(fits["posterior"])
    for ax in figure.axes:
        (dots,) = [line for line in ax.lines if line.get_marker() == "o"]
        assert dots.get_ydata().sum() == ROWS


def test_latents_picture_stacks_to_one_and_sorts(fits: dict[str, Fit]) -> None:
    figure = plots.plot_latents(fits["posterior"])
    top, bottom = figure.axes
    assert np.allclose(top.patches[-1].get_data().values, 1.0, atol=1e-6)
    first = top.patches[0].get_data().values
    share = fits["posterior"].latents()["z=0"].mean()
    assert first.mean() == pytest.approx(share, abs=0.02)
    sure = first[first > 0.5]
    assert np.all(np.diff(sure) <= 1e-9)
    assert len(bottom.patches) == ROWS


def test_loss_picture_shows_the_losses(fits: dict[str, Fit]) -> None:
    left, right = plots.plot_loss(fits["bootstrap"]).axes
    losses = fits["bootstrap"].draws.losses
    assert losses is not None
    assert np.array_equal(left.lines[0].get_ydata(), losses)
    assert np.array_equal(right.lines[0].get_ydata(), losses[6:])
    assert left.get_ylabel() == "minus log likelihood (nats)"


def test_trace_follows_log_p_and_the_worst_parameters(fits: dict[str, Fit]) -> None:
    fit = fits["posterior"]
    bad = {name: value.copy() for name, value in fit.draws.posterior.items()}
    bad["scales"][0, :, 1, 0] += 0.5
    fit = dataclasses.replace(fit, draws=dataclasses.replace(fit.draws, posterior=bad))
    figure = plots.plot_trace(fit, max_quantities=3)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[0].startswith("log p(x)")
    assert titles[2].startswith("scales[1")
    assert len(figure.axes[3].lines) == CHAINS + 1  # and the divergences


def test_panels_of_parameters_are_in_original_units(fits: dict[str, Fit]) -> None:
    fit = fits["bootstrap"]
    found = {(panel.title, panel.unit): panel for panel in plots_intervals.panels_of(fit)}
    column = fit.schema.columns[1]
    panel = found["locs", column.name]
    assert panel.names == ["0", "1"]
    assert np.allclose(panel.draws, fit.posterior["locs"][:, :, 1] * column.scale + column.loc)
    assert panel.point is not None
    assert np.allclose(panel.point, panel.draws[0])
    assert len(found["weights", "value"].names) == 2


def comparison(number: int) -> Comparison:
    frame = pd.DataFrame({
        "elpd": -100.0 - 10 * np.arange(number), "se": 5.0, "difference": -10.0 * np.arange(number),
        "difference_se": np.where(np.arange(number) == 0, 0.0, 6.0), "weight": np.eye(number)[0],
        "density": "exact", "engine": "nuts",
    }, index=[f"gmm num_components={k + 1} covariance=spherical ${k}$" for k in range(number)])  # fmt: skip
    return Comparison(frame, pd.DataFrame(), "150 rows, 5 folds refitted")


@pytest.mark.parametrize("number", [1, 4, 60])
def test_comparison_forest(number: int) -> None:
    figure = plots.plot_compare(comparison(number))
    check(figure)
    (ax,) = figure.axes
    (points,) = [c for c in ax.collections if isinstance(c, PathCollection)]
    shown = min(number, 40)
    assert np.allclose(points.get_offsets(), np.column_stack([-10.0 * np.arange(shown), np.arange(shown)]))
    assert ("best 40 of 60" in figure.get_suptitle().replace("\n", " ")) == (number == 60)


@pytest.mark.parametrize("step", [1.0, 0.1, 0.5])
def test_bins_do_not_alias_with_the_resolution(step: float) -> None:
    values = step * np.random.default_rng(0).integers(0, 40, size=500)
    edges = plots_style.bins(values, step, values.min() - 3.3 * step, values.max() + 2)
    width = (edges[1] - edges[0]) / step
    assert width == pytest.approx(round(width))
    assert np.allclose((edges / step) % 1, 0.5)
    assert np.histogram(values, edges)[0].sum() == 500


def test_names_are_not_read_as_mathematics() -> None:
    assert plots_style.label("cost $a$") == r"cost \$a\$"
    assert plots_style.label("one\ntwo") == "one two"
    assert len(plots_style.label("x" * 100)) == plots_style.MAX_LABEL


class _Counts(dist.Distribution):
    """Independent columns: a Poisson count, a truth value, one of three labels. Missing entries count for nothing."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = dist.constraints.real_vector

    def __init__(self, rate: Any, odds: Any, shares: Any, mask: Any, size: int) -> None:
        self.parts, self.mask = (dist.Poisson(rate), dist.Bernoulli(odds), dist.Categorical(shares)), mask
        super().__init__((size,), (3,))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        keys = jax.random.split(key, 3)
        shape = sample_shape + self.batch_shape
        drawn = [part.sample(k, shape).astype(float) for part, k in zip(self.parts, keys, strict=True)]
        return jnp.stack(drawn, axis=-1)

    def log_prob(self, value: Any) -> Any:
        terms = jnp.stack([part.log_prob(value[..., j].astype(int)) for j, part in enumerate(self.parts)], axis=-1)
        return (terms if self.mask is None else jnp.where(self.mask, terms, 0.0)).sum(-1)


@dataclasses.dataclass(frozen=True)
class Counts(Family):
    """A family without latents, components or real columns."""

    name: ClassVar[str] = "counts"
    title: ClassVar[str] = "independent counts"
    density: ClassVar[str] = "exact"
    kinds: ClassVar[tuple[str, ...]] = ("count", "binary", "categorical")
    engines: ClassVar[tuple[str, ...]] = ("nuts",)

    def build(self, backend: str, schema: Any, num_obs: int, view: Any = None) -> Pair:
        def model(data: Any, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
            rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
            odds = numpyro.sample("odds", dist.Beta(1.0, 1.0))
            shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
            size = num_obs if data is None else len(data.x)
            with numpyro.plate("obs", size):
                likelihood = _Counts(rate, odds, shares, None if data is None else data.mask, size)
                numpyro.sample("x", likelihood, obs=None if data is None else data.x)

        return Pair(self, backend, model, collapsed=model)


def test_a_family_without_latents_components_or_real_columns() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "visits": rng.poisson(3.0, ROWS), "member": rng.random(ROWS) < 0.3,
        "city": rng.choice(["Rome", "Bern", "Oslo"], ROWS),
    })  # fmt: skip
    family = Counts()
    data = family.prepare(table)
    shape = (CHAINS, DRAWS)
    posterior = {"rate": rng.gamma(300, 0.01, shape), "odds": rng.beta(30, 70, shape),
                 "shares": rng.dirichlet([30, 30, 30], shape)}  # fmt: skip
    draws = draws_of("posterior", posterior, ROWS, seed=0)
    fit = Fit(family, pg.NUTS(), "numpyro", 0, data.schema, draws, data, versions={}, seconds=1.0)
    reasons = plots.applicable(fit)
    assert "no local latent" in reasons["latents"]
    assert reasons["density"] == "no column is real"
    assert "loss" not in {kind for kind, reason in reasons.items() if not reason}
    for kind in ("pairs", "posterior_predictive", "parameters"):
        check(plots.KINDS[kind](fit))
    whole, _ = plots_data.density_draws(fit, (0,), np.arange(60.0)[:, None])
    assert whole.sum() == pytest.approx(1.0, abs=1e-4)


def test_a_run_that_was_cut_short(fits: dict[str, Fit]) -> None:
    draws = fits["posterior"].draws
    few = {name: value[:, :2] for name, value in draws.posterior.items()}
    stats = {name: value[:, :2] for name, value in draws.sample_stats.items()}
    fit = dataclasses.replace(
        fits["posterior"], draws=dataclasses.replace(draws, posterior=few, sample_stats=stats, interrupted=True)
    )
    for kind in ("trace", "rank", "khat", "parameters"):
        check(plots.KINDS[kind](fit))


def test_nothing_to_show_where_no_parameter_varies(fits: dict[str, Fit]) -> None:
    draws = fits["guide"].draws
    still = {name: np.repeat(value[:, :1], 3, axis=1) for name, value in draws.posterior.items()}
    fit = dataclasses.replace(fits["guide"], draws=dataclasses.replace(draws, posterior=still))
    assert plots.applicable(fit)["parameters"] == "no parameter varies over the draws"
    with pytest.raises(UnsupportedError, match="no parameter varies"):
        plots.plot_parameters(fit)


Drawer = Callable[[Fit], Figure]


def test_every_kind_has_its_function() -> None:
    functions: dict[str, Drawer] = plots.KINDS
    for kind, function in functions.items():
        assert function is getattr(plots, f"plot_{kind}")
        assert function.__doc__
