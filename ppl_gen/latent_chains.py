r"""Long Markov chains in the latent space of a generator, under its prior and the discriminator's log ratio.

The density is :math:`p(z)\, e^{r(G(z))}` (discriminator driven latent sampling; Che et al. 2020, arXiv:2003.06060): the
rows G(z) of its draws are those of the data as far as r is right. The samplers are the engines of their names, over a
model whose one latent variable is z; chains start at draws of the prior, apart from each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.chains import SAMPLERS, Chains, resolve
from ppl_gen.conditions import rows_to_draw_for
from ppl_gen.engine_chains import of_latent
from ppl_gen.errors import SettingError
from ppl_gen.implicit import backend_of
from ppl_gen.latents import member_of
from ppl_gen.registry import import_backend
from ppl_gen.scoring import check_seed

if TYPE_CHECKING:
    from ppl_gen.result import Fit

NUM_WARMUP = 200  # of nuts and hmc: the prior is a standard normal, so that there is little to learn of its scales
BY_GRADIENT = tuple(name for name in SAMPLERS if name != "tempered")


@dataclasses.dataclass(frozen=True, eq=False)
class LatentChains(Chains):
    """Chains of latent vectors, and the rows that a generator makes of them.

    ``z``  (C, T, L); R-hat and ESS are those of its entries and of the log density. ``states`` are the rows.
    """

    z: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 0, 0)))

    @property
    def _groups(self) -> dict[str, dict[str, np.ndarray]]:
        """With the latent vectors as the variable ``z`` (under a name of its own where a column has that one)."""
        groups = super()._groups
        name = "z" if "z" not in groups["posterior"] else "z (latent)"
        return {**groups, "posterior": {name: self.z, **groups["posterior"]}}

    @property
    def _moving(self) -> tuple[list[str], np.ndarray]:
        return [f"z{j}" for j in range(self.z.shape[2])], self.z

    @property
    def _advice(self) -> str:
        return (
            "The chains did not mix: each stays in a part of the latent space of its own, and the parts' shares are "
            "not to be believed. sample(correct='latent_hmc') weighs the parts; or raise num_samples."
        )


def chains_of_fit(
    fit: Fit, sampler: Any, seed: int, member: int, given: Any, options: Mapping[str, Any]
) -> LatentChains:
    """See :meth:`ppl_gen.result.Fit.chains`."""
    check_seed(seed)
    settings = resolve(sampler, options)
    if isinstance(sampler, str) and sampler in ("nuts", "hmc") and "num_warmup" not in options:
        settings = settings.replace(num_warmup=NUM_WARMUP)
    name = getattr(settings, "name", "tempered")
    if name not in BY_GRADIENT:
        raise SettingError(f"sampler must be one of {', '.join(BY_GRADIENT)} in the latent space of {fit.family.name}, "
                           "not 'tempered': sample(correct='latent_hmc') goes from mode to mode.")  # fmt: skip
    values = {name: value[0] for name, value in member_of(fit, member).items()}
    conditions, context = rows_to_draw_for(fit, 1, int(seed), given), None
    if conditions is not None:
        if len(conditions[0]) != 1:
            raise SettingError(f"given= must be one row, whose chains they are, not {len(conditions[0]):,}.")
        context = fit.schema.only_conditions().context(conditions[0])
    backend = import_backend("ppl_gen.backends", f"{fit.backend}_data_space", fit.backend)
    model = fit.pair.cached("latent space", lambda: backend.latent_model_of(fit.pair))
    size = fit.pair.latent_size
    starts = np.random.default_rng(seed).standard_normal((settings.num_chains, size))
    parts = {"parameters": values} | ({} if context is None else {"given": context})
    draws = of_latent(fit.pair, model, backend.arrays(parts), {"z": starts}, "latent space", settings, int(seed))
    z = np.asarray(draws.posterior["z"], np.float64)
    flat = z.reshape(-1, size)
    repeated = None if context is None else np.repeat(context, len(flat), axis=0)
    x = backend_of(fit.pair).generate(fit.pair, values, flat, repeated)[0].astype(np.float64)
    columns = fit.schema.target_columns
    x = (x * np.array([c.scale for c in columns]) + np.array([c.loc for c in columns])).reshape(*z.shape[:2], -1)
    stats = {name: np.asarray(value) for name, value in draws.sample_stats.items()}
    title = f"{fit.family.name} by {name} in {fit.backend}: {z.shape[0]} chains x {z.shape[1]:,} draws"
    return LatentChains(fit.schema, x, stats, title, name, z=z)
