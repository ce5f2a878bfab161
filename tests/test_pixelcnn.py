"""Images as data, and masked convolutions of them: what depends on what, exact sums, twins, uniform numbers, files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import ppl_gen as pg
from ppl_gen import images, plots
from ppl_gen.backends import numpyro_ops
from ppl_gen.cli import main
from ppl_gen.data import Schema
from ppl_gen.models.autoregressive import Autoregressive, numpyro_pixelcnn
from ppl_gen.models.autoregressive.architecture import resolve

TINY: dict[str, Any] = {"channels": 4, "num_layers": 2, "hidden": (6,), "num_mixture_components": 2}
QUICK = pg.SVI(num_members=2, max_steps=100, learning_rate=1e-2, batch_size=32)


def bars(number: int = 60, side: int = 3, seed: int = 0) -> np.ndarray:
    """Binary images with one row or one column of ones."""
    rng = np.random.default_rng(seed)
    x = np.zeros((number, side, side), np.uint8)
    for image, place, upright in zip(x, rng.integers(0, side, number), rng.random(number) < 0.5, strict=True):
        image[(slice(None), place) if upright else (place, slice(None))] = 1
    return x


def bytes_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Whole-number images that hold 0 and 255."""
    x = np.random.default_rng(seed).integers(0, 256, (60, *shape), dtype=np.uint8)
    x[0].flat[0], x[1].flat[0] = 0, 255
    return x


CASES: dict[str, tuple[np.ndarray, dict[str, Any], int]] = {
    "binary": (bars(), {}, 2),
    "count": (bytes_of((3, 2, 2)), {}, 3),
    "real": (np.random.default_rng(1).normal(size=(60, 2, 3)), {}, 2),
    "categorical": (np.random.default_rng(2).integers(0, 3, (60, 2, 3)), {"kinds": {"pixel": "categorical"}}, 2),
}


def made(x: np.ndarray, kernel_size: int = 2, **options: Any) -> tuple[Any, pg.Data, dict[str, np.ndarray]]:
    """A family, its data, and weights far enough from their start for pixels to depend on each other."""
    family = Autoregressive("pixelcnn", **TINY, kernel_size=kernel_size)
    data = family.prepare(x, **options)
    pair = family.build("numpyro", data.schema, len(data))
    rng = np.random.default_rng(4)
    start = {name: value[0] for name, value in pair.initialize(data.view(), 3, 1).items()}
    return family, data, {name: value + 0.3 * rng.normal(size=value.shape) for name, value in start.items()}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("layers", "kernel_size", "reach"), [(1, 2, 2), (2, 2, 3), (1, 3, 3)])
def test_a_pixel_depends_on_all_pixels_before_it_within_reach_and_on_no_other(
    layers: int, kernel_size: int, reach: int
) -> None:
    """``reach``: 1 + (kernel_size - 1) num_layers rows above and pixels to the left. In the rows above, columns to both
    sides, one fewer: a whole rectangle, without the blind spot of a single stack."""
    side = 5
    family = Autoregressive("pixelcnn", **(TINY | {"num_layers": layers}), kernel_size=kernel_size)
    data = family.prepare(bars(side=side))
    start = family.build("numpyro", data.schema, 60).initialize(data.view(), 3, 1)
    rng = np.random.default_rng(4)
    values = {name: jnp.asarray(value[0] + 0.5 * rng.normal(size=value.shape[1:])) for name, value in start.items()}
    values["mix_bias"] += 5.0  # so that no rectified unit is off at these images
    architecture = resolve(family, data.schema)

    def contexts(x: jax.Array) -> jax.Array:
        return numpyro_pixelcnn._contexts(architecture, values, x[None])[2].sum(-1).ravel()

    found = np.asarray(jax.jit(jax.jacobian(contexts))(jnp.asarray(data.x[0], float))).reshape([side] * 4)
    for i, j, row, column in itertools.product(range(side), repeat=4):
        above = i - reach <= row < i and abs(column - j) < reach
        assert (found[i, j, row, column] != 0) == (above or (row == i and j - reach <= column < j))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", CASES)
