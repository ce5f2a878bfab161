"""Codes of rows in torch: what a guide over local latents says of them, and rows that are decoded from codes. The twin
of ``numpyro_codes``.

Arrays come and go as numpy; all work is in model space.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from pyro import poutine

from ppl_gen.backends import pyro_local
from ppl_gen.backends.pyro_local import given
from ppl_gen.backends.pyro_ops import as_tensor
from ppl_gen.backends.pyro_programs import Tensors, sandbox
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.family import Pair

Posterior = Mapping[str, np.ndarray]


def moments(pair: Pair, posterior: Posterior, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of what the guide proposes, (draws, obs, L) each."""
    view = _arrays(view)
    with sandbox(0), torch.no_grad():
        found = [pyro_local.local_moments(pair, one, view) for one in _draws(posterior)]
    mean, sd = (
        torch.stack([torch.cat([own[name][i].reshape(len(view.x), -1) for name in pair.local], -1) for own in found])
        for i in (0, 1)
    )
    return mean.numpy(), sd.numpy()


def label_probs(pair: Pair, posterior: Posterior, view: View) -> np.ndarray:
    """(draws, obs, C): q(y | x) as the guide's classifier has it."""
    view = _arrays(view)
    with sandbox(0), torch.no_grad():
        found = [pyro_local.label_log_prob(pair, one, view).exp() for one in _draws(posterior)]
    return torch.stack(found).numpy()


def particles(pair: Pair, posterior: Posterior, view: View, uniforms: np.ndarray, seed: int) -> np.ndarray:
    """(draws, K, obs, L): the particles whose weights ``log_weights`` of the same arguments gives, ``by_label``."""
    draws = {name: as_tensor(value) for name, value in posterior.items()}
    with sandbox(seed), torch.no_grad():
        found = pyro_local.local_values(pair, draws, as_tensor(uniforms), _arrays(view))
    return torch.cat([value.flatten(3) for value in found.values()], -1).numpy()


def divergences(pair: Pair, posterior: Posterior, view: View, num_particles: int, seed: int) -> np.ndarray:
    """(draws, obs, J): KL divergence of the guide from the prior in each of J = L dimensions, in nats; where that has
    no closed form, J is 1 and it is the mean over particles."""
    view, found = _arrays(view), []
    with sandbox(seed), torch.no_grad():
        for one in _draws(posterior):
            terms = pyro_local.terms(pair, one, view, num_particles)
            found.append(-terms.log_ratio.mean(0)[:, None] if terms.kl is None else terms.kl[:, : terms.size])
    return torch.stack(found).numpy()


def prior(pair: Pair, parameters: Posterior, number: int, context: np.ndarray | None, seed: int) -> np.ndarray:
    """(number, L): draws of the only site of ``local`` from the model, under one set of parameters."""
    (name,) = pair.local
    data = None if context is None else View(None, context=as_tensor(context))
    with sandbox(seed), torch.no_grad():
        trace = poutine.trace(given(pair.density, _tensors(parameters))).get_trace(data, num_obs=number)
        return trace.nodes[name]["value"].numpy()


def decoded(pair: Pair, parameters: Posterior, codes: np.ndarray, context: np.ndarray | None) -> dict[str, np.ndarray]:
    """The pair's ``decode`` of codes (n, L) under one set of parameters."""
    assert pair.decode is not None
    with sandbox(0), torch.no_grad():
        found = pair.decode(_tensors(parameters), _codes_view(codes, context))
    return {name: value.numpy() for name, value in found.items()}


def drawn(pair: Pair, parameters: Posterior, codes: np.ndarray, context: np.ndarray | None, seed: int) -> np.ndarray:
    """(n, D): a row drawn for each of the codes (n, L) of the only site of ``local``, under one set of parameters; with
    a label the codes are those of ``decode``, (n, L + C)."""
    view = _codes_view(codes, context)
    data = None if view.context is None else View(None, context=view.context)
    with sandbox(seed), torch.no_grad():
        model = given(pair.density, {**_tensors(parameters), **_sites(pair, view.x)})
        return poutine.trace(model).get_trace(data, num_obs=len(codes)).nodes["x"]["value"].numpy()


def _tensors(parameters: Posterior) -> Tensors:
    return {name: as_tensor(value) for name, value in parameters.items()}


def _draws(posterior: Posterior) -> list[Tensors]:
    """Each draw by itself."""
    whole = _tensors(posterior)
    return [{name: value[s] for name, value in whole.items()} for s in range(len(next(iter(whole.values()))))]


def _sites(pair: Pair, codes: torch.Tensor) -> dict[str, torch.Tensor]:
    """The local latents that codes are."""
    (name,), label = pair.local, pair.label
    if label is None:
        return {name: codes}
    return {name: codes[:, : -label.size], label.site: codes[:, -label.size :].argmax(-1)}


def _codes_view(codes: np.ndarray, context: np.ndarray | None) -> View:
    return View(as_tensor(codes), context=None if context is None else as_tensor(context))


def _arrays(view: View) -> View:
    leaves = {name: leaf for name, leaf in view._asdict().items() if leaf is not None and name != "weights"}
    return View(**{name: as_tensor(leaf) for name, leaf in leaves.items()})
