"""How functions are run in torch: alone, recorded as programs, batched over draws. It knows no pair and no engine."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pyro
import torch
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

Tensors = dict[str, torch.Tensor]

_VMAP_VALUES = 1_000_000  # draws x rows x columns worked on at once


@contextmanager
def sandbox(seed: int | None = None, threads: int | None = None) -> Iterator[None]:
    """Keep a run to itself: the parameter store, random states, thread count and validation flag are put back.

    :param seed: seeds every generator that Pyro knows, inside only.
    :param threads: torch's threads inside; small tensors are several times slower on two threads than on one.
    """
    state, before = pyro.util.get_rng_state(), torch.get_num_threads()
    try:
        with pyro.get_param_store().scope(), pyro.validation_enabled(False), warnings.catch_warnings():
            # torch deprecates its own tracer, which Pyro's jit still stands on; and warns of what tracing fixes.
            warnings.filterwarnings("ignore", message=r".*torch\.jit.*")
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
            warnings.filterwarnings("ignore", message="Encountered NaN")  # the engines look for themselves
            if threads is not None:
                torch.set_num_threads(threads)
            if seed is not None:
                pyro.set_rng_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
        pyro.util.set_rng_state(state)


def recorded(function: Callable[..., Any], example: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
    """A function of tensors (of no gradient) as a flat list of operations that torch's jit runs without Python.

    Random operations draw anew at each call. A matrix without a Cholesky factor makes all results NaN (a recording
    has no exceptions). A function that branches on a value can't be recorded: then it is called as it is, only slower.
    """
    failures: list[torch.Tensor] = []

    def checked(*args: torch.Tensor) -> Any:
        failures.clear()
        results = function(*args)
        if not failures:
            return results
        failed = torch.stack([(info != 0).any() for info in failures]).any()
        return pytree.tree_map(lambda leaf: torch.where(failed, torch.nan, leaf), results)

    def note(info: torch.Tensor, *_: Any, **__: Any) -> None:
        failures.append(info)

    # Recording calls the function; the next fit finds it recorded, and is to have the same random numbers.
    with suppress(RuntimeError), torch.random.fork_rng(devices=[]):
        with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):  # else torch makes one per operation
            graph = make_fx(checked, {torch.ops.aten._linalg_check_errors.default: note})(*example)
        with torch.no_grad():
            return torch.jit.trace(graph, tuple(leaf.detach() for leaf in example), check_trace=False)
    return function


def value_and_gradient(function: Callable[[], torch.Tensor], leaves: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
    """``f(*values) -> (value, gradients)`` of a scalar function that reads the given leaf tensors.

    Forward and backward pass are recorded as one program, 2.5 times faster than autograd through a jitted forward
    pass on a mixture of 3 components. A matrix without a Cholesky factor gives the value NaN.
    """

    def both(*_: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        with torch.enable_grad():
            value = function()
            gradients = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        return value.detach(), gradients

    program = recorded(both, leaves)

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        try:
            with torch.no_grad():
                if program is both:
                    for leaf, value in zip(leaves, values, strict=True):
                        leaf.copy_(value)
                return program(*values)
        except RuntimeError as error:
            if "linalg" not in str(error):
                raise
            return values[0].new_tensor(torch.nan), tuple(torch.zeros_like(leaf) for leaf in leaves)

    return run


def over_draws(function: Callable[[Tensors], Any], draws: Mapping[str, torch.Tensor], cost: int) -> Any:
    """``function`` of each draw, stacked: many at once under vmap where the model allows it, else one by one.

    :param cost: numbers that one draw works on; at most ``_VMAP_VALUES`` are worked on at once.
    """
    number, draws = len(next(iter(draws.values()))), dict(draws)
    chunk = max(_VMAP_VALUES // max(cost, 1), 1)
    if min(chunk, number) > 1:
        try:
            return torch.func.vmap(function, randomness="different", chunk_size=chunk)(draws)
        except RuntimeError as error:
            if "vmap" not in str(error):  # a model that branches on a value, say, can't be batched
                raise
    results = [function({name: value[i] for name, value in draws.items()}) for i in range(number)]
    return pytree.tree_map(lambda *leaves: torch.stack(leaves), *results)
