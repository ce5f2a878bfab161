"""Pictures of how a diffusion model draws rows: their ways from noise, few steps and many, and guidance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from ppl_gen import plots_data, plots_style, reverse
from ppl_gen.errors import SettingError, UnsupportedError
from ppl_gen.plots_denoiser import NO_DENOISER, title_of
from ppl_gen.plots_style import MODEL, SHADE, colour, label, styled

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

    from ppl_gen.result import Fit

NUMBER, TRAILS = 400, 40  # rows that are drawn; of which the way is
LEVELS = (-2.0, 0.0, 2.0, 4.0)  # log signal-to-noise ratios of a way, beside both ends
LEVELS_OF_IMAGES = (-3.0, -2.0, -1.0, 0.0, 1.5, 3.0)
IMAGES = len(LEVELS_OF_IMAGES) + 2  # ways, as many as there are levels
STEPS = (2, 5, 10, 20, 50, 100)
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # of guidance
MAX_LABELS = 6  # that are told apart by colour


def no_ways(fit: Fit) -> str:
    """Why there is no picture of ways from noise; an empty string where there is."""
    if fit.pair.noising is None:
        return NO_DENOISER
    real = any(column.kind == "real" for column in fit.schema.target_columns)
    return "" if real or fit.schema.image is not None else "ways are drawn of real columns and of images"


def no_guidance(fit: Fit) -> str:
    """Why there is no picture of guidance; an empty string where there is."""
    if fit.pair.noising is None:
        return NO_DENOISER
    if not fit.schema.conditions:
        return "the fit is conditioned on nothing"
    if not fit.pair.noising.drops_context:
        return "the fit never saw rows without their condition (condition_dropout=0)"
    return no_ways(fit)


def _columns(fit: Fit) -> list[int]:
    """Positions among the columns that are modelled: two real ones, those that depend most on each other, or one."""
    from ppl_gen.plots_density import columns_of_density

    real = [j for j, column in enumerate(fit.schema.target_columns) if column.kind == "real"]
    return list(columns_of_density(fit)) if len(real) > 2 and not fit.schema.conditions else real[:2]


def _of_member(fit: Fit, member: int) -> str:
    return f" of member {member}" if len(next(iter(fit.posterior.values()))) > 1 else ""


@styled
def plot_trajectory(
    fit: Fit, *, fig: Figure | SubFigure | None = None, member: int = 0, sampler: Any = None,
    num_steps: int | None = None,
) -> Figure:  # fmt: skip
    """Rows on their way from noise, at several noise levels. Of two real columns, or the two that depend most on each
    other, a row keeps its colour, by where it ends, and of some rows the way is drawn; of one, the ways by noise level.
    Of images, each line is the way of one: what is there, and beside it what the denoiser sees behind it.

    :param member: whose of an ensemble. :param sampler: as of :meth:`ppl_gen.result.Fit.sample`, with ``num_steps``.
    :raises UnsupportedError: the fit is no diffusion model, or has neither real columns nor images.
    :raises SettingError: no such member or sampler.
    """
    if no_ways(fit):
        raise UnsupportedError(no_ways(fit))
    number = IMAGES if fit.schema.image is not None else NUMBER
    way = reverse.follow(fit, number, sampler=sampler, num_steps=num_steps, member=member, seed=fit.seed)
    title = title_of(fit, f"rows{_of_member(fit, member)} on their way from noise, {len(way.log_snr) - 1} steps")
    if fit.schema.image is not None:
        return plots_style.finish(_ways_of_images(fit, fig, way), title.replace("rows", "images", 1))
    columns = _columns(fit)
    noisy = plots_data.original_units(fit, way.noisy, None)[:, :, columns]
    names = [label(fit.schema.target_columns[j].name) for j in columns]
    final = noisy[-1]
    shades = _shades(final)
    if len(columns) == 1:
        fig = plots_style.figure_of(fig, 6.4, 3.8)
        ax = fig.add_subplot()
        for i in range(min(TRAILS * 2, number)):
            ax.plot(way.log_snr, noisy[:, i, 0], color=shades[i], linewidth=0.7, alpha=0.8)
        ax.set_xlabel("log signal-to-noise ratio  (noise → row)")
        ax.set_ylabel(names[0])
        return plots_style.finish(fig, title)
    fig = plots_style.figure_of(fig, 8.6, 5.6)
    at = np.unique(_positions(way, LEVELS))
    for k, (ax, i) in enumerate(zip(plots_style.panels(fig, len(at), 3), at, strict=True)):
        for row in range(min(TRAILS, number)):
            ax.plot(*noisy[: i + 1, row].T, color=shades[row], linewidth=0.5, alpha=0.6)
        ax.scatter(*noisy[i].T, s=7, color=shades, linewidths=0)
        ax.set_title(f"log SNR {round(float(way.log_snr[i]), 1) + 0.0:g}")
        _limits(ax, *noisy[at])
        _names(ax, k, len(at), names)
    return plots_style.finish(fig, title)


def _positions(way: reverse.Way, levels: tuple[float, ...]) -> list[int]:
    """Where on the way these levels are, or the nearest, beside both ends."""
    return [0, *(int(np.abs(way.log_snr - level).argmin()) for level in levels), len(way.log_snr) - 1]


def _shades(points: np.ndarray) -> np.ndarray:
    """Colours by the place along the longest direction."""
    import matplotlib

    scaled = (points - points.mean(0)) / np.maximum(points.std(0), 1e-300)
    along = scaled @ np.linalg.svd(scaled, full_matrices=False)[2][0]
    ranks = np.argsort(np.argsort(along)) / max(len(along) - 1, 1)
    shades: Colormap = matplotlib.colormaps["viridis"]
    return np.asarray(shades(0.95 * ranks))


def _limits(ax: Axes, *parts: np.ndarray) -> None:
    """All but the last hundredth on either side, and a margin."""
    whole = np.concatenate(parts)
    for limits, values in zip((ax.set_xlim, ax.set_ylim), whole.T, strict=True):
        low, high = np.nanquantile(values, [0.003, 0.997])
        gap = 0.1 * (high - low) or 1.0
        limits(low - gap, high + gap)


def _names(ax: Axes, k: int, number: int, names: list[str]) -> None:
    if k % 3 == 0:
        ax.set_ylabel(names[1] if len(names) > 1 else "density")
    if k >= number - 3:
        ax.set_xlabel(names[0])


def _ways_of_images(fit: Fit, fig: Figure | SubFigure | None, way: reverse.Way) -> Figure | SubFigure:
    fig = plots_style.figure_of(fig, 8.6, 4.8)
    at = _positions(way, LEVELS_OF_IMAGES)
    parts = (np.concatenate([way.noisy[at[:-1]], way.rows[None]]), np.concatenate([way.estimates, way.rows[None]])[at])
    for ax, part, name in zip(plots_style.panels(fig, 2, 2), parts, ("what is there", "what the denoiser sees"),
                              strict=True):  # fmt: skip
        _draw_images(fit, ax, part.swapaxes(0, 1).reshape(-1, part.shape[-1]), IMAGES)
        ax.set_title(f"{name}, from noise on the left")
    return fig


def _draw_images(fit: Fit, ax: Axes, x: np.ndarray, side: int) -> None:
    """A grid of images of model space, in the greys of the table's."""
    from ppl_gen.images import decode
    from ppl_gen.plots_images import mosaic

    table = np.asarray(decode(fit.schema, fit.train.x[:100]), np.float64)
    low, high = table.min(), max(table.max(), table.min() + 1e-300)
    shown = np.asarray(decode(fit.schema, x), np.float64)
    ax.imshow(mosaic(np.clip((shown - low) / (high - low), 0, 1), side), cmap="gray", vmin=0, vmax=1,
              interpolation="nearest")  # fmt: skip
    ax.set_axis_off()


