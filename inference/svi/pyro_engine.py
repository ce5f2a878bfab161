"""SVI in torch: the ELBO of the pair and its gradient as one program, the guide's parameters under one Adam.

The twin of ``numpyro_engine``: the same start, step sizes, stopping rule and average of the last window. The ELBO is
that of Pyro's ``Trace_ELBO`` and ``TraceEnum_ELBO``, estimated by reparametrized draws (Kingma & Welling 2014,
arXiv:1312.6114). Written from traces of guide and model, it can be recorded, with the model under vmap over particles,
which is several times faster than Pyro's own jit; and where latents are enumerated, row weights are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample

from ppl_gen.backends.pyro_ops import log_density
from ppl_gen.backends.pyro_programs import Tensors, over_draws, recorded, sandbox, value_and_gradient
from ppl_gen.engine import Draws
from ppl_gen.errors import FitError, UnsupportedError
from ppl_gen.inference.em.pyro_engine import starting_values
from ppl_gen.inference.svi import SVI, pyro_ensemble
from ppl_gen.inference.svi.stopping import StoppingRule

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

NUM_PARTICLES_KHAT = 4000  # k-hat has noise of 0.2 at 1,500 draws


def run(pair: Pair, data: Data, settings: SVI, seed: int, monitor: Monitor) -> Draws:
    """Fit the guide; see :class:`ppl_gen.inference.svi.SVI`.

    :raises FitError: the loss stopped being a finite number.
    :raises UnsupportedError: the guide draws a site that can't be reparametrized.
    """
    if not pair.has_priors:
        return pyro_ensemble.run(pair, data, settings, seed, monitor)
    view = pair.data if pair.data is not None else data.view("pyro")
    with sandbox(seed, threads=1):
        guide = settings.guide if callable(settings.guide) else _make_guide(pair, view, settings, seed)
        trainer = _Trainer(pair, guide, view, settings, len(data))
        figures, interrupted = trainer.train(monitor)
        with torch.no_grad():
            pyro.set_rng_seed(seed)
            draws, _ = _guide_draws(guide, view, settings.num_samples)
            values, log_q = _guide_draws(guide, view, NUM_PARTICLES_KHAT)
            log_p = over_draws(lambda one: log_density(pair, one, view), values, view.x.numel())
        store = pyro.get_param_store()
        return Draws(
            posterior={name: value.numpy()[None] for name, value in draws.items()}, uncertainty="guide",
            losses=np.concatenate(trainer.losses), log_weights=(log_p - log_q).double().numpy(),
            parameters={name: store[name].detach().numpy().copy() for name in store},
            figures=figures, interrupted=interrupted,
        )  # fmt: skip


def negative_elbo(pair: Pair, guide: Callable, view: View, num_particles: int, **options: Any) -> torch.Tensor:
    """E_q[log q(theta) - log p(x, theta)] over ``num_particles`` draws, differentiable in the guide's parameters."""
    traces = [poutine.trace(guide).get_trace(view, **options) for _ in range(num_particles)]
    # Auxiliary sites are the guide's own; the rows of a batch are shared with the model.
    names = [name for name, site in traces[0].nodes.items() if site["type"] == "sample" and _is_shared(site)]
    values = {name: torch.stack([trace.nodes[name]["value"] for trace in traces]) for name in names}
    log_p = over_draws(lambda one: log_density(pair, one, view, **options), values, view.x.numel())
    return (sum(trace.log_prob_sum() for trace in traces) - log_p.sum()) / num_particles


def _is_shared(site: Any) -> bool:
    return not site["infer"].get("is_auxiliary")


def _make_guide(pair: Pair, view: View, settings: SVI, seed: int) -> Callable:
    starts = starting_values(pair, view, seed, 1, settings.num_starts)
    assert pair.make_guide is not None
    return pair.make_guide(settings.guide, {name: value[0] for name, value in starts.items()})


def _require_reparametrized(guide: Callable, view: View, options: dict[str, Any]) -> None:
    for name, site in poutine.trace(guide).get_trace(view, **options).nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site) and not site["fn"].has_rsample:
            raise UnsupportedError(
                f"SVI needs guides whose draws can be reparametrized: site {name!r} is a {site['fn']}; draw it from "
                "a continuous distribution with rsample, such as a transformed Normal."
            )


