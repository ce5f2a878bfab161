"""What must hold for every family, in every backend: the properties, parametrized over the table in zoo.py."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from zoo import CASES

import ppl_gen as pg
from ppl_gen import backends

BACKENDS = ("numpyro", "pyro")
QUICK_AIS = pg.AIS(num_temperatures=20, num_chains=20, num_leapfrogs=1)


@cache
def fitted(name: str, backend: str) -> pg.Fit:
    case = CASES[name]
    return pg.fit(case.family, case.table(), engine=case.engine, backend=backend, seed=1)


each = pytest.mark.parametrize("name", CASES)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def under(fit: pg.Fit, table: pd.DataFrame) -> pg.Score:
    """The score of a table; of an implicit density the surrogate that needs no random numbers."""
    options = {"surrogate": "log_ratio"} if fit.family.density == "implicit" else {}
    return fit.score(table, p_values=False, **options)


@each
@each_backend
def test_rescaling_a_column_shifts_every_log_prob_by_log_1024(name: str, backend: str) -> None:
    case = CASES[name]
    table = case.table()
    column = table.columns[0]
    scaled = table.assign(**{column: table[column] * 1024})
    options = {"p_values": False}
    if case.family.density == "implicit":  # quick, and of the same random numbers in both
        options |= {"surrogate": QUICK_AIS}
    one = fitted(name, backend).score(**options)
    other = pg.fit(case.family, scaled, engine=case.engine, backend=backend, seed=1).score(**options)
    # A power of two is multiplied by without rounding, so the standardized tables are the same to the last bit.
    np.testing.assert_allclose(other.log_predictive, one.log_predictive - np.log(1024), atol=1e-5)


@each
@each_backend
def test_scores_do_not_depend_on_the_other_rows_or_their_order(name: str, backend: str) -> None:
    fit, table = fitted(name, backend), CASES[name].table()
    whole = under(fit, table).log_predictive
    order = np.random.default_rng(0).permutation(len(table))
    np.testing.assert_allclose(under(fit, table.iloc[order]).log_predictive, whole[order], atol=1e-4)
    np.testing.assert_allclose(under(fit, table.iloc[:7]).log_predictive, whole[:7], atol=1e-4)


@each
@each_backend
def test_samples_come_back_as_the_table_went_in_and_score_as_the_table_does(name: str, backend: str) -> None:
    fit, table = fitted(name, backend), CASES[name].table()
    sample = fit.sample(2000, seed=3)
    assert list(sample.columns) == list(table.columns)
    assert (sample.dtypes == table.dtypes).all()
    pd.testing.assert_frame_equal(sample, fit.sample(2000, seed=3))
    if fit.family.density == "implicit":  # a log ratio of 0 on average is for longer games
        return
    ours, theirs = under(fit, sample).log_predictive, under(fit, table).log_predictive
    error = np.hypot(ours.std() / len(ours) ** 0.5, theirs.std() / len(theirs) ** 0.5)
    # Both are means of log p under (nearly) the same distribution: within 4 standard errors, and the fit's own
    # optimism on its training rows (about one nat per parameter over all rows).
    assert abs(ours.mean() - theirs.mean()) < 4 * error + 15 / len(table)


@each
@each_backend
def test_log_prob_integrates_to_one(name: str, backend: str) -> None:
    if CASES[name].family.density == "implicit":
        pytest.skip("it has no density")
    fit, table = fitted(name, backend), CASES[name].table()
    number = 301 if fit.pair.noising is None else 121  # a solver's steps are more work, and its densities are smooth
    axes = [np.linspace(c.mean() - 9 * c.std(), c.mean() + 9 * c.std(), number) for _, c in table.items()]
    grid = pd.DataFrame(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)), columns=table.columns)
    density = np.exp(under(fit, grid).log_predictive).reshape(number, number)
    total = np.trapezoid(np.trapezoid(density, axes[1], axis=1), axes[0])
    # Estimates by the same 64 particles err together, by some per cent where the encoder has never been.
    assert total == pytest.approx(1.0, abs=0.05 if fit.family.density == "importance" else 2e-3)


@each
@each_backend
def test_missing_entries_score_as_the_marginal(name: str, backend: str) -> None:
    fit, table = fitted(name, backend), CASES[name].table()
    row = table.iloc[[0]].copy()
    row.iloc[0, 1] = np.nan
    if not fit.family.allows_missing:
        with pytest.raises(pg.DataError, match="missing values"):
            under(fit, row)
        return
    marginal = under(fit, row).log_predictive[0]
    column = table.iloc[:, 1]
    grid = np.linspace(column.mean() - 9 * column.std(), column.mean() + 9 * column.std(), 4001)
    full = pd.DataFrame({table.columns[0]: table.iloc[0, 0], table.columns[1]: grid})
    density = np.exp(under(fit, full).log_predictive)
    assert np.log(np.trapezoid(density, grid)) == pytest.approx(
        marginal, abs=0.05 if fit.family.density == "importance" else 1e-3
    )


@each
def test_a_fit_of_one_backend_scores_the_same_in_the_other(name: str, tmp_path) -> None:
    table = CASES[name].table()
    for here, there in (BACKENDS, BACKENDS[::-1]):
        fit = fitted(name, here)
        fit.save(tmp_path / here)
        loaded = pg.load(tmp_path / here, backend=there)
        assert loaded.backend == there
        np.testing.assert_allclose(under(loaded, table).log_predictive, under(fit, table).log_predictive, atol=1e-4)


@each
@each_backend
def test_same_seed_same_bits_and_save_keeps_them(name: str, backend: str, tmp_path) -> None:
    case, fit = CASES[name], fitted(name, backend)
    again = pg.fit(case.family, case.table(), engine=case.engine, backend=backend, seed=1)
    fit.save(tmp_path / "fit")
    loaded = pg.load(tmp_path / "fit")
    for site, value in fit.draws.posterior.items():
        np.testing.assert_array_equal(again.draws.posterior[site], value)
        np.testing.assert_array_equal(loaded.draws.posterior[site], value)
    np.testing.assert_array_equal(under(loaded, case.table()).log_predictive, under(fit, case.table()).log_predictive)


@each
@each_backend
def test_latents_are_probabilities_that_agree_with_the_labels(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = fitted(name, backend)
    if fit.pair.generate is not None:
        monkeypatch.setattr("ppl_gen.inversion.DEFAULT", QUICK_AIS)
        assert list(fit.latents(CASES[name].table().head(2)).columns)[:3] == ["row", "z0", "z0_sd"]
        return
    if fit.pair.noising is not None:
        assert list(fit.latents(CASES[name].table().head(2)).columns) == ["row", "z0", "z1"]
        return
    if fit.pair.decode is not None:
        assert list(fit.latents().columns)[:3] == ["row", "z0", "z0_sd"]
        return
    if fit.pair.features is not None:
        features = fit.latents().set_index("row")
        assert list(features.columns) == [f"h{j}" for j in range(features.shape[1])]
        assert features.to_numpy().min() >= 0
        assert features.to_numpy().max() <= 1
        return
    if not fit.family.num_labels:
        with pytest.raises(pg.UnsupportedError, match="no local latent"):
            fit.latents()
        return
    frame = fit.latents()
    tables = frame.filter(regex=r"^z=\d+$")
    np.testing.assert_allclose(tables.sum(axis=1), 1, atol=1e-4)
    assert (tables.to_numpy().argmax(1) == frame["z"]).all()
    assert ((frame["z_agreement"] >= 0) & (frame["z_agreement"] <= 1)).all()


@each
def test_a_gradient_reaches_every_latent_site(name: str) -> None:
    import jax
    import jax.numpy as jnp

    from ppl_gen.backends import numpyro_chains, numpyro_ops

    case = CASES[name]
    pair = case.family.pair("numpyro", case.table())
    start = {k: jnp.asarray(v[0], float) for k, v in pair.initialize(pair.data, 0, 1).items()}
    if pair.noising is not None:
        from numpyro.infer import TraceMeanField_ELBO

        elbo, key = TraceMeanField_ELBO(), jax.random.key(0)
        gradient = jax.jit(jax.grad(lambda w: elbo.loss(key, w, pair.model, pair.guide, pair.data)))(start)
    elif pair.local:
        from ppl_gen.backends.numpyro_local import terms

        view = pair.data._replace(mask=jnp.arange(len(pair.data.x))[:, None] % 3 != jnp.arange(2))
        gradient = jax.jit(jax.grad(lambda w: sum(terms(pair, w, view, jax.random.key(0), 1)[:2]).sum()))(start)
    elif pair.adversary is not None:
        game, z = pair.adversary, pair.adversary.noise(len(pair.data.x), jax.random.key(0))
        losses = (game.discriminator_loss, game.generator_loss, game.log_ratio_loss)
        gradient = jax.jit(jax.grad(lambda w: sum(loss(w, pair.data, z) for loss in losses)))(start)
    elif pair.has_weights:
        gradient = jax.jit(jax.grad(lambda w: numpyro_ops.log_joint_fn(pair)(w, pair.data)))(start)
    else:
        unconstrained = numpyro_chains.to_unconstrained(pair, pair.data, start)
        gradient = jax.jit(jax.grad(lambda u: numpyro_ops.log_density_fn(pair)(u, pair.data)))(unconstrained)
    idle = () if pair.idle is None else pair.idle(pair.data._replace(mask=True))
    assert all(np.isfinite(g).all() and (name in idle or np.any(g != 0)) for name, g in gradient.items())


@each
@each_backend
def test_weight_two_is_the_row_twice(name: str, backend: str) -> None:
    case, table = CASES[name], CASES[name].table()
    twice = np.where(np.arange(len(table)) % 3 == 0, 2.0, 1.0)
    doubled = table.iloc[np.repeat(np.arange(len(table)), twice.astype(int))]
    pair = case.family.pair(backend, table, weights=twice)
    repeated = case.family.pair(backend, doubled)
    ops = backends.ops(backend)
    values = {k: v[0] for k, v in case.family.pair(backend, table).initialize(pair.data, 0, 1).items()}
    width = ops.local_size(pair, {k: np.asarray(v)[None] for k, v in values.items()}, pair.data) if pair.local else 0
    sites = pair.local or (("z",) if pair.generate is not None else ())
    width = width or pair.latent_size
    latents = [{name: np.zeros((len(p.data.x), width)) for name in sites} for p in (pair, repeated)]
    one = ops.log_joint(pair, {**values, **latents[0]}, pair.data)
    other = ops.log_joint(repeated, {**values, **latents[1]}, repeated.data)
    if getattr(case.family, "num_components", None) == "auto":
        pytest.skip("the stick-breaking prior depends on the number of rows")
    assert one == pytest.approx(other, rel=1e-5)


@each
@each_backend
def test_draws_of_log_prob_are_those_that_the_summaries_are_of(name: str, backend: str) -> None:
    fit, table = fitted(name, backend), CASES[name].table()
    options = {"surrogate": QUICK_AIS} if fit.family.density == "implicit" else {}
    score = fit.score(table.iloc[:9], p_values=False, **options)
    assert score.log_prob.dims == ("chain", "draw", "obs")
    assert score.log_prob.shape == (fit.draws.num_chains, fit.draws.num_draws, 9)
    np.testing.assert_allclose(score.log_prob.std(("chain", "draw")), score.sd, rtol=1e-3, atol=1e-6)
    inside = ((score.log_prob >= score.hdi[:, 0]) & (score.log_prob <= score.hdi[:, 1])).mean(("chain", "draw"))
    assert (inside >= score.hdi_prob - 1 / (fit.draws.num_chains * fit.draws.num_draws)).all()


@each
@each_backend
def test_one_row_alone_is_scored_and_labelled_as_in_company(name: str, backend: str) -> None:
    fit, table = fitted(name, backend), CASES[name].table()
    columns = ["z_prob", "z=0", "z=1"]
    if fit.family.num_labels:
        np.testing.assert_allclose(
            fit.latents(table.iloc[:1])[columns], fit.latents(table.iloc[:2])[columns][:1], atol=1e-5
        )
    both = under(fit, table.iloc[:2]).log_predictive
    np.testing.assert_allclose(under(fit, table.iloc[:1]).log_predictive, both[:1], atol=1e-5)


def test_the_p_value_of_a_row_with_missing_entries_does_not_depend_on_units() -> None:
    case = CASES["gmm-full"]
    table = case.table()
    table.iloc[::4, 0] = np.nan
    found = []
    for factor in (1.0, 1e-3):
        scaled = table.assign(height=table["height"] * factor)
        found.append(pg.fit(case.family, scaled, engine=case.engine, seed=0).score())
    np.testing.assert_allclose(found[0].p_value, found[1].p_value, atol=0.05)
    assert np.isfinite(found[0].p_value).all()
    alone = pd.DataFrame({"height": [170.0], "mass": [np.nan]})
    # No training row misses the mass alone: there is nothing to rank this one among.
    fit = pg.fit(case.family, table, engine=case.engine, seed=0)
    assert np.isnan(fit.score(alone).p_value).all()


def test_a_checkpoint_is_refused_by_an_engine_that_keeps_none(tmp_path) -> None:
    with pytest.raises(pg.SettingError, match="keeps no checkpoint"):
        pg.fit(pg.GMM(2), CASES["gmm-full"].table(), engine="em", checkpoint=tmp_path / "state")


def test_a_seed_that_no_generator_takes_is_refused() -> None:
    for seed in (-1, 2**31, 0.5):
        with pytest.raises(pg.SettingError, match="seed"):
            fitted("gmm-full", "numpyro").sample(3, seed=seed)
