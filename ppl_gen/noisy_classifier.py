r"""A classifier of noisy rows, which guides the reverse chain of an unconditional diffusion model to a label:

.. math:: \nabla_z \log p(z \mid y) = \nabla_z \log p(z) + w \nabla_z \log p(y \mid z), \qquad
          \hat e \leftarrow \hat e + w \frac{\sigma^2}{\alpha} \nabla_z \log p(y \mid z)

(Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 4; Song et al. 2021, arXiv:2011.13456, eq. 14). At w = 1 and a right
classifier these are the rows with this label; above it those of which it is surest.

It is a perceptron of z and of features of the noise level, whose logits are :math:`b + \alpha f(z, \lambda)`: as the
signal goes their slopes go with it, as those of :math:`\log p(y \mid z)` do. Slopes that are a little off at all of the
noisiest levels would add up to rows far away (measured: a normal of standard deviation 10 got one of 14). It is trained
by cross-entropy on rows to which noise of all levels is added, as the diffusion model's guide adds it, and stopped by
rows that were held out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import codec
from ppl_gen.errors import DataError, SettingError, StorageError, UnsupportedError, did_you_mean
from ppl_gen.files import check_output_file, resolve, write_file
from ppl_gen.networks import initial_weights, perceptron_layout
from ppl_gen.parsing import infer_kind, read_labels, show
from ppl_gen.readers import read_source
from ppl_gen.registry import import_backend

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data
    from ppl_gen.result import Fit

FREQUENCIES = (0.25, 0.5, 1.0)  # of the features of the log signal-to-noise ratio
CHECK = 100  # training steps between two looks at the rows that are held out
FORMAT = "ppl_gen noisy classifier"
SUFFIX = ".safetensors"
MAX_VALIDATION, REPEATS = 1000, 8


@dataclasses.dataclass(frozen=True)
class Course:
    """How it is trained: ``held_out`` rows are for validation, each with noise of ``repeats`` levels; it ends when
    these have not become better for ``patience`` looks."""

    held_out: int
    repeats: int
    max_steps: int
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    patience: int = 5


def best_of(
    more: Callable[[int], tuple[dict[str, np.ndarray], float]], course: Course
) -> tuple[dict[str, np.ndarray], float]:
    """The weights with the least validation loss of those that ``more(i)`` gives after :data:`CHECK` steps each."""
    best, least, since = more(0), np.inf, 0
    least = best[1]
    for i in range(1, course.max_steps // CHECK):
        found = more(i)
        since += 1
        if found[1] < least:
            best, least, since = found, found[1], 0
        if since >= course.patience:
            break
    return best


@dataclasses.dataclass(frozen=True, eq=False)
class NoisyClassifier:
    """p(label | row with noise) for a diffusion model's rows: ``fit.train_classifier`` makes one. Frozen.

    ``fit``           the fit whose rows these are
    ``labels``        what it tells apart, in order
    ``weights``       of its network
    ``cross_entropy`` nats per label, of rows that were held out, over all noise levels
    """

    fit: Fit
    labels: tuple[Any, ...]
    weights: Mapping[str, np.ndarray]
    cross_entropy: float

    def __repr__(self) -> str:
        names = ", ".join(map(repr, self.labels[:8])) + (", ..." if len(self.labels) > 8 else "")
        return f"<NoisyClassifier of {names}: cross-entropy {self.cross_entropy:.3f} nats over all noise levels>"

    def code(self, label: Any) -> int:
        """The number of a label.

        :raises SettingError: it is none of those that the classifier knows.
        """
        if label in self.labels:
            return self.labels.index(label)
        # From the command line a label comes as text.
        texts = [str(known) for known in self.labels]
        if str(label) in texts:
            return texts.index(str(label))
        raise SettingError(f"The classifier knows no label {label!r}: {did_you_mean(str(label), texts)}")

    def predict_proba(self, table: Any = None, *, log_snr: float | None = None, seed: int = 0) -> pd.DataFrame:
        """p(label | row) of each row (of the training table by default): a column for each label.

        :param log_snr: add noise of this level to the rows; by default there is none.
        """
        import pandas as pd

        from ppl_gen.scoring import check_seed, encode

        check_seed(seed)
        data, parameters = encode(self.fit, table), _parameters(self.fit)
        reverse = import_backend("ppl_gen.backends", f"{self.fit.backend}_reverse", self.fit.backend)
        e, level = reverse.encoded(self.fit.pair, parameters, data.x), reverse.ends(self.fit.pair, parameters)[1]
        if log_snr is not None:
            level, noise = float(log_snr), np.random.default_rng(seed).standard_normal(e.shape)
            e = e / np.sqrt(1 + np.exp(-level)) + noise / np.sqrt(1 + np.exp(level))
        found = _module(self.fit.backend).predict(self.weights, e, np.full(len(e), level))
        return pd.DataFrame(found, columns=list(self.labels), index=data.index)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the classifier to a ``.safetensors`` file, which holds values only; the fit is saved by itself.

        :raises StorageError: the file exists, or can't be written.
        """
        check_output(path, overwrite=overwrite)
        document = {"labels": list(self.labels), "cross_entropy": self.cross_entropy, "columns": columns_of(self.fit)}
        metadata = {"format": FORMAT, "document": json.dumps(codec.plain(document)),
                    "sha256": codec.digest(self.weights)}  # fmt: skip
        return write_file(path, lambda file: codec.write_arrays(file, self.weights, metadata), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path, fit: Fit) -> NoisyClassifier:
        """Read a classifier that :meth:`save` wrote, of rows of this fit.

        :raises StorageError: none is there, or it is damaged.
        :raises SettingError: it is of rows with other columns than this fit's.
        """
        file = resolve(path)
        if not file.is_file():
            raise StorageError(f"No classifier at {file}: there is no such file.")
        weights, metadata = codec.read_arrays(file)
        if metadata.get("format") != FORMAT:
            raise StorageError(f"{file} is no classifier of noisy rows.")
        if metadata.get("sha256") != codec.digest(weights):
            raise StorageError(f"{file} is damaged: its content does not match its checksum.")
        try:
            document = codec.revive(json.loads(metadata["document"]))
            found = cls(fit, tuple(document["labels"]), weights, float(document["cross_entropy"]))
            columns = document["columns"]
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{file} is damaged: {type(error).__name__}.") from None
        require_columns(fit, columns)
        return found


