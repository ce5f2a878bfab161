"""The pages say what is true: their code runs, their tables are the registry's, their excerpts are the source's."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import typer

import ppl_gen as pg
from ppl_gen import (
    checks,
    checks_adversarial,
    checks_contrastive,
    checks_diffusion,
    checks_energies,
    checks_implicit,
    checks_latents,
    checks_networks,
    checks_sequences,
    checks_surrogates,
    plots,
    plots_pairs,
    scores,
)
from ppl_gen.cli import app, listing
from ppl_gen.cli import options as o
from ppl_gen.family import Pair
from ppl_gen.models.hmm import EMISSIONS, KIND_OF

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
PICTURES = sorted((ROOT / "docs" / "images").glob("*.png"))
OWN = (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
COPY = re.compile(r"<!-- (excerpt|options|printed): .*-->\s*$")  # what docs/blocks.py fills in
PRINTED = re.compile(r"\s*<!-- printed above -->\n```text\n(.*?)```", re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def script(name: str) -> ModuleType:
    """A file of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(path: Path, language: str) -> Iterator[tuple[str, str]]:
    """(code, what is said to be printed by it, or "") of each block that is the page's own and no copy."""
    text = text_of(path)
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if not COPY.search(text[: match.start()]):
            printed = PRINTED.match(text, match.end())
            yield match[1], printed[1] if printed else ""


def rows_of(path: Path, *header: str) -> list[list[str]]:
    """The cells of the table with this header, their links and backquotes taken off."""
    lines = iter(text_of(path).splitlines())
    for line in lines:
        if cells_of(line) == list(header):
            next(lines)
            return [cells_of(row) for row in iter(lambda: next(lines, ""), "")]
    raise LookupError(f"{path.name} has no table {header}")


def cells_of(line: str) -> list[str]:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line).replace("`", "").replace("**", "")
    return [cell.strip() for cell in plain.strip().strip("|").split("|")]


WITH_CODE = [path for path in PAGES if any(blocks(path, "python"))]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the code of each page left behind, once it has been run: {page: names}."""
    return {"": {"__folder": tmp_path_factory.mktemp("pages")}}


def run_page(path: Path, ran: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Run a page's blocks in order, in an empty folder; what one prints must be what the page says that it prints."""
    if name_of(path) in ran:
        return ran[name_of(path)]
    names: dict[str, Any] = {}
    folder = ran[""]["__folder"] / path.stem
    folder.mkdir()
    with contextlib.chdir(folder):
        for code, said in blocks(path, "python"):
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(code, name_of(path), "exec"), names)
            if said:
                assert output.getvalue().rstrip() == said.rstrip()
    ran[name_of(path)] = names
    return names


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_CODE, ids=name_of)
def test_code_runs_and_prints_what_the_page_says(path: Path, ran: dict[str, dict[str, Any]]) -> None:
    assert run_page(path, ran)


def test_the_pages_with_code_are_those_that_should_have_some() -> None:
    pages = ("index", "pair", "densities", "diagnosis", "metrics", "data", "gmm", "hmm", "flow", "autoregressive")
    assert {"README.md", *(f"docs/{page}.md" for page in pages)} <= {name_of(path) for path in WITH_CODE}
    (code,) = [code for code, _ in blocks(README, "python")]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_the_printed_diagnosis_of_the_readme_is_of_its_code(ran: dict[str, dict[str, Any]]) -> None:
    """Figures may differ in their last digits elsewhere; what is asked, of what, and most limits may not."""
    printed = printed_diagnoses()["two components"]
    fresh = str(run_page(README, ran)["fit"].diagnose()).splitlines()
    assert printed[0] == fresh[0]
    assert [line[:30].rsplit("  ", 1)[0].rstrip() for line in check_lines(printed)] == [
        line[:30].rsplit("  ", 1)[0].rstrip() for line in check_lines(fresh)
    ]
    assert printed[-1] == fresh[-1]


def printed_diagnoses() -> dict[str, list[str]]:
    found = re.compile(r"<!-- printed: (.+?) -->\n```text\n(\w+ by .*?)\n```", re.DOTALL)
    return {m[1]: m[2].splitlines() for path in PAGES for m in found.finditer(text_of(path))}


def check_lines(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r"(pass|FAIL|info)  \w", line)]