class _Trainer:
    """The guide's parameters on their way: what one window of steps changes, and what a checkpoint holds."""

    def __init__(self, pair: Pair, guide: Callable, view: View, settings: SVI, num_obs: int) -> None:
        self.settings, self.rate = settings, settings.rate_for(pair)
        options = {"subsample_size": settings.rows_per_step(num_obs)}
        _require_reparametrized(guide, view, options)

        def loss() -> torch.Tensor:
            return negative_elbo(pair, guide, view, settings.num_particles_of_guide, **options)

        loss()  # registers the parameters of the guide and of the model
        self.parameters = dict(pyro.get_param_store().named_parameters())
        self.program = value_and_gradient(loss, tuple(self.parameters.values()))
        # One optimizer for all: Pyro's own makes one per parameter, which costs several times as much.
        self.adam = torch.optim.Adam(self.parameters.values(), lr=self.rate, fused=True)
        self.mean = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.rule, self.steps = StoppingRule(settings.patience), 0
        self.losses: list[np.ndarray] = []  # one array per window

    def train(self, monitor: Monitor) -> tuple[dict[str, float], bool]:
        """Windows of steps until the stopping rule says so; leaves the last window's mean in the store."""
        window, converged, interrupted = self.settings.window, self._restore(monitor), False
        total = -(-self.settings.max_steps // window)
        try:
            while len(self.losses) < total and not converged:
                losses, mean = self._window()
                if not np.isfinite(losses[-1]):
                    raise FitError(f"SVI: the loss is not a number after {self.steps} steps; "
                                   f"lower learning_rate (now {self.rate:g}).")  # fmt: skip
                converged = self.rule.update(losses)
                self.mean = mean
                self.losses.append(losses)
                monitor.worth_keeping = True
                monitor.update(self.steps, total * window, loss=float(losses.mean()))
                monitor.save(self._pack())
        except KeyboardInterrupt:
            if not self.losses:
                raise
            interrupted = True
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(self.mean[name])
        elbo = -float(self.losses[-1].mean())
        return {"converged": converged, "num_steps": len(self.losses) * window, "elbo": elbo}, interrupted

    def _window(self) -> tuple[np.ndarray, Tensors]:
        """One window of Adam's steps: its losses, and the mean of the (unconstrained) parameters over it."""
        settings, losses = self.settings, torch.empty(self.settings.window)
        leaves = tuple(self.parameters.values())
        sums = [torch.zeros_like(leaf) for leaf in leaves]
        for i in range(settings.window):
            rate = self.rate * min(1.0, (settings.window / max(self.steps, 1)) ** 0.5)
            self.adam.param_groups[0]["lr"] = rate
            losses[i], gradients = self.program(*leaves)
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient
            self.adam.step()
            torch._foreach_add_(sums, [leaf.detach() for leaf in leaves])
            self.steps += 1
        mean = {name: total / settings.window for name, total in zip(self.parameters, sums, strict=True)}
        return losses.double().numpy(), mean

    def _pack(self) -> dict[str, np.ndarray]:
        """The whole state: parameters, their mean, Adam's moments, the losses and torch's random state."""
        packed = {"losses": np.concatenate(self.losses), "random": torch.get_rng_state().numpy()}
        for name, value in self.parameters.items():
            moments = self.adam.state[value]
            packed |= {
                f"value/{name}": value.detach().numpy().copy(), f"mean/{name}": self.mean[name].numpy(),
                f"first/{name}": moments["exp_avg"].numpy().copy(),
                f"second/{name}": moments["exp_avg_sq"].numpy().copy(),
            }  # fmt: skip
        return packed

    def _restore(self, monitor: Monitor) -> bool:
        """Go back to a checkpoint; True where it was the end of the training already."""
        packed = monitor.load()
        if packed is None:
            return False
        self.losses = list(packed["losses"].reshape(-1, self.settings.window))
        self.steps = packed["losses"].size
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(torch.as_tensor(packed[f"value/{name}"]))
                self.mean[name] = torch.as_tensor(packed[f"mean/{name}"])
                self.adam.state[value] = {
                    "step": torch.tensor(float(self.steps)),
                    "exp_avg": torch.as_tensor(packed[f"first/{name}"]).clone(),
                    "exp_avg_sq": torch.as_tensor(packed[f"second/{name}"]).clone(),
                }
        torch.set_rng_state(torch.as_tensor(packed["random"]))
        return any(self.rule.update(losses) for losses in self.losses)


def _guide_draws(guide: Callable, view: View, number: int) -> tuple[Tensors, torch.Tensor]:
    """{site: (number, *event)} of the model's sites drawn from the guide, and its log density at each (number,)."""
    names: list[str] = []

    def one(_: torch.Tensor) -> list[torch.Tensor]:
        trace = poutine.trace(guide).get_trace(view)
        sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
        names[:] = [n for n, site in sites.items() if _is_shared(site) and not site_is_subsample(site)]
        return [trace.log_prob_sum(), *(sites[name]["value"] for name in names)]

    dummy = torch.zeros(1)
    program = recorded(one, (dummy,))
    log_q, *values = (torch.stack(column) for column in zip(*(program(dummy) for _ in range(number)), strict=True))
    return dict(zip(names, values, strict=True)), log_q
