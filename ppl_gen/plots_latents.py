"""Pictures of codes, local latent vectors that an encoder proposes: where rows lie, what is decoded there, and how the
two parts of the training loss went. Codes are those of one member: members have latent spaces of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from ppl_gen import plots_style
from ppl_gen.errors import SettingError, UnsupportedError
from ppl_gen.parsing import nearest
from ppl_gen.plots_chains import chain_colour
from ppl_gen.plots_images import mosaic
from ppl_gen.plots_style import INK, MODEL, SHADE, colour, label, styled

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

MAX_ROWS, MAX_COLUMNS, MAX_DIMENSIONS = 1_000, 9, 6
SIDE, STEPS, REACH = 8, 9, 2.0  # images along a row; images, or points, of a traversal; how far it goes, in sds
NO_CODES = "rows have no codes"
NO_PARTS = "the loss has no parts"


def no_codes(fit: Fit) -> str:
    """Why there is no picture of codes; an empty string where there is."""
    return NO_CODES if fit.pair.decode is None else ""


def no_loss_parts(fit: Fit) -> str:
    """Why there is no picture of the loss's parts; an empty string where there is."""
    has = "validation_parts" in fit.draws.parameters and fit.pair.beta  # with beta 0 the divergence is no part of it
    has = has and fit.pair.decode is not None  # the noise of a flow's cells is no code
    return "" if has else NO_PARTS


def _some(fit: Fit, limit: int, member: int) -> tuple[Data, dict[str, np.ndarray], np.ndarray]:
    """Random training rows, a member's parameters, and the means of the rows' codes (n, L)."""
    from ppl_gen import latents
    from ppl_gen.evidence import random_rows

    if no_codes(fit):
        raise UnsupportedError(no_codes(fit))
    data = fit.train.take(random_rows(len(fit.train), limit, fit.seed))
    posterior = latents.member_of(fit, member)
    return data, posterior, latents.codes(fit, data, posterior)[0][0]


def _spread_most(mean: np.ndarray, number: int) -> np.ndarray:
    """The dimensions whose means vary most over the rows, most first."""
    return np.argsort(-mean.var(0), kind="stable")[:number]


@styled
def plot_codes(
    fit: Fit, *, colour_by: str | None = None, member: int = 0, ax: Axes | None = None, max_rows: int = MAX_ROWS
) -> Figure:
    """Training rows in latent space, each at the mean of its code: the two dimensions that vary most over the rows,
    coloured by a column; where that is the label, rows without one faintly by the likeliest.

    :param colour_by: the column's name; by default the label, else what is conditioned on, else labels, else the first.
    :raises UnsupportedError: rows have no codes.
    :raises SettingError: no column has this name, or there is no such member.
    """
    from ppl_gen import labelled

    data, posterior, mean = _some(fit, max_rows, member)
    chosen = _spread_most(mean, 2)
    first, second = chosen[0], chosen[-1]
    ax = plots_style.axes_of(ax, 5.6, 4.6)
    y = mean[:, second] if len(chosen) > 1 else np.zeros(len(mean))
    title = f"{fit.family.name}: codes of {len(mean):,} {fit.train.unit}s, means, member {member}"
    if fit.schema.image is not None and colour_by is None:
        ax.scatter(mean[:, first], y, s=6, color=MODEL, alpha=0.5, linewidths=0)
    else:
        name = _column_to_show(fit, colour_by)
        own = fit.pair.label is not None and labelled.column_of(fit).name == name
        likeliest = labelled.likeliest(fit, data, posterior) if own else None
        _scatter(fit, ax, mean[:, first], y, data, name, likeliest)
        title += f", coloured by {label(name)}"
    ax.set_xlabel(f"z{first}")
    ax.set_ylabel(f"z{second}" if len(chosen) > 1 else "")
    if len(chosen) == 1:
        ax.set_yticks([])
        ax.set_ylabel("one dimension only")
    return plots_style.finish(ax, title)


def _column_to_show(fit: Fit, name: str | None) -> str:
    from ppl_gen import labelled

    names = fit.schema.names
    if name is not None:
        if name not in names:
            raise SettingError(f"Unknown column {name!r}: {nearest(str(name), names)}")
        return name
    labels = [c.name for c in fit.schema.columns if c.kind in ("categorical", "binary")]
    own = () if fit.pair.label is None else (labelled.column_of(fit).name,)
    return (*own, *fit.schema.conditions, *labels, *names)[0]


