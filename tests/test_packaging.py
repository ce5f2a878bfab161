"""What is installed, what it costs to import, who imports whom; and that each folder has its files and signatures."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ppl_gen

ROOT = Path(__file__).parent.parent
SOURCES = {"ppl_gen": "ppl_gen", "ppl_gen.models": "models", "ppl_gen.inference": "inference"}
BACKENDS = ("numpyro", "pyro")

# All that a family or an engine may know of ppl_gen, beside the other files of its own side.
CONTRACTS = {
    "adversary", "backends", "candidates", "conditionals", "data", "engine", "errors", "family", "labels",
    "network_family", "networks", "noising", "noising_bound", "normalizer", "pair", "probability_flow", "progress",
    "registry", "runge_kutta", "schema", "settings", "view",
}  # fmt: skip
# What may name a family or an engine: fit brings them together, the demonstration does what a user would.
TOGETHER = {"fit", "demo"}
# Hands each backend its arrays, so it knows both libraries; it imports them when it is asked for such arrays.
BOTH_BACKENDS = "ppl_gen.view"  # makes the arrays of either


def modules() -> dict[str, Path]:
    """{dotted name: file} of every module that is installed."""
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(p for p in parts if p != "__init__")))] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """The dotted name of all that a file imports, at its top or in a function; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def folders(side: str) -> list[Path]:
    """The folders of the families (``models``) or engines (``inference``)."""
    return [path for path in sorted((ROOT / side).iterdir()) if path.is_dir() and not path.name.startswith("_")]


def signature(path: Path, name: str) -> str:
    """The text of a top-level function's parameter names and what it returns, without their defaults."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            parameters = ", ".join(a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))
            return f"({parameters}) -> {ast.unparse(node.returns) if node.returns else None}"
    pytest.fail(f"{path} has no function {name}")


def test_the_package_list_is_the_folders_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    monkeypatch.setattr("setuptools.setup", lambda **options: listed.extend(options["packages"]))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    assert sorted(listed) == sorted({name for name, path in MODULES.items() if path.name == "__init__.py"})
    python_folders = {path.parent for folder in SOURCES.values() for path in (ROOT / folder).rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in python_folders)


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("module", ["ppl_gen", "ppl_gen.cli"])
def test_import_is_quick_and_light(module: str) -> None:
    """Under 0.3 s of processor time, the quickest of five, since other tests run beside this one; neither jax nor
    torch. The command line adds typer, which itself takes a third of that."""
    code = (
        f"import sys, time; start = time.process_time(); import {module}; print(time.process_time() - start);"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    outputs = [run_python(code).splitlines() for _ in range(5)]
    assert not {"jax", "numpyro", "torch", "pyro", "arviz"} & set(outputs[0][1].split())
    assert min(float(lines[0]) for lines in outputs) < (0.3 if module == "ppl_gen" else 0.6)


def test_imports_run_one_way() -> None:
    wrong = []
    for name, path in MODULES.items():
        for imported in imports(path):
            if not within(imported, "ppl_gen"):
                continue
            part = imported.split(".")[1] if "." in imported else ""
            side = next((s for s in ("models", "inference") if within(name, f"ppl_gen.{s}")), None)
            if side is not None:
                allowed = part == side or part in CONTRACTS
            else:
                allowed = part not in ("models", "inference") or name.split(".")[1] in TOGETHER
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {imported}")
    assert not wrong


def test_each_library_is_imported_where_it_belongs() -> None:
    wrong = []
    for name, path in MODULES.items():
        twin = "pyro" if re.search(r"(?<!num)pyro", path.stem) else "numpyro" if "numpyro" in path.stem else None
        for imported in imports(path):
            library = imported.partition(".")[0]
            banned = library in ("models", "inference", "pickle") or (
                (library in ("torch", "pyro") and twin != "pyro" and name != BOTH_BACKENDS)
                or (library in ("jax", "numpyro", "blackjax", "funsor", "optax") and twin == "pyro")
                or (library.startswith("arviz") and name != "ppl_gen.arviz_bridge")
            )
            if banned:
                wrong.append(f"{path.relative_to(ROOT)} imports {imported}")
    assert not wrong


def test_no_file_shadows_a_library() -> None:
    libraries = {"numpyro", "pyro", "jax", "torch", "arviz", "blackjax"}
    assert not [path for path in MODULES.values() if path.stem in libraries]


def test_every_folder_is_a_family_or_an_engine_with_both_twins() -> None:
    from ppl_gen import registry

    assert sorted(registry.families()) == [folder.name for folder in folders("models")]
    assert sorted(registry.engines()) == [folder.name for folder in folders("inference")]
    for family in registry.families().values():
        assert set(family.engines) <= set(registry.engines())
    for folder in folders("models"):
        assert all((folder / f"{backend}_pair.py").is_file() for backend in BACKENDS), folder.name
    for folder in folders("inference"):
        assert all((folder / f"{backend}_engine.py").is_file() for backend in BACKENDS), folder.name


def test_signatures_are_the_same_everywhere() -> None:
    for folder in folders("models"):
        for backend in BACKENDS:
            assert signature(folder / f"{backend}_pair.py", "build_pair") == "(family, schema, num_obs) -> Pair"
    for folder in folders("inference"):
        for backend in BACKENDS:
            expected = "(pair, data, settings, seed, monitor) -> Draws"
            assert signature(folder / f"{backend}_engine.py", "run") == expected
    for function in ("log_prob", "sample_rows", "local_posterior", "log_joint"):
        one, other = (signature(ROOT / "ppl_gen" / "backends" / f"{b}_ops.py", function) for b in BACKENDS)
        assert one == other


def test_a_missing_extra_is_one_line_that_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['pyro'] = None\n"
        "from ppl_gen import errors, registry\n"
        "for found, what in ((registry.families(), 'pair'), (registry.engines(), 'engine')):\n"
        "    for cls in found.values():\n"
        "        try:\n"
        "            registry.import_backend(cls.__module__, f'pyro_{what}', 'pyro')\n"
        "        except errors.MissingExtraError as error:\n"
        "            print(error)\n"
    )
    lines = run_python(code).splitlines()
    assert len(lines) == len(folders("models")) + len(folders("inference"))
    assert all(line.endswith("pip install 'ppl_gen[pyro]'") for line in lines)


def test_every_family_is_in_the_table_of_the_property_tests() -> None:
    from zoo import CASES, SEQUENCE_CASES

    cases = (CASES | SEQUENCE_CASES).values()
    assert {case.family.name for case in cases} == {folder.name for folder in folders("models")}


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == ppl_gen.__version__
