"""What a comparison without named models tries of a table, what it leaves out, and why."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from zoo import clusters, columns_of, visits

from ppl_gen import amounts, registry
from ppl_gen.candidates import choose, read
from ppl_gen.errors import DataError, SettingError

RNG = np.random.default_rng(0)


def tried(table, **options):
    """Names of the families tried, and {family: why} of those left out."""
    data, _ = read(table, options)
    found, without = choose(data)
    return {each.family.name for each in found}, {each.model.split()[0]: each.why for each in without}


def test_every_family_is_tried_or_told_why_not():
    for table, options in ((clusters(), {}), (columns_of("mixed"), {}), (visits(), {"sequence": "who"})):
        found, why = tried(table, **options)
        assert found | set(why) >= set(registry.families())
        assert all(each.strip().endswith(".") or ":" in each for each in why.values())


def test_real_columns_suit_all_but_sequences_and_implicit_families():
    found, why = tried(clusters())
    assert set(why) == {"gan", "hmm"}
    assert "surrogate" in why["gan"]
    assert "order" in why["hmm"]
    assert {"gmm", "flow", "vae", "ebm", "rbm"} <= found


def test_labels_leave_out_the_families_of_real_columns():
    found, why = tried(columns_of("mixed"))
    assert {"autoregressive", "rbm", "vae"} <= found
    assert {"gmm", "ebm"} <= set(why)
    assert "real" in why["gmm"]


def test_a_family_that_would_read_truth_values_as_numbers_is_left_out():
    """Its density would not be comparable with the others' probabilities."""
    found, why = tried(columns_of("binary"))
    assert "gmm" not in found
    assert "can't be ranked with probabilities" in why["gmm"]
    assert "kinds={'a': 'real'}" in why["gmm"]


def test_missing_entries_leave_out_what_cannot_integrate_them_out():
    table = clusters()
    table.iloc[3, 0] = np.nan
    found, why = tried(table)
    assert {"gmm", "vae"} <= found
    assert {"flow", "dae", "autoregressive", "diffusion"} <= set(why)
    assert "height" in why["dae"]
    assert "missing" in why["dae"]


def test_few_rows_leave_out_networks():
    found, why = tried(clusters(30))
    assert found == {"gmm"}
    assert "at least 50 rows" in why["flow"]


def test_sequences_are_for_the_families_that_model_them():
    found, why = tried(visits(), sequence="who", order="day")
    assert found == {"hmm", "autoregressive"}
    assert "models rows" in why["gmm"]
    assert "models rows" in why["gan"]


def test_an_implicit_family_is_tried_where_its_surrogate_is_asked_for():
    data, _ = read(clusters(), {})
    assert "gan" in {each.family.name for each in choose(data, surrogate="ais")[0]}


def test_quick_and_sure_ones_have_the_first_turn():
    found, _ = choose(read(clusters(), {})[0])
    assert [each.turn for each in found] == sorted(each.turn for each in found)
    assert found[0].family.name == "gmm"


def test_whole_numbers_of_many_values_are_read_as_real_by_all_and_that_is_told():
    table = pd.DataFrame({"age": RNG.permutation(200), "x": RNG.normal(size=200), "children": RNG.integers(0, 4, 200)})
    data, notes = read(table, {})
    assert dict(zip(data.schema.names, data.schema.kinds, strict=True)) == {
        "age": "real", "x": "real", "children": "count"}  # fmt: skip
    assert "'age'" in notes[0]
    kept, notes = read(table, {"kinds": {"age": "count"}})
    assert (kept.schema.kinds[0], notes) == ("count", ())


def test_labels_of_which_each_row_has_its_own_are_refused_unless_wanted():
    table = pd.DataFrame({"when": [f"2020-{n}" for n in range(40)], "x": RNG.normal(size=40)})
    with pytest.raises(DataError, match=r"'when' has 40 different labels in 40 rows.*drop"):
        read(table, {})
    assert read(table, {"kinds": {"when": "categorical"}})[0].schema.columns[0].kind == "categorical"
    assert len(read(table.assign(when=np.arange(40) % 5).astype({"when": str}), {})[0]) == 40


def test_a_ladder_has_no_more_parameters_than_the_table_bears():
    data, _ = read(pd.DataFrame(RNG.normal(size=(60, 5))), {})
    full = next(each for each in choose(data)[0] if each.name == "gmm full")
    assert full.ladder[0].num_components == 1
    assert 2 * full.ladder[-1].num_parameters(5) <= 300


def test_bic_finds_the_two_clusters():
    data, _ = read(clusters(200), {})
    full = choose(data)[0][0]
    assert type(full.family).lowest_bic(full.ladder, data, 10.0, 0).num_components == 2


@pytest.mark.parametrize(
    ("text", "value"), [("5m", 300), ("90s", 90), ("1h", 3600), ("1h30m", 5400), (45, 45), ("2.5m", 150), ("60", 60)]
)
def test_times(text, value):
    assert amounts.seconds(text) == value


@pytest.mark.parametrize("text", ["", "m", "5x", "-3s", "5m later", None])
def test_what_is_no_time(text):
    with pytest.raises(SettingError, match="5m, 90s, 1h"):
        amounts.seconds(text)


def test_memory():
    assert amounts.memory("8G") == 8 * 2**30
    assert amounts.memory("1.5GiB") == 1.5 * 2**30
    assert amounts.memory(10**9) == 10**9
    assert amounts.available_memory() > 2**20
    for text in ("8X", "0", "much"):
        with pytest.raises(SettingError, match="8G"):
            amounts.memory(text)
