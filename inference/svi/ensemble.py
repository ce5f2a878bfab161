"""What training an ensemble of networks needs besides gradients, in any backend: splits, stopping, the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import noising_bound
from ppl_gen.engine import Draws, out_of_bag

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.family import Pair
    from ppl_gen.inference.svi import SVI
    from ppl_gen.progress import Monitor


@dataclasses.dataclass(frozen=True)
class Objective:
    """What an ensemble is trained by in place of the evidence lower bound.

    ``name``    of the engine, for messages
    ``key``     what tells its programs from others of the pair
    ``loss``    of a mini-batch, in the backend's arrays: ``(pair, weights, rows, key) -> ()`` in NumPyro, without a key
                in Pyro
    ``finish``  ``{site: (members, *shape)} -> the same with more sites``, after training
    ``extra``   {name: (members, *shape)}: starts of weights beside the pair's
    """

    name: str
    key: Any
    loss: Callable[..., Any]
    finish: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    extra: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


MIN_STEPS = 50  # per window: passes over a small table are joined until they have as many steps
EVERY = 10  # steps between two looks of the running mean at the weights: each is a pass over all of them
LOOKS = 10  # that the mean is over in the end
SHARE = 2  # before that it is over the latter half of the looks there have been, so that the start is forgotten
PART_ROWS = 512  # that the parts of a bound are found from where there are no validation rows
NOISY_STEPS = 200  # the same of a diffusion model, as the terms of its bound are noisy
MIN_TERMS = 2048  # of a bound with terms at random times, that a validation loss is the mean of
MIN_NUMBERS = 32_768  # that these terms are of altogether
DECAYS = 2  # times that a member's learning rate is lowered before it is stopped
DECAY = 0.2
MAX_VALIDATION = 10_000  # rows


@dataclasses.dataclass(frozen=True)
class Split:
    """Each member's training rows (M, n) and validation rows (M, v), drawn at random for itself; the sizes of a step
    and of a window, a number of whole passes over the training rows."""

    train: np.ndarray
    validation: np.ndarray
    batch_size: int
    passes: int

    @property
    def batches(self) -> int:
        """Steps in a pass."""
        return self.train.shape[1] // self.batch_size

    @property
    def steps(self) -> int:
        """Steps in a window."""
        return self.passes * self.batches

    @classmethod
    def of(cls, num_obs: int, settings: SVI, seed: int, pair: Pair | None = None) -> Split:
        size = min(round(settings.validation * num_obs), MAX_VALIDATION)
        rng = np.random.default_rng(seed)
        orders = np.stack([rng.permutation(num_obs) for _ in range(settings.num_members)])
        train = orders[:, size:]
        batch = min(settings.batch_size or (256 if num_obs < 20_000 else 512), train.shape[1])
        noisy = pair is not None and pair.noising is not None
        least = min(NOISY_STEPS, max(settings.max_steps, MIN_STEPS)) if noisy else MIN_STEPS
        passes = -(-least // (train.shape[1] // batch))
        return cls(np.sort(train, 1), np.sort(orders[:, :size], 1), batch, passes)


class Plateau:
    """Per member: its best validation loss so far, how its learning rate stands, and whether it is to go on.

    After ``patience`` windows without a new best, the rate is lowered; after the last lowering the member has stopped.
    A loss that is not finite stops it at once. Through the first ``grace`` windows, in which the objective still
    changes, the latest parameters count as the best.
    """

    def __init__(self, num_members: int, patience: int, grace: int = 0) -> None:
        self.patience, self.grace = patience, grace
        self.best = np.full(num_members, np.inf)
        self.stalled = np.zeros(num_members, int)
        self.lowered = np.zeros(num_members, int)
        self.broken = np.zeros(num_members, bool)
        self.seen, self.kept = 0, np.zeros(num_members, int)  # windows; and the one that each member's best is of

    @property
    def stopped(self) -> np.ndarray:
        return self.broken | (self.lowered > DECAYS)

    @property
    def rate(self) -> np.ndarray:
        """What each member's learning rate is to be multiplied by; 0 for one that has stopped."""
        return np.where(self.stopped, 0.0, DECAY**self.lowered)

    def update(self, losses: np.ndarray) -> np.ndarray:
        """Take the losses of a window (M,); True for the members whose parameters are their best so far."""
        going, self.seen = ~self.stopped, self.seen + 1
        self.broken |= going & ~np.isfinite(losses)
        annealing = self.seen <= self.grace
        better = going & (~self.broken if annealing else losses < self.best)
        self.best = np.where(better, losses, self.best)
        self.kept = np.where(better, self.seen - 1, self.kept)
        if annealing:
            return better
        self.stalled = np.where(better, 0, self.stalled + 1)
        lower = going & (self.stalled >= self.patience)
        self.lowered, self.stalled = self.lowered + lower, np.where(lower, 0, self.stalled)
        return better


