"""Fixtures that every test may use, and the rule that decides which tests need the pyro extra."""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib.util
import inspect
import os
import re
import signal
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before jax or torch is imported: pytest-xdist runs one process per core, and more threads would only fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiling is most of the work here. Without fusion emitters, and with few optimizations, it takes half of the time,
# and the programs run little longer. A user's programs are compiled in full: XLA_FLAGS="" pytest does so here.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_multi_thread_eigen=false --xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0",
)
os.environ.setdefault("MPLBACKEND", "agg")
# The second process, the newer Python and the next run find most of it done.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # some versions log each program that they load from it

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import pandas as pd

# Traces and graphs are many small objects: collecting after each 700 of them, as is the rule, is a tenth of the work.
gc.set_threshold(20_000, 20, 20)

ROOT = Path(__file__).parent.parent
HAS_PYRO = importlib.util.find_spec("pyro") is not None

# The first call of a jitted function compiles, so no example has a fair deadline. "thorough" is for the hunt:
# pytest --hypothesis-profile=thorough
settings.register_profile(
    "ppl_gen", max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", parent=settings.get_profile("ppl_gen"), max_examples=1000, derandomize=False)
settings.load_profile("ppl_gen")

_NEEDS_PYRO = re.compile(r"(?<!num)pyro|\btorch\b|\bBACKENDS\b")


def _imports_pyro(path: Path) -> bool:
    """Whether the module imports torch or pyro at its top level, so that it can't even be collected without them."""
    names: list[str] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return any(name.partition(".")[0] in ("torch", "pyro") for name in names)


PYRO_MODULES = {path.name for path in Path(__file__).parent.glob("test_*.py") if _imports_pyro(path)}
collect_ignore = [] if HAS_PYRO else sorted(PYRO_MODULES)


def _body(function: Callable[..., Any]) -> str:
    """The source of a function without its decorators, which may name backends that this case does not use."""
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return ""
    return "\n".join(ast.unparse(part) for part in getattr(node, "body", ()))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark ``pyro`` on a test whose module imports it, or whose name, parameters or body name it."""
    for item in items:
        source = _body(item.function) if isinstance(item, pytest.Function) else ""
        if item.path.name in PYRO_MODULES or _NEEDS_PYRO.search(item.name) or _NEEDS_PYRO.search(source):
            item.add_marker(pytest.mark.pyro)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """``shared_data("mixtures/iris.csv")``: a file of the shared data, or a skip that says what is absent.

    It lies beside the checkout in ``../shared/data``, or where ``$PPL_GEN_DATA`` says.
    """
    root = Path(os.environ.get("PPL_GEN_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"the shared data has no {name} under {root} (set PPL_GEN_DATA to its folder)")
        return path

    return find


@pytest.fixture(scope="session")
def old_faithful(shared_data: Callable[[str], Path]) -> pd.DataFrame:
    """272 eruptions of Old Faithful: duration and waiting time (minutes)."""
    import pandas as pd

    return pd.read_csv(shared_data("mixtures/old_faithful.csv"))


@pytest.fixture(scope="session")
def iris() -> pd.DataFrame:
    """150 irises, four measurements (cm), as scikit-learn ships them."""
    from sklearn.datasets import load_iris

    return load_iris(as_frame=True).data


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision in JAX, and in torch where it is installed, for one test."""
    import jax

    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        if HAS_PYRO:
            import torch

            before = torch.get_default_dtype()
            stack.callback(torch.set_default_dtype, before)
            torch.set_default_dtype(torch.float64)
        yield


@pytest.fixture(autouse=True)
def _one_figure_at_a_time() -> Iterator[None]:
    """Close the figures that a test left open, where it drew any."""
    yield
    import sys

    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


MAX_MAPPINGS = 30_000  # of memory, of the 65,530 that Linux gives a process by default


@pytest.fixture(autouse=True, scope="module")
def _few_programs_at_a_time() -> Iterator[None]:
    """Forget compiled programs before there are so many that no more memory can be mapped, upon which XLA crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAX_MAPPINGS:
        import jax

        from ppl_gen.family import _build

        _build.cache_clear()
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Sends this process what Ctrl-C sends; heard even where the shell has turned it off, as in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)
