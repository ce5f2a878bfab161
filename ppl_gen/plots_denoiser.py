"""Pictures of a diffusion model's denoiser: loss and calibration by noise level, and the field of its arrows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure

from ppl_gen import noise_levels, plots_data, plots_style
from ppl_gen.errors import UnsupportedError
from ppl_gen.plots_style import ALARM, INK, LIGHT, MODEL, SHADE, label, styled

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

NO_DENOISER = "there is no denoiser: the fit is no diffusion model"
ARROWS, LONGEST = 19, 3.0  # along each side; standard deviations of the noise, from where on arrows are as long
LEVELS = (-3.0, -1.0, 1.0, 2.0, 3.5, 5.0)  # log signal-to-noise ratios of a field
MAX_DOTS = 600
PALE = "#BBBBBB"


def no_denoiser(fit: Fit) -> str:
    """Why there is no picture of a denoiser; an empty string where there is."""
    return NO_DENOISER if fit.pair.noising is None else ""


def no_field(fit: Fit) -> str:
    """Why there is no picture of its arrows; an empty string where there is."""
    if fit.pair.noising is None:
        return NO_DENOISER
    if fit.schema.conditions:
        return "the arrows depend on what is conditioned on"
    return "" if fit.schema.kinds == ("real", "real") else "arrows are drawn over two real columns"


def title_of(fit: Fit, text: str) -> str:
    return f"{fit.family.name} by {fit.engine.name}: {text}"


@styled
def plot_loss_by_time(fit: Fit, *, fig: Figure | SubFigure | None = None) -> Figure:
    """Left: nats of the evidence lower bound that the denoiser costs in each part of time, per unit of log
    signal-to-noise ratio, so that areas are nats a row: of rows that members held out (with two standard errors), of
    rows that they trained on, and of the best linear denoiser. Right: the slope of rows on their estimates, 1 where
    these are right on average, with two standard errors, and the band of the check; pale where next to nothing is at
    stake.

    :raises UnsupportedError: the fit is no diffusion model.
    """
    from ppl_gen.checks_diffusion import SLOPE, by_level

    if no_denoiser(fit):
        raise UnsupportedError(NO_DENOISER)
    levels = noise_levels.of(fit)
    table = by_level(levels).sort_values("log_snr")
    fig = plots_style.figure_of(fig, 8.6, 3.7)
    left, right = plots_style.panels(fig, 2, 2)
    x, width = table["log_snr"].to_numpy(), table["width"].to_numpy()
    held, error = table["held_out"].to_numpy() / width, 2 * table["held_out_error"].to_numpy() / width
    name = _with_sum("linear denoiser", table, "linear")
    left.plot(x, table["linear"] / width, color=SHADE, linestyle=":", label=name)
    name = "training rows" if levels.seen.all() else "held-out rows"
    if not levels.seen.all():
        left.plot(x, table["trained"] / width, color=INK, linestyle="--", linewidth=0.9,
                  label=_with_sum("training rows", table, "trained"))  # fmt: skip
    left.fill_between(x, held - error, held + error, color=MODEL, alpha=0.25, linewidth=0)
    left.plot(x, held, color=MODEL, label=_with_sum(name, table, "held_out"))
    left.set_ylim(0, 1.05 * max(float(np.nanmax(held + error)), 1e-12))
    left.set_ylabel("nats a row, per unit of log SNR")
    left.legend(loc="upper left")
    left.set_title("loss")
    _draw_slopes(right, table, SLOPE)
    for ax in (left, right):
        ax.set_xlim(levels.log_snr.min() - 0.5, levels.log_snr.max() + 0.5)
        ax.set_xlabel("log signal-to-noise ratio  (noise ← → row)")
    return plots_style.finish(fig, title_of(fit, "the denoiser by noise level"))


def _with_sum(name: str, table: pd.DataFrame, column: str) -> str:
    return f"{name}: {float(np.nansum(table[column])):.3g} nats"


def _draw_slopes(ax: Axes, table: pd.DataFrame, limit: float) -> None:
    known = table[table["slope_error"] < 1]
    ax.axhspan(1 - limit, 1 + limit, color=LIGHT, alpha=0.6, linewidth=0)
    ax.axhline(1, color=SHADE, linewidth=0.7)
    away = known["judged"] & (np.abs(known["slope"] - 1) > np.maximum(limit, 3 * known["slope_error"]))
    for chosen, shade in ((~known["judged"], PALE), (known["judged"] & ~away, MODEL), (away, ALARM)):
        part = known[chosen]
        ax.errorbar(part["log_snr"], part["slope"], 2 * part["slope_error"], fmt="o", color=shade, markersize=3.5,
                    linewidth=1)  # fmt: skip
    judged = known[known["judged"]]
    if len(judged):
        reach = max(2 * limit, 1.1 * float((np.abs(judged["slope"] - 1) + 2 * judged["slope_error"]).max()))
        ax.set_ylim(1 - reach, 1 + reach)
    ax.set_ylabel("slope of rows on their estimates")
    ax.set_title("calibration")


@styled
def plot_field(fit: Fit, *, fig: Figure | SubFigure | None = None, member: int = 0) -> Figure:
    r"""Of two real columns, at several noise levels: rows of the table with as much noise, and the arrows
    :math:`\sigma \nabla \log p(z)` of one member, in standard deviations of the noise, along which a reverse step moves
    them. Both in the table's units, as if a noisy row were one.

    :raises UnsupportedError: the fit is no diffusion model of two real columns. :raises SettingError: no such member.
    """
    from ppl_gen.latents import member_of

    if no_field(fit):
        raise UnsupportedError(no_field(fit))
    one = member_of(fit, member)
    _, rows, note = plots_data.subset(fit, MAX_DOTS)
    encoded = _under(fit, one, "encode", rows.x.astype(np.float64))
    ends = _under(fit, one, "log_snr", np.array([1.0, 0.0]))
    shown = [level for level in LEVELS if ends[0] <= level <= ends[1]]
    fig = plots_style.figure_of(fig, 8.6, 0.4 + 2.9 * -(-len(shown) // 3))
    rng, norm = np.random.default_rng(fit.seed), Normalize(0, LONGEST)
    arrows = None
    for k, (ax, level) in enumerate(zip(plots_style.panels(fig, len(shown), 3), shown, strict=True)):
        alpha, sigma = noise_levels.signal_and_noise(np.array(level))
        noisy = alpha * encoded + sigma * rng.standard_normal(encoded.shape)
        low, high = noisy.min(0), noisy.max(0)
        sides = [np.linspace(a - 0.1 * (b - a), b + 0.1 * (b - a), ARROWS) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2)
        estimate = _under(fit, one, "denoise", grid, np.full(len(grid), level), None)
        arrow = (alpha * estimate - grid) / sigma
        size = np.linalg.norm(arrow, axis=1, keepdims=True)
        step = np.array([side[1] - side[0] for side in sides])
        shown_arrow = arrow / np.maximum(size, 1e-12) * np.minimum(size, LONGEST) / LONGEST * 1.3 * step
        tails, heads = (_as_rows(fit, one, part) for part in (grid, grid + shown_arrow))
        dots = _as_rows(fit, one, noisy)
        ax.scatter(*dots.T, s=3, color=INK, alpha=0.4, linewidths=0)
        arrows = ax.quiver(*tails.T, *(heads - tails).T, size[:, 0], angles="xy", scale_units="xy", scale=1,
                           cmap="viridis_r", norm=norm, width=0.005)  # fmt: skip
        ax.set_title(f"log SNR {level:g}")
        if k % 3 == 0:
            ax.set_ylabel(label(fit.schema.columns[1].name))
        if k >= len(shown) - 3:
            ax.set_xlabel(label(fit.schema.columns[0].name))
    if arrows is not None:
        bar = fig.colorbar(arrows, ax=fig.axes, shrink=0.8, extend="max")
        bar.set_label("length of the arrows, standard deviations of the noise")
        bar.ax.set_xlabel(" ")
    of = f" of member {member}" if len(next(iter(fit.posterior.values()))) > 1 else ""
    title = f"where the denoiser{of} moves noisy rows" + (f"; {note}" if note else "")
    return plots_style.finish(fig, title_of(fit, title))


def _under(fit: Fit, one: dict[str, np.ndarray], function: str, *arrays: np.ndarray | None) -> np.ndarray:
    """A function of the noising process under one member."""
    return noise_levels.over_members(fit, function, *(noise_levels.repeated(v, 1) for v in arrays), posterior=one)[0]


def _as_rows(fit: Fit, one: dict[str, np.ndarray], numbers: np.ndarray) -> np.ndarray:
    """Numbers (n, F) as rows in the table's units."""
    return plots_data.original_units(fit, _under(fit, one, "decode", numbers), None)
