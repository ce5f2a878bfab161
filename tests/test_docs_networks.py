"""The pages of networks say what is true: their weights, their kinds of layer."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd
import pytest
from numpyro import handlers
from test_docs import ROOT, rows_of

import ppl_gen as pg
from ppl_gen.models.flow import BASES, TRANSFORMS
from ppl_gen.models.flow.architecture import SPLINES

PAGE = ROOT / "docs" / "flow.md"
NETWORKS = [pg.Flow(transform) for transform in TRANSFORMS] + [pg.Flow("maf", base=base) for base in BASES[1:]]
NETWORKS += [pg.Autoregressive(), pg.Autoregressive("causal_conv"), pg.Autoregressive("pixelcnn")]


def words_of(family: pg.Family) -> set[str]:
    """What a table of weights calls it by."""
    return {getattr(family, name) for name in ("transform", "base", "network") if hasattr(family, name)}


@pytest.mark.parametrize("family", NETWORKS, ids=lambda family: "-".join(sorted(words_of(family))))
def test_the_weights_of_a_network_are_those_of_its_model(family: pg.Family) -> None:
    """Of three columns, of which one holds counts in an autoregressive network, all three in pixels. Hidden layers of
    widths 5 and 5."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=60), "b": rng.normal(size=60), "c": rng.poisson(3, 60)})
    options = {"kinds": {"c": "real"}} if family.name == "flow" else {}
    options |= {"sequence": "who"} if family.sequences else {}
    table = table.assign(who=np.arange(60) % 2) if family.sequences else table
    pixels = getattr(family, "network", "") == "pixelcnn"
    table = rng.integers(0, 256, (60, 2, 2, 3)) if pixels else table
    pair = family.replace(hidden=(5, 5)).pair("numpyro", table, **options)
    sizes = {"D": 3, "C": 0, "H": 5, "M": 8, "real": 2, "counts": 3 if pixels else 1, "I": 3, "O": 3 * 3 * 8}
    if family.name == "flow":
        sizes |= {"L": family.size, "P": family.parameters_per_column}
    else:
        sizes |= {"R": family.channels, "k": family.kernel_size, "L": family.num_layers * family.num_stacks}
    said, words = {}, {"all", "counts"} | words_of(family) | (set() if pixels else {"real columns"})
    for weight, where, shape, _ in rows_of(ROOT / "docs" / f"{family.name}.md", "weight", "with", "shape", "start"):
        if words & set(where.split(", ")):
            said[weight] = eval(shape, dict(sizes))

    def weights() -> dict[str, jax.Array]:
        trace = handlers.trace(handlers.seed(pair.model, 0)).get_trace(pair.data)
        return {name: site["value"] for name, site in trace.items() if site["type"] == "param"}

    assert said == {name: value.shape for name, value in jax.eval_shape(weights).items()}


def test_every_kind_of_layer_and_base_has_its_line() -> None:
    rows = rows_of(PAGE, "transform", "map", "each column is changed as told by", "scoring and fitting", "drawing")
    assert {row[0] for row in rows} == set(TRANSFORMS)
    assert {row[0] for row in rows if row[1] == "spline"} == set(SPLINES)
    assert {row[0] for row in rows_of(PAGE, "base", "density of u", "weights")} == set(BASES)