@styled
def plot_steps(
    fit: Fit, *, fig: Figure | SubFigure | None = None, member: int = 0, sampler: Any = None,
    steps: tuple[int, ...] = STEPS,
) -> Figure:  # fmt: skip
    """Rows of one member that are drawn with few steps and with more, all from the same noise, over rows of the table:
    two real columns, or one, or images. Above each the energy coefficient of both, 0 where they are of one distribution
    (Székely & Rizzo 2013).

    :param steps: how many; of a model of T noise levels those of at most T. :param sampler: as of
        :meth:`ppl_gen.result.Fit.sample`.
    :raises UnsupportedError: the fit is no diffusion model, or has neither real columns nor images.
    :raises SettingError: no such member or sampler; no such number of steps.
    """
    from ppl_gen.checks_adversarial import energy_coefficient
    from ppl_gen.two_tables import points

    if no_ways(fit):
        raise UnsupportedError(no_ways(fit))
    most = fit.pair.noising.num_steps if fit.pair.noising is not None else None
    chosen = [number for number in steps if most is None or number <= most]
    if not chosen:
        raise SettingError(f"steps= must have a number of at most {most}, the noise levels that the model has.")
    is_image = fit.schema.image is not None
    _, rows, _ = plots_data.subset(fit, NUMBER)
    data, ours = rows.x[:, fit.schema.is_target], fit.schema.only_targets()
    fig = plots_style.figure_of(fig, 8.6, 0.5 + 2.7 * -(-len(chosen) // 3))
    columns = [] if is_image else _columns(fit)
    names = [label(fit.schema.target_columns[j].name) for j in columns]
    for k, (ax, number) in enumerate(zip(plots_style.panels(fig, len(chosen), 3), chosen, strict=True)):
        drawn = reverse.follow(fit, len(rows), sampler=sampler, num_steps=number, member=member, seed=fit.seed).rows
        if is_image:
            _draw_images(fit, ax, drawn, 5)
            away = energy_coefficient(data.astype(np.float64), drawn.astype(np.float64))
        else:
            away = energy_coefficient(*points(ours.decode(data), ours.decode(drawn)))
            table, samples = (plots_data.original_units(fit, x, None)[:, columns] for x in (data, drawn))
            _draw_both(ax, table, samples)
            _names(ax, k, len(chosen), names)
        ax.set_title(f"{number} step{'s' * (number > 1)}: {away:.2g}")
    if not is_image:
        handles = [_dot(SHADE, "rows"), _dot(MODEL, "drawn")]
        fig.legend(handles=handles, loc="outside lower center", ncols=2)
    choice = reverse.choose(fit, sampler)
    by = "" if choice is None else f" by {choice.sampler.method}"
    return plots_style.finish(fig, title_of(fit, f"draws{_of_member(fit, member)}{by}, and energy coefficients"))


def _dot(shade: Any, name: str) -> Line2D:
    return Line2D([], [], color=shade, marker="o", linestyle="", markersize=4, label=name)


def _draw_both(ax: Axes, table: np.ndarray, samples: np.ndarray) -> None:
    if table.shape[1] == 1:
        edges = plots_style.bins(table[:, 0], 0.0, float(table.min()), float(table.max()), most=30)
        ax.hist(table[:, 0], edges, density=True, color=SHADE, alpha=0.4)
        ax.hist(samples[:, 0], edges, density=True, histtype="step", color=MODEL)
        return
    ax.scatter(*table.T, s=4, color=SHADE, alpha=0.5, linewidths=0)
    ax.scatter(*samples.T, s=5, color=MODEL, alpha=0.7, linewidths=0)
    _limits(ax, table)


@styled
def plot_guidance(
    fit: Fit, *, fig: Figure | SubFigure | None = None, member: int = 0, sampler: Any = None,
    weights: tuple[float, ...] = WEIGHTS,
) -> Figure:  # fmt: skip
    """Rows that one member draws for the conditions of rows of the table, driven to them by ever more guidance, all
    from the same noise; coloured by the first column that is conditioned on. Of one real column, it against that.

    :param weights: of the guidance; 0 is p(x | y). :param sampler: as of :meth:`ppl_gen.result.Fit.sample`.
    :raises UnsupportedError: the fit has no guidance; the message says why.
    :raises SettingError: no such member or sampler.
    """
    if no_guidance(fit):
        raise UnsupportedError(no_guidance(fit))
    _, rows, _ = plots_data.subset(fit, NUMBER)
    given = fit.schema.decode(rows.x)
    condition = fit.schema.conditions[0]
    position = fit.schema.names.index(condition)
    values = plots_data.original_units(fit, rows.x, None)[:, position]
    columns = _columns(fit)
    drawn = [
        plots_data.original_units(
            fit, reverse.follow(fit, 1, sampler=sampler, guidance=weight, given=given, member=member,
                                seed=fit.seed).rows, None,
        )[:, columns]
        for weight in weights
    ]  # fmt: skip
    names = [label(fit.schema.target_columns[j].name) for j in columns]
    if len(columns) == 1:
        drawn, names = [np.stack([values, part[:, 0]], 1) for part in drawn], [label(condition), *names]
    fig = plots_style.figure_of(fig, 8.6, 0.6 + 2.7 * -(-len(weights) // 3))
    shades, handles, scale = _by_condition(fit, position, values)
    for k, (ax, part) in enumerate(zip(plots_style.panels(fig, len(weights), 3), drawn, strict=True)):
        dots = ax.scatter(*part.T, s=6, alpha=0.8, linewidths=0, **shades)
        _limits(ax, *drawn)
        ax.set_title(f"guidance {weights[k]:g}")
        _names(ax, k, len(weights), names)
    if handles:
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), title=label(condition))
    elif scale:
        bar = fig.colorbar(dots, ax=fig.axes, shrink=0.8)
        bar.set_label(label(condition))
        bar.ax.set_xlabel(" ")
    return plots_style.finish(fig, title_of(fit, f"rows{_of_member(fit, member)} for each {label(condition)}, guided"))


def _by_condition(fit: Fit, position: int, values: np.ndarray) -> tuple[dict[str, Any], list[Line2D], bool]:
    """How points are coloured by what they are conditioned on, the legend, and whether there is a scale instead."""
    column = fit.schema.columns[position]
    if column.kind not in ("categorical", "binary"):
        return {"c": values, "cmap": "viridis"}, [], True
    codes = values.astype(int)
    kept = np.argsort(-np.bincount(codes, minlength=len(column.levels)), kind="stable")[:MAX_LABELS]
    shades = [colour(list(kept).index(code)) if code in kept else SHADE for code in codes]
    handles = [_dot(colour(i), label(column.levels[code])) for i, code in enumerate(kept)]
    if len(column.levels) > MAX_LABELS:
        handles.append(_dot(SHADE, "others"))
    return {"c": shades}, handles, False
