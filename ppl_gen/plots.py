"""Every picture of a fit: ``plot_<kind>(fit)`` gives a matplotlib figure, :func:`plot_all` writes them as files.

Nothing here shows a window, or changes matplotlib's backend or settings: save the figure, or display it, as you like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ppl_gen import plots_chains, plots_data, plots_times
from ppl_gen.errors import SettingError, StorageError, UnsupportedError, did_you_mean
from ppl_gen.files import check_writable, reason, resolve
from ppl_gen.plots_annealing import no_annealing, plot_annealing
from ppl_gen.plots_chains import plot_energy, plot_loss, plot_rank, plot_trace
from ppl_gen.plots_conditionals import no_conditionals, plot_conditionals
from ppl_gen.plots_contrastive import no_course, no_surface, plot_course, plot_surface
from ppl_gen.plots_denoiser import no_denoiser, no_field, plot_field, plot_loss_by_time
from ppl_gen.plots_density import no_density, no_grid, plot_density, plot_grid
from ppl_gen.plots_diffusion import no_guidance, no_ways, plot_guidance, plot_steps, plot_trajectory
from ppl_gen.plots_durations import plot_durations
from ppl_gen.plots_filters import no_filters, plot_filters
from ppl_gen.plots_generators import (
    no_game,
    no_modes,
    no_progress,
    no_ratio,
    plot_game,
    plot_modes,
    plot_progress,
    plot_ratio,
)
from ppl_gen.plots_images import no_images, plot_images
from ppl_gen.plots_intervals import ALL_FIXED, NO_SPREAD, panels_of, plot_compare, plot_parameters
from ppl_gen.plots_latent_chains import plot_latent_chains
from ppl_gen.plots_latents import (
    no_codes,
    no_loss_parts,
    plot_codes,
    plot_loss_parts,
    plot_reconstructions,
    plot_traversals,
)
from ppl_gen.plots_networks import no_calibration, plot_calibration
from ppl_gen.plots_pairs import plot_pairs
from ppl_gen.plots_rows import (
    HIDDEN,
    OF_NOISE,
    no_khat,
    plot_khat,
    plot_latents,
    plot_pit,
    plot_posterior_predictive,
    plot_score,
)
from ppl_gen.plots_sequences import plot_states, plot_transitions
from ppl_gen.plots_steps import plot_forecast, plot_residuals

if TYPE_CHECKING:
    from ppl_gen.result import Fit

__all__ = [
    "KINDS", "applicable", "plot_all", "plot_annealing", "plot_calibration", "plot_codes", "plot_compare",
    "plot_conditionals", "plot_course", "plot_density", "plot_durations", "plot_energy", "plot_field",
    "plot_filters", "plot_forecast", "plot_game", "plot_grid", "plot_guidance", "plot_images", "plot_khat",
    "plot_latent_chains", "plot_latents", "plot_loss", "plot_loss_by_time", "plot_loss_parts", "plot_modes",
    "plot_pairs", "plot_parameters", "plot_pit", "plot_posterior_predictive", "plot_progress", "plot_rank",
    "plot_ratio", "plot_reconstructions", "plot_residuals", "plot_score", "plot_states", "plot_steps",
    "plot_surface", "plot_trace", "plot_trajectory", "plot_transitions", "plot_traversals",
]  # fmt: skip

KINDS: dict[str, Callable[[Fit], Figure]] = {
    "images": plot_images, "pairs": plot_pairs, "density": plot_density, "grid": plot_grid,
    "conditionals": plot_conditionals, "calibration": plot_calibration,
    "filters": plot_filters, "annealing": plot_annealing,
    "reconstructions": plot_reconstructions, "codes": plot_codes, "traversals": plot_traversals,
    "latents": plot_latents, "score": plot_score, "pit": plot_pit,
    "posterior_predictive": plot_posterior_predictive, "khat": plot_khat, "parameters": plot_parameters,
    "trace": plot_trace, "rank": plot_rank, "energy": plot_energy, "loss": plot_loss,
    "loss_parts": plot_loss_parts, "course": plot_course, "surface": plot_surface,
    "progress": plot_progress, "modes": plot_modes, "ratio": plot_ratio, "game": plot_game,
    "trajectory": plot_trajectory, "field": plot_field, "loss_by_time": plot_loss_by_time, "steps": plot_steps,
    "guidance": plot_guidance,
    "states": plot_states, "transitions": plot_transitions, "durations": plot_durations, "forecast": plot_forecast,
    "residuals": plot_residuals,
}  # fmt: skip
DPI = 150


def applicable(fit: Fit) -> dict[str, str]:
    """For each kind of picture, why this fit has none; an empty string where it has."""
    reasons = {kind: plots_times.why_not(fit, kind) for kind in KINDS}
    if fit.uncertainty != "posterior":
        reasons["trace"] = reasons["rank"] = plots_chains.NO_CHAINS
    if "energy" not in fit.draws.sample_stats:
        reasons["energy"] = plots_chains.NO_ENERGY
    if fit.draws.losses is None or len(fit.draws.losses) == 0:
        reasons["loss"] = plots_chains.NO_LOSS
    reasons["khat"] = no_khat(fit)
    reasons |= {"density": no_density(fit), "grid": no_grid(fit), "conditionals": no_conditionals(fit)}
    reasons |= {"calibration": no_calibration(fit), "images": no_images(fit)}
    reasons |= dict.fromkeys(("reconstructions", "codes", "traversals"), no_codes(fit))
    reasons |= {"filters": no_filters(fit), "annealing": no_annealing(fit)}
    reasons |= {"loss_parts": no_loss_parts(fit), "course": no_course(fit), "surface": no_surface(fit)}
    reasons |= {"progress": no_progress(fit), "modes": no_modes(fit), "ratio": no_ratio(fit), "game": no_game(fit)}
    reasons |= dict.fromkeys(("trajectory", "steps"), no_ways(fit))
    reasons |= {"field": no_field(fit), "loss_by_time": no_denoiser(fit), "guidance": no_guidance(fit)}
    if fit.pair.generate is not None:
        reasons |= dict.fromkeys(("score", "latents", "surface", "annealing"), plots_data.NO_FORMULA)
    if not no_codes(fit) and fit.pair.label is None:
        reasons["latents"] = "latents are codes (see the codes picture)"
    if fit.pair.noising is not None:
        reasons["latents"] = OF_NOISE
    if fit.uncertainty == "point":
        reasons["parameters"] = NO_SPREAD
    elif not panels_of(fit):
        reasons["parameters"] = ALL_FIXED
    if fit.pair.features is not None:
        reasons["latents"] = HIDDEN
    if reasons.get("latents"):
        return reasons
    try:
        fit.latents(fit.train.take(slice(0, 2)))
    except UnsupportedError as error:
        reasons["latents"] = str(error)
    return reasons


def plot_all(fit: Fit, folder: str | Path, kinds: Iterable[str] | None = None) -> list[Path]:
    """Write pictures as PNG files named after their kinds, and give their paths.

    :param kinds: keys of :data:`KINDS`; by default all that apply to this fit.
    :raises SettingError: an unknown kind (the nearest one is named).
    :raises UnsupportedError: a kind that was asked for does not apply; the message says why.
    :raises StorageError: the folder or a file can't be written.
    """
    chosen = None if kinds is None else list(dict.fromkeys([kinds] if isinstance(kinds, str) else kinds))
    for kind in chosen or ():
        if kind not in KINDS:
            raise SettingError(f"Unknown picture {kind!r}: {did_you_mean(kind, KINDS)}")
    folder = resolve(folder)
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file: give the name of a folder for the pictures.")
    check_writable(folder / "picture.png")
    reasons = applicable(fit)
    for kind in chosen or ():
        if reasons[kind]:
            raise UnsupportedError(f"No {kind} picture of {fit.family.name} by {fit.engine.name}: {reasons[kind]}.")
    paths = []
    for kind in chosen or [kind for kind in KINDS if not reasons[kind]]:
        figure = KINDS[kind](fit)
        path = folder / f"{kind}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=DPI)
        except OSError as error:
            raise StorageError(f"{path} can't be written: {reason(error)}.") from error
        paths.append(path)
    return paths
