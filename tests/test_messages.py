"""What people are told: of time steps and sequences where those are meant, and how to lift what was refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ppl_gen as pg
from ppl_gen import checks
from ppl_gen.cli import app
from ppl_gen.cli.wording import OPTIONS, diagnosis_in_options, in_options
from ppl_gen.compare import compare
from ppl_gen.diagnostics import Check, Diagnosis
from ppl_gen.engine import Draws
from ppl_gen.errors import DataError, SettingError, UnsupportedError
from ppl_gen.evidence import Evidence
from ppl_gen.models.hmm import HMM, HMMPrior
from ppl_gen.result import Fit

STAY = [[0.9, 0.1], [0.1, 0.9]]


def table(number: int = 12, steps: int = 15, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    whose = np.repeat([f"m{i}" for i in range(number)], steps)
    return pd.DataFrame({"who": whose, "t": np.tile(np.arange(steps), number), "x": rng.normal(size=number * steps)})


def fit_of(uncertainty: str = "posterior", number: int = 12) -> Fit:
    """A fit without a run: draws about two states."""
    family, rng = HMM(2, initial="uniform"), np.random.default_rng(1)
    data = family.prepare(table(number), sequence="who", order="t")
    point = {"locs": np.array([[-0.5], [0.5]]), "scales": np.ones((2, 1)), "transition_matrix": np.array(STAY)}
    posterior = {name: np.tile(value, (2, 30, 1, 1)) for name, value in point.items()}
    posterior["locs"] = posterior["locs"] + 0.1 * rng.normal(size=posterior["locs"].shape)
    if uncertainty == "point":
        draws = Draws({n: v[None, None] for n, v in point.items()}, uncertainty, point=point)
    else:
        draws = Draws(posterior, uncertainty)
    return Fit(family, pg.NUTS(), "numpyro", 0, data.schema, draws, data, versions={}, seconds=1.0)


# Units


def test_a_comparison_counts_sequences() -> None:
    fit = fit_of()
    again = dataclasses.replace(fit, seed=1)
    for one, shift in ((fit, 0.0), (again, 0.1)):
        one.__dict__["held_out"] = np.random.default_rng(2).normal(size=12) + shift
    result = compare({"a": fit, "b": again})
    assert (result.unit, result.pointwise.index.name) == ("sequence", "sequence")
    assert result.how == "12 sequences, each fit's own held-out sequences"
    assert any("With 12 sequences the" in warning for warning in result.warnings)
    assert not any("row" in warning for warning in result.warnings)
    with pytest.raises(DataError, match=r"held-out sequences as test"):
        compare([fit], table(11))
    with pytest.raises(DataError, match=r"same sequences \(12 sequences \(180 .*; 11 sequences \(165"):
        compare([fit, fit_of(number=11)])
    with pytest.raises(DataError, match=r"test table holds the training sequences: pass sequences that"):
        compare([fit], test=table())
    with pytest.raises(SettingError, match=r"the number of sequences \(12\), not 1"):
        compare([HMM(2)], table(), folds=1, sequence="who", order="t")


def test_few_sequences_are_compared_by_their_steps() -> None:
    """Two sequences forward in time: time steps are what is scored."""
    em = pg.EM(num_starts=1, num_bootstraps=0, max_iter=20)
    result = compare([HMM(1), HMM(2)], table(2, steps=12), folds=3, engine=em, sequence="who", order="t")
    assert (result.unit, len(result.pointwise)) == ("time step", 12)
    assert "With 12 time steps" in " ".join(result.warnings)


def test_checks_speak_of_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fit_of()
    monkeypatch.setattr(checks, "KHAT_SHARE", -1.0)  # so that the check fails and gives its advice
    monkeypatch.setattr(checks, "P_VALUE", 2.0)
    khat, elpd = checks.of_held_out(fit)[0]
    assert "of 12 sequences above" in khat.info
    assert "single sequences" in khat.advice
    assert "those sequences" in khat.advice
    assert " a sequence (PSIS-LOO" in elpd.info
    assert "sequence" in checks.of_held_out(fit)[1]["loo"]
    assert "more states or another emission" in checks.of_predictions(fit)[0][0].advice
    point = fit_of("point", number=3)
    bad = dataclasses.replace(point.draws, figures={"degenerate": 1.0, "num_starts": 2.0})
    (check,) = checks.of_run(dataclasses.replace(point, draws=bad))[0]
    assert "a few time steps: use fewer states" in check.advice
    assert Evidence.of(point).loo is None


# What to change


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.pyro)])
@pytest.mark.parametrize(
    ("family", "advice"),
    [
        (HMM(2, "student_t"), r"degrees of freedom .*: fix them, as in prior=HMMPrior\(df=4\)\. Or use nuts or svi"),
        (HMM(2, "gaussian_full", prior=HMMPrior(scales=1.0)), "given fixed scales: leave scales out of the prior"),
        (pg.GMM(2, prior=pg.GMMPrior(scales=1.0)), "scales fixed alone, correlation has .*: fix both in the prior"),
        (pg.GMM(2, prior=pg.GMMPrior(correlation=np.eye(2))), "correlation fixed alone, scales has"),
    ],
)
def test_em_says_how_it_could_fit(family: pg.Family, advice: str, backend: str) -> None:
    x = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(UnsupportedError, match=advice):
        pg.fit(family, x, engine="em", backend=backend)


@pytest.mark.parametrize("engine", ["em", "nuts", "svi"])
def test_a_prior_that_fixes_everything_leaves_nothing_to_infer(engine: str) -> None:
    x = np.random.default_rng(0).normal(size=40)
    prior = HMMPrior(transition_matrix=STAY, locs=[-1.0, 1.0], scales=1.0)
    fixed = pg.GMMPrior(weights=[0.5, 0.5], locs=[-1, 1], scales=1.0)
    for family in (HMM(2, initial="uniform", prior=prior), pg.GMM(2, covariance="diag", prior=fixed)):
        with pytest.raises(SettingError, match="fixes every parameter, so none is left to infer: free one"):
            pg.fit(family, x, engine=engine)


# On the command line


@pytest.mark.parametrize(
    ("python", "option"),
    [
        ("drop it with drop=['a b', 'c,d'].", """drop it with --drop 'a b,"c,d"'."""),
        ("with kinds={'n': 'categorical'}.", "with --kind 'n=categorical'."),
        ("the same label: sequence= names the column", "the same label: --sequence names the column"),
        ("that tells them apart in sequence=).", "that tells them apart in --sequence)."),
        ("choose others in columns=, or drop fewer.", "choose others in --columns, or drop fewer."),
        ("or leave order= out: then", "or leave --order out: then"),
        ("hdi_prob must be between 0 and 1, not 2.", "--hdi-prob must be between 0 and 1, not 2."),
        ("false_discovery_rate must be between 0 and 1", "--fdr must be between 0 and 1"),
        ("length is for families that", "--length is for families that"),
        ("fix them, as in prior=HMMPrior(df=4). Or", "fix them, as in --set prior.df=4. Or"),
        ("as in prior=HMMPrior(locs=[-1, 1]).", "as in --set 'prior.locs=[-1, 1]'."),
        ("use fewer states or objective='map'.", "use fewer states or --engine-set objective=map."),
        ("take initial='free'.", "take --set initial=free."),
        ("Column 'order=' and 'seed= of' stay.", "Column 'order=' and 'seed= of' stay."),
        ("'num_components2' is not of the form name=value", "'num_components2' is not of the form name=value"),
    ],
)
def test_advice_in_python_becomes_options(python: str, option: str) -> None:
    assert in_options(python) == option


def test_each_of_them_is_an_option() -> None:
    import typer

    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    known = {parameter.name for command in commands for parameter in command.params}
    assert set(OPTIONS) <= known


def test_a_diagnosis_advises_in_options() -> None:
    check = Check("guide k-hat", 2.0, 0.7, False, advice="Use guide='multivariate', or NUTS.")
    (found,) = diagnosis_in_options(Diagnosis("t", (check,))).checks
    assert found.advice == "Use --engine-set guide=multivariate, or NUTS."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--order", "t"], "name the column that tells them apart in --sequence"),
        (["--sequence", "who", "--order", "t", "--columns", "y"], "The table has no column 'y': choose one of x."),
        (["--sequence", "who", "--order", "t", "--drop", "x"], "choose others in --columns"),
        (["--order", "who"], "or leave --order out"),
        (["--sequence", "who", "--set", "emission=student_t", "--engine", "em"], "--set prior.df=4"),
        (["--sequence", "who", "--engine", "em", "--checkpoint", "c"], "leave --checkpoint out"),
        (
            ["--sequence", "who", "--set", "initial=none", "--set", "prior.initial_probs=[1, 0]"],
            "take --set initial=free",
        ),
    ],
)
def test_errors_of_the_command_line_name_its_options(
    options: list[str], message: str, tmp_path: Any, capsys: Any
) -> None:
    from ppl_gen.cli import main

    table(3).to_csv(path := tmp_path / "t.csv", index=False)
    assert main(["fit", str(path), "hmm", *options, "-o", str(tmp_path / "run")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved fits, of sequences and of rows, and a table."""
    folder = tmp_path_factory.mktemp("runs")
    fit_of().save(folder / "hmm")
    family = pg.GMM(1)
    data = family.prepare(np.random.default_rng(0).normal(size=(20, 1)))
    point = {"locs": np.zeros((1, 1)), "scales": np.ones((1, 1)), "weights": np.ones(1)}
    draws = Draws({name: value[None, None] for name, value in point.items()}, "point", point=point)
    Fit(family, pg.EM(), "numpyro", 0, data.schema, draws, data, versions={}, seconds=1.0).save(folder / "gmm")
    table().to_csv(folder / "t.csv", index=False)
    return folder


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("forecast {runs}/none", "there is no such folder"),
        ("forecast {runs}/t.csv", "is no fit but a file"),
        ("forecast {runs}/gmm -n 3", "families that can: autoregressive, hmm"),
        ("score {runs}/gmm --per-step", "families that can: autoregressive, hmm"),
        ("latents {runs}/gmm --method viterbi", "--method is for families that model sequences; gmm models rows"),
        ("forecast {runs}/hmm -n 0", "--horizon must be a whole number of at least 1, not 0."),
        ("forecast {runs}/hmm -n -3", "--horizon must be"),
        ("forecast {runs}/hmm -n 2.5", "'--horizon' / '-n': it must be a whole number"),
        ("forecast {runs}/hmm --hdi-prob much", "'--hdi-prob': it must be a number"),
        ("forecast {runs}/hmm --hdi-prob 90", "--hdi-prob must be between 0 and 1, not 90.0."),
        ("forecast {runs}/hmm --num-draws 0", "--num-draws must be a whole number of at least 1"),
        ("forecast {runs}/hmm -n 1000000000", "1,000,000,000 steps of 12 sequences in 1,000 futures would not fit"),
        ("forecast {runs}/hmm --num-draws 1000000000000", "lower --num-draws, or ask for less"),
        ("latents {runs}/hmm --method draws --num-draws 1000000000", "180 time steps in 1,000,000,000 paths"),
        ("latents {runs}/hmm --method draws --num-draws 0", "--num-draws must be"),
        ("latents {runs}/hmm --method vitterbi", "did you mean 'viterbi'?"),
        ("sample {runs}/hmm -n 3 --length 1000000000", "3 sequences of 1,000,000,000 time steps would not fit"),
        ("sample {runs}/hmm --length 0", "--length must be"),
        ("forecast {runs}/hmm -o f.txt", "'f.txt': the name must end in .csv or .parquet"),
        ("forecast {runs}/hmm --horzon 3", "did you mean '--horizon'?"),
        ("forecast {runs}/hmm --steps 3", "No such option: --steps. See ppl-gen forecast --help."),
        ("score {runs}/hmm --perstep", "did you mean '--per-step'?"),
        (
            "forecast {runs}/hmm {runs}/t.csv --drop x",
            "Column 'x' is missing from the table: add it; the model",
        ),
    ],
)
def test_mistakes_at_sequences_take_a_line(arguments: str, told: str, runs: Path, capsys: Any) -> None:
    from ppl_gen.cli import main

    assert main([part.format(runs=runs) for part in arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        ("forecast {runs}/hmm -n 1 --num-draws 20", "The next 1 time step of 12 sequences"),
        ("latents {runs}/hmm --method viterbi", "Latents of 180 time steps"),
        ("sample {runs}/hmm -n 2 --length 3", "6 time steps of 2 new sequences"),
        ("score {runs}/hmm --per-step", "180 time steps, exact log density"),
        ("score {runs}/hmm", "12 sequences, exact log density"),
    ],
)
def test_tables_of_sequences_say_what_they_hold(arguments: str, title: str, runs: Path, capsys: Any) -> None:
    from ppl_gen.cli import main

    assert main([part.format(runs=runs) for part in arguments.split()]) == 0
    assert any(line.startswith(title) for line in capsys.readouterr().out.splitlines())


