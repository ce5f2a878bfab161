"""How far the NumPyro and the Pyro pair of each family differ, in double precision: ``make parity``.

Writes the table of parity.md. A case is a family, a small table and a quick engine; ``ARGS="--only flow"`` measures
some of them, and the others stay as they were.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

import ppl_gen as pg
from ppl_gen import backends
from ppl_gen.family import BACKENDS, Pair

HERE = Path(__file__).parent
PAGE = HERE / "parity.md"
STATE = HERE.parent / "runs" / "parity.json"
NETWORK = pg.SVI(num_members=2, max_steps=60)
FIGURES = ("log_joint", "gradient", "numpyro_to_pyro", "pyro_to_numpyro")


def clusters(num_rows: int = 80) -> pd.DataFrame:
    """Two correlated clusters in units far from 1."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_rows, 2)) @ np.array([[1.0, 0.5], [0.0, 0.8]])
    x[: num_rows // 3] += [4.0, -3.0]
    return pd.DataFrame({"height": 170 + 10 * x[:, 0], "mass": 0.07 + 0.004 * x[:, 1]})


def mixed(num_rows: int = 80) -> pd.DataFrame:
    """Columns of every kind."""
    rng = np.random.default_rng(1)
    numbers = {"u": rng.normal(size=num_rows), "k": rng.poisson(3, num_rows), "b": rng.integers(0, 2, num_rows)}
    return pd.DataFrame(numbers | {"p": rng.choice(["red", "green", "blue"], num_rows)})


def binary(num_rows: int = 80) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(2).integers(0, 2, (num_rows, 5)), columns=list("abcde"))


def visits(kind: str = "real") -> pd.DataFrame:
    """Three sequences of different lengths."""
    rng, lengths = np.random.default_rng(3), (20, 12, 16)
    frame = pd.DataFrame({"who": np.repeat(list("abc"), lengths)})
    state = np.cumsum(rng.random(sum(lengths)) < 0.15) % 2
    if kind == "real":
        return frame.assign(height=170 + 10 * (rng.normal(size=len(frame)) + 4 * state))
    return frame.assign(quakes=rng.poisson(np.where(state, 30, 8)))


@dataclasses.dataclass(frozen=True)
class Case:
    family: pg.Family
    table: Callable[[], pd.DataFrame]
    engine: pg.Engine

    def data(self) -> pg.Data:
        options = {"sequence": "who"} if self.family.sequences or "who" in self.table() else {}
        return self.family.prepare(self.table(), **options)


def cases() -> dict[str, Case]:
    """At least one of each family."""
    em = pg.EM(num_starts=2, num_bootstraps=0)
    contrastive = pg.Contrastive(num_members=1, max_steps=60, batch_size=32)
    adversarial = pg.Adversarial(num_members=1, max_steps=60, batch_size=32, ratio_steps=30)
    small = {"latent_dim": 2, "generator_hidden": (8,), "discriminator_hidden": (8,), "observation_sd": 0.3}
    return {
        "gmm, full": Case(pg.GMM(2), clusters, em),
        "gmm, diag": Case(pg.GMM(2, covariance="diag"), clusters, em),
        "hmm, gaussian": Case(pg.HMM(2), visits, em),
        "hmm, poisson": Case(pg.HMM(2, emission="poisson"), lambda: visits("count"), em),
        "flow, realnvp": Case(pg.Flow("realnvp", num_layers=2, hidden=(8,)), clusters, NETWORK),
        "flow, nsf": Case(pg.Flow("nsf", num_layers=2, hidden=(8,), num_bins=3), clusters, NETWORK),
        "flow, maf": Case(pg.Flow("maf", num_layers=2, hidden=(8,)), clusters, NETWORK),
        "autoregressive, made": Case(pg.Autoregressive(hidden=(8,)), mixed, NETWORK),
        "vae": Case(pg.VAE(latent_dim=2, hidden=(8,)), mixed, NETWORK),
        "dae": Case(pg.DenoisingAutoencoder(hidden=(8,), num_chains=2, num_states=16, num_warmup=20), mixed, NETWORK),
        "diffusion": Case(pg.Diffusion(hidden=(8,)), clusters, NETWORK),
        "rbm": Case(pg.RBM(4), binary, contrastive),
        "ebm": Case(pg.EBM(hidden=(8,)), clusters, contrastive),
        "gan": Case(pg.GAN(**small), clusters, adversarial),
    }


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """In both libraries, for a while."""
    import jax
    import torch

    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with jax.enable_x64(True):
            yield
    finally:
        torch.set_default_dtype(before)