def check_output(path: str | Path, *, overwrite: bool) -> Path:
    """The absolute path of the file to save a classifier in; refuses one that can't be had.

    :raises StorageError: it has another ending, or exists, or can't be written.
    """
    if Path(path).suffix != SUFFIX:
        raise StorageError(f"{path} must end in {SUFFIX}, the format in which a classifier is saved.")
    return check_output_file(path, overwrite=overwrite)


def columns_of(fit: Fit) -> str:
    """What tells the columns of one fit from those of another."""
    return codec.hash_document(fit.schema.to_config()["columns"])


def require_columns(fit: Fit, columns: str) -> None:
    """Raise a :class:`SettingError` unless the fit has these columns, in these units."""
    if columns_of(fit) != columns:
        raise SettingError("The classifier is of rows with other columns, or in other units, than this fit's: train "
                           "one for this fit (fit.train_classifier).")  # fmt: skip


def train(fit: Fit, table: Any, label: Any, hidden: Any, max_steps: int, seed: int) -> NoisyClassifier:
    """See :meth:`ppl_gen.result.Fit.train_classifier`."""
    from ppl_gen.latents import check_count
    from ppl_gen.scoring import check_seed

    if fit.pair.noising is None:
        raise UnsupportedError(f"A classifier of noisy rows guides diffusion models; {fit.family.name} is none.")
    if fit.schema.conditions:
        raise SettingError("This fit is conditioned on columns, so it needs no classifier: use given= and guidance=.")
    check_seed(seed)
    check_count("max_steps", max_steps, CHECK)
    widths = (hidden,) if isinstance(hidden, int | np.integer) else tuple(hidden)
    for width in widths:
        check_count("hidden", width)
    data, codes, labels = _read(fit, table, label)
    parameters = _parameters(fit)
    reverse = import_backend("ppl_gen.backends", f"{fit.backend}_reverse", fit.backend)
    e = reverse.encoded(fit.pair, parameters, data.x)
    order = np.random.default_rng(seed).permutation(len(e))
    course = Course(held_out=min(max(len(e) // 5, 1), MAX_VALIDATION), repeats=REPEATS, max_steps=max_steps)
    sizes = (e.shape[1] + 1 + 2 * len(FREQUENCIES), *widths, len(labels))
    start = {name: value[0] for name, value in initial_weights(perceptron_layout(sizes), seed, 1).items()}
    weights, least = _module(fit.backend).train(fit.pair, parameters, start, course, e[order], codes[order], seed)
    return NoisyClassifier(fit, labels, weights, float(least))


def _read(fit: Fit, table: Any, label: Any) -> tuple[Data, np.ndarray, tuple[Any, ...]]:
    """The rows that have a label, the numbers of their labels, and these.

    :raises DataError: there is no such column, or no label for each row, or fewer than two labels, or too many.
    """
    import pandas as pd

    source = read_source(table, images=fit.schema.image is not None)
    if isinstance(label, str | int):
        j = source.position(label)
        name, series, own = source.names[j], source.column(j), source.names[j] in fit.schema.names
        drop = None if own or source.names[j] in fit.schema.dropped else [name]
        data = fit.schema.encode(table, drop=drop)
    else:
        name, data = "label", fit.schema.encode(table)
        series = pd.Series(np.asarray(label)) if not isinstance(label, pd.Series) else label.reset_index(drop=True)
        if len(series) != len(data):
            raise DataError(f"There are {len(series):,} labels for {len(data):,} rows: give one for each.")
    if infer_kind(name, series, source.where) == "real" and series.nunique() > 20:
        raise DataError(f"Column {show(name)} is no label: it has {series.nunique():,} different numbers.")
    codes, labels = read_labels(name, series, None, source.where)
    if len(labels) < 2:
        raise DataError(f"Column {show(name)} has {len(labels)} label: a classifier needs at least two.")
    fit.family.refuse_missing(data)
    if data.mask is not None and not data.mask.all():
        raise DataError("A value is missing: fill it in or leave the row out; a classifier reads whole rows.")
    seen = np.flatnonzero(np.isfinite(codes))
    return data.take(seen), codes[seen].astype(int), tuple(labels)


def _parameters(fit: Fit) -> dict[str, np.ndarray]:
    """Those of the first member: all encode rows alike."""
    return {name: value[0] for name, value in fit.posterior.items()}


def _module(backend: str) -> ModuleType:
    return import_backend("ppl_gen.backends", f"{backend}_classifier", backend)
