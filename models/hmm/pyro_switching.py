r"""A hidden Markov chain whose transitions differ from step to step, in torch: the twin of ``numpyro_switching``.

Shapes: N sequences of T steps, K states; ``transition`` (N, T - 1, K, K) holds :math:`\log A_t(k, j)`, the log
probabilities of the step from t to t + 1.
"""

from __future__ import annotations

from functools import partial

import torch

from ppl_gen.models.hmm.pyro_chain import MAX_TREE, exact_log, least, log_prob_tree, log_sum, safe_log
from ppl_gen.models.hmm.pyro_walks import best_path, gumbel


def log_transitions(
    matrix: torch.Tensor, coefs: torch.Tensor, context: torch.Tensor, exact: bool = False
) -> torch.Tensor:
    r"""(..., K, K): :math:`\log A_t = \log \mathrm{softmax}_j (\log A_{kj} + B_{kj} \cdot y_t)`, of covariates y
    (..., C).

    :param matrix: A (K, K). :param coefs: B (K, K, C). :param exact: A has zeros, which remain.
    """
    log_matrix = exact_log(matrix) if exact else safe_log(matrix)
    return torch.log_softmax(log_matrix + torch.einsum("...c,kjc->...kj", context, coefs), -1)


def _forward_log(
    initial: torch.Tensor, transition: torch.Tensor, log_emission: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(z_t | x_1..t) (N, T, K) and log p(x_t | x_1..t-1) (N, T)."""
    emission = log_emission.unbind(1)
    messages: list[torch.Tensor] = []
    totals: list[torch.Tensor] = []
    joint = exact_log(initial) + emission[0]
    for t in range(len(emission)):
        if t > 0:
            joint = log_sum(messages[-1][:, :, None] + transition[:, t - 1], -2) + emission[t]
        total = log_sum(joint, -1)
        messages.append(joint - torch.where(torch.isfinite(total), total, 0.0)[:, None])
        totals.append(total)
    return torch.stack(messages, 1), torch.stack(totals, 1)


def forward(
    initial: torch.Tensor, transition: torch.Tensor, log_emission: torch.Tensor, exact: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """p(z_t | x_1..t) (N, T, K), and log p(x_t | x_1..t-1) (N, T), whose sum over t is log p(x)."""
    messages, totals = _forward_log(initial, transition, log_emission)
    return messages.exp(), totals


def chain_log_prob(
    initial: torch.Tensor, transition: torch.Tensor, log_emission: torch.Tensor, exact: bool = False
) -> torch.Tensor:
    """(N,): log p(x) of each sequence, its path summed out; past its end the steps of a sequence sum to 1."""
    n, _, k = log_emission.shape
    if not exact and n * k**3 <= MAX_TREE:
        low = least(initial.dtype)
        return log_prob_tree(initial.clamp(min=low), transition.exp().clamp(min=low), log_emission)
    return _forward_log(initial, transition, log_emission)[1].sum(-1)


def expectations(
    initial: torch.Tensor, transition: torch.Tensor, log_emission: torch.Tensor, weights: torch.Tensor | None = None,
    exact: bool = False, inside: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """log p(x) (N,), the expected first state (K,), the expected transitions of each step (N, T - 1, K, K), and
    p(z_t | x) (N, T, K), each times the sequence's weight. All are derivatives of log p(x).

    :param inside: (N, T) whether the transition to a step counts; of those past the end nothing is known.
    """
    function = partial(chain_log_prob, exact=exact)
    log_prob, pull = torch.func.vjp(function, initial, transition, log_emission)
    first, pairs, smoothed = pull(torch.ones_like(log_prob) if weights is None else weights.to(log_prob.dtype))
    if inside is not None:
        pairs = pairs * inside[:, 1:, None, None]
    return log_prob, first * initial, pairs, smoothed


def most_probable_path(
    initial: torch.Tensor, transition: torch.Tensor, log_emission: torch.Tensor, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """(N, T): the path of largest joint density (Viterbi). Past the end it stays in its last state."""
    return best_path(initial, transition.unbind(1), log_emission, lengths)


def sample_paths(transition: torch.Tensor, filtered: torch.Tensor) -> torch.Tensor:
    """(N, T): a draw of the path given the whole sequence, backwards from the filtered probabilities (N, T, K)."""
    table = (exact_log(filtered) + gumbel(filtered.shape, filtered.dtype)).unbind(1)
    path = [table[-1].argmax(-1)]
    for now, log_step in zip(reversed(table[:-1]), reversed(transition.unbind(1)), strict=True):
        path.append((now + torch.take_along_dim(log_step, path[-1][:, None, None], 2)[:, :, 0]).argmax(-1))
    return torch.stack(path[::-1], 1)


def simulate(start: torch.Tensor, transition: torch.Tensor) -> torch.Tensor:
    """(N, T): paths from the model; ``start`` (N, K) are the probabilities of the first states."""
    noise = gumbel((transition.shape[1] + 1, *start.shape), start.dtype).unbind(0)
    path = [(exact_log(start) + noise[0]).argmax(-1)]
    for log_step, drawn in zip(transition.unbind(1), noise[1:], strict=True):
        path.append((torch.take_along_dim(log_step, path[-1][:, None, None], 1)[:, 0] + drawn).argmax(-1))
    return torch.stack(path, -1)