def test_printed_diagnoses_are_consistent_and_explained() -> None:
    explained = [row[0] for row in rows_of(ROOT / "docs" / "diagnosis.md", "check", "figure", "passes", "source")]
    printed = printed_diagnoses()
    assert {"two components", "one component", "three components", "three filled components"} <= set(printed)
    for lines in printed.values():
        failed = [line for line in check_lines(lines) if line.startswith("FAIL")]
        (verdict,) = [line for line in lines if re.match(r"(PASS|FAIL): ", line)]
        judged = len(check_lines(lines)) - sum(line.startswith("info") for line in check_lines(lines))
        expected = f"PASS: all {judged}" if not failed else f"FAIL: {len(failed)} of {judged}"
        assert verdict.startswith(expected)
        for line in check_lines(lines):
            assert any(line[6:].startswith(name) or line[6:].split(" ESS")[0] in name for name in explained), line


def test_the_thresholds_are_those_of_the_code() -> None:
    rows = {row[0]: row for row in rows_of(ROOT / "docs" / "diagnosis.md", "check", "figure", "passes", "source")}
    figures = {
        "R-hat": f"at most {checks.RHAT}", "bulk ESS": f"at least {checks.ESS_PER_CHAIN} a chain",
        "tail ESS": f"at least {checks.ESS_PER_CHAIN} a chain", "MCSE / sd": f"at most {checks.MCSE_OVER_SD}",
        "divergences": f"at most {checks.DIVERGENT_SHARE:.1%}", "E-BFMI": f"at least {checks.BFMI}",
        "tree depth reached": f"at most {checks.DEEP_SHARE:.0%}", "density k-hat": f"at most {checks.KHAT_SHARE:.0%}",
        "LOO k-hat": f"at most {checks.KHAT_SHARE:.0%}",
        "posterior predictive p": f"at least {checks.P_VALUE}", "LOO-PIT p": f"at least {checks.P_VALUE} / columns",
        "PIT p": f"at least {checks.P_VALUE} / columns",
        "pseudo-residual p": f"at least {checks_sequences.P_VALUE} / columns",
        "broken members": "at most 0", "training gap": f"at most {checks_networks.GAP} nats a column",
        "member disagreement": f"at most {checks_networks.SPREAD_SHARE} of its spread over the rows, or "
        f"{checks_networks.LEAST_SPREAD} nats",
        "calibration p": f"at least {checks_networks.P_VALUE} / columns",
        "independence p": f"at least {checks_networks.P_VALUE} / tests",
        "active units": "at least 1", "posterior collapse": "at most half",
        "ELBO gap": f"at most {checks_latents.GAP} nats a dimension",
        "aggregate posterior p": f"at least {checks_latents.P_VALUE} / members",
        "walk-back R-hat": f"at most {checks.RHAT}", "walk-back bulk ESS": f"at least {checks.ESS_PER_CHAIN} a chain",
        "steps in rarest state": f"at least {checks_sequences.MIN_STEPS:g}",
        "log Z standard error": f"at most {checks_energies.MAX_ERROR} nats",
        "log Z k-hat": f"at most {scores.MAX_KHAT}",
        "AIS effective sample size": f"at least {checks_energies.MIN_ESS}",
        "log Z forward-reverse gap": f"at most 3 standard errors, or {checks_energies.MAX_GAP} nats",
        "model chains R-hat": f"at most {checks.RHAT}",
        "model chains bulk ESS": f"at least {checks.ESS_PER_CHAIN} a chain",
        "diverged members": "at most 0", "negative chains R-hat": f"at most {checks_contrastive.RHAT}",
        "data against samples": f"at most {checks_contrastive.ERRORS:g} standard errors, or {checks_contrastive.GAP}",
        "learnt log Z": f"at most {checks_contrastive.ERRORS:g} standard errors, or {checks_contrastive.GAP}",
        "AIS gap": f"at most {checks_surrogates.GAP:g} nat",
        "mode coverage": "at most 0", "MMD p": f"at least {checks_implicit.P_VALUE}",
        "precision": f"at least that of other rows less {checks_implicit.MARGIN}",
        "recall": f"at least that of other rows less {checks_implicit.MARGIN}",
        "classifier two-sample p": f"at least {checks_implicit.P_VALUE}",
        "copies of rows": f"at least {checks_implicit.COPIES:g}", "collapse": f"at least {checks_implicit.COLLAPSE}",
        "discriminator saturation": f"at most {checks_adversarial.ACCURACY}",
        "prior KL": f"at most {checks_diffusion.PRIOR} nats a number",
        "denoiser calibration": f"at most {checks_diffusion.SLOPE}",
        "linear denoiser": f"at most {checks_networks.GAP} nats a column",
        "denoising gap": f"at most {checks_networks.GAP} nats a column",
        "density against bound": f"at most {checks_networks.GAP} nats a column",
        "Fréchet distance": f"at most {checks_diffusion.FRECHET} a feature",
        "oscillation": f"at most {checks_adversarial.SWING}", "mode hopping": f"at most {checks_adversarial.HOPPING}",
    }  # fmt: skip
    for name, limit in figures.items():
        assert rows[name][2].replace(" %", "%").startswith(limit)
    source = "".join(
        text_of(ROOT / "ppl_gen" / f"{name}.py")
        for name in (
            "checks",
            "checks_adversarial",
            "checks_contrastive",
            "checks_diffusion",
            "checks_energies",
            "checks_implicit",
            "checks_latents",
            "checks_networks",
            "checks_sequences",
            "checks_surrogates",
            "denoising",
        )
    )
    asked = set(re.findall(r'Check(?:\.of)?\(\s*f?"([^"{]+?)(?:, \{what\})?"', source))
    asked |= set(re.findall(r'"((?:LOO-)?PIT p)"', source))
    assert asked == {name for name, row in rows.items() if row[1] and not row[1].startswith("*")}


