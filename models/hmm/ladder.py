"""What a comparison tries of hidden Markov models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppl_gen.candidates import QUICK, Candidate, affordable

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.models.hmm import HMM

SIZES = (1, 2, 3, 4, 5, 6, 8)
EM = {"num_starts": 4, "num_bootstraps": 0}


def candidates(family: type[HMM], data: Data) -> list[Candidate]:
    """A ladder of states for each emission that suits the columns, by EM."""
    real = all(column.kind == "real" for column in data.schema.columns)
    emissions = ["gaussian", "gaussian_full"][: 1 + (data.num_columns > 1)] if real else ["auto"]
    found = []
    for emission in emissions:
        rungs = {size: family(size, emission=emission) for size in SIZES}
        sizes = affordable(data, list(rungs), lambda size: rungs[size].num_free(data.schema))  # noqa: B023
        name = f"{family.name} {emission}" if len(emissions) > 1 else family.name
        ladder = tuple(rungs[size] for size in sizes)
        found.append(Candidate(name, ladder, "em", EM, turn=QUICK, share=2.0, least=0.0))
    return found
