"""The scatter matrix: the table, the predictive density, and the components that a few draws believe in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Patch
from matplotlib.ticker import MaxNLocator

from ppl_gen import plots_data, plots_style, plots_times
from ppl_gen.plots_style import INK, LIGHT, MODEL, SHADE, colour, label, styled

if TYPE_CHECKING:
    from ppl_gen.result import Fit

MASSES = (0.95, 0.8, 0.5)
WIDTHS = (0.6, 0.9, 1.3)
DRAWN = plots_style.PALETTE[1]
MIN_WEIGHT = 0.01  # lighter components are prior draws more than anything in the table
MAX_LEGEND = 7
CHARACTERS = 18  # of the labels below a panel, side by side


class _Scene(NamedTuple):
    """What every panel draws from: values (n, d) in the table's units, labels (n,) or None, ellipses or None; and rows
    drawn from the fit (n, d), where it has no density of every column by itself, else None."""

    fit: Fit
    columns: list[int]
    values: np.ndarray
    site: str
    labels: np.ndarray | None
    texts: list[str]
    components: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    size: int
    drawn: np.ndarray | None = None

    def has_density(self, *columns: int) -> bool:
        return self.drawn is None or not plots_data.no_marginal(self.fit, columns)


@styled
def plot_pairs(
    fit: Fit, *, fig: Figure | SubFigure | None = None, max_columns: int = 6, num_draws: int = 8, grid: int = 80
) -> Figure:
    """Scatter matrix in the table's units: contours are regions that hold 50, 80 and 95 % of the predictive mass (other
    columns integrated out), ellipses the components of a few draws at two standard deviations. On the diagonal, the
    marginal predictive density with the 90 % interval of the draws over the histogram. Where a family can't integrate
    columns out, or conditions on some, rows drawn from the fit take the place of its densities.

    :param max_columns: of a wider table, the first so many columns.
    :param num_draws: draws whose components are drawn, where the family has components.
    :param grid: points per axis at which densities are evaluated.
    """
    plots_times.require(fit, "pairs")
    _, rows, note = plots_data.subset(fit)
    columns = list(range(min(fit.schema.num_columns, max_columns)))
    found = plots_data.hard_labels(fit, rows)
    known = not any(plots_data.no_marginal(fit, [j]) for j in columns)
    scene = _Scene(
        fit, columns, plots_data.original_units(fit, rows.x, rows.mask), found[0] if found else "",
        found[1] if found else None, found[2] if found else [], _components(fit, num_draws), grid,
        None if known else plots_data.drawn_rows(fit, len(rows)),
    )  # fmt: skip
    number = len(columns)
    side = max(2.0 * number, 5.6)
    fig = plots_style.figure_of(fig, side + 0.3, side if number > 1 else 3.6)
    _draw_panels(scene, fig)
    notes = ["the table and its predictive density" if known else "the table and rows drawn from the fit"]
    if number < fit.schema.num_columns:
        notes.append(f"first {number} of {fit.schema.num_columns} columns")
    if note:
        notes.append(note)
    if fit.schema.conditions:
        notes.append(f"given {', '.join(label(name) for name in fit.schema.conditions)}")
    if rows.mask is not None and not rows.mask.all():
        notes.append("a row is left out where its entry is missing")
    return plots_style.finish(fig, f"{fit.family.name} by {fit.engine.name}: " + "; ".join(notes))


def _components(fit: Fit, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Weights (S, K), centres and covariances of a few draws; 0 for the weight of a component that is light in most."""
    found = fit.family.ellipses(plots_data.thinned(fit, number).posterior, fit.schema)
    if found is None:
        return None
    weights, centres, covariances = found
    return np.where(weights.mean(0) >= MIN_WEIGHT, weights, 0.0), centres, covariances


def _draw_panels(scene: _Scene, fig: Figure | SubFigure) -> None:
    number = len(scene.columns)
    layout = fig.add_gridspec(number, number)
    axes: dict[tuple[int, int], Axes] = {}
    for i in range(number):
        for j in range(i + 1):
            below, left = axes.get((i - 1, j)), axes.get((i, 0)) if j < i else None
            ax = axes[i, j] = fig.add_subplot(layout[i, j], sharex=axes.get((j, j), below), sharey=left)
            (draw_margin if i == j else draw_panel)(scene, ax, *((j,) if i == j else (j, i)))
            _label_axes(scene, ax, i, j)
    fig.align_ylabels()
    if number == 1:
        axes[0, 0].legend(handles=_legend(scene, single=True), loc="best")
    else:
        half = number // 2
        corner = fig.add_subplot(layout[:half, number - half :])
        corner.set_axis_off()
        corner.legend(handles=_legend(scene, single=False), loc="upper right", borderaxespad=0.0)


