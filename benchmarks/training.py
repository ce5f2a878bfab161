"""How long training takes beside a loop by hand: windows of an ensemble, and jobs that take turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from common import seconds

BACKENDS = {"jax": "numpyro", "torch": "pyro"}
Job = Callable[[], Any]


def windows(pair: Any, settings: Any) -> tuple[Job, Callable[[], dict], int]:
    """A call that trains the members of an ensemble on by one window, their weights, and the steps of a window."""
    from ppl_gen.inference.svi.ensemble import Split, without_idle

    members, rate = settings.num_members, settings.rate_of_weights
    split = Split.of(len(pair.data.x), settings, 0)
    start, idle = without_idle(pair, pair.initialize(pair.data, 0, members), pair.data)
    if pair.backend == "numpyro":
        import jax
        import jax.numpy as jnp

        from ppl_gen.backends.numpyro_programs import one_per_core
        from ppl_gen.inference.svi.numpyro_ensemble import _Program

        program = _Program(pair, settings, split)
        fixed = {n: jnp.asarray(v[0], float) for n, v in idle.items()}
        keys = jax.random.split(jax.random.key(0), members)
        states = [program.begin({n: jnp.asarray(v[i], float) for n, v in start.items()}, keys[i], fixed)
                  for i in range(members)]  # fmt: skip
        train, none, rates = jnp.asarray(split.train), jnp.asarray(split.validation), [jnp.asarray(rate)] * members

        def window() -> None:
            found = one_per_core(program.window, states, rates, train, none, [pair.data] * members)
            states[:] = [state for state, _ in jax.block_until_ready(found)]

        def kept() -> dict:
            return {n: np.stack([np.asarray(state["mean"][n]) for state in states]) for n in start} | idle

        return window, kept, split.steps
    import torch

    from ppl_gen.backends.pyro_programs import sandbox
    from ppl_gen.inference.svi import pyro_ensemble

    program = pyro_ensemble._Program(pair, settings, start)
    program.hold(idle)
    state, train = pyro_ensemble._State(program.flatten(start), settings), torch.as_tensor(split.train)

    def torch_window() -> None:
        with sandbox(0, threads=pyro_ensemble.threads_for(pair, start, split.batch_size)):
            pyro_ensemble._window(program, state, np.full(members, rate), split, train, pair.data)

    return torch_window, lambda: {n: v.numpy() for n, v in program.unflatten(state.mean).items()} | idle, split.steps


def in_turn(jobs: dict[str, Job], turns: int) -> dict[str, float]:
    """Median seconds of each job, after one run of each that is not counted."""
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(turns):
        for name, job in jobs.items():
            times[name].append(seconds(job)[0])
    return {name: float(np.median(taken)) for name, taken in times.items()}
