"""When to stop: the rule on the loss, the same for every backend."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass
class StoppingRule:
    """Stop when the mean loss of a window has not fallen below the best one by more than the noise.

    With windows of W losses, mean ``m_t`` and standard error ``s_t`` (from 20 batch means, since successive losses
    are correlated), window t improves when ``m_t < m_best - sqrt(s_t^2 + s_best^2)``. After ``patience`` windows in
    a row that do not improve, the optimizer is moving within the noise of its own objective.
    """

    patience: int
    best: float = np.inf
    best_error: float = 0.0
    stalled: int = 0

    def update(self, losses: np.ndarray) -> bool:
        """Take the losses of one window; True when it is time to stop."""
        mean = float(np.mean(losses))
        batches = np.array_split(np.asarray(losses, np.float64), min(20, len(losses)))
        error = float(np.std([b.mean() for b in batches], ddof=1) / np.sqrt(len(batches))) if len(batches) > 1 else 0.0
        if not np.isfinite(mean):
            return True
        if mean < self.best - np.hypot(error, self.best_error):
            self.best, self.best_error, self.stalled = mean, error, 0
        else:
            self.stalled += 1
        return self.stalled >= self.patience
