"""Every example runs, and one that is not listed here fails the suite."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = {
    "numpyro_svi": {"num_steps": 300},
    "numpyro_mcmc": {"num_warmup": 100, "num_samples": 50},
    "pyro_svi": {"num_steps": 30},
    "density_with_intervals": {"num_samples": 200},
    "compare_models": {},
    "your_own_guide": {"max_steps": 1000},
    "hmm_states_and_forecast": {"num_warmup": 100, "num_samples": 50},
    "flow_density_with_intervals": {"max_steps": 200},
    "jem_semi_supervised": {"num_steps": 200},
    "use_anomalies": {},
    "use_synthetic_data": {"max_steps": 100},
    "use_features": {"max_steps": 100, "num_splits": 2},
    "use_imputation": {"max_steps": 100, "num_draws": 20},
    "use_conditional_sampling": {"max_steps": 100, "num_draws": 20},
    "use_few_labels": {"max_steps": 100},
    "dask_cluster": {"num_components": (1, 2), "folds": 2},
}
NEEDS = {"dask_cluster": "distributed"}  # beside the package itself


def test_every_example_is_listed() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = module.main(**EXAMPLES[name])
    assert capsys.readouterr().out.strip()
    if isinstance(result, float):
        assert np.isfinite(result)
