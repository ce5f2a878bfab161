"""What the ArviZ object of a fit holds, as xarray Datasets by group, and the file of it: without ArviZ, whose import
takes longer than a small fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ppl_gen.result import Fit

MAX_VALUES = 20_000_000  # draws x rows of log_likelihood that the ArviZ object keeps (80 MB in float32)
COLUMN = "column_name"  # the dimension of the table's columns; 1.x's plots keep "column" for their own grid


def groups(fit: Fit) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the ArviZ object holds, as xarray Datasets by group, and its attributes.

    Groups: ``posterior`` in original units where the family can say so, ``sample_stats``, ``log_likelihood`` (``x``:
    chain, draw, obs; nats, original units), ``posterior_predictive`` (whole replicated tables under some of the
    draws) and ``observed_data`` in original units. Where draws times rows would exceed :data:`MAX_VALUES`,
    log_likelihood holds a random subset of the rows: its ``obs`` coordinate says which, the attributes how many. An
    implicit density has none.
    """
    from ppl_gen.evidence import Evidence, draws_of_log_prob, random_rows

    evidence = Evidence.of(fit)
    size = fit.draws.num_chains * fit.draws.num_draws
    entries = 1 if fit.schema.image is None else fit.schema.num_columns
    rows = random_rows(len(fit.train), max(1, MAX_VALUES // (size * entries)), fit.seed)
    same = np.array_equal(rows, evidence.rows)
    posterior = fit.family.to_original(fit.draws.posterior, fit.schema)
    arrays = {
        "posterior": {name: np.asarray(value) for name, value in posterior.items()},
        "sample_stats": {name: np.asarray(value) for name, value in fit.draws.sample_stats.items()},
        "log_likelihood": {},
        "posterior_predictive": {"x": evidence.in_original_units(evidence.replicates)},
        "observed_data": {"x": evidence.in_original_units(evidence.observed)},
    }
    if fit.pair.generate is None:  # else there is no likelihood: surrogates of it take long
        values = evidence.log_likelihood if same else draws_of_log_prob(fit, rows)
        arrays["log_likelihood"]["x"] = values.astype(np.float32)
    row_dims = ["obs" if fit.train.lengths is None else "step", COLUMN]
    dims = {"log_likelihood": {"x": ["obs"]}, "posterior_predictive": {"x": row_dims}, "observed_data": {"x": row_dims}}
    renamed = {"column": COLUMN}
    dims["posterior"] = {
        site: [renamed.get(name, name) for name in names] for site, names in fit.family.site_dims().items()
    }
    columns = list(fit.schema.targets)
    coords: dict[str, Any] = {COLUMN: columns, "column_other": columns}
    obs = {"log_likelihood": rows, "posterior_predictive": evidence.rows, "observed_data": evidence.rows}
    named = [
        "condition",
        *(f"{kind}_column" for kind in fit.schema.kinds),
        *(f"category_{j}" for j in range(len(columns))),
    ]
    coords |= {axis: fit.schema.axis_names(axis) for axis in named}
    coords["step"] = range(len(evidence.observed))
    datasets = {
        group: dataset(variables, dims.get(group, {}), coords | {"obs": obs.get(group)}, group != "observed_data")
        for group, variables in arrays.items()
        if variables
    }
    return datasets, _attributes(fit, len(rows))


def dataset(variables: Mapping[str, np.ndarray], dims: Mapping[str, list[str]], coords: Mapping[str, Any],
             sampled: bool) -> Any:  # fmt: skip
    """An xarray Dataset whose variables begin with (chain, draw) if ``sampled``; unnamed axes get ArviZ's names."""
    import xarray as xr

    lead = ["chain", "draw"] if sampled else []
    arrays = {}
    for name, value in variables.items():
        own = dims.get(name) or [f"{name}_dim_{axis}" for axis in range(value.ndim - len(lead))]
        arrays[name] = (lead + own, value)
    found = xr.Dataset(arrays)
    return found.assign_coords({dim: coords.get(str(dim), np.arange(size)) for dim, size in found.sizes.items()})


def tree(datasets: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    """Groups as one xarray DataTree."""
    import xarray as xr

    found = xr.DataTree.from_dict({f"/{group}": each for group, each in datasets.items()})
    found.attrs.update(attributes)
    return found


def _attributes(fit: Fit, num_rows: int) -> dict[str, Any]:
    return {f"version_{name}": str(version) for name, version in fit.versions.items()} | {
        "family": fit.family.name, "engine": fit.engine.name, "backend": fit.backend, "seed": fit.seed,
        "uncertainty": fit.uncertainty, "num_obs": len(fit.train), "log_likelihood_rows": num_rows,
        "units": "original where the family can say so; log_likelihood in nats and original units",
    }  # fmt: skip


def to_netcdf(datasets: Mapping[str, Any], attributes: Mapping[str, Any], path: str | Path) -> None:
    """Write groups to one netCDF file, as both lives of ArviZ and plain xarray read it."""
    # Made in memory: HDF5 that meets a full disk can take the whole process down with it.
    Path(path).write_bytes(tree(datasets, attributes).to_netcdf(None, engine="h5netcdf"))
