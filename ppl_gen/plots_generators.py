"""Pictures of generators: samples over training, the log ratio as a surface, modes that samples miss, the game."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ppl_gen import backends, plots_data, plots_style
from ppl_gen.errors import SettingError, UnsupportedError
from ppl_gen.plots_chains import chain_colour
from ppl_gen.plots_style import ALARM, INK, LIGHT, MODEL, SHADE, label, styled
from ppl_gen.view import View, backend_arrays

if TYPE_CHECKING:
    from ppl_gen.result import Fit

MAX_MEMBERS = 4
POINTS = 100  # along each side of a surface
MODE_SAMPLES, MODE_ROWS = 2_500, 10_000  # that shares of known modes are of; samples as in Lin et al. 2018
STEEPEST = 6.0  # nats of the log ratio that are told apart
DRAWN = "#1A7F37"  # samples on blue and red
SIDE = 5  # images along each side of a grid
LOSSES = {"generator_loss": "generator's loss", "discriminator_loss": "discriminator's loss"}
NO_GENERATOR = "the density has a formula: no generator was trained against a discriminator"


def no_progress(fit: Fit) -> str:
    """Why there is no picture of samples over training; an empty string where there is."""
    return "" if "snapshots" in fit.draws.parameters else "no samples were kept as it was trained"


def no_ratio(fit: Fit) -> str:
    """Why there is no picture of the log ratio; an empty string where there is."""
    if fit.pair.discriminator is None:
        return "there is no discriminator"
    if fit.schema.conditions:
        return "the log ratio depends on what is conditioned on"
    return "" if fit.schema.kinds == ("real", "real") else "a log ratio is drawn over two real columns"


def no_modes(fit: Fit) -> str:
    """Why there is no picture of modes; an empty string where there is."""
    from ppl_gen.checks_implicit import MIN_ROWS

    if fit.pair.generate is None:
        return NO_GENERATOR
    return "" if len(fit.train) >= 2 * MIN_ROWS else f"fewer than {2 * MIN_ROWS} rows tell nothing of modes"


def no_game(fit: Fit) -> str:
    """Why there is no picture of the game; an empty string where there is."""
    return "" if "generator_loss" in fit.draws.parameters else NO_GENERATOR


def _of(fit: Fit) -> str:
    return f"{fit.family.name} by {fit.engine.name}"


@styled
def plot_progress(fit: Fit, *, fig: Figure | SubFigure | None = None, member: int = 0) -> Figure:
    """Samples of one member as training went on, all made of the same noise: of images a grid; of two real columns or
    more, those two that depend most on each other, over the rows; of one the histograms; of labels alone, the shares of
    the first column's.

    :raises UnsupportedError: no samples were kept. :raises SettingError: there is no such member.
    """
    reason = no_progress(fit)
    if reason:
        raise UnsupportedError(reason)
    snapshots = np.asarray(fit.draws.parameters["snapshots"], np.float64)
    if not 0 <= member < snapshots.shape[1]:
        raise SettingError(f"member must be a whole number from 0 to {snapshots.shape[1] - 1}, not {member!r}.")
    times = fit.draws.parameters.get("snapshot_steps", np.arange(1, len(snapshots) + 1))
    word = "step" if "snapshot_steps" in fit.draws.parameters else "snapshot"
    across = min(3, len(snapshots))
    fig = plots_style.figure_of(fig, 2.9 * across, 2.7 * -(-len(snapshots) // across) + 0.5)
    axes = plots_style.panels(fig, len(snapshots), across)
    handles = _draw_snapshots(fit, axes, snapshots[:, member], across)
    for ax, time in zip(axes, times, strict=True):
        ax.set_title(f"{word} {int(time):,}")
    if handles:
        fig.legend(handles=handles, loc="outside lower center", ncols=2)
    of = f" of member {member}" if snapshots.shape[1] > 1 else ""
    return plots_style.finish(fig, f"{_of(fit)}: samples{of} over training")


def _draw_snapshots(fit: Fit, axes: list[Axes], snapshots: np.ndarray, across: int) -> list[Any]:
    if fit.schema.image is not None:
        from ppl_gen import images
        from ppl_gen.plots_images import mosaic

        both = [images.decode(fit.schema, x[: SIDE * SIDE]).astype(np.float64) for x in snapshots]
        shown = images.decode(fit.schema, fit.train.x[: SIDE * SIDE]).astype(np.float64)
        low, high = shown.min(), max(shown.max(), shown.min() + 1e-300)
        for ax, part in zip(axes, both, strict=True):
            ax.imshow(mosaic(np.clip((part - low) / (high - low), 0, 1), SIDE), cmap="gray", vmin=0, vmax=1)
            ax.set_axis_off()
        return []
    _, rows, _ = plots_data.subset(fit, 1_000)
    table = plots_data.original_units(fit, rows.x, None)[:, fit.schema.is_target]
    parts = [plots_data.original_units(fit, x, None) for x in snapshots]
    columns = _columns(fit)
    names = [label(fit.schema.target_columns[j].name) for j in columns]
    draw = _draw_points if len(columns) == 2 else _draw_shares
    for i, (ax, part) in enumerate(zip(axes, parts, strict=True)):
        draw(fit, ax, table[:, columns], part[:, columns], columns)
        if i % across == 0:
            ax.set_ylabel(names[1] if len(columns) == 2 else "share")
        if i >= len(axes) - across:
            ax.set_xlabel(names[0])
    mark = {"marker": "o", "linestyle": "", "markersize": 4}
    return [Line2D([], [], color=SHADE, label="rows", **mark), Line2D([], [], color=MODEL, label="samples", **mark)]


def _columns(fit: Fit) -> list[int]:
    """Which of the columns that are modelled are shown: two real ones, or one column."""
    from ppl_gen.plots_density import columns_of_density

    real = [j for j, column in enumerate(fit.schema.target_columns) if column.kind == "real"]
    if len(real) > 2 and not fit.schema.conditions:
        return list(columns_of_density(fit))
    return real[:2] or [0]


def _draw_points(fit: Fit, ax: Axes, rows: np.ndarray, samples: np.ndarray, columns: list[int]) -> None:
    ax.scatter(*rows.T, s=3, color=SHADE, alpha=0.5, linewidths=0)
    ax.scatter(*samples.T, s=4, color=MODEL, alpha=0.7, linewidths=0)
    for limits, values in zip((ax.set_xlim, ax.set_ylim), rows.T, strict=True):
        gap = 0.15 * float(np.ptp(values))
        limits(values.min() - gap, values.max() + gap)


def _draw_shares(fit: Fit, ax: Axes, rows: np.ndarray, samples: np.ndarray, columns: list[int]) -> None:
    """Shares in bins, or of labels, side by side."""
    column = fit.schema.target_columns[columns[0]]
    if column.kind == "real":
        edges = plots_style.bins(rows[:, 0], 0.0, float(rows.min()), float(rows.max()), most=30)
    else:
        edges = np.arange(len(column.categories or (0, 1)) + 1) - 0.5
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges) * 0.4
    for values, side, shade in ((rows, -0.5, SHADE), (samples, 0.5, MODEL)):
        counts = np.histogram(values[:, 0], edges)[0]
        ax.bar(middle + side * width, counts / len(values), width, color=shade)
    if column.categories is not None:
        ax.set_xticks(middle, [label(name, 8) for name in column.categories])


@styled
def plot_ratio(fit: Fit, *, fig: Figure | SubFigure | None = None) -> Figure:
    """The discriminator's log ratio of the density of the rows to that of the generator over the two columns, of each
    member: blue where samples are too many, red where they are too few, with the line where both are equal.

    :raises UnsupportedError: there is no such picture; the message says why.
    """
    reason = no_ratio(fit)
    if reason:
        raise UnsupportedError(reason)
    from ppl_gen.sampling import sample_at

    columns, members = fit.schema.columns, min(len(next(iter(fit.posterior.values()))), MAX_MEMBERS)
    posterior = {name: value[:members] for name, value in fit.posterior.items()}
    _, rows, note = plots_data.subset(fit, 1_000)
    number = len(rows)
    drawn = sample_at(fit, posterior, np.repeat(np.arange(members), number), fit.seed).reshape(members, number, 2)
    reach = np.concatenate([np.asarray(rows.x, np.float64), np.quantile(drawn, [0.01, 0.99], axis=1).reshape(-1, 2)])
    low, high = reach.min(0), reach.max(0)
    axes = [np.linspace(a - 0.15 * (b - a), b + 0.15 * (b - a), POINTS) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    view = View(backend_arrays(fit.backend)[0](grid))
    found = backends.ops(fit.backend).hook_over_draws(fit.pair, "discriminator", posterior, view)
    across = min(members, 2)
    fig = plots_style.figure_of(fig, 4.2 * across + 0.6, 3.5 * -(-members // across) + 0.5)
    xs, ys = (c.loc + c.scale * values for c, values in zip(columns, axes, strict=True))
    levels = np.linspace(-STEEPEST, STEEPEST, 13)
    for m, ax in enumerate(plots_style.panels(fig, members, across)):
        values = np.clip(np.asarray(found[m], np.float64).reshape(POINTS, POINTS), -STEEPEST, STEEPEST)
        filled = ax.contourf(xs, ys, values, levels, cmap="RdBu_r")
        ax.contour(xs, ys, values, [0.0], colors=INK, linewidths=0.6)
        for x, shade, size in ((rows.x, INK, 3), (drawn[m], DRAWN, 3)):
            ax.scatter(*plots_data.original_units(fit, x, None).T, s=size, color=shade, alpha=0.5, linewidths=0)
        ax.set_xlim(xs[0], xs[-1])
        ax.set_ylim(ys[0], ys[-1])
        if members > 1:
            ax.set_title(f"member {m}")
        if m % across == 0:
            ax.set_ylabel(label(columns[1].name))
        if m >= members - across:
            ax.set_xlabel(label(columns[0].name))
    bar = fig.colorbar(filled, ax=fig.axes, shrink=0.8)
    bar.set_label(f"log ratio, rows over samples, nats (cut at {STEEPEST:g})")
    bar.ax.set_xlabel(" ")
    mark = {"marker": "o", "linestyle": "", "markersize": 4}
    handles = [Line2D([], [], color=shade, label=name, **mark) for shade, name in ((INK, "rows"), (DRAWN, "samples"))]
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return plots_style.finish(fig, f"{_of(fit)}: the discriminator's log ratio" + (f"; {note}" if note else ""))


@styled
def plot_modes(fit: Fit, *, fig: Figure | SubFigure | None = None, modes: Any = None, scale: Any = None) -> Figure:
    """Shares of the rows and of samples in each cluster of the rows, the largest first; those that samples miss (see
    the check mode coverage) stand out. Where the modes are known, shares of each of them.

    :param modes: (K, d) known modes, in the units of the table. :param scale: their standard deviation, one number or
        (K,); see :func:`ppl_gen.metrics.mode_coverage`.
    :raises UnsupportedError: the fit is no generator, or has too few rows.
    """
    from ppl_gen.checks_implicit import chosen_rows, clusters_of, draw, num_members, table_of
    from ppl_gen.metrics import mode_coverage

    reason = no_modes(fit)
    if reason:
        raise UnsupportedError(reason)
    if modes is None:
        found = clusters_of(fit)
        rows, samples, missed = found.rows, found.samples, found.missed
        title = f"samples miss {found.num_missed} of {len(rows)} clusters ({found.share:.1%} of the rows)"
    else:
        if scale is None:
            raise SettingError("modes= needs scale=, the standard deviation of each mode.")
        kept = chosen_rows(fit, MODE_ROWS, np.random.default_rng(fit.seed))
        drawn = draw(fit, np.arange(MODE_SAMPLES) % num_members(fit), fit.seed)
        covered = mode_coverage(table_of(fit, drawn), modes, scale)
        rows = mode_coverage(table_of(fit, fit.train.x[kept]), modes, scale).counts
        samples, missed = covered.counts, covered.counts == 0
        title = (f"{covered.modes} of {len(rows)} modes, {covered.high_quality:.1%} of samples of high quality, "
                 f"reverse KL {covered.reverse_kl:.3g}")  # fmt: skip
    place = np.arange(len(rows))
    fig = plots_style.figure_of(fig, float(np.clip(0.22 * len(rows) + 2.5, 5.5, 12)), 3.6)
    ax = fig.add_subplot()
    ax.bar(place - 0.2, rows / rows.sum(), 0.4, color=LIGHT, edgecolor=SHADE, linewidth=0.5)
    shades = [ALARM if lost else MODEL for lost in missed]
    ax.bar(place + 0.2, samples / samples.sum(), 0.4, color=shades)
    for k in np.flatnonzero(missed):
        ax.plot(k, rows[k] / rows.sum(), marker="v", color=ALARM, markersize=5, clip_on=False)
    ax.set_xlim(-0.8, len(rows) - 0.2)
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    ax.set_xlabel("mode" if modes is not None else "cluster of the rows, the largest first")
    ax.set_ylabel("share")
    handles = [Patch(facecolor=LIGHT, edgecolor=SHADE, label="rows"), Patch(color=MODEL, label="samples")]
    handles += [Patch(color=ALARM, label="missed by samples")] if missed.any() else []
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return plots_style.finish(fig, f"{_of(fit)}: {title}")


@styled
def plot_game(fit: Fit, *, fig: Figure | SubFigure | None = None) -> Figure:
    """Of each member, window by window of training: the losses of the two players, and how often the discriminator is
    right, with the band from guessing to the limit of the check of saturation.

    :raises UnsupportedError: no generator was trained.
    """
    from ppl_gen.checks_adversarial import ACCURACY, accuracy_of

    reason = no_game(fit)
    if reason:
        raise UnsupportedError(reason)
    found = {name: fit.draws.parameters[name] for name in LOSSES if name in fit.draws.parameters}
    accuracy = accuracy_of(fit)
    panels = [(LOSSES[name], np.asarray(values, np.float64), "loss") for name, values in found.items()]
    panels += [] if accuracy is None else [(f"discriminator's accuracy (passes to {ACCURACY:g})", accuracy, "share")]
    windows, members = panels[0][1].shape
    steps = np.arange(1, windows + 1) * float(fit.draws.figures.get("num_steps", windows)) / windows
    fig = plots_style.figure_of(fig, 3.3 * len(panels), 3.2)
    for ax, (title, values, unit) in zip(plots_style.panels(fig, len(panels), len(panels)), panels, strict=True):
        if unit == "share":
            ax.axhspan(0.5, ACCURACY, color=LIGHT, alpha=0.5, linewidth=0)
            ax.set_ylim(min(0.45, float(np.nanmin(values))), 1.02)
        for m in range(members):
            ax.plot(steps, values[:, m], color=chain_colour(m), linewidth=1.0)
        ax.set_title(title)
        ax.set_ylabel(unit)
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    handles = [Line2D([], [], color=chain_colour(m), label=f"member {m}") for m in range(min(members, 6))]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), labelcolor=INK)
    return plots_style.finish(fig, f"{_of(fit)}: the course of the game")
