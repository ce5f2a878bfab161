"""Fits of restricted Boltzmann machines: digits beside scikit-learn's, log Z, hidden units, pictures, bad input."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logsumexp
from sklearn.datasets import load_digits
from sklearn.neural_network import BernoulliRBM
from zoo import columns_of as table

import ppl_gen as pg
from ppl_gen import plots
from ppl_gen.arviz_bridge import from_netcdf
from ppl_gen.cli import main
from ppl_gen.models.rbm import RBM
from ppl_gen.normalizer import normalize

each_backend = pytest.mark.parametrize("backend", ["numpyro", "pyro"])


@cache
def digits() -> tuple[np.ndarray, np.ndarray, pg.Fit]:
    """scikit-learn's 8 x 8 digits, pixels brighter than half or not: training and test images, and a machine of 16
    hidden units after 60 epochs."""
    order = np.random.default_rng(0).permutation(1797)
    images = (load_digits().images > 7.5).astype(int)[order]
    engine = pg.Contrastive(num_members=1, num_steps=1, batch_size=32, max_steps=60 * 44, validation=0.0)
    with pytest.warns(UserWarning, match="never vary"):
        return images[:1437], images[1437:], pg.fit(RBM(16), images[:1437], engine=engine, seed=0)


def test_digits_are_held_out_better_than_by_scikit_learn_at_equal_epochs() -> None:
    train, test, fit = digits()
    with np.errstate(over="ignore"):
        peer = BernoulliRBM(16, learning_rate=0.05, n_iter=60, random_state=0).fit(train.reshape(-1, 64))
    x, states = test.reshape(-1, 64), np.arange(2**16)[:, None] >> np.arange(16) & 1
    own, found, normalizers = fit.posterior, [], []
    for weight, visible, hidden in (
        (own["weight"][0], own["visible_bias"][0], own["hidden_bias"][0]),
        (peer.components_.T, peer.intercept_visible_, peer.intercept_hidden_),
    ):
        log_z = logsumexp(states @ hidden + np.logaddexp(0, states @ weight.T + visible).sum(1))
        found.append((x @ visible + np.logaddexp(0, x @ weight + hidden).sum(1)).mean() - log_z)
        normalizers.append(log_z)
    assert found[0] > max(found[1], -20.47)
    score = fit.score(test, p_values=False)
    assert score.kind == "unnormalised"
    assert score.error is None
    last_place = float(np.spacing(np.float32(normalizers[0])))  # of log Z in single precision, which all rows share
    assert last_place < 1e-5
    assert score.log_predictive.mean() == pytest.approx(found[0], abs=last_place)


@each_backend
def test_annealing_finds_the_log_normalizer_that_enumeration_does(backend: str) -> None:
    train, _, fit = digits()
    pair, exact = RBM(16).build(backend, fit.schema, len(train)), fit.posterior["log_normalizer"]
    found = normalize(pair, fit.posterior, None, pg.AIS(num_temperatures=300, num_chains=256), seed=1)
    off, error = abs(found["log_normalizer"] - exact)[0], found["log_normalizer_error"][0]
    assert off < min(0.05, 3 * error)
    assert found["log_normalizer_k_hat"][0] < 0.7


def test_hidden_units_are_latents_and_pictures_and_reach_the_command_line(tmp_path: Any, capsys: Any) -> None:
    _, test, fit = digits()
    frame = fit.latents(test[:4])
    logits = test[:4].reshape(4, -1) @ fit.posterior["weight"][0] + fit.posterior["hidden_bias"][0]
    np.testing.assert_allclose(frame.filter(regex=r"^h").to_numpy(), expit(logits), atol=1e-6)
    with pytest.raises(pg.SettingError, match="member must be a whole number from 0 to 0"):
        fit.latents(test[:4], member=1)
    with pytest.raises(pg.SettingError, match="leave method out"):
        fit.latents(test[:4], method="importance")
    assert plots.applicable(fit)["filters"] == ""
    assert "filters" in plots.applicable(fit)["latents"]
    assert len(plots.plot_filters(fit).axes) == 2
    names, values = fit.family.filters(fit.posterior, fit.schema)
    assert names == list(fit.schema.names)
    np.testing.assert_array_equal(values, fit.posterior["weight"])
    path = tmp_path / "mixed.csv"
    table("mixed").to_csv(path, index=False)
    options = [
        "--engine",
        "contrastive",
        "--set",
        "num_hidden=3",
        "--engine-set",
        "num_members=1",
        "--engine-set",
        "max_steps=50",
    ]
    assert main(["fit", str(path), "rbm", *options, "--backend", "pyro", "-o", str(tmp_path / "fit")]) == 0
    loaded = pg.load(tmp_path / "fit")
    names, values = loaded.family.filters(loaded.posterior, loaded.schema)
    assert names == ["p=blue", "p=green", "p=red", "u", "a", "q=blue", "q=green", "q=red", "v"]
    # A row's features in this order give the log odds of its hidden units but for a constant.
    frame, rows = loaded.latents(), table("mixed")
    read = np.stack([rows[n[0]] == n[2:] if "=" in n else (rows[n] - rows[n].mean()) / rows[n].std(ddof=0)
                     if n != "a" else rows[n] for n in names], 1).astype(float)  # fmt: skip
    rest = np.log(frame["h0"] / (1 - frame["h0"])) - read @ values[0, :, 0]
    assert np.ptp(rest) < 1e-4
    assert len(plots.plot_filters(loaded).axes) == 2
    assert main(["latents", str(tmp_path / "fit"), "--json"]) == 0
    assert '"h0"' in capsys.readouterr().out


def test_chains_and_log_z_from_the_command_line(tmp_path: Any, capsys: Any) -> None:
    engine = pg.Contrastive(num_members=1, max_steps=40, normalizer="exact")
    run = str(pg.fit(RBM(3), table("binary"), engine=engine).save(tmp_path / "fit"))
    few = [word for item in ("num_samples=60", "num_warmup=5", "num_chains=2") for word in ("--set", item)]
    options = ["chains", run, "--sampler", "tempered", *few, "-o", str(tmp_path / "chains.nc")]
    with pytest.MonkeyPatch.context() as patch:  # no chains have an R-hat of 0
        patch.setattr("ppl_gen.checks.rhat_limit", lambda *_: 0.0)
        assert main([*options, "--json", "--strict"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "FAIL: 1 of 2 checks failed: R-hat."
    assert [row["quantity"] for row in found["summary"]][:2] == list(table("binary").columns[:2])
    assert from_netcdf(tmp_path / "chains.nc")["posterior"]["b"].shape == (2, 60)
    assert main(options) == 2  # the file is there
    assert "exists already" in capsys.readouterr().err
    assert main(["chains", run]) == 2
    assert "--sampler tempered" in capsys.readouterr().err

    anew = ["--method", "ais", "--set", "num_temperatures=50", "--set", "num_chains=64", "-o", str(tmp_path / "ais")]
    assert main(["normalize", run, *anew, "--json"]) == 0
    (member,) = json.loads(capsys.readouterr().out)["members"]
    exact = float(pg.load(run).posterior["log_normalizer"][0])
    assert abs(member["log_normalizer"] - exact) < 4 * member["log_normalizer_error"]
    loaded = pg.load(tmp_path / "ais")
    assert float(loaded.posterior["log_normalizer"][0]) == pytest.approx(member["log_normalizer"])
    assert main(["normalize", run]) == 2  # in place, which nobody has asked for
    assert "--overwrite" in capsys.readouterr().err
    assert main(["normalize", str(tmp_path / "ais"), "--method", "exact", "--overwrite"]) == 0
    assert float(pg.load(tmp_path / "ais").posterior["log_normalizer"][0]) == pytest.approx(exact, abs=1e-6)
    assert main(["normalize", run, "--method", "none", "--set", "num_chains=4", "--overwrite"]) == 2


def test_without_log_z_no_member_outweighs_the_others_and_rows_keep_their_ranks() -> None:
    rows = table("binary", 200)
    fit = pg.fit(RBM(3), rows, engine=pg.Contrastive(num_members=2, max_steps=200, batch_size=64), seed=0)
    bare = fit.normalize("none")
    with pytest.warns(UserWarning, match="only differences"):
        without, known = bare.score(keep_draws=True), fit.score(keep_draws=True)
    # A member's scores differ from those with its log Z by a constant, beside the mean row's, up to rounding.
    gap = (without.log_prob - known.log_prob).to_numpy()
    assert (np.ptp(gap, axis=-1) < 1e-4).all()
    np.testing.assert_allclose(without.log_prob.to_numpy().mean(-1), 0, atol=1e-4)
    # Ranks are among held-out densities of the same scale; a row may pass a few others, as members mix otherwise.
    assert np.abs(without.p_value - known.p_value).max() < 0.05
    assert np.ptp(without.p_value) > 0.9


def test_bad_input_is_named() -> None:
    binary = table("binary").astype(float)
    binary.iloc[7, 1] = 0.5
    with pytest.raises(pg.DataError, match=r"Column 'b', row 7: 0\.5 is not 0 or 1"):
        RBM(visible="bernoulli").prepare(binary)
    with pytest.raises(pg.DataError, match="Column 'p' holds labels, but rbm takes binary columns only"):
        RBM(visible="bernoulli").prepare(table("categorical"))
    images = np.random.default_rng(0).integers(0, 2, (60, 4, 4))
    images[3, 1, 2] = 7
    with pytest.raises(pg.DataError, match=r"Image 3, pixel \(1, 2\) is 7, but rbm takes pixels of 0 and 1 only"):
        RBM(visible="bernoulli").prepare(images)
    lacking = table("real")
    lacking.iloc[4, 0] = np.nan
    with pytest.raises(pg.DataError, match="missing values"):
        RBM().prepare(lacking)
    with pytest.raises(pg.DataError, match="at least 50 rows, the table has 49"):
        RBM().prepare(table()[:49])
    for options, name in (({"num_hidden": 0}, "num_hidden"), ({"visible": "poisson"}, "visible"),
                          ({"scale": "unit"}, "scale")):  # fmt: skip
        with pytest.raises(pg.SettingError, match=name):
            RBM(**options)
    new = table("mixed")[:9]
    new.loc[3, "p"] = "mauve"
    with pytest.raises(pg.DataError, match="Column 'p', row 3: unknown category 'mauve'"):
        RBM().prepare(table("mixed")).schema.encode(new)