def _label_axes(scene: _Scene, ax: Axes, i: int, j: int) -> None:
    """Names on the outer panels only; a diagonal panel's height is a density, which has no scale worth reading."""
    last = len(scene.columns) - 1
    column = scene.fit.schema.columns
    limit = 18 if last > 2 else plots_style.MAX_LABEL
    for axis, k, outer in ((ax.xaxis, j, i == last), (ax.yaxis, i, j == 0 and i != j)):
        kind, labels = column[k].kind, column[k].levels
        if axis is ax.yaxis and i == j:
            continue
        if 0 < len(labels) <= 8:
            _label_ticks(axis, [label(text, 10) for text in labels])
        else:
            axis.set_major_locator(MaxNLocator(4, integer=kind != "real"))
        axis.set_tick_params(labelleft=outer, labelbottom=outer)
        if outer:
            axis.set_label_text(label(column[k].name, limit))
    if i == j:
        ax.yaxis.set_ticks([])
        ax.spines["left"].set_visible(False)
        if j == 0:
            ax.set_ylabel("density" if column[j].kind == "real" else "probability")


def _label_ticks(axis: Axis, texts: list[str]) -> None:
    """A tick for each label; below a panel those that would touch stand aslant."""
    axis.set_ticks(range(len(texts)), texts)
    if axis.axis_name == "x" and len(texts) * max(map(len, texts)) > CHARACTERS:
        axis.set_tick_params(labelrotation=30)
        for text in axis.get_ticklabels():
            text.set_horizontalalignment("right")
            text.set_rotation_mode("anchor")


def draw_panel(scene: _Scene, ax: Axes, j: int, i: int) -> None:
    """Two columns: rows, regions of highest predictive density, ellipses of the draws' components."""
    columns = scene.fit.schema.columns
    xs, ys = (plots_data.axis_values(scene.values[:, k], columns[k].kind, scene.size) for k in (j, i))
    if columns[i].kind == columns[j].kind == "real" and scene.has_density(j, i):
        density = plots_data.density_grid(scene.fit, (j, i), xs, ys)
        levels = plots_data.mass_levels(density, (xs[1] - xs[0]) * (ys[1] - ys[0]), MASSES)
        kept = [(level, width) for level, width in zip(levels, WIDTHS, strict=True) if 0 < level < density.max()]
        if kept:
            heights, widths = zip(*kept, strict=True)
            ax.contour(xs, ys, density, levels=sorted(set(heights)), linewidths=widths, colors=SHADE, zorder=1)
        _draw_ellipses(scene, ax, j, i)
    if scene.drawn is not None:
        _scatter(scene, ax, scene.drawn[:, [j, i]], (j, i), DRAWN)
    colours = MODEL if scene.labels is None else [colour(k) for k in scene.labels]
    _scatter(scene, ax, scene.values[:, [j, i]], (j, i), colours)
    for set_limits, values, k in ((ax.set_xlim, xs, j), (ax.set_ylim, ys, i)):
        gap = 0 if columns[k].kind == "real" else 0.5
        set_limits(values[0] - gap, values[-1] + gap)


def _scatter(scene: _Scene, ax: Axes, points: np.ndarray, columns: tuple[int, int], colours: Any) -> None:
    shown = np.isfinite(points).all(1)
    rng = np.random.default_rng(0)
    for k, column in enumerate(columns):  # whole numbers would hide one another
        if scene.fit.schema.columns[column].kind != "real":
            points[:, k] += rng.uniform(-0.3, 0.3, len(points))
    if not isinstance(colours, str):
        colours = [face for face, there in zip(colours, shown, strict=True) if there]
    size = float(np.clip(1800 / max(shown.sum(), 1), 2.0, 12.0))
    ax.scatter(*points[shown].T, s=size, c=colours, alpha=0.65, linewidths=0, zorder=2)


def _draw_ellipses(scene: _Scene, ax: Axes, j: int, i: int) -> None:
    if scene.components is None:
        return
    weights, centres, covariances = scene.components
    for s, k in zip(*np.nonzero(weights >= MIN_WEIGHT), strict=True):
        pair = [j, i]
        ax.add_patch(ellipse(centres[s, k][pair], covariances[s, k][np.ix_(pair, pair)], colour(k)))


def ellipse(centre: np.ndarray, covariance: np.ndarray, edge: object) -> Ellipse:
    """The points two standard deviations (Mahalanobis distance) from the centre; it holds 86 % of a 2-d normal."""
    values, vectors = np.linalg.eigh(covariance)
    width, height = 4.0 * np.sqrt(np.maximum(values[::-1], 0.0))
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    return Ellipse((float(centre[0]), float(centre[1])), width, height, angle=angle, fill=False, edgecolor=edge,
                   linewidth=0.8, alpha=0.55, zorder=3)  # fmt: skip