def test_the_twins_are_the_same_function_and_uniform_numbers_come_back(case: str) -> None:
    import torch

    from ppl_gen.backends import pyro_ops

    x, options, kernel_size = CASES[case]
    family, data, values = made(x, kernel_size, **options)
    one = {name: value[None] for name, value in values.items()}
    u = np.random.default_rng(5).random((9, data.num_columns))
    found: dict[str, list[np.ndarray]] = {}
    for backend, ops, make in (("numpyro", numpyro_ops, jnp.asarray), ("pyro", pyro_ops, torch.as_tensor)):
        pair = family.build(backend, data.schema, len(data))
        view = data.view(backend)
        drawn = ops.from_uniform(pair, one, u)[0]
        ends = ops.hook_over_draws(pair, "to_uniform", one, view._replace(x=make(drawn)))[0]
        assert (ends[..., 0] <= u + 1e-9).all()
        assert (ends[..., 1] >= u - 1e-9).all()
        assert (np.ptp(ends, axis=-1) > 0).all() == (case != "real")
        found[backend] = [ops.log_prob(pair, one, view)[0], drawn, ends]
    for first, second in zip(*found.values(), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_probabilities_sum_to_one() -> None:
    """Of all binary images of 3 x 3; and of all values of the last of few pixels with 256 levels, given the others."""
    family, data, values = made(bars())
    pair, one = family.build("numpyro", data.schema, 60), {name: value[None] for name, value in values.items()}
    every = np.array(list(itertools.product([0.0, 1.0], repeat=9)))
    total = np.exp(numpyro_ops.log_prob(pair, one, data.view("numpyro")._replace(x=jnp.asarray(every)))).sum()
    assert abs(total - 1) < 1e-12

    family, data, values = made(bytes_of((1, 1, 2)))
    pair, one = family.build("numpyro", data.schema, 60), {name: value[None] for name, value in values.items()}
    every = np.array(list(itertools.product(range(256), repeat=2)), float)
    total = np.exp(numpyro_ops.log_prob(pair, one, data.view("numpyro")._replace(x=jnp.asarray(every)))).sum()
    assert abs(total - 1) < 1e-10


@pytest.mark.usefixtures("x64")
def test_images_are_scored_and_drawn_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    family, data, values = made(bars())
    data, one = data.take(slice(0, 7)), {name: value[None] for name, value in values.items()}
    pair = family.build("numpyro", data.schema, 7)
    u, whole = np.random.default_rng(0).random((7, 9)), []
    for limit in (10**6, 3 * 9):
        monkeypatch.setattr(numpyro_pixelcnn, "PIXELS_AT_ONCE", limit)
        pair.programs.clear()
        whole += [numpyro_ops.log_prob(pair, one, data.view("numpyro")), numpyro_ops.from_uniform(pair, one, u)]
    np.testing.assert_allclose(whole[0], whole[2], rtol=1e-12)
    np.testing.assert_array_equal(whole[1], whole[3])


@pytest.fixture(scope="module")
def fit() -> pg.Fit:
    x = bars(80)
    x[:, 2, 2] = 0
    with pytest.warns(UserWarning, match="1 of 9 pixels never vary"):
        return pg.fit(Autoregressive("pixelcnn", **TINY), x, engine=QUICK, backend="pyro", seed=0)


@pytest.mark.pyro
def test_a_fit_draws_scores_and_keeps_images(fit: pg.Fit, tmp_path: Path) -> None:
    drawn = fit.sample(5, seed=1)
    assert drawn.shape == (5, 3, 3)
    assert drawn.dtype == np.uint8
    assert set(np.unique(drawn)) <= {0, 1}
    score = fit.score(drawn)
    assert len(score) == 5
    assert score.perplexity == pytest.approx(2**score.bits_per_dim)
    np.testing.assert_allclose(score.log_predictive, fit.score(drawn.reshape(5, 9)).log_predictive)
    frame = fit.schema.encode(drawn).to_frame()
    assert frame.shape == (5, 9)
    np.testing.assert_allclose(score.log_predictive, fit.score(frame).log_predictive)
    fit.save(tmp_path / "run")
    again = pg.load(tmp_path / "run")
    assert again.schema == fit.schema
    assert again.schema.image == (3, 3)
    np.testing.assert_array_equal(again.sample(5, seed=1), drawn)


def test_training_learns_bars() -> None:
    """Six images in all: the entropy is log 6 = 1.79 nats; independent pixels at their shares have 5.49."""
    x = bars(300)
    engine = pg.SVI(num_members=1, max_steps=400, learning_rate=2e-2, batch_size=100)
    family = Autoregressive("pixelcnn", channels=8, num_layers=2, hidden=(16,))
    assert -pg.fit(family, x, engine=engine, backend="pyro", seed=0).score(bars(500, seed=1)).total / 500 < 2.3


@pytest.mark.pyro
def test_the_picture_of_images(fit: pg.Fit) -> None:
    reasons = plots.applicable(fit)
    assert reasons["images"] == ""
    assert "images picture" in reasons["pairs"]
    figure = plots.plot_images(fit, side=2)
    figure.draw_without_rendering()
    assert figure.get_suptitle() == "autoregressive by svi: images of 3 x 3"
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "4 of 80 images of the table",
        "4 images drawn from the fit",
    ]
    shown = figure.axes[0].get_images()[0].get_array()
    assert shown.shape == (7, 7)  # two images of three pixels, and a line between


