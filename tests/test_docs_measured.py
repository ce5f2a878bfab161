"""The tables that are measured by a command name every family; and a line of the table of parity, measured again."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ppl_gen import registry

DOCS = Path(__file__).parent.parent / "docs"
POSTERIORS = {"nuts", "hmc", "svi", "sgld", "sghmc"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """A file of docs/ as a module, as when it is run there."""
    monkeypatch.syspath_prepend(str(DOCS))

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def made(page: str, name: str) -> list[list[str]]:
    """The rows of a table that a program made."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    (part,) = re.findall(rf"<!-- made: {name} -->\n(.*?)<!-- end: {name} -->", text, re.DOTALL)
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_of_parity_has_every_family_and_its_bounds() -> None:
    """Sums of a hundred terms in another order differ by 1e-14 of them; solvers of differential equations by more."""
    rows = made("parity", "parity")
    assert {row[0].partition(",")[0] for row in rows} == set(registry.families())
    for name, *figures in rows:
        assert max(map(float, figures)) < (1e-6 if name == "diffusion" else 1e-9), name


def test_a_line_of_the_table_of_parity_comes_out_again(script) -> None:
    pytest.importorskip("pyro")
    module = script("make_parity")
    assert {case.family.name for case in module.cases().values()} == set(registry.families())
    found = module.measure(module.cases()["gmm, diag"])
    assert max(found.values()) < 1e-9


def test_every_family_and_engine_that_claims_a_posterior_is_calibrated(script) -> None:
    pytest.importorskip("pyro")
    cases = list(script("make_calibration").cases())
    found = {(case.family.name, case.engine.name) for case in cases}
    for name, family in registry.families().items():
        claims = POSTERIORS & set(family.engines)
        if name in ("gmm", "hmm") or hasattr(family, "bayesian"):
            claims -= {"svi"} if name == "vae" else set()  # which svi fits as an ensemble only
            assert {engine for who, engine in found if who == name} == claims
    assert {case.backend for case in cases} == {"numpyro", "pyro"}
    listed = [(row[0], row[1], row[2]) for row in made("calibration", "calibration")]
    assert listed == [(case.family.name, case.label, case.backend) for case in cases]


def test_the_table_of_coverage_has_every_family(script) -> None:
    module = script("coverage_cases")
    assert {case.family.name for case in module.cases().values()} == set(registry.families())
    assert [row[0] for row in made("calibration", "coverage")] == list(module.cases())


def test_truths_are_densities_of_what_is_drawn(script) -> None:
    """Under a truth the mean of q / p is 1 for any density q: here q is p moved by 0.1. The mean
    is within five standard errors. Probabilities of binary columns sum to 1."""
    module, rng = script("coverage_cases"), np.random.default_rng(0)
    for truth in (module.MIXTURE, module.ONE, module.CHAIN):
        rows = truth.draw(rng, 4000)
        moved = rows.assign(**{name: rows[name] + 0.1 for name in rows if name != "who"})
        ratio = np.exp(truth.log_prob(moved) - truth.log_prob(rows))
        assert abs(ratio.mean() - 1) < 5 * ratio.std() / len(ratio) ** 0.5
    every = np.stack(np.meshgrid(*[[0, 1]] * 5, indexing="ij"), -1).reshape(-1, 5)
    frame = module.draw_classes(rng, 3).iloc[:0].reindex(range(32))
    frame[:] = every
    assert np.exp(module.log_classes(frame)).sum() == pytest.approx(1.0)


def test_coverage_is_counted_where_the_answer_is_plain(script) -> None:
    """A normal fitted by EM to 300 rows of one: the bootstrap's 90 % intervals hold log p(x) of 70 to 100 % of rows in
    the mean over two tables, and the error is far below a nat."""
    import ppl_gen as pg

    module = script("coverage_cases")
    case = module.Case(pg.GMM(1), pg.EM(num_starts=1, num_bootstraps=40), module.ONE)
    module.cases = lambda: {"toy": case}
    found = [module.replicate("toy", 0, i) for i in range(2)]
    assert 0.7 <= np.mean([each["inside"] for each in found]) <= 1.0
    assert max(each["error"] for each in found) < 0.2
    assert module.verdict(0.9, 0.02) == module.verdict(0.87, 0.02) == "as said"
    assert module.verdict(0.8, 0.02) == "covers too little"
    assert module.verdict(0.99, 0.02) == "covers too much"
