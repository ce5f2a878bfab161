"""The sites of a model and which of them depend on which, found by running it on a few rows.

NumPyro's own ``get_model_relations`` follows the arrays through the model. It takes a loop over time steps as one
piece, in which all depends on all; there, each site's log density is looked at while one other site changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer.inspect import get_model_relations

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.family import Pair

FACTOR = "Unit"  # the distribution of a factor site, which is its log density alone
OF_LOOPS = "_scan_current_index"  # what NumPyro's scan marks its sites with


class Site(NamedTuple):
    """A site of a model.

    ``kind``       ``"latent"``, ``"observed"``, ``"factor"``, or ``"parameters"``: arrays that are trained, those that
                   the same sites depend on under one name
    ``parents``    the sites that it depends on, in the model's order; itself, where a step depends on the one before
    ``plates``     those that it is in
    ``holds``      the names of the arrays that one site of parameters stands for
    """

    name: str
    kind: str
    distribution: str = ""
    parents: tuple[str, ...] = ()
    plates: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()


def relations(pair: Pair, view: View) -> list[Site]:
    """The sites in the model's order, parameters first."""
    found = get_model_relations(pair.model, (view,), {})
    arrays_of_model, loop = _listed(pair, view)
    parents = {name: list(names) for name, names in found["sample_sample"].items()}
    if loop:
        parents |= _within_loop(pair, view, loop)
    groups: dict[tuple[str, ...], list[str]] = {}
    for array in arrays_of_model:
        children = tuple(name for name, used in found["sample_param"].items() if array in used)
        if children:
            groups.setdefault(children, []).append(array)
    sites: list[Site] = []
    for children, arrays in groups.items():
        name = arrays[0] if len(arrays) == 1 else _group_name(arrays, [site.name for site in sites])
        sites.append(Site(name, "parameters", holds=tuple(arrays)))
        for child in children:
            parents[child] = [*parents[child], name]
    for name, distribution in found["sample_dist"].items():
        kind = "factor" if distribution == FACTOR else "observed" if name in found["observed"] else "latent"
        plates = tuple(plate for plate, inside in found["plate_sample"].items() if name in inside)
        sites.append(Site(name, kind, distribution, tuple(parents[name]), plates))
    return sites


def _group_name(arrays: list[str], taken: list[str]) -> str:
    """What arrays are called together: what their names begin with, where that says something."""
    first = {array.partition("_")[0] for array in arrays}
    stem = first.pop() if len(first) == 1 else ""
    if not stem or stem[-1].isdigit():
        stem = "trained arrays" if len(arrays) > 2 else " and ".join(arrays)
    number = sum(other.startswith(stem) for other in taken)
    return f"{stem} {number + 1}" if number else stem


def _listed(pair: Pair, view: View) -> tuple[list[str], list[str]]:
    """The arrays of the model, and its sites that are in a loop, in order; found without computing anything."""
    arrays, loop = [], []

    def run() -> int:
        for name, site in _trace(pair, view, 0).items():
            if site["type"] == "param":
                arrays.append(name)
            elif OF_LOOPS in (site.get("infer") or {}):
                loop.append(name)
        return 0

    jax.eval_shape(run)
    return arrays, loop


def _trace(pair: Pair, view: View, seed: int, values: dict[str, Any] | None = None) -> dict[str, Any]:
    model = handlers.substitute(handlers.seed(pair.model, seed), data=values or {})
    return handlers.trace(model).get_trace(view)


def _log_probs(trace: dict[str, Any], names: list[str]) -> dict[str, np.ndarray]:
    return {name: np.asarray(trace[name]["fn"].log_prob(trace[name]["value"])) for name in names}


def _within_loop(pair: Pair, view: View, loop: list[str]) -> dict[str, list[str]]:
    """{site of a loop: its parents}: those whose change changes its log density, all other sites being the same."""
    one, other = _trace(pair, view, 0), _trace(pair, view, 1)
    values = {name: site["value"] for name, site in one.items() if site["type"] in ("sample", "param")}
    latent = [name for name, site in one.items() if site["type"] == "sample" and not site["is_observed"]]
    before = _log_probs(_trace(pair, view, 0, values), loop)
    parents: dict[str, list[str]] = {name: [] for name in loop}
    for parent in latent:
        after = _log_probs(_trace(pair, view, 0, values | {parent: other[parent]["value"]}), loop)
        for name in loop:
            if name != parent and _differ(before[name], after[name]):
                parents[name].append(parent)
    for name in (name for name in loop if name in latent):  # of itself, a step by the one before
        first = np.array(values[name])
        first[0] = np.where(first[0] == 0, 1, 0)
        after = _log_probs(_trace(pair, view, 0, values | {name: jnp.asarray(first)}), [name])
        if _differ(before[name][1:], after[name][1:]):
            parents[name].append(name)
    return parents


def _differ(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape != second.shape or not np.allclose(first, second, rtol=1e-5, atol=1e-6, equal_nan=True)