def test_what_is_printed_is_short() -> None:
    fit = fit_of()
    assert repr(fit) == "<Fit of HMM(initial='uniform') by NUTS() in numpyro, seed 0: 12 sequences x 1 column>"
    assert repr(fit.score(p_values=False)).startswith("<Score of 12 log densities (exact, posterior): mean -")
    assert len(repr(fit.score(p_values=False))) < 80


def test_a_row_that_is_a_series_is_refused_and_a_dictionary_of_scalars_is_a_row() -> None:
    rows = pd.DataFrame({"a": [0.0, 1.0, 3.0], "b": [1.0, 2.0, 0.0]})
    data = pg.GMM(1).prepare(rows)
    with pytest.raises(DataError, match="iloc"):
        data.schema.encode(rows.iloc[0])
    np.testing.assert_array_equal(data.schema.encode({"a": 1.0, "b": 2.0}).x, data.x[1:2])


def test_verbs_of_unnormalised_densities_are_commands() -> None:
    from ppl_gen.checks_energies import MORE

    assert in_options("only differences; fit.normalize('smc')") == "only differences; ppl-gen normalize --method smc"
    told = in_options(
        "sample by fit.chains(sampler='tempered'), or raise thinning of fit.normalize(SMC(thinning=...))."
    )
    assert told == (
        "sample by ppl-gen chains --sampler tempered, or raise the thinning of ppl-gen normalize --method smc --set "
        "thinning=...."
    )
    assert "fit.normalize" not in in_options(MORE)
    assert "AIS(" not in in_options(MORE)
