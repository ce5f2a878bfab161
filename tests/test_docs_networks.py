"""The pages of networks say what is true: their weights, their kinds of layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpyro import handlers
from test_docs import ROOT, rows_of

import ppl_gen as pg
from ppl_gen.models.flow import BASES, TRANSFORMS
from ppl_gen.models.flow.architecture import SPLINES

PAGE = ROOT / "docs" / "flow.md"
NETWORKS = [pg.Flow(transform, base=base) for transform in TRANSFORMS for base in BASES]
NETWORKS += [pg.Autoregressive(), pg.Autoregressive("causal_conv")]


def words_of(family: pg.Family) -> set[str]:
    """What a table of weights calls it by."""
    return {getattr(family, name) for name in ("transform", "base", "network") if hasattr(family, name)}


@pytest.mark.parametrize("family", NETWORKS, ids=lambda family: "-".join(sorted(words_of(family))))
def test_the_weights_of_a_network_are_those_of_its_model(family: pg.Family) -> None:
    """Of three columns; of an autoregressive network one holds counts. Hidden layers of widths 5 and 5."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=60), "b": rng.normal(size=60), "c": rng.poisson(3, 60)})
    kinds = {"c": "real"} if family.name == "flow" else {}
    pair = family.replace(hidden=(5, 5)).pair("numpyro", table, kinds=kinds)
    sizes = {"D": 3, "C": 0, "H": 5, "M": 8, "real": 2, "counts": 1, "I": 3, "O": 3 * 3 * 8}
    if family.name == "flow":
        sizes |= {"L": family.size, "P": family.parameters_per_column}
    else:
        sizes |= {"R": family.channels, "k": family.kernel_size, "L": family.num_layers * family.num_stacks}
    said, words = {}, {"all", "real columns", "counts"} | words_of(family)
    for weight, where, shape, _ in rows_of(ROOT / "docs" / f"{family.name}.md", "weight", "with", "shape", "start"):
        if words & set(where.split(", ")):
            said[weight] = eval(shape, dict(sizes))
    trace = handlers.trace(handlers.seed(pair.model, 0)).get_trace(pair.data)
    assert said == {name: np.shape(site["value"]) for name, site in trace.items() if site["type"] == "param"}


def test_every_kind_of_layer_and_base_has_its_line() -> None:
    rows = rows_of(PAGE, "transform", "map", "each column is changed as told by", "scoring and fitting", "drawing")
    assert {row[0] for row in rows} == set(TRANSFORMS)
    assert {row[0] for row in rows if row[1] == "spline"} == set(SPLINES)
    assert {row[0] for row in rows_of(PAGE, "base", "density of u", "weights")} == set(BASES)
