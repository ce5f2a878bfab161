"""What training by a discriminator asks of an implicit density: losses of two players, and whose weights are whose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Adversary:
    r"""Two players of a game: a generator, which makes rows of noise, and a discriminator, which tells them from data.

    The networks see rows relaxed, f (n, F): real columns as numbers, labels as indicators. ``parameters`` is a plain
    dictionary of arrays, those of one member; ``view`` is a :class:`~ppl_gen.view.View` of n rows with row weights,
    which the losses weigh by. Losses are means over rows, or over groups of ``pack`` rows, of arrays of shape ().

    ``generator``           names of the sites that the generator's loss trains
    ``discriminator``       those that the discriminator's loss trains (with states of ``project``, of gradient 0)
    ``ratio``               those of a second discriminator, of single rows, trained by ``log_ratio_loss`` once the game
                            is over and the generator held fixed. Its logit estimates log p_data / p_model whatever the
                            loss of the game is
    ``pack``                rows that the discriminator judges together (Lin, Khetan, Fanti & Oh 2018,
                            arXiv:1712.04086); n is a multiple of it. Rows stand together as they come
    ``noise``               ``(number, key) -> (number, L)``: standard normal
    ``relax``               ``(parameters, view) -> f``: rows of data as the networks see them
    ``forge``               ``(parameters, z (n, L), context) -> f``: the generator's rows; the gradient of their labels
                            is that of a softmax
    ``discriminator_loss``  ``(parameters, view, z (n, L), key) -> ()``, with its regularizer
    ``generator_loss``      ``(parameters, view, z (n, L)) -> ()``, with its own; only the context of the view is read
    ``log_ratio_loss``      ``(parameters, view, z (n, L)) -> ()``: the logistic loss of ``ratio``
    ``judge``               ``(parameters, f (n, F), context) -> (n / pack,)``: the discriminator's outputs
    ``threshold``           above which an output says that rows are data; None of a critic, whose outputs have no zero
    ``of_game``             options of the family that were set, and that only the game reads
    ``project``             ``(parameters) -> parameters``, after each step of the discriminator: clipped weights, or
                            weights of spectral norm 1; the identity as a rule

    ``key`` is the backend's source of randomness: a key in NumPyro; in Pyro a seed, or None, torch's own generator.
    """

    generator: tuple[str, ...]
    discriminator: tuple[str, ...]
    ratio: tuple[str, ...]
    noise: Callable[..., Any]
    relax: Callable[..., Any]
    forge: Callable[..., Any]
    discriminator_loss: Callable[..., Any]
    generator_loss: Callable[..., Any]
    log_ratio_loss: Callable[..., Any]
    judge: Callable[..., Any]
    project: Callable[..., Any]
    pack: int = 1
    threshold: float | None = 0.0
    of_game: tuple[str, ...] = ()