def _scatter(
    fit: Fit, ax: Axes, x: np.ndarray, y: np.ndarray, data: Data, name: str, likeliest: np.ndarray | None
) -> None:
    """:param likeliest: (n,) the label that a row without one has most probably, where the column is that of labels."""
    j = fit.schema.names.index(name)
    column, values = fit.schema.columns[j], data.x[:, j].astype(np.float64)
    seen = np.ones(len(values), bool) if data.mask is None else data.mask[:, j]
    if likeliest is None:
        ax.scatter(x[~seen], y[~seen], s=10, facecolors="none", edgecolors=SHADE, linewidths=0.5,
                   label="missing" if (~seen).any() else None)  # fmt: skip
    if column.kind in ("categorical", "binary"):
        for k, text in enumerate(column.levels):
            here = seen & (values == k)
            if likeliest is not None:
                guess = ~seen & (likeliest == k)
                ax.scatter(x[guess], y[guess], s=8, color=colour(k), alpha=0.25, linewidths=0)
            ax.scatter(x[here], y[here], s=8, color=colour(k), alpha=0.7, linewidths=0, label=label(text))
        ax.legend(
            title=label(name) + ("" if likeliest is None else "\n(faint: inferred)"),
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
        )
        return
    shown = ax.scatter(x[seen], y[seen], s=8, c=values[seen] * column.scale + column.loc, cmap="viridis", linewidths=0)
    if (~seen).any():
        ax.legend(loc="best")
    ax.get_figure().colorbar(shown, ax=ax, label=label(name))