def test_copies_are_up_to_date() -> None:
    module = script("blocks")
    assert tuple(module.PAGES) == PAGES
    stale = [name_of(path) for path in PAGES if module.filled(text_of(path), {}) != text_of(path)]
    assert not stale, "run: python docs/blocks.py"
    kinds = [m[1] for path in PAGES for m in re.finditer(r"<!-- (excerpt|options|printed): ", text_of(path))]
    assert min(kinds.count("excerpt"), kinds.count("options"), kinds.count("printed")) >= 4


def test_the_readme_tables_are_the_zoo() -> None:
    for frame in (listing.families_frame(), listing.engines_frame()):
        assert rows_of(README, *frame.columns) == frame.astype(str).to_numpy().tolist()


def test_the_readme_names_the_two_commands_and_make_has_them() -> None:
    text, targets = text_of(README), re.findall(r"^([a-z]+):.*##", text_of(ROOT / "Makefile"), re.MULTILINE)
    assert "    make demo " in text
    assert "    make test " in text
    named = {word for path in OWN for word in re.findall(r"(?:^ {4}|`)make ([a-z]+)", text_of(path), re.MULTILINE)}
    assert named <= set(targets)


def headings(path: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("path", OWN, ids=name_of)
def test_links_resolve(path: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", text_of(path), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.is_file(), f"{path.name} links to {target}"
        assert not anchor or anchor in headings(there), f"{path.name} links to {target}"
    named = re.findall(r"`((?:models|inference|examples|tests|ppl_gen|docs|benchmarks)/[\w/.]*)`", prose)
    for name in named if path in PAGES else ():
        assert (ROOT / name).exists(), f"{path.name} names {name}"


def test_every_page_can_be_found() -> None:
    pages = {path.name for path in PAGES[1:]}
    nav = re.findall(r"^  - .+: (\S+\.md)$", text_of(ROOT / "mkdocs.yml"), re.MULTILINE)
    assert sorted(nav) == sorted(pages)
    assert pages == set(re.findall(r"\(docs/([\w-]+\.md)", text_of(README)))


def test_pictures_are_small_and_used() -> None:
    text = "".join(map(text_of, PAGES))
    assert {path.name for path in PICTURES} == set(re.findall(r"images/([\w-]+\.png)", text))
    assert len(PICTURES) >= 6
    assert max(path.stat().st_size for path in PICTURES) < 200_000
    masses = [f"{mass * 100:.0f}" for mass in sorted(plots_pairs.MASSES)]
    assert f"hold {', '.join(masses[:-1])} and {masses[-1]} % of the predictive mass" in " ".join(text.split())


def command_lines() -> list[str]:
    lines = [line for path in OWN for code, _ in blocks(path, "sh") for line in code.splitlines()]
    return sorted({line for line in lines if line.startswith("ppl-gen ")})


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_are_understood(line: str) -> None:
    """Parsed by the command line itself; then families, engines, options and pictures are looked up."""
    group = typer.main.get_command(app)
    with group.make_context("ppl-gen", shlex.split(line)[1:]) as context:
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        with command.make_context(name, rest, parent=context) as inner:
            given = inner.params
    if name == "fit":
        assert o.make_family(given["family"], o.split_settings(given["settings"]))
    if "engine" in given:
        o.make_engine(given["engine"], o.split_settings(given["engine_settings"]), pg.GMM())
    if name == "compare":
        assert len(o.parse_specs(given["specs"] or [])) != 1
    if name == "plot":
        assert set(given["kind"] or ()) <= set(plots.KINDS)
    if name == "zoo" and given["name"]:
        assert listing.find(given["name"])
    if given.get("backend") is not None:
        assert given["backend"] in pg.family.BACKENDS


def test_every_command_has_its_line() -> None:
    shown = [row[0] for row in rows_of(ROOT / "docs" / "command-line.md", "command", "what it does")]
    assert sorted(shown) == sorted(f"ppl-gen {name}" for name in typer.main.get_command(app).commands)


def test_the_hooks_are_those_of_a_pair() -> None:
    named = [row[0] for row in rows_of(ROOT / "docs" / "pair.md", "hook", "what it gives", "asked for by")]
    described = re.findall(r"^``(\w+)``  ", inspect.getdoc(Pair), re.MULTILINE)
    assert sorted(named) == sorted(described)


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_the_sites_of_the_mixture_are_those_of_its_model(covariance: str) -> None:
    from numpyro import handlers

    table = np.random.default_rng(0).normal(size=(20, 3))
    pair = pg.GMM(2, covariance=covariance).pair("numpyro", table)
    trace = handlers.trace(handlers.seed(pair.model, 0)).get_trace(pair.data)
    sites = {name: site["fn"].event_shape for name, site in trace.items() if site["type"] == "sample"}
    said = {}
    for site, where, shape, *_ in rows_of(ROOT / "docs" / "gmm.md", "site", "covariance", "shape", "support", "prior"):
        if where == "all" or covariance in where.split(", "):
            said[site] = eval(shape.partition(", in")[0], {"K": 2, "D": 3})
    assert said == sites


@pytest.mark.parametrize("emission", [e for e in EMISSIONS if e != "auto"])
def test_the_sites_of_the_hidden_markov_model_are_those_of_its_model(emission: str) -> None:
    from numpyro import handlers

    rng = np.random.default_rng(0)
    table = {"count": rng.poisson(5, (20, 3)), "binary": rng.integers(0, 2, (20, 3)), "real": rng.normal(size=(20, 3)),
             "categorical": rng.choice(["a", "b"], 20)}[KIND_OF[emission]]  # fmt: skip
    options = {"num_mixtures": 5} if emission == "mixture" else {}
    pair = pg.HMM(4, emission=emission, **options).pair("numpyro", table)
    trace = handlers.trace(handlers.seed(pair.collapsed, 0)).get_trace(pair.data)
    sites = {name: site["fn"].event_shape for name, site in trace.items() if site["type"] == "sample"}
    sizes = {"K": 4, "D": np.shape(pair.data.x)[-1], "M": 5, "C": 2, "T": 20}
    said = {}
    for site, where, shape, *_ in rows_of(ROOT / "docs" / "hmm.md", "site", "emission", "shape", "support", "prior"):
        if where == "all" or emission in where.split(", "):
            said[site] = eval(shape.partition(", in")[0], sizes)
    assert said == sites


def test_every_emission_has_its_line() -> None:
    rows = rows_of(ROOT / "docs" / "hmm.md", "emission", "a state says of a time step", "columns", "by EM")
    assert {row[0]: row[2] for row in rows} == {**KIND_OF, "auto": "all"}


@pytest.mark.parametrize("family", ["gmm", "hmm", "flow", "autoregressive"])
def test_the_differences_of_the_twins_are_in_their_files(family: str) -> None:
    sources = [text_of(ROOT / "models" / family / f"{backend}_pair.py") for backend in pg.family.BACKENDS]
    rows = rows_of(ROOT / "docs" / f"{family}.md", "", "NumPyro", "Pyro")
    assert len(rows) >= 5
    for _, *cells in rows:
        for source, code in zip(sources, cells, strict=True):
            assert code in source


def test_the_site_names_files_that_are_not_part_of_it() -> None:
    convert = script("site").on_page_markdown
    assert convert("See [Contributing](../CONTRIBUTING.md).") == "See Contributing (`CONTRIBUTING.md`)."
    assert convert("See [Data](data.md#kinds).") == "See [Data](data.md#kinds)."