@dataclasses.dataclass
class Record:
    """The course of a run: losses of each window, (window, M), in nats a row; of pairs with local latents also the
    parts of the validation loss, (window, M, 2): minus the expected log likelihood, and the KL divergence."""

    train: list[np.ndarray] = dataclasses.field(default_factory=list)
    validation: list[np.ndarray] = dataclasses.field(default_factory=list)
    parts: list[np.ndarray] = dataclasses.field(default_factory=list)

    def restore(self, packed: Mapping[str, np.ndarray], plateau: Plateau) -> None:
        """Go back to a checkpoint, and feed the stopping rule with the same losses again."""
        self.train, self.validation = list(packed["train_loss"]), list(packed["validation_loss"])
        self.parts = list(packed["validation_parts"]) if "validation_parts" in packed else []
        for losses in self.validation:
            plateau.update(losses)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        found = {"train_loss": np.array(self.train), "validation_loss": np.array(self.validation)}
        return found | {"validation_parts": np.array(self.parts)} if self.parts else found

    def result(
        self, parameters: Mapping[str, np.ndarray], log_prob: Callable[[Mapping[str, np.ndarray], View], np.ndarray],
        view: View, pair: Pair, split: Split, plateau: Plateau, settings: SVI, interrupted: bool,
    ) -> Draws:  # fmt: skip
        """The members as chains of one draw each; held-out densities are those of the validation rows, each under the
        members that did not train on it; bounds of them where that is what a density is told by.

        :param log_prob: ``(parameters, view) -> (members, rows)``.
        """
        train, validation = np.array(self.train), np.array(self.validation)
        held_out = None
        if split.validation.shape[1]:
            counts = np.ones((settings.num_members, len(view.x)))
            np.put_along_axis(counts, split.validation, 0, axis=1)
            rows = _held_out_alone if pair.noising is not None else _all_rows
            how = partial(_bound, pair) if pair.noising is not None and pair.noising.is_dear else log_prob
            held_out = out_of_bag(rows(how, parameters, view, split.validation), counts)
        best = plateau.kept if len(validation) else np.zeros(0, int)
        members = np.arange(settings.num_members)
        return Draws(
            posterior={name: np.asarray(value)[:, None] for name, value in parameters.items()}, uncertainty="ensemble",
            losses=train.mean(1), held_out=held_out, interrupted=interrupted,
            parameters={**self.arrays, "validation_rows": split.validation},
            figures={
                "converged": bool((plateau.lowered > DECAYS).all()), "num_steps": len(train) * split.steps,
                "num_members": settings.num_members, "num_broken": int(plateau.broken.sum()),
                "train_loss": float(train[best, members].mean()),
                "validation_loss": float(validation[best, members].mean()),
            },
        )  # fmt: skip


def _bound(pair: Pair, parameters: Mapping[str, np.ndarray], view: View) -> np.ndarray:
    found = noising_bound.bounds(pair, parameters, view, noising_bound.NUM_POINTS, 0)
    return np.concatenate([each.by_draw for _, each in found], axis=1)


def _all_rows(
    log_prob: Callable[..., np.ndarray], parameters: Mapping[str, np.ndarray], view: View, validation: np.ndarray
) -> np.ndarray:
    return log_prob(parameters, view)


def _held_out_alone(
    log_prob: Callable[..., np.ndarray], parameters: Mapping[str, np.ndarray], view: View, validation: np.ndarray
) -> np.ndarray:
    """(members, rows): densities of each member's validation rows, as those of a solver are dear; 0 of the others."""
    found = np.zeros((len(validation), len(view.x)))
    for member, rows in enumerate(validation):
        one = {name: value[member : member + 1] for name, value in parameters.items()}
        found[member, rows] = log_prob(one, view.take(rows))[0]
    return found


def repeats(pair: Pair, number: int) -> int:
    """How many times over a diffusion model's validation rows are taken, each at another time."""
    assert pair.noising is not None
    return -(-max(MIN_TERMS, MIN_NUMBERS // pair.noising.size) // number)


def steady(pair: Pair, weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """The weights that validation is by: with the same noise levels at every look."""
    return weights if pair.noising is None or pair.noising.steady is None else pair.noising.steady(weights)


def without_idle(
    pair: Pair, start: Mapping[str, np.ndarray], view: View
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The starts of the weights that are trained on this view, and those that it does not read, which would take their
    share of each step for nothing."""
    idle = pair.idle(view) if pair.idle is not None else ()
    return {n: v for n, v in start.items() if n not in idle}, {n: v for n, v in start.items() if n in idle}


def with_chain(
    pair: Pair, hook: Callable[..., np.ndarray], parameters: dict[str, np.ndarray], view: View, seed: int
) -> dict[str, np.ndarray]:
    """The members' parameters with the states of the Markov chain that the pair walks, if it walks one.

    :param hook: ``hook_over_draws`` of the backend.
    """
    if pair.walk is None:
        return parameters
    return {**parameters, "chain": hook(pair, "walk", parameters, view.take(slice(0, 2)), seed)}


def grace_windows(settings: SVI, split: Split) -> int:
    """Windows until beta stands."""
    return -(-settings.annealing // split.steps)


def checkpoint(monitor: Monitor, record: Record, state: Mapping[str, np.ndarray]) -> None:
    """Write the state, with the losses that the stopping rule is fed with again."""
    if monitor.checkpoint_path is not None:
        monitor.save({**state, **record.arrays})