@styled
def plot_reconstructions(
    fit: Fit, *, fig: Figure | SubFigure | None = None, member: int = 0, max_columns: int = MAX_COLUMNS
) -> Figure:
    """Rows beside what is decoded from the means of their codes. Of images each original stands above its
    reconstruction (of binary pixels the probability of a 1). Of a table, each column: numbers against each other, on
    the line where the code holds them; of labels, which are decoded as which.

    :param max_columns: of a wider table, the first so many columns.
    :raises UnsupportedError: rows have no codes.
    """
    from ppl_gen import latents
    from ppl_gen.scoring import sliceable

    images = fit.schema.image is not None
    data, posterior, _ = _some(fit, 3 * SIDE if images else MAX_ROWS, member)
    found = latents.decoded(fit, posterior, latents.points(fit, data, posterior), sliceable(fit, data).context)
    title = f"{fit.family.name} by {fit.engine.name}: {fit.train.unit}s and their reconstructions, member {member}"
    if images:
        return _draw_pairs(fit, fig, data.x, found["expected"], title)
    columns = fit.schema.target_columns
    targets = np.flatnonzero(fit.schema.is_target)[:max_columns]
    across = min(len(targets), 3)
    fig = plots_style.figure_of(fig, 2.8 * across + 0.6, 2.5 * -(-len(targets) // across) + 0.5)
    for k, (j, ax) in enumerate(zip(targets, plots_style.panels(fig, len(targets), across), strict=True)):
        column, seen = columns[k], np.ones(len(data), bool) if data.mask is None else data.mask[:, j]
        one, other = (np.asarray(v, np.float64)[seen] for v in (data.x[:, j], found["typical"][:, k]))
        if column.kind in ("categorical", "binary"):
            names = column.levels
            table = np.zeros((len(names), len(names)))
            np.add.at(table, (one.astype(int), other.astype(int)), 1)
            ax.imshow(table / np.maximum(table.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1, aspect="auto")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_ticks(range(len(names)), [label(n, 8) for n in names])
        else:
            one, other = (v * column.scale + column.loc for v in (one, other))
            ends = [min(one.min(), other.min()), max(one.max(), other.max())]
            ax.plot(ends, ends, color=SHADE, linewidth=0.8)
            ax.scatter(one, other, s=5, color=MODEL, alpha=0.5, linewidths=0)
        ax.set_title(label(column.name))
        ax.set_xlabel("label decoded" if column.kind in ("categorical", "binary") else "of the table")
        ax.set_ylabel("label of the table" if column.kind in ("categorical", "binary") else "decoded")
    more = f"; first {max_columns} of {len(columns)} columns" if len(columns) > max_columns else ""
    return plots_style.finish(fig, title + more)


def _draw_pairs(fit: Fit, fig: Any, x: np.ndarray, decoded: np.ndarray, title: str) -> Figure:
    shape = fit.schema.image or ()
    both = np.stack([x.reshape(-1, *shape), decoded.reshape(-1, *shape)], 1)  # (n, 2, h, w[, c])
    rows = [both[i : i + SIDE] for i in range(0, len(both), SIDE)]
    order = np.concatenate([np.concatenate([row[:, 0], row[:, 1]]) for row in rows if len(row) == SIDE])
    fig = plots_style.figure_of(fig, 7.0, 0.8 * 2 * len(rows) + 0.8)
    ax = fig.add_subplot()
    _show(ax, order, SIDE)
    return plots_style.finish(fig, f"{title} (below each)")


def _show(ax: Axes, values: np.ndarray, across: int) -> None:
    low, high = values.min(), values.max()
    rows = -(-len(values) // across)
    side = max(rows, across)
    grid = np.full((side * side, *values.shape[1:]), low, np.float64)
    for i, value in enumerate(values):
        grid[(i // across) * side + i % across] = value
    whole = mosaic((grid - low) / max(high - low, 1e-300), side)
    height, width = (n + 1 for n in values.shape[1:3])
    ax.imshow(whole[: rows * height - 1, : across * width - 1], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()


@styled
def plot_traversals(
    fit: Fit, *, fig: Figure | SubFigure | None = None, member: int = 0, max_columns: int = MAX_COLUMNS
) -> Figure:
    """What is decoded along each dimension of the latent space, from 2 standard deviations of the rows' codes below
    their mean to 2 above, the other dimensions at their means: those 6 that vary most over the rows. What is
    conditioned on, and the label, are those of one training row.

    :param max_columns: of a wider table, the first so many columns.
    :raises UnsupportedError: rows have no codes.
    """
    from ppl_gen import labelled, latents
    from ppl_gen.scoring import sliceable

    images = fit.schema.image is not None
    data, posterior, mean = _some(fit, MAX_ROWS, member)
    chosen, steps = _spread_most(mean, MAX_DIMENSIONS), np.linspace(-REACH, REACH, STEPS if images else 41)
    lines = np.tile(mean.mean(0), (len(chosen), len(steps), 1))
    for i, j in enumerate(chosen):
        lines[i, :, j] += steps * mean[:, j].std()
    flat = lines.reshape(-1, mean.shape[1])
    context = sliceable(fit, data.take(np.zeros(len(flat), int))).context
    given = labelled.likeliest(fit, data.take(np.zeros(1, int)), posterior).repeat(len(flat))
    placed = labelled.placed(fit, flat, given)
    values = latents.decoded(fit, posterior, placed, context)["expected"].astype(np.float64)
    title = f"{fit.family.name}: decoded along dimensions of the latent space, member {member}"
    if fit.pair.label is not None:
        column = labelled.column_of(fit)
        title += f", {label(column.name)} = {label(column.levels[given[0]])}"
    if images:
        fig = plots_style.figure_of(fig, 7.0, 0.8 * len(chosen) + 0.8)
        ax = fig.add_subplot()
        _show(ax, values.reshape(-1, *(fit.schema.image or ())), STEPS)
        return plots_style.finish(fig, f"{title}: {', '.join(f'z{j}' for j in chosen)}, from the top")
    columns = fit.schema.target_columns[:max_columns]
    across = min(len(columns), 3)
    fig = plots_style.figure_of(fig, 2.8 * across + 0.4, 2.2 * -(-len(columns) // across) + 0.9)
    for k, (column, ax) in enumerate(zip(columns, plots_style.panels(fig, len(columns), across), strict=True)):
        each = values[:, k].reshape(len(chosen), -1) * column.scale + column.loc
        for i, j in enumerate(chosen):
            ax.plot(steps, each[i], color=colour(i), label=f"z{j}")
        if column.kind == "categorical":
            ax.set_yticks(range(len(column.levels)), [label(n, 8) for n in column.levels])
        ax.set_title(label(column.name) + (f": p({column.levels[1]})" if column.kind == "binary" else ""))
        ax.set_xlabel("sds from the mean")
        ax.set_ylabel("decoded")
    handles, texts = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, texts, loc="outside lower center", ncols=len(texts))
    return plots_style.finish(fig, title)


@styled
def plot_loss_parts(fit: Fit, *, fig: Figure | SubFigure | None = None) -> Figure:
    """The two parts of the loss of each member's validation rows, window by window: minus the expected log likelihood
    (left), and the divergence of the encoder from the prior (right), which is 0 where codes say nothing. With a label y
    the first has log p(y) of rows that have one, the second the divergence of q(y | x) from p(y) of the others.

    :raises UnsupportedError: the fit has no local latents.
    """
    if no_loss_parts(fit):
        raise UnsupportedError(no_loss_parts(fit))
    parts = np.asarray(fit.draws.parameters["validation_parts"], np.float64)
    windows, members, _ = parts.shape
    steps = np.arange(1, windows + 1) * float(fit.draws.figures["num_steps"]) / windows
    fig = plots_style.figure_of(fig, 8.4, 3.4)
    y = "" if fit.pair.label is None else ", y"
    names = (f"minus E log p(x | z{y})" + (", and p(y) if known" if y else ""), f"KL(q(z{y} | x) || p(z{y}))")
    for i, (ax, name) in enumerate(zip(plots_style.panels(fig, 2, 2), names, strict=True)):
        for m in range(members):
            ax.plot(
                steps, parts[:, m, i], color=chain_colour(m), label=f"member {m}", marker="" if windows > 1 else "."
            )
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_ylabel(f"nats {fit.train.a_unit}")
        ax.set_title(name)
        if i:
            ax.axhline(0, color=INK, linewidth=0.6)
    handles, texts = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles[:6], texts[:6], loc="outside lower center", ncols=min(members, 6))
    return plots_style.finish(fig, f"{fit.family.name} by {fit.engine.name}: parts of the validation loss, model space")