def draw_margin(scene: _Scene, ax: Axes, j: int) -> None:
    """One column: the histogram of its values under the marginal predictive density."""
    column, values = scene.fit.schema.columns[j], scene.values[:, j]
    seen = values[np.isfinite(values)]
    xs = plots_data.axis_values(seen, column.kind, 3 * scene.size)
    if not scene.has_density(j):
        _draw_counts(scene, ax, j, seen)
        return
    mean, draws = plots_data.density_draws(scene.fit, (j,), xs[:, None])
    low, high = plots_style.band(scene.fit, draws)
    if column.kind == "real":
        from ppl_gen.predictive import resolution

        ax.hist(seen, plots_style.bins(seen, resolution(seen), seen.min(), seen.max()), density=True, color=LIGHT)
        if len(draws) > 1:
            ax.fill_between(xs, low, high, color=MODEL, alpha=0.25, linewidth=0)
        ax.plot(xs, mean, color=MODEL)
        ax.set_xlim(xs[0], xs[-1])
    else:
        levels, counts = np.unique(seen, return_counts=True)
        ax.bar(levels, counts / len(seen), color=LIGHT, width=0.8)
        ax.errorbar(xs, mean, np.abs([low, high] - mean), fmt="o", color=MODEL, markersize=3, linewidth=1)
        ax.set_xlim(xs[0] - 0.5, xs[-1] + 0.5)
    ax.set_ylim(0, None)


def _draw_counts(scene: _Scene, ax: Axes, j: int, seen: np.ndarray) -> None:
    """One column: the histogram of its values, and that of rows drawn from the fit."""
    from ppl_gen.predictive import resolution

    assert scene.drawn is not None
    kind, drawn = scene.fit.schema.columns[j].kind, scene.drawn[:, j]
    drawn = drawn[np.isfinite(drawn)]
    if kind == "real":
        edges = plots_style.bins(seen, resolution(seen), seen.min(), seen.max())
        step = edges[1] - edges[0]
        edges = np.concatenate([edges[0] - step * np.arange(4, 0, -1), edges, edges[-1] + step * np.arange(1, 5)])
    else:
        edges = np.arange(seen.min(), seen.max() + 2) - 0.5
    for values, filled, face in ((seen, True, LIGHT), (drawn, False, DRAWN)):
        share = np.histogram(values, edges)[0] / (len(values) * np.diff(edges))
        ax.stairs(share, edges, fill=filled, color=face, linewidth=1.2)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, None)


def _legend(scene: _Scene, single: bool) -> list[Line2D | Patch]:
    band = plots_style.score_interval(scene.fit, 0.9)
    if not scene.has_density(0):
        return _legend_of_draws(scene, single)
    handles: list[Line2D | Patch] = [
        Patch(color=LIGHT, label="histogram of rows"), Line2D([], [], color=MODEL, label="predictive density"),
    ]  # fmt: skip
    if scene.fit.uncertainty != "point":
        handles.append(Patch(color=MODEL, alpha=0.25, linewidth=0, label=band))
    if single:
        return handles
    handles.append(Line2D([], [], color=SHADE, label="holds 50, 80, 95 % of the mass"))
    if scene.labels is not None:
        values, counts = np.unique(scene.labels, return_counts=True)
        common = values[np.argsort(-counts, kind="stable")]
        shown = np.sort(common[:MAX_LEGEND])
        handles += [_dot(colour(k), f"{scene.site} = {label(scene.texts[k], 14)}") for k in shown]
        if len(values) > MAX_LEGEND:
            handles.append(_dot(INK, f"... {len(values)} values of {scene.site} in all"))
    if scene.components is not None:
        number, draws = len(scene.components[0]), plots_style.interval_name(scene.fit)
        what = f"{number} {draws}" if number > 1 else draws
        handles.append(_ring(f"2 sd of components, {what}"))
    return handles


def _legend_of_draws(scene: _Scene, single: bool) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Patch(color=LIGHT, label="histogram of rows"), Line2D([], [], color=DRAWN, label="of rows drawn from the fit"),
    ]  # fmt: skip
    if single:
        return handles
    handles += [_dot(MODEL, "rows"), _dot(DRAWN, "drawn from the fit")]
    if len(scene.columns) == 2 and scene.has_density(0, 1):
        handles.append(Line2D([], [], color=SHADE, label="holds 50, 80, 95 % of the mass"))
    return handles


def _dot(face: object, text: str) -> Line2D:
    return Line2D([], [], marker="o", linestyle="", markersize=4, markeredgewidth=0, color=face, label=text)


def _ring(text: str) -> Line2D:
    return Line2D([], [], marker="o", linestyle="", markersize=7, markerfacecolor="none", color=INK, label=text)
