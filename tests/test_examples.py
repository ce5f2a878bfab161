"""Every example runs, and one that is not listed here fails the suite."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = {
    "numpyro_svi": {"num_steps": 100},
    "numpyro_mcmc": {"num_warmup": 30, "num_samples": 20},
    "pyro_svi": {"num_steps": 30},
    "density_with_intervals": {"num_samples": 200},
    "compare_models": {},
    "your_own_guide": {"max_steps": 1000},
    "hmm_states_and_forecast": {"num_warmup": 50, "num_samples": 30, "num_hours": 120},
    "flow_density_with_intervals": {"max_steps": 200},
    "jem_semi_supervised": {"num_steps": 50, "num_rows": 100, "hidden": 8, "num_particles": 128},
    "use_anomalies": {},
    "use_synthetic_data": {"max_steps": 100},
    "use_features": {"max_steps": 100, "num_splits": 2},
    "use_imputation": {"max_steps": 100, "num_draws": 20},
    "use_conditional_sampling": {"max_steps": 100, "num_draws": 20},
    "use_few_labels": {"max_steps": 100},
    "gmm_clusters_and_doubt": {"num_bootstraps": 16},
    "autoregressive_mislabelled_rows": {"max_steps": 100, "num_members": 1},
    "vae_missing_entries": {"max_steps": 50, "num_draws": 5, "num_members": 1},
    "dae_way_to_the_data": {"max_steps": 50, "num_states": 8, "num_members": 1},
    "diffusion_rows_on_demand": {"max_steps": 50, "num_samples": 20, "num_members": 1},
    "rbm_binary_digits": {"num_hidden": 8, "max_steps": 50, "num_rows": 300},
    "ebm_energy_and_normalizer": {"max_steps": 50, "num_particles": 128},
    "gan_synthetic_rows": {"max_steps": 50, "ratio_steps": 50},
    "dask_cluster": {"num_components": (1,), "folds": 2},
}
NEEDS = {"dask_cluster": "distributed"}  # beside the package itself


def test_every_example_is_listed() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(EXAMPLES)


def test_every_family_has_one_and_the_pages_name_them_all() -> None:
    from ppl_gen import registry

    assert {name.partition("_")[0] for name in EXAMPLES} >= set(registry.families())
    text = "".join((FOLDER.parent / "docs" / page).read_text(encoding="utf-8") for page in ("index.md", "uses.md"))
    assert set(re.findall(r"`examples/(\w+)\.py`", text)) == set(EXAMPLES)


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