def values_of(pair: Pair) -> dict[str, np.ndarray]:
    """Where the two are compared: the start of the NumPyro pair, in unconstrained space; or weights of networks,
    moved at random, and local latents drawn."""
    rng, found = np.random.default_rng(4), {}
    assert pair.initialize is not None
    for name, stack in pair.initialize(pair.data, 0, 1).items():
        value = np.asarray(stack[0])
        moved = pair.has_weights and value.ndim and name != "chain" and np.issubdtype(value.dtype, np.floating)
        found[name] = value + 0.1 * rng.normal(size=value.shape) if moved else value
    sites = pair.local or (("z",) if pair.generate is not None else ())
    if not pair.has_weights:
        from ppl_gen.backends.numpyro_chains import to_unconstrained

        return {name: np.asarray(value) for name, value in to_unconstrained(pair, pair.data, found).items()}
    batched = {name: value[None] for name, value in found.items()}
    width = backends.ops(pair.backend).local_size(pair, batched, pair.data) if pair.local else pair.latent_size
    return found | {name: rng.normal(size=(len(pair.data.x), width)) for name in sites}


def numpyro_gradient(pair: Pair, values: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
    """log p(theta, z, x), its discrete latents summed out, and its gradient by every site: of weights as they are, of
    other parameters in unconstrained space, Jacobians included."""
    import jax

    from ppl_gen.backends.numpyro_ops import as_jax, log_density_fn, log_joint_fn

    total = log_joint_fn(pair) if pair.has_weights else log_density_fn(pair)
    value, gradient = jax.jit(jax.value_and_grad(lambda at: total(at, pair.data)))(as_jax(values))
    return float(value), {name: np.asarray(part) for name, part in gradient.items()}


def pyro_gradient(pair: Pair, values: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
    """The same."""
    import torch

    from ppl_gen.backends.pyro_ops import as_tensor, log_density, sandbox
    from ppl_gen.backends.pyro_unconstrained import Unconstrained

    leaves = {name: as_tensor(value).clone().requires_grad_() for name, value in values.items()}
    with sandbox(0):
        if pair.has_weights:
            value = log_density(pair, leaves, pair.data)
        else:
            space = Unconstrained(pair, pair.data)
            value = space.log_density(torch.cat([leaves[name].flatten() for name in space.transforms]), pair.data)
        parts = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return float(value), {name: part.numpy() for name, part in zip(leaves, parts, strict=True)}


def measure(case: Case) -> dict[str, float]:
    """The largest difference of log joints (nats), of gradients (over the largest entry of each site's, or 1), and of
    the scores (nats) of a fit of each backend under the other."""
    with double_precision(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        data = case.data()
        pairs = [case.family.build(backend, data.schema, len(data), data.view(backend)) for backend in BACKENDS]
        values = values_of(pairs[0])
        (one, ours), (other, theirs) = numpyro_gradient(pairs[0], values), pyro_gradient(pairs[1], values)
        names = ours.keys() - {"chain"}  # states, no parameters: nothing is trained by their gradient
        apart = [np.max(np.abs(ours[n] - theirs[n]), initial=0.0) / np.max(np.abs(ours[n]), initial=1.0) for n in names]
        found = {"log_joint": abs(one - other), "gradient": float(max(apart))}
        options = {"surrogate": "log_ratio"} if case.family.density == "implicit" else {}
        for here, there in (BACKENDS, BACKENDS[::-1]):
            fit = pg.fit(case.family, data, engine=case.engine, backend=here, seed=1)
            path = fit.save(Path(folder) / here) or Path(folder) / here
            scores = [
                each.score(data, p_values=False, **options).log_predictive
                for each in (fit, pg.load(path, backend=there))
            ]
            found[f"{here}_to_{there}"] = float(np.abs(scores[0] - scores[1]).max())
    return found


def write(found: Mapping[str, Mapping[str, float]]) -> None:
    """The table of the cases that are measured."""
    sys.path.insert(0, str(HERE))
    from tables import put, table

    names = ("numpyro", "jax", "pyro-ppl", "torch")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    header = ("case", "log joint", "gradient", "NumPyro's fit in Pyro", "Pyro's fit in NumPyro")
    rows = [
        (name, *(f"{row[figure]:.0e}" if row[figure] else "0" for figure in FIGURES)) for name, row in found.items()
    ]
    put(PAGE, "parity", f"Measured {time.strftime('%Y-%m-%d')} with {versions}.\n\n{table(header, rows)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose names begin so")
    only = parser.parse_args().only
    found = json.loads(STATE.read_text(encoding="utf-8")) if STATE.exists() else {}
    for name, case in cases().items():
        if re.match(re.escape(only), name):
            found[name] = measure(case)
            print(name, *(f"{figure} {value:.1e}" for figure, value in found[name].items()), sep="  ", flush=True)
            STATE.parent.mkdir(exist_ok=True)
            STATE.write_text(json.dumps(found), encoding="utf-8")
    write({name: found[name] for name in cases() if name in found})


if __name__ == "__main__":
    main()
