"""Samples beside the data: marginals over each other, and a few rows of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppl_gen import plots_style
from ppl_gen.html.markup import Markup, table, tag
from ppl_gen.html.pictures import picture
from ppl_gen.html.wording import MISSING, figure, several, share, shortened
from ppl_gen.plots_style import INK, MODEL, PALETTE, SHADE, label, styled
from ppl_gen.report import column_text

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.columns import Column
    from ppl_gen.result import Fit

MAX_ROWS, MIN_ROWS, FEW = 1000, 200, 5  # drawn at most and at least; shown of each
MAX_PANELS, MAX_CELLS = 8, 10


def beside(fit: Fit) -> Markup:
    """As many rows drawn from the fit as the table has, beside it; of images nothing but words, they are a picture."""
    if fit.schema.image is not None:
        return tag("p", "Images drawn from the fit stand beside training images in the picture images.")
    number = int(np.clip(len(fit.train), 1 if fit.family.sequences else MIN_ROWS, MAX_ROWS))
    drawn = fit.sample(number, seed=fit.seed)
    table_ = fit.train.to_frame()
    columns = fit.schema.target_columns
    shown = columns[:MAX_PANELS]
    caption = (
        f"The {several(fit.train.num_steps, 'row')} of the table (grey) and {several(len(drawn), 'row')} that the fit "
        "draws (blue): shares of rows in each bin, or with each label."
    )
    if len(columns) > len(shown):
        caption += f" The first {len(shown)} columns of {len(columns)}."
    told = "; ".join(_told(column, table_[_key(fit, column)], drawn[_key(fit, column)]) for column in shown)
    image = picture(marginals(fit, table_, drawn), f"Samples beside the data. {told}.", caption)
    rows = [_few(table_, "Rows of the table"), _few(drawn, "Rows drawn from the fit")]
    return Markup(image + tag("div", *rows, class_="pair"))


def _key(fit: Fit, column: Column) -> Any:
    return int(column.name) if fit.schema.integer_names else column.name


def _told(column: Column, data: pd.Series, drawn: pd.Series) -> str:
    """The difference of a column in figures."""
    name = shortened(column.name, 30)
    if column.levels:
        top = column.levels[int(np.argmax([(data == level).sum() for level in column.levels]))]
        known = [series.dropna() for series in (data, drawn)]
        of, by = (share(int((series == top).sum()), len(series)) for series in known)
        return f"{name}: {shortened(top, 30)} {of} of the data, {by} of the samples"
    first, second = (np.asarray(series.dropna(), np.float64) for series in (data, drawn))
    if not len(first) or not len(second):
        return f"{name}: no entries"
    return (f"{name}: data mean {figure(first.mean())}, sd {figure(first.std())}, samples mean "
            f"{figure(second.mean())}, sd {figure(second.std())}")  # fmt: skip


def _few(frame: pd.DataFrame, caption: str) -> Markup:
    part = frame.head(FEW).iloc[:, :MAX_CELLS]
    header = [shortened(name, 30) for name in part.columns]
    numbers = [j for j, kind in enumerate(part.dtypes) if getattr(kind, "kind", "O") in "iuf"]
    columns = [column_text(part.iloc[:, j]) for j in range(part.shape[1])]
    rows = [[shortened(text) or MISSING for text in row] for row in zip(*columns, strict=True)]
    more = frame.shape[1] - part.shape[1]
    return table(header, rows, caption + (f", {several(more, 'column')} not shown" if more > 0 else ""),
                 numbers=numbers, kind="plain")  # fmt: skip


@styled
def marginals(fit: Fit, data: pd.DataFrame, drawn: pd.DataFrame) -> Figure:
    """For each column the shares of both tables' rows in the same bins, or with the same labels."""
    columns = fit.schema.target_columns[:MAX_PANELS]
    across = min(4, len(columns))
    down = -(-len(columns) // across)
    fig = plots_style.figure_of(None, max(2.4 * across, 4.0), 1.7 * down + 0.5)
    for place, (ax, column) in enumerate(zip(plots_style.panels(fig, len(columns), across), columns, strict=True)):
        pair = data[_key(fit, column)].dropna(), drawn[_key(fit, column)].dropna()
        (_of_labels if column.levels else _of_numbers)(ax, column, *pair)
        ax.set_title(label(column.name))
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        if place == 0:
            ax.legend(loc="best", handlelength=1.2)
    return plots_style.finish(fig)


def _of_numbers(ax: Axes, column: Column, data: pd.Series, drawn: pd.Series) -> None:
    first, second = np.asarray(data, np.float64), np.asarray(drawn, np.float64)
    second = second[np.isfinite(second)]
    if not len(first) or not len(second):
        ax.text(0.5, 0.5, "no entries", ha="center", va="center", transform=ax.transAxes, color=INK)
        return
    low, high = np.quantile(np.concatenate([first, second]), [0.005, 0.995])
    low, high = min(low, first.min()), max(high, first.max())
    distinct = np.unique(first)
    step = float(np.diff(distinct).min()) if len(distinct) > 1 else 1.0
    edges = plots_style.bins(first, step, low, high) if high > low else np.array([low - 0.5, low + 0.5])
    of_data = {"color": SHADE, "alpha": 0.45, "histtype": "stepfilled"}
    of_samples = {"color": MODEL, "histtype": "step", "linewidth": 1.5}
    for values, name, style in ((first, "data", of_data), (second, "samples", of_samples)):
        inside = np.clip(values, edges[0], edges[-1])  # beyond the ends: in the last bins
        ax.hist(inside, edges, weights=np.full(len(values), 1 / len(values)), label=name, **style)


def _of_labels(ax: Axes, column: Column, data: pd.Series, drawn: pd.Series) -> None:
    shares = [np.array([(series == level).mean() if len(series) else 0.0 for level in column.levels])
              for series in (data, drawn)]  # fmt: skip
    order = np.argsort(-shares[0], kind="stable")[:8]
    at = np.arange(len(order))
    ax.bar(at - 0.2, shares[0][order], 0.4, color=SHADE, alpha=0.6, label="data")
    ax.bar(at + 0.2, shares[1][order], 0.4, color=PALETTE[0], label="samples")
    ax.set_xticks(at, [label(column.levels[k], 10) for k in order], rotation=0 if len(order) < 4 else 40)
