"""What a report says of one model, of few rows, of sequences and images, and of a comparison whose file is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from reports import write_comparison
from zoo import clusters

import ppl_gen as pg
from ppl_gen import checks_networks, images
from ppl_gen.errors import StorageError
from ppl_gen.html.densities import densities, levels_of
from ppl_gen.html.document import _size, lead, title
from ppl_gen.html.markup import escape
from ppl_gen.html.ranking import ranking_of, section
from ppl_gen.html.sources import read


@pytest.fixture(scope="module")
def fit() -> pg.Fit:
    return pg.fit(pg.GMM(1), clusters(60), engine=pg.EM(num_starts=1, num_bootstraps=0), seed=0)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("left_out", [1], "a list of models"), ("warnings", 3, "a list of sentences"), ("next", ["x"], "a list of comm"),
     ("columns", 2, "a list of names"), ("rows", "x", "a whole number"), ("seconds", [], "a number"),
     ("unit", {}, "text")],
)  # fmt: skip
def test_a_part_of_another_type_is_told(name: str, value: object, words: str, tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text(json.dumps({"format": 1, "models": [{"model": "a"}], name: value}))
    with pytest.raises(StorageError, match=f"json is damaged: {name} must be {words}"):
        read(tmp_path)


def test_one_model_alone_is_not_compared(fit: pg.Fit, tmp_path: Path) -> None:
    alone = read(write_comparison(tmp_path / "alone", {"gmm": fit}, left_out=[], warnings=[]))
    assert title(alone) == "One model of tables/<b>cells</b>.csv"
    told = str(escape(lead(alone, {}))) + section(ranking_of(alone), {})
    for said in ("compared", "The highest", "Look at the differences", "difference to best", "ranked", "Weight:"):
        assert said not in told
    assert "There is one model alone" in told


def test_sizes_are_of_what_rows_are(fit: pg.Fit, tmp_path: Path) -> None:
    """Sequences have time steps and images pixels, with the fits and without."""
    comparison = {"rows": 12, "columns": list("abcd"), "unit": "sequence"}
    assert _size(comparison, {}) == "12 sequences x 4 columns"
    assert _size(comparison | {"unit": "time step"}, {}) == "12 sequences x 4 columns"
    assert _size(comparison | {"unit": "image"}, {}) == "12 images x 4 pixels"
    pictures = pg.Data.from_table(np.random.default_rng(0).random((12, 2, 2)))
    steps = pg.Data.from_table(pd.DataFrame({"who": np.repeat(range(12), 5), "y": np.random.default_rng(0).random(60)}),
                         sequence="who")  # fmt: skip
    for data, whole, part in (
        (pictures, "12 images of 2 x 2", "13 images of 2 x 2"),
        (steps, "12 sequences (60 time steps) x 1 column", "13 sequences x 1 column"),
    ):
        like = {"fit": SimpleNamespace(train=data, schema=data.schema)}
        assert _size({"rows": 12, "columns": ["a"]}, like) == whole
        assert _size({"rows": 13, "columns": ["a"]}, like) == part
    (run,) = read(write_comparison(tmp_path / "sequences", {"gmm": fit}, unit="sequence")).runs
    told = densities(run, fit)
    assert "Of 30 sequences that the comparison held out: mean" in told
    assert "nats per sequence" in told


def test_few_rows_have_a_line_each() -> None:
    assert levels_of(3) == (["lowest", "median", "highest"], [0, 1, 2])
    assert levels_of(1) == (["the only one"], [0])
    names, places = levels_of(9)
    assert len(set(places)) == len(places)
    assert names == ["lowest", "25 %", "median", "75 %", "highest"]
    assert len(levels_of(1000)[0]) == 7


def test_checks_of_uniform_numbers_name_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((50, 4))
    values[:, 2] = values[:, 1] = values[:, 1] ** 3
    monkeypatch.setattr(checks_networks, "uniforms", lambda _: checks_networks.Uniforms(np.arange(50), values))
    schema = pg.Data.from_table(np.random.default_rng(0).random((50, 2, 2))).schema
    (uniform, independent), details = checks_networks._of_uniforms(SimpleNamespace(schema=schema))
    assert uniform.info.startswith("lowest of 4: pixel (0, 1); 50 rows")
    assert "pixel (0, 1) and pixel (1, 0)" in independent.info
    assert "x1" not in uniform.advice + independent.advice
    assert list(details["calibration"]) == [images.pixel((2, 2), j) for j in range(4)]