def test_files_of_images_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, run, out = tmp_path / "digits.npz", tmp_path / "run", tmp_path / "new.npz"
    np.savez(file, images=bars(), labels=np.arange(60))
    sets = [word for name, value in {"network": "pixelcnn", "channels": 4, "num_layers": 1, "hidden": 4}.items()
            for word in ("--set", f"{name}={value}")]  # fmt: skip
    engine = ["--engine", "svi", "--engine-set", "num_members=1", "--engine-set", "max_steps=50"]
    assert main(["fit", f"{file}:images", "autoregressive", *sets, *engine, "--backend", "pyro", "-o", str(run)]) == 0
    assert "60 images of 3 x 3" in capsys.readouterr().out
    assert main(["sample", str(run), "-n", "4", "-o", str(out)]) == 0
    with np.load(out, allow_pickle=False) as archive:
        assert archive["images"].shape == (4, 3, 3)
        assert archive["images"].dtype == np.uint8
    assert main(["sample", str(run), "-n", "4", "-o", str(tmp_path / "new.csv")]) == 0
    assert pd.read_csv(tmp_path / "new.csv").shape == (4, 9)
    assert main(["score", str(run), f"{file}:images"]) == 0
    assert "nats over 60 images" in capsys.readouterr().out
    assert main(["score", str(run), f"{file}:labels"]) == 2
    assert "pass an array of shape (n, 3, 3)" in " ".join(capsys.readouterr().err.split())


def test_other_families_model_pixels_as_columns() -> None:
    """Counts stay counts with a greatest value where a family has them, and are real columns of one scale elsewhere."""
    x = bytes_of((2, 2, 1))
    fit = pg.fit(Autoregressive(hidden=(4,), num_mixture_components=2), x, engine=QUICK, backend="pyro", seed=0)
    assert fit.sample(3).shape == (3, 2, 2, 1)
    assert fit.schema.kinds == ("count",) * 4
    data = pg.GMM(1).prepare(x)
    assert data.schema.kinds == ("real",) * 4
    assert len({(c.loc, c.scale) for c in data.schema.columns}) == 1
    assert data.x.mean() == pytest.approx(0, abs=1e-6)
    assert data.x.std() == pytest.approx(1, rel=1e-5)
    np.testing.assert_array_equal(images.decode(data.schema, data.x), x)


