r"""The U-net of a diffusion model of images, apart from a backend: its levels and the layout of its weights.

Convolutions of 3 x 3 pixels go down through levels of half the height and width and back up again, where each level
reads what stood at its like on the way down (Ronneberger, Fischer & Brox 2015, arXiv:1505.04597; Ho, Jain & Abbeel
2020, arXiv:2006.11239, appendix B). Coarser levels have a residual block either way,
``h + conv(silu(norm(conv(silu(h)))))``; the finest has none, as it is the dearest. Blocks, and levels on the way up,
have their channels scaled and shifted by what is told of the noise and of the context (Perez et al. 2018,
arXiv:1709.07871; Nichol & Dhariwal 2021, arXiv:2102.09672, sec. 3); ``norm`` is that of the channels of each pixel,
whose mean square becomes 1 (Zhang & Sennrich 2019, arXiv:1910.07467).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppl_gen.models.vae.architecture import TAPS
from ppl_gen.networks import Weight

if TYPE_CHECKING:
    from ppl_gen.models.diffusion.architecture import Architecture

LEAST_SQUARE = 1e-5  # added to a mean square that channels are divided by the root of


def levels(architecture: Architecture) -> list[tuple[int, int, int]]:
    """(height, width, channels) of each level, the finest first."""
    assert architecture.image is not None
    height, width, _ = architecture.image
    found = []
    for channels in architecture.family.channels:
        found.append((height, width, channels))
        height, width = -(-height // 2), -(-width // 2)
    return found


def blocks(architecture: Architecture) -> list[str]:
    """The names of the residual blocks, in order: those on the way down, then those on the way up."""
    number = len(architecture.family.channels)
    coarser = range(min(1, number - 1), number)
    return [f"down_{i}" for i in coarser] + [f"up_{i}" for i in reversed(coarser)]


def layout(architecture: Architecture, embedding: int) -> dict[str, Weight]:
    """Convolutions ``*_weight`` (9 channels in, channels out), ``*_bias``; ``*_modulation_*`` says scales and shifts
    from an embedding of this width. The last convolution is near 0 at first, and so is the last of each block."""
    sizes = [channels for *_, channels in levels(architecture)]
    numbers = architecture.size // int(np.prod(architecture.image[:2]))  # type: ignore[index]  # has one
    found: dict[str, Weight] = {}

    def modulation(name: str, size: int) -> None:
        found[f"{name}_modulation_weight"] = Weight((embedding, 2 * size), float(1 / np.sqrt(embedding)))
        found[f"{name}_modulation_bias"] = Weight((2 * size,))

    def convolution(name: str, fan_in: int, fan_out: int, last: float = 1.0) -> None:
        spread = last / np.sqrt(TAPS**2 * fan_in)
        found[f"{name}_weight"] = Weight((TAPS**2 * fan_in, fan_out), float(spread))
        found[f"{name}_bias"] = Weight((fan_out,))

    convolution("first", numbers, sizes[0])
    for i in range(1, len(sizes)):
        convolution(f"shrink_{i}", sizes[i - 1], sizes[i])
        convolution(f"grow_{i}", sizes[i] + sizes[i - 1], sizes[i - 1])
        modulation(f"grow_{i}", sizes[i - 1])
    for name in blocks(architecture):
        size = sizes[int(name.split("_")[1])]
        convolution(f"{name}_0", size, size)
        convolution(f"{name}_1", size, size, 0.1)
        modulation(name, size)
    convolution("last", sizes[0], numbers, 1e-2)
    return found
