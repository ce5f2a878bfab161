"""A classifier of noisy rows in torch: log p(label | z, noise level), its slope by z, and its training.

The twin of ``numpyro_classifier``, with the same signatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppl_gen.backends.pyro_ops import as_tensor
from ppl_gen.backends.pyro_programs import sandbox
from ppl_gen.noisy_classifier import CHECK, FREQUENCIES, Course, best_of

if TYPE_CHECKING:
    from ppl_gen.pair import Pair

Weights = Mapping[str, Any]


def log_probs(weights: Weights, z: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """(n, C): log p(label | z) of z (n, F) at noise levels (n,) or ()."""
    level = log_snr.expand(z.shape[:1])[:, None]
    at = level * z.new_tensor(FREQUENCIES)
    h = torch.cat([z, level / 10, torch.sin(at), torch.cos(at)], -1)
    last = len(weights) // 2 - 1
    for i in range(last):
        h = torch.nn.functional.silu(h @ weights[f"weight_{i}"] + weights[f"bias_{i}"])
    signal = torch.sqrt(torch.sigmoid(level))
    return torch.log_softmax(signal * (h @ weights[f"weight_{last}"]) + weights[f"bias_{last}"], -1)


def log_prob_gradient(weights: Weights, z: torch.Tensor, log_snr: torch.Tensor, label: Any) -> torch.Tensor:
    """(n, F): gradient by z of log p(label | z)."""
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        return torch.autograd.grad(log_probs(weights, at, log_snr)[:, int(label)].sum(), at)[0]


def predict(weights: Weights, z: np.ndarray, log_snr: np.ndarray) -> np.ndarray:
    """(n, C): p(label | z) of z (n, F) at noise levels (n,)."""
    with sandbox(), torch.no_grad():
        arrays = {name: as_tensor(value) for name, value in weights.items()}
        return log_probs(arrays, as_tensor(z), as_tensor(log_snr)).exp().numpy()


def train(
    pair: Pair, parameters: Mapping[str, np.ndarray], start: Weights, course: Course, e: np.ndarray,
    labels: np.ndarray, seed: int,
) -> tuple[dict[str, np.ndarray], float]:  # fmt: skip
    """The weights with the least cross-entropy on validation rows, and that cross-entropy, nats.

    :param e: (n, F) numbers of the rows, of which the last ``course.held_out`` are for validation.
    :param labels: (n,) numbers of their labels.
    """
    noising, given = pair.noising, {name: as_tensor(value) for name, value in parameters.items()}
    assert noising is not None
    cut = len(e) - course.held_out
    whole, of = as_tensor(e), torch.as_tensor(np.asarray(labels, np.int64))
    weights = {name: as_tensor(value).clone().requires_grad_() for name, value in start.items()}

    def loss(e: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        t = torch.remainder(torch.rand(()) + torch.arange(len(e)) / len(e), 1.0)
        log_snr = noising.log_snr(given, t.to(e.dtype)).detach()
        alpha, sigma = torch.sqrt(torch.sigmoid(log_snr)), torch.sqrt(torch.sigmoid(-log_snr))
        z = alpha[:, None] * e + sigma[:, None] * torch.randn_like(e)
        return torch.nn.functional.nll_loss(log_probs(weights, z, log_snr), of)

    held_out, held_labels = whole[cut:].repeat(course.repeats, 1), of[cut:].repeat(course.repeats)
    optimizer = torch.optim.AdamW(weights.values(), lr=course.learning_rate, weight_decay=course.weight_decay)

    def more(_: int) -> tuple[dict[str, np.ndarray], float]:
        for _ in range(CHECK):
            rows = torch.randint(cut, (course.batch_size,))
            optimizer.zero_grad()
            loss(whole[rows], of[rows]).backward()
            optimizer.step()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = float(loss(held_out, held_labels))
        return {name: value.detach().numpy().copy() for name, value in weights.items()}, found

    with sandbox(seed, threads=1):
        return best_of(more, course)
