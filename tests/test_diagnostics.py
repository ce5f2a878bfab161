"""A healthy fit passes every check, and each kind of ill fails the check that is there for it."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, t

from ppl_gen import arviz_bridge as az
from ppl_gen import arviz_groups, metrics, predictive
from ppl_gen.checks import rhat_limit
from ppl_gen.columns import Column
from ppl_gen.data import Data
from ppl_gen.diagnostics import Check, Diagnosis, diagnose, summary
from ppl_gen.engine import Draws
from ppl_gen.inference.em import EM
from ppl_gen.inference.nuts import NUTS
from ppl_gen.inference.svi import SVI
from ppl_gen.models.gmm import GMM
from ppl_gen.result import Fit

CHAINS, DRAWS, ROWS = 4, 400, 150


def normal_table(seed=0, rows=ROWS, scale=3.0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"a": 10 + scale * rng.normal(size=rows), "b": rng.normal(size=rows)})


def normal_posterior(x, seed=1, shape=(CHAINS, DRAWS)):
    """Independent draws from the posterior of a normal with the reference prior (BDA3 eq. 3.6): columns apart."""
    rng = np.random.default_rng(seed)
    n, d = x.shape
    scales = np.sqrt(n * x.var(0) / rng.chisquare(n - 1, size=(*shape, d)))
    locs = x.mean(0) + scales / np.sqrt(n) * rng.normal(size=(*shape, d))
    return {"locs": locs[:, :, None, :], "scales": scales[:, :, None, :]}


def healthy_stats(seed=2, shape=(CHAINS, DRAWS)):
    rng = np.random.default_rng(seed)
    return {"diverging": np.zeros(shape, bool), "energy": rng.normal(size=shape), "tree_depth": np.full(shape, 3)}


def make_fit(table, engine=None, **changes):
    """A fit whose draws were made by hand: one normal, columns independent."""
    family = GMM(1, covariance="diag")
    data = family.prepare(table)
    draws = Draws(posterior=normal_posterior(data.x), uncertainty="posterior", sample_stats=healthy_stats())
    draws = dataclasses.replace(draws, **changes)
    return Fit(family=family, engine=engine or NUTS(), backend="numpyro", seed=0, schema=data.schema, draws=draws,
               train=data, versions={"numpy": np.__version__}, seconds=0.0)  # fmt: skip


@pytest.fixture(scope="module")
def healthy():
    return make_fit(normal_table())


class TestVerdicts:
    def test_a_healthy_fit_passes_every_check(self, healthy):
        diagnosis = healthy.diagnose()
        assert diagnosis.passed, str(diagnosis)
        assert len(diagnosis.checks) >= 14
        assert "PASS" in diagnosis.verdict

    @pytest.mark.parametrize("uncertainty", ["posterior", "guide"])
    def test_held_out_density_is_that_of_leave_one_out(self, healthy, uncertainty):
        """Against the exact answer: the posterior predictive of a normal is a t distribution (BDA3 section 3.2)."""
        fit = make_fit(normal_table(), uncertainty=uncertainty)
        x, expected = fit.train.to_frame().to_numpy(), 0.0
        for i in range(len(x)):
            rest = np.delete(x, i, axis=0)
            n, s = len(rest), rest.std(0, ddof=1)
            expected += t.logpdf(x[i], n - 1, rest.mean(0), s * np.sqrt(1 + 1 / n)).sum()
        assert diagnose(fit)["held-out ELPD"].figure == pytest.approx(expected, abs=0.5)

    def test_a_chain_somewhere_else_fails_r_hat_and_ess(self, healthy):
        posterior = {name: value.copy() for name, value in healthy.draws.posterior.items()}
        posterior["locs"][0] += 4 * posterior["locs"].std()
        diagnosis = make_fit(normal_table(), posterior=posterior).diagnose()
        failed = {check.name for check in diagnosis.failed}
        assert {"R-hat, parameters", "bulk ESS, parameters", "R-hat, log p(x)"} <= failed

    def test_a_chain_that_stands_still_fails(self):
        fit = make_fit(normal_table())
        fit.draws.posterior["locs"][0] = 0.1
        assert diagnose(fit)["R-hat, parameters"].passed is False

    def test_switched_labels_do_not_touch_log_density(self, healthy):
        """R-hat of raw labels is terrible, that of log p(x) is not: both are always shown."""
        one = healthy.draws.posterior
        family = GMM(2, covariance="diag")
        second = {"locs": one["locs"] + 5, "scales": one["scales"]}
        posterior = {name: np.concatenate([one[name], second[name]], axis=2) for name in one}
        for value in posterior.values():
            value[0] = value[0][:, ::-1]
        posterior["weights"] = np.full((CHAINS, DRAWS, 2), 0.5)
        fit = dataclasses.replace(healthy, family=family, draws=dataclasses.replace(healthy.draws, posterior=posterior))
        diagnosis = fit.diagnose()
        assert diagnosis["R-hat, parameters"].passed is False
        assert diagnosis["R-hat, log p(x)"].passed

    @pytest.mark.parametrize(
        ("name", "stats"),
        [
            ("divergences", {"diverging": np.arange(CHAINS * DRAWS).reshape(CHAINS, DRAWS) % 100 == 0}),
            ("E-BFMI", {"energy": np.cumsum(np.ones((CHAINS, DRAWS)), axis=1)}),
            ("tree depth reached", {"tree_depth": np.full((CHAINS, DRAWS), 10)}),
        ],
    )
    def test_a_sampler_in_trouble_fails_its_own_check_alone(self, name, stats):
        fit = make_fit(normal_table(), sample_stats=healthy_stats() | stats)
        assert [check.name for check in fit.diagnose().failed] == [name]

    def test_heavy_tails_under_a_normal_are_seen(self):
        table = pd.DataFrame({"a": np.random.default_rng(3).standard_t(2, size=ROWS)})
        failed = {check.name for check in make_fit(table).diagnose().failed}
        assert "posterior predictive p" in failed
        assert "LOO-PIT p" in failed

    def test_two_clusters_under_one_normal_are_seen(self):
        rng = np.random.default_rng(4)
        table = pd.DataFrame({"a": rng.normal(size=ROWS) + 6 * (rng.random(ROWS) < 0.5)})
        assert "LOO-PIT p" in {check.name for check in make_fit(table).diagnose().failed}

    def test_an_interrupted_run_fails(self):
        assert make_fit(normal_table(), interrupted=True).diagnose()["finished"].passed is False


class TestGuides:
    def test_a_guide_near_the_posterior_passes(self):
        log_weights = 0.3 * np.random.default_rng(0).normal(size=4000)
        fit = make_fit(normal_table(), engine=SVI(), uncertainty="guide", log_weights=log_weights,
                       figures={"converged": True, "num_steps": 100}, sample_stats={})  # fmt: skip
        diagnosis = fit.diagnose()
        assert diagnosis.passed, str(diagnosis)
        assert "R-hat, parameters" not in {check.name for check in diagnosis.checks}

    def test_a_guide_too_narrow_fails_k_hat(self):
        """Target normal, proposal a tenth as wide in ten dimensions: the ratios have no mean to speak of."""
        z = np.random.default_rng(0).normal(size=(4000, 10))
        log_weights = np.sum(-0.5 * (0.3 * z) ** 2 + 0.5 * z**2, axis=1)
        fit = make_fit(normal_table(), uncertainty="guide", log_weights=log_weights)
        assert fit.diagnose()["guide k-hat"].passed is False

    def test_a_loss_still_falling_fails(self):
        fit = make_fit(normal_table(), uncertainty="guide", figures={"converged": False})
        assert fit.diagnose()["converged"].passed is False


class TestPoints:
    FIGURES = {  # noqa: RUF012
        "converged": True, "num_iterations": 9, "num_starts": 10, "num_starts_agreeing": 4,
        "num_starts_degenerate": 1, "degenerate": False,
    }  # fmt: skip

    def point_fit(self, **figures):
        fit = make_fit(normal_table(), engine=EM(), uncertainty="bootstrap", sample_stats={})
        point = {name: value.mean((0, 1)) for name, value in fit.draws.posterior.items()}
        draws = dataclasses.replace(fit.draws, point=point, figures=self.FIGURES | figures,
                                    held_out=np.full(ROWS, -2.0))  # fmt: skip
        return dataclasses.replace(fit, draws=draws)

    def test_a_good_solution_passes(self):
        fit = self.point_fit()
        diagnosis = fit.diagnose()
        assert diagnosis.passed, str(diagnosis)
        assert diagnosis["held-out ELPD"].figure == pytest.approx(ROWS * (-2 - np.log(fit.schema.scales).sum()))

    @pytest.mark.parametrize(
        ("name", "figures"),
        [("converged", {"converged": False}), ("not degenerate", {"degenerate": True}),
         ("starts that agree", {"num_starts_agreeing": 1})],
    )  # fmt: skip
    def test_a_bad_solution_says_what_is_wrong(self, name, figures):
        assert [check.name for check in self.point_fit(**figures).diagnose().failed] == [name]

    def test_its_summary_leads_with_the_estimate(self):
        fit = self.point_fit()
        frame = fit.summary()
        assert list(frame.columns) == ["estimate", "mean", "sd", "hdi_low", "hdi_high"]
        alone = dataclasses.replace(fit.draws, uncertainty="point", posterior={
            name: value[None, None] for name, value in fit.draws.point.items()
        })  # fmt: skip
        assert list(dataclasses.replace(fit, draws=alone).summary().columns) == ["estimate"]


class TestDiagnosis:
    def test_every_failed_check_gives_one_sentence_and_no_other_does(self):
        fit = make_fit(pd.DataFrame({"a": np.random.default_rng(3).standard_t(2, size=ROWS)}))
        for check in fit.diagnose().checks:
            assert (check.advice.count(". ") == 0 and check.advice.endswith(".")) == (check.passed is False)

    def test_it_reads_as_text_table_json_and_rich(self, healthy):
        from rich.console import Console

        checks = (Check.of("good", 1.0, "at most", 1.01), Check.of("bad", np.inf, "at most", 1.01, advice="Do it."),
                  Check("told", 3.5, info="for information"))  # fmt: skip
        diagnosis = Diagnosis("title", checks)
        text = str(diagnosis)
        assert "FAIL: 1 of 2 checks failed: bad." in text
        assert "Do it." in text
        assert "for information" in text
        assert json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))["checks"][1]["figure"] == "inf"
        assert list(diagnosis.to_frame()["verdict"]) == ["pass", "FAIL", "info"]
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(diagnosis)
        assert "Do it." in console.export_text()
        with pytest.raises(KeyError, match="no check 'x'"):
            diagnosis["x"]
        assert json.dumps(healthy.diagnose().to_dict(), allow_nan=False)

    def test_an_undefined_figure_fails(self):
        assert Check.of("x", np.nan, "at most", 1.0).passed is False
        assert Check.of("x", np.nan, "at least", 1.0).passed is False

    def test_details_hold_what_the_figures_came_from(self, healthy):
        details = healthy.diagnose().details
        assert set(details) == {"parameters", "log_prob", "loo", "predictive", "pit"}
        assert len(details["loo"]) == ROWS


class TestSummary:
    def test_it_is_in_original_units_with_readable_names(self, healthy):
        frame = summary(healthy)
        raw = healthy.train.to_frame()
        assert list(frame.columns)[:4] == ["mean", "sd", "hdi_low", "hdi_high"]
        assert list(frame.columns)[4:] == ["mcse_mean", "ess_bulk", "ess_tail", "r_hat"]
        assert frame.loc["locs[0, a]", "mean"] == pytest.approx(raw["a"].mean(), abs=0.1)
        assert frame.loc["scales[0, a]", "mean"] == pytest.approx(raw["a"].std(), rel=0.02)

    def test_intervals_hold_their_share(self, healthy):
        frame = summary(healthy, hdi_prob=0.5)
        draws = healthy.family.to_original(healthy.draws.posterior, healthy.schema)["locs"][:, :, 0, 0]
        inside = (draws >= frame.loc["locs[0, a]", "hdi_low"]) & (draws <= frame.loc["locs[0, a]", "hdi_high"])
        assert inside.mean() == pytest.approx(0.5, abs=0.01)


class TestBridge:
    def test_r_hat_of_good_shifted_and_still_chains(self):
        rng = np.random.default_rng(0)
        draws = rng.normal(size=(4, 500, 4))
        draws[0, :, 1] += 2
        draws[:, :, 2] = np.arange(4)[:, None]
        draws[:, :, 3] = 7.0
        good, shifted, still, constant = az.rhat(draws)
        assert good < 1.01 < 1.2 < shifted
        assert still == np.inf
        assert np.isnan(constant)

    def test_ess_and_mcse_of_independent_draws(self):
        draws = np.random.default_rng(0).normal(size=(4, 1000))
        assert az.ess(draws) == pytest.approx(4000, rel=0.1)
        assert az.mcse(draws) == pytest.approx(1 / np.sqrt(4000), rel=0.1)

    def test_bfmi_of_independent_energies_is_two(self):
        assert az.bfmi(np.random.default_rng(0).normal(size=(2, 5000))) == pytest.approx([2, 2], rel=0.1)

    def test_psis_recovers_a_generalized_pareto_tail(self):
        """Ratios z^-k with z uniform have a Pareto tail of shape k exactly."""
        z = np.random.default_rng(0).random((20, 4000))
        for k in (0.2, 0.5, 0.9):
            log_weights, found = az.psis(-k * np.log(z))
            assert found.mean() == pytest.approx(k, abs=0.1)
            np.testing.assert_allclose(logsumexp(log_weights, axis=1), 0, atol=1e-6)

    def test_psis_of_equal_ratios_loses_nothing(self):
        log_weights, k = az.psis(np.zeros((3, 100)))
        np.testing.assert_allclose(log_weights, -np.log(100))
        assert np.all(k == -np.inf)

    def test_psis_of_a_tail_that_has_an_end_leaves_the_weights_as_they_are(self):
        log_ratios = np.random.default_rng(0).normal(size=(1, 100)).clip(max=0.0)  # half of them are the largest
        log_weights, k = az.psis(log_ratios)
        np.testing.assert_allclose(log_weights, log_ratios - logsumexp(log_ratios))
        assert np.all(k == -np.inf)

    def test_a_row_of_weight_two_is_left_out_twice(self):
        """Weight 2 in the likelihood is the row twice: leaving it out takes its density away squared."""
        values = np.random.default_rng(0).normal(size=(4, 500, 3)) * 0.1
        weighted = az.loo(values, np.array([2, 2, 2])).log_weights
        np.testing.assert_allclose(weighted, az.loo(2 * values).log_weights, atol=1e-2)

    def test_the_arviz_object_says_what_is_in_it(self, healthy, tmp_path):
        data = healthy.data
        path = tmp_path / "data.nc"
        arviz_groups.to_netcdf(*arviz_groups.groups(healthy), path)
        for each in (data, az.from_netcdf(path)):
            assert each["posterior"]["locs"].dims == ("chain", "draw", "component", "column_name")
            assert list(each["posterior"]["column_name"].values) == ["a", "b"]
            assert each["log_likelihood"]["x"].dims == ("chain", "draw", "obs")
            assert each["posterior_predictive"]["x"].dims == ("chain", "draw", "obs", "column_name")
            assert each["observed_data"]["x"].values == pytest.approx(healthy.train.to_frame().to_numpy(), rel=1e-5)
            assert each.attrs["uncertainty"] == "posterior"
            assert "diverging" in each["sample_stats"]

    def test_log_likelihood_is_in_original_units(self, healthy):
        posterior = healthy.family.to_original(healthy.draws.posterior, healthy.schema)
        loc, scale = posterior["locs"][1, 7, 0], posterior["scales"][1, 7, 0]
        expected = multivariate_normal(loc, np.diag(scale**2)).logpdf(healthy.train.to_frame().to_numpy())
        assert healthy.data["log_likelihood"]["x"].values[1, 7] == pytest.approx(expected, rel=1e-4, abs=1e-4)

    @pytest.mark.parametrize("kind", ["trace", "rank"])
    def test_its_plots_are_matplotlib_figures(self, healthy, kind):
        from matplotlib.figure import Figure

        assert isinstance(az.plot(kind, healthy.data, var_names=["locs"]), Figure)


class TestPredictive:
    COLUMNS = (Column("a", "real", "float64"), Column("b", "count", "int64"),
               Column("c", "categorical", "object", categories=("x", "y")))  # fmt: skip

    def tables(self, rng, number, rows=60):
        return np.stack([rng.normal(size=(number, rows)), rng.poisson(2.0, size=(number, rows)),
                         rng.integers(2, size=(number, rows))], axis=2).astype(float)  # fmt: skip

    def test_tables_from_the_model_itself_seldom_fail(self):
        """60 tables: p is uniform at best, so 5 at 0.01 has probability 0.0003."""
        rng = np.random.default_rng(0)
        replicates = self.tables(rng, 200)
        p_values = [predictive.check(table, replicates, self.COLUMNS).p_value for table in self.tables(rng, 60)]
        assert np.sum(np.array(p_values) <= 0.01) < 5
        assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.25)

    @pytest.mark.parametrize(("column", "spoil", "named"), [
        (0, lambda x: np.append(x[1:], 9.0), "a"), (1, lambda x: np.where(x < 2, 0, x), "b"),
        (2, lambda x: np.minimum(x, np.arange(len(x)) % 5 == 0), "c"),
    ])  # fmt: skip
    def test_what_is_wrong_is_named(self, column, spoil, named):
        rng = np.random.default_rng(1)
        table = self.tables(rng, 1)[0]
        table[:, column] = spoil(table[:, column])
        found = predictive.check(table, self.tables(rng, 200), self.COLUMNS)
        assert found.p_value <= 0.01
        assert named in found.table["statistic"][0].split(" of ")[-1] or "share" in found.table["statistic"][0]

    def test_missing_entries_and_weights_count_as_they_should(self):
        rng = np.random.default_rng(2)
        x = rng.normal(size=(30, 2))
        columns = (Column("a", "real", "float64"), Column("b", "real", "float64"))
        weights = rng.integers(0, 3, size=30)
        twice = np.repeat(x, weights, axis=0)
        weighted = predictive.statistics(x[None], np.ones(x.shape, bool), columns, weights)
        repeated = predictive.statistics(twice[None], np.ones(twice.shape, bool), columns)
        names = predictive.statistic_names(columns)
        moments = [i for i, name in enumerate(names) if not name.startswith(("min", "max"))]
        np.testing.assert_allclose(weighted[:, moments], repeated[:, moments], rtol=1e-9)
        assert repeated[0, names.index("correlation of a and b")] == pytest.approx(np.corrcoef(twice.T)[0, 1])
        present = rng.random(x.shape) < 0.7
        gappy = predictive.statistics(np.where(present, x, np.nan)[None], present, columns)[0]
        assert gappy[names.index("sd of a")] == pytest.approx(x[present[:, 0], 0].std())
        assert gappy[names.index("max of b")] == x[present[:, 1], 1].max()

    @pytest.mark.parametrize("decimals", [None, 1, 0])
    def test_pit_is_uniform_however_the_table_was_rounded(self, decimals):
        rng = np.random.default_rng(3)
        observed = 2 * rng.normal(size=(300, 1))
        observed = observed if decimals is None else observed.round(decimals)
        pit = predictive.pit(observed, 2 * rng.normal(size=(100, 300, 1)), None)
        assert metrics.uniformity(pit).p_value > 0.01
        assert np.all((pit >= 0) & (pit <= 1))

    def test_pit_weights_are_used_and_missing_entries_left_alone(self):
        observed = np.array([[0.0], [np.nan]])
        replicates = np.stack([np.full((2, 1), -1.0), np.full((2, 1), 1.0)])
        weights = np.array([[0.9, 0.1], [0.5, 0.5]])
        assert predictive.pit(observed, replicates, weights)[:, 0] == pytest.approx([0.9, np.nan], nan_ok=True)


class TestMetrics:
    def test_coverage_and_its_error(self):
        intervals = np.stack([np.zeros(100), np.ones(100)], axis=1)
        share, error = metrics.coverage(intervals, np.linspace(0, 2, 100), 0.5)
        assert share == 0.5
        assert error == pytest.approx(0.05)

    def test_energy_distance_tells_a_shift_from_none(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(500, 2)), rng.normal(size=(500, 2))
        assert abs(metrics.energy_distance(x, y)) < 0.02
        assert metrics.energy_distance(x, y + 1) > 0.2


def test_the_limit_of_r_hat_allows_for_many_quantities():
    """Healthy chains of the least effective size that passes stay below it; a lone quantity has the usual limit."""
    rng = np.random.default_rng(0)
    assert rhat_limit(4, 1, 1e5) == 1.01
    worst = [az.rhat(rng.normal(size=(4, 100, 100))).max() for _ in range(20)]
    assert np.mean(np.array(worst) > 1.01) > 0.9
    assert np.mean(np.array(worst) > rhat_limit(4, 100, 400)) <= 0.05


def test_checks_of_a_table_with_gaps_and_weights_run():
    table = normal_table().mask(np.random.default_rng(0).random((ROWS, 2)) < 0.2)
    table = table[table.notna().any(axis=1)]
    weights = np.random.default_rng(1).integers(1, 3, size=len(table))
    family = GMM(1, covariance="diag")
    data = Data.from_table(table, weights=weights)
    fit = dataclasses.replace(make_fit(normal_table()), family=family, train=data, schema=data.schema)
    assert fit.diagnose()["posterior predictive p"].passed


@pytest.mark.parametrize(("chains", "draws", "rows"), [(1, 2, 3), (2, 4, 2), (1, 1, 5)])
def test_the_fewest_chains_draws_and_rows_are_judged_without_an_error(chains, draws, rows):
    table = normal_table(rows=rows)
    x = make_fit(table).train.x
    posterior, stats = normal_posterior(x, shape=(chains, draws)), healthy_stats(shape=(chains, draws))
    fit = make_fit(table, posterior=posterior, sample_stats=stats, interrupted=True)
    assert not fit.diagnose().passed
    assert len(fit.summary()) == 4
