"""Single paths of a hidden Markov chain in torch: the most probable one, random ones (twins in ``numpyro_chain``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat

import torch

from ppl_gen.models.hmm.pyro_chain import exact_log, safe_log


def most_probable_path(
    initial: torch.Tensor, transition: torch.Tensor, log_emission: torch.Tensor, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """(N, T): the path of largest joint density (Viterbi). Past the end it stays in its last state."""
    return best_path(initial, repeat(exact_log(transition)), log_emission, lengths)


def best_path(
    initial: torch.Tensor, log_steps: Iterable[torch.Tensor], log_emission: torch.Tensor, lengths: torch.Tensor | None
) -> torch.Tensor:
    """:func:`most_probable_path` by the log transitions of each step from the first on, (K, K) or (N, K, K) each."""
    emission, states = log_emission.unbind(1), torch.arange(log_emission.shape[-1])
    last, pointers = exact_log(initial) + emission[0], []
    for t, (now, log_step) in enumerate(zip(emission[1:], log_steps, strict=False), 1):
        score, best = (last[:, :, None] + log_step).max(1)
        if lengths is None:
            last = score + now
        else:
            inside = (t < lengths)[:, None]
            last, best = torch.where(inside, score + now, last), torch.where(inside, best, states)
        pointers.append(best)
    path = [last.argmax(-1)]
    for best in reversed(pointers):
        path.append(best.gather(1, path[-1][:, None])[:, 0])
    return torch.stack(path[::-1], 1)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from a generator of its own, and leave torch's as it was. Without a seed torch's is used, whose draws vmap
    can make differ between sets of parameters."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def gumbel(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return -safe_log(-safe_log(torch.rand(shape, dtype=dtype)))


def sample_paths(transition: torch.Tensor, filtered: torch.Tensor) -> torch.Tensor:
    """(N, T): a draw of the path given the whole sequence, backwards from the filtered probabilities (N, T, K)."""
    log_to = exact_log(transition).mT  # (next, state)
    table = (exact_log(filtered) + gumbel(filtered.shape, filtered.dtype)).unbind(1)
    path = [table[-1].argmax(-1)]
    for now in reversed(table[:-1]):
        path.append((now + log_to[path[-1]]).argmax(-1))
    return torch.stack(path[::-1], 1)


def simulate(start: torch.Tensor, transition: torch.Tensor, num_steps: int) -> torch.Tensor:
    """(..., num_steps): a path from the model; ``start`` (..., K) are the probabilities of its first state."""
    log_transition = exact_log(transition)
    noise = gumbel((num_steps, *start.shape), start.dtype).unbind(0)
    path = [(exact_log(start) + noise[0]).argmax(-1)]
    for drawn in noise[1:]:
        path.append((log_transition[path[-1]] + drawn).argmax(-1))
    return torch.stack(path, -1)