@pytest.mark.parametrize(
    ("x", "kind", "dtype"),
    [
        (bars().astype(bool), "binary", np.bool_),
        (bars().astype(float), "binary", np.float64),
        (bytes_of((2, 2)), "count", np.uint8),
        (bytes_of((2, 2)).astype(np.float32), "count", np.float32),
        (bytes_of((2, 2)) / 255.0, "real", np.float64),
        (bytes_of((2, 2, 3)).astype(np.int64), "count", np.int64),
    ],
)
def test_kinds_of_pixels(x: np.ndarray, kind: str, dtype: type) -> None:
    data = pg.Data.from_table(x)
    assert set(data.schema.kinds) == {kind}
    assert data.schema.image == x.shape[1:]
    back = images.decode(data.schema, data.x)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, x, rtol=1e-12)
    assert Schema.from_config(data.schema.to_config()) == data.schema
    assert data.take(slice(0, 5)).schema.encode(x[:5]).x.tolist() == data.x[:5].tolist()


GAP = np.where(np.arange(8).reshape(2, 2, 2) == 5, np.nan, 0.5 * np.arange(8).reshape(2, 2, 2))
BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "dimensions": (np.ones((2, 2, 2, 1, 1)), {}, r"images are \(n, h, w\).* 5 dimensions"),
    "missing": (GAP, {}, r"Image 1, pixel \(0, 1\) is missing \(1 such\): images must be complete"),
    "infinite": (np.where(np.isnan(GAP), np.inf, GAP), {}, r"Image 1, pixel \(0, 1\) is infinite"),
    "negative": (bytes_of((2, 2)).astype(int) - 1, {}, r"Image 0, pixel \(0, 0\): -1 is not a whole number from 0"),
    "too large": (bytes_of((2, 2, 1)).astype(int) + 1, {}, r"pixel \(0, 0\), channel 0: 256 is not a whole"),
    "fraction": (bytes_of((2, 2)) / 255, {"kinds": {"pixel": "count"}}, "is not a whole number"),
    "constant": (np.stack([np.zeros(60), np.random.default_rng(0).normal(size=60)], 1)[:, None], {}, "never varies"),
    "alike": (np.ones((3, 2, 2)), {}, "All images are alike"),
    "empty": (np.ones((0, 2, 2)), {}, "There are no images"),
    "no pixels": (np.ones((2, 2, 0)), {}, "they have no pixels"),
    "kind": (bars(), {"kinds": {"pixel": "counts"}}, "unknown kind 'counts'; did you mean 'count'"),
    "kind of a column": (bars(), {"kinds": {"x0": "real"}}, "All pixels of images have one kind"),
    "dropped": (bars(), {"drop": ["x0"]}, "drop= names columns of a table, but these are images"),
    "conditions": (bars(), {"condition_on": ["x0"]}, "condition_on= names columns of a table"),
    "text": (bars().astype(str), {}, "arrays of numbers or truth values"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_images_that_cannot_be_read(name: str) -> None:
    x, options, message = BAD[name]
    with pytest.raises(pg.DataError, match=message):
        pg.Data.from_table(x, **options)


@pytest.mark.pyro
def test_what_new_images_must_be(fit: pg.Fit) -> None:
    for x, message in (
        (np.zeros((2, 4, 4)), r"These images are 4 x 4, the model was fitted to images of 3 x 3"),
        (bars(1)[0], r"\(a single image as image\[None\]\)"),
        (np.full((2, 3, 3), 0.5), r"Image 0, pixel \(0, 0\): 0\.5 is not 0 or 1"),
        (np.full((2, 3, 3), 2), "2 is not 0 or 1"),
    ):
        with pytest.raises(pg.DataError, match=message):
            fit.score(x)


def test_pixelcnn_refuses_tables_and_few_images() -> None:
    with pytest.raises(pg.DataError, match=r"models images.*reshape it.*network='made' for rows"):
        Autoregressive("pixelcnn").prepare(bars().reshape(60, 9))
    with pytest.raises(pg.DataError, match="at least 50 images"):
        Autoregressive("pixelcnn").prepare(bars(20))
    table = Autoregressive().prepare(pd.DataFrame({"a": np.arange(60) * 0.5, "b": np.arange(60) % 7}))
    with pytest.raises(pg.DataError, match="3 dimensions"):
        table.schema.encode(bars())
