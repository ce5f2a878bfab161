r"""Markov chains in data space: draws of an unnormalised density itself, in the table's units, and whether they mixed.

``"nuts"``, ``"hmc"``, ``"sgld"`` and ``"sghmc"`` are the engines of these names, over a model whose one latent variable
is a row; chains start at draws of the base, apart from each other, so that R-hat tells when each stays in a mode of its
own. ``"tempered"`` is parallel tempering (Swendsen & Wang 1986, Phys. Rev. Lett. 57; Geyer 1991): sister chains at
lower inverse temperatures, down to the base, whose draws are independent, exchange places with their neighbours, so
that a chain comes from one mode to another by way of the base.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import registry, widened
from ppl_gen.annealing import Moves, Swaps
from ppl_gen.diagnostics import Check, Diagnosis, chain_statistics
from ppl_gen.engine import Engine
from ppl_gen.engine_chains import of_latent
from ppl_gen.errors import SettingError, UnsupportedError, did_you_mean
from ppl_gen.normalizer import SITES, SMC, pilot
from ppl_gen.pair import Pair
from ppl_gen.registry import import_backend
from ppl_gen.scoring import check_seed
from ppl_gen.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.family import Family
    from ppl_gen.result import Fit
    from ppl_gen.schema import Schema

SAMPLERS = ("nuts", "hmc", "sgld", "sghmc", "tempered")
STARTS = 200  # rows of a standard normal, where nothing says where a density lies


@dataclasses.dataclass(frozen=True)
class Tempered(Settings):
    """Parallel tempering, on temperatures that a pilot by sequential Monte Carlo finds.

    :param num_samples: states kept of each chain.
    :param num_warmup: sweeps before the first.
    :param num_chains: independent chains, each with sisters at all temperatures.
    :param thinning: sweeps from one state to the next.
    :param num_leapfrogs: of a trajectory of Hamiltonian Monte Carlo, where the pair has no Gibbs sampler.
    """

    num_samples: int = 1000
    num_warmup: int = 200
    num_chains: int = 4
    thinning: int = 2
    num_leapfrogs: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("num_samples", 4)
        for name in ("num_warmup", "num_chains", "thinning", "num_leapfrogs"):
            self.require_integer(name, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Chains:
    """Chains of a density, in the units of the table.

    ``states``        (C, T, D); of a label its position among the column's categories
    ``sample_stats``  {name: (C, T)}, named as ArviZ names them
    """

    schema: Schema
    states: np.ndarray
    sample_stats: Mapping[str, np.ndarray]
    title: str
    sampler: str
    wider: Callable[[], Check] | None = dataclasses.field(default=None, repr=False)

    @cached_property
    def data(self) -> Any:
        """The ArviZ object: ``posterior`` with a variable for each column, and ``sample_stats``."""
        from ppl_gen.arviz_bridge import from_dictionaries

        return from_dictionaries(self._groups, {"title": self.title})

    @property
    def _groups(self) -> dict[str, dict[str, np.ndarray]]:
        columns = {name: self.states[:, :, j] for j, name in enumerate(map(str, self.schema.targets))}
        return {"posterior": columns, "sample_stats": dict(self.sample_stats)}

    def to_netcdf(self, path: str | Path) -> None:
        """Write :attr:`data` to a file, for ``arviz.from_netcdf``."""
        from ppl_gen.arviz_groups import dataset, to_netcdf

        found = {name: dataset(arrays, {}, {}, True) for name, arrays in self._groups.items()}
        to_netcdf(found, {"title": self.title}, path)

    def to_frame(self) -> pd.DataFrame:
        """All states as rows like those of the table, chain after chain."""
        columns = self.schema.target_columns
        loc, scale = np.array([c.loc for c in columns]), np.array([c.scale for c in columns])
        return self.schema.decode((self.states.reshape(-1, len(columns)) - loc) / scale)

    @cached_property
    def quantities(self) -> tuple[list[str], np.ndarray]:
        """Names, and values (C, T, number): the columns, and the log density where the sampler says it."""
        names, values = self._moving
        if "lp" in self.sample_stats:
            names = [*names, "log density"]
            values = np.concatenate([values, np.asarray(self.sample_stats["lp"], np.float64)[..., None]], axis=2)
        varies = np.ptp(values, axis=(0, 1)) > 0
        return [name for name, keep in zip(names, varies, strict=True) if keep], values[..., varies]

    @property
    def _moving(self) -> tuple[list[str], np.ndarray]:
        """Names and values (C, T, number) of what the sampler moves."""
        return list(map(str, self.schema.targets)), self.states

    @property
    def _advice(self) -> str:
        if self.sampler == "tempered":
            return "The chains did not mix: raise num_samples, thinning or num_warmup of Tempered."
        return (
            "The chains did not mix. If R-hat is hardly too high, draw more: raise num_samples. Else each stays in a "
            "part of its own, and the parts' shares are not to be believed: use sampler='tempered', whose chains go "
            "from part to part by way of the base."
        )

    def summary(self) -> pd.DataFrame:
        """mean, sd, mcse_mean, ess_bulk, ess_tail and r_hat of each column and of the log density; of a single chain
        those of its two halves."""
        names, values = self.quantities
        if len(values) == 1:
            half = values.shape[1] // 2
            values = values[0, : 2 * half].reshape(2, half, -1)
        return chain_statistics(values).set_index(np.array(names, object)).rename_axis("quantity")

    def diagnose(self) -> Diagnosis:
        """Whether the chains mixed: R-hat and bulk ESS of the worst quantity (Vehtari et al. 2021), divergences, and of
        real columns whether there is mass where no chain has been (:mod:`ppl_gen.widened`)."""
        from ppl_gen.checks import ESS_PER_CHAIN, rhat_limit

        table = self.summary()
        chains, number = self.states.shape[:2]
        split, slow = table["r_hat"].idxmax(), table["ess_bulk"].idxmin()
        found = [
            Check.of("R-hat", table["r_hat"].max(), "at most", rhat_limit(chains, len(table), table["ess_bulk"].min()),
                     info=f"{split}, worst of {len(table)}; {chains} chains x {number:,} draws", advice=self._advice),
            Check.of("bulk ESS", table["ess_bulk"].min(), "at least", min(ESS_PER_CHAIN * chains, chains * number / 2),
                     info=f"{slow}, worst of {len(table)}", advice="Draws are few or alike: raise num_samples."),
        ]  # fmt: skip
        if "diverging" in self.sample_stats:
            found.append(Check.of(
                "divergences", int(np.sum(self.sample_stats["diverging"])), "at most", 0,
                info=f"of {chains * number:,}",
                advice="The energy bends more sharply than steps can follow: raise target_accept.",
            ))  # fmt: skip
        found += [] if self._elsewhere is None else [self._elsewhere]
        for name in ("acceptance_rate", "swap_rate"):
            if name in self.sample_stats:
                found.append(Check(name.replace("_", " "), float(np.mean(self.sample_stats[name]))))
        return Diagnosis(self.title, tuple(found), {"quantities": table.reset_index()})

    @cached_property
    def _elsewhere(self) -> Check | None:
        return None if self.wider is None else self.wider()

    @property
    def mixed(self) -> bool:
        """Whether no check failed."""
        return self.diagnose().passed


def chains_of_fit(fit: Fit, sampler: Any, seed: int, member: int, given: Any, options: Mapping[str, Any]) -> Chains:
    """See :meth:`ppl_gen.result.Fit.chains`."""
    if fit.pair.generate is not None:
        from ppl_gen import latent_chains

        return latent_chains.chains_of_fit(fit, sampler, seed, member, given, options)
    if given is not None:
        raise SettingError(f"given is for generators that are conditioned on columns; {fit.family.name} is none.")
    if fit.pair.tempered is None:
        raise UnsupportedError(f"{fit.family.name} draws rows one by one, independent of each other: use fit.sample.")
    number = len(next(iter(fit.posterior.values())))
    if isinstance(member, bool) or not isinstance(member, int | np.integer) or not 0 <= member < number:
        raise SettingError(f"member must be from 0 to {number - 1}, not {member!r}.")
    values = {name: np.asarray(value[member]) for name, value in fit.posterior.items() if name not in SITES}
    return run(fit.pair, values, fit.schema, sampler, seed, options)


def chains(
    family: Family, table: Any = None, *, columns: Sequence[str] | None = None, sampler: Any = "nuts",
    backend: str = "numpyro", seed: int = 0, **options: Any,
) -> Chains:  # fmt: skip
    """Markov chains of a density that is given, such as ``EBM(energy=my_function)``, without a fit.

    :param table: rows that say where the density lies: chains start at draws of a base that is fitted to them. Without
        it the base is a standard normal, and ``columns`` names its columns.
    :param sampler: ``"nuts"``, ``"hmc"``, ``"sgld"``, ``"sghmc"``, ``"tempered"``, or settings of one of them.
    :param options: those of the sampler: ``num_chains``, ``num_samples``, ``num_warmup`` and so on.
    :raises SettingError: neither table nor columns, or an unknown sampler or option.
    :raises UnsupportedError: the family's density is normalised as it is, or a sampler by gradients for labels.
    """
    import pandas as pd

    if table is None:
        if not columns or isinstance(columns, str):
            raise SettingError("Name the columns in a tuple, columns=('x', 'y'), or give a table of rows.")
        z = np.random.default_rng(0).standard_normal((STARTS, len(columns)))
        z = z - z.mean(0)
        table = pd.DataFrame(z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / STARTS)).T, columns=list(columns))
    check_seed(seed)
    data = family.prepare(table)
    pair = family.build(backend, data.schema, len(data), data.view(backend))
    if pair.tempered is None or pair.initialize is None:
        raise UnsupportedError(f"The density of {family.name} is normalised as it is: fit it, and use fit.sample.")
    if not getattr(family, "is_given", False):
        raise UnsupportedError(f"This {family.name} has weights that are not trained yet: fit it, and use fit.chains. "
                               "A density that is given is EBM(energy=my_function).")  # fmt: skip
    values = {name: np.asarray(value[0]) for name, value in pair.initialize(pair.data, int(seed), 1).items()}
    return run(dataclasses.replace(pair, data=None), values, data.schema, sampler, seed, options)


def resolve(sampler: Any, options: Mapping[str, Any]) -> Any:
    """The settings of a sampler."""
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise SettingError(f"Unknown sampler {sampler!r}: {did_you_mean(sampler, SAMPLERS)}")
        sampler = Tempered() if sampler == "tempered" else registry.engine(sampler)()
        # What engines over parameters do first, to climb to a mode, would bring all chains to the same one.
        sampler = sampler.replace(num_pilot=0) if hasattr(sampler, "num_pilot") else sampler
    if not isinstance(sampler, Tempered) and getattr(sampler, "name", None) not in SAMPLERS:
        names = ", ".join(SAMPLERS)
        raise SettingError(f"sampler must be one of {names}, or settings such as NUTS(), not {sampler!r}.")
    return sampler.replace(**options) if options else sampler


def run(
    pair: Pair, values: Mapping[str, np.ndarray], schema: Schema, sampler: Any, seed: int, options: Mapping[str, Any]
) -> Chains:
    """Chains of the density with these parameters."""
    check_seed(seed)
    settings = resolve(sampler, options)
    discrete = [column.name for column in schema.target_columns if column.kind != "real"]
    name = "tempered" if isinstance(settings, Tempered) else settings.name
    if discrete and (name != "tempered" or pair.gibbs is None):
        raise UnsupportedError(f"{name} follows gradients, which column {discrete[0]!r} has none of: use "
                               "sampler='tempered'.")  # fmt: skip
    tempering = import_backend("ppl_gen.backends", f"{pair.backend}_tempering", pair.backend)
    parameters = tempering.member(values)
    if isinstance(settings, Tempered):
        states, stats = _exchanged(tempering, pair, parameters, settings, int(seed))
    else:
        states, stats = _by_engine(tempering, pair, parameters, settings, int(seed))
    columns = schema.target_columns
    wider = None
    if pair.gibbs is None and not discrete:
        wider = partial(_compare, tempering, pair, parameters, list(map(str, schema.targets)), states, int(seed))
    if "lp" not in stats:
        flat = tempering.log_density(pair, parameters, states.reshape(-1, *states.shape[2:]))
        stats["lp"] = flat.reshape(states.shape[:2])
    states = states.reshape(*states.shape[:2], -1).astype(np.float64)
    states = states * np.array([c.scale for c in columns]) + np.array([c.loc for c in columns])
    title = f"{pair.family.name} by {name} in {pair.backend}: {states.shape[0]} chains x {states.shape[1]:,} draws"
    return Chains(schema, states, stats, title, name, wider)


def _compare(tempering: Any, pair: Pair, parameters: Any, names: list[str], states: np.ndarray, seed: int) -> Check:
    flat = states.reshape(-1, *states.shape[2:])
    lp = tempering.log_density(pair, parameters, flat).reshape(states.shape[:2])
    found = widened.particles(tempering, pair, parameters, states, seed)
    return widened.check(names, states.reshape(*states.shape[:2], -1), lp, found)


def _exchanged(
    tempering: Any, pair: Pair, parameters: Any, settings: Tempered, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    found = pilot(tempering, pair, parameters, SMC(num_particles=1024, num_leapfrogs=settings.num_leapfrogs), seed)
    path = found.refined(max(1, (len(found.beta) - 1) // 2))
    levels = len(path.beta)
    starts = tempering.base(pair, parameters, levels * settings.num_chains, seed)
    moves = Moves(num_leapfrogs=settings.num_leapfrogs)
    plan = Swaps(moves, settings.num_warmup, settings.num_samples, settings.thinning)
    starts = starts.reshape(levels, settings.num_chains, *starts.shape[1:])
    result = tempering.exchange(pair, parameters, starts, path, plan, seed)
    return result.pop("x"), result


def _by_engine(
    tempering: Any, pair: Pair, parameters: Any, settings: Engine, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """By an engine, over a model whose latent variable is the row."""
    backend = import_backend("ppl_gen.backends", f"{pair.backend}_data_space", pair.backend)
    starts = tempering.base(pair, parameters, settings.num_chains, seed)  # type: ignore[attr-defined]
    model = pair.cached("data space", lambda: backend.model_of(pair, starts.shape[1:]))
    draws = of_latent(pair, model, parameters, {"x": starts}, "data space", settings, seed)
    return draws.posterior["x"], {name: np.asarray(value) for name, value in draws.sample_stats.items()}
