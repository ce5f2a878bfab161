"""ppl_gen: generative models as model/guide pairs in NumPyro and Pyro, fitted, scored and diagnosed on your table.

>>> import ppl_gen as pg
>>> fit = pg.fit(pg.GMM(num_components=3), df)
>>> fit.diagnose(); fit.score(df_new); fit.sample(1000)
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# In a checkout, models/ and inference/ stand beside this folder; installed, they are inside it.
if not (Path(__file__).parent / "models").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

_WHERE = {
    "fit": "fit", "load": "storage", "compare": "compare", "Comparison": "compare", "Data": "data",
    "Schema": "data", "Family": "family", "Pair": "family", "Engine": "engine", "Draws": "engine",
    "Fit": "result", "AIS": "normalizer", "SMC": "normalizer", "Score": "scores", "Sampler": "samplers",
    "NoisyClassifier": "noisy_classifier", "evaluate_synthetic": "synthetic",
    "sweep": "sweeps", "restarts": "sweeps", "Restarts": "sweeps",
    "chains": "chains", "Tempered": "chains", "Diagnosis": "diagnostics", "families": "registry", "engines": "registry",
    "PPLGenError": "errors", "DataError": "errors", "SettingError": "errors", "StorageError": "errors",
    "FitError": "errors", "MissingExtraError": "errors", "UnsupportedError": "errors",
}  # fmt: skip
_SUBMODULES = ("plots", "metrics", "models", "inference", "report")


def __getattr__(name: str) -> Any:
    """Public names load on first use, so that ``import ppl_gen`` stays light."""
    import importlib.util

    if name in _SUBMODULES:
        return importlib.import_module(f"ppl_gen.{name}")
    if name in _WHERE:
        return getattr(importlib.import_module(f"ppl_gen.{_WHERE[name]}"), name)
    if not name.startswith("_") and importlib.util.find_spec(f"ppl_gen.{name}") is None:
        registry = importlib.import_module("ppl_gen.registry")
        for cls in (*registry.families().values(), *registry.engines().values()):
            module = importlib.import_module(cls.__module__)
            if name in getattr(module, "__all__", ()):
                return getattr(module, name)
    raise AttributeError(f"module 'ppl_gen' has no attribute {name!r}")


class _Package(types.ModuleType):
    """Keeps ``ppl_gen.fit`` and ``ppl_gen.compare`` the functions once the modules of the same name are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _WHERE and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    from ppl_gen import registry

    found = {c.__name__ for c in (*registry.families().values(), *registry.engines().values())}
    return sorted({*_WHERE, *_SUBMODULES, *found, "__version__"})
