r"""The checks of samples of an implicit density, a generator without a formula: what they lack, and what they copy.

Samples are compared with rows that the members which made them did not train on, where rows were held out. How training
went is looked at in ``checks_adversarial``.

=======================  ==========================  ==================================================================
check                    threshold                   source
=======================  ==========================  ==================================================================
mode coverage            0 clusters                  Richardson & Weiss 2018 (arXiv:1805.12462): clusters of k-means
                                                     with too small a share of the samples, p 0.01 / clusters
precision, recall        0.1 below that of rows, or  Kynkäänniemi et al. 2019 (arXiv:1904.06991); against other rows,
                         2.3 standard errors         since two samples of one distribution do not have 1 either (Naeem
                                                     et al. 2020, arXiv:2002.09797, section 3)
MMD p                    p 0.01                      Gretton et al. 2012 (JMLR 13), by permutations
classifier two-sample p  p 0.01                      Lopez-Paz & Oquab 2017 (arXiv:1610.06545)
copies of rows           z -3                        Meehan, Chaudhuri & Dasgupta 2020 (arXiv:2004.05675)
collapse                 half of the distance that   Arora, Risteski & Zhang 2018 (ICLR): a small support shows by near
                         rows have                   duplicates; half the distance in d columns means samples that are
                                                     2^d times as crowded
=======================  ==========================  ==================================================================

The last two are put to every member, and the worst is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppl_gen import metrics
from ppl_gen.checks_adversarial import nearest_and_mean, of_training
from ppl_gen.diagnostics import Check
from ppl_gen.errors import DataError
from ppl_gen.two_tables import points

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

Found = tuple[list[Check], dict[str, "pd.DataFrame"]]

MAX_ROWS = 1_000  # rows of a sample that is compared
MIN_HELD_OUT = 100  # held-out rows, below which all rows are looked at
MIN_ROWS = 40  # of a sample, below which none is compared
MAX_MEMBERS = 8  # that are looked at one by one
P_VALUE = 0.01
MARGIN, ERRORS = 0.1, 2.33  # of precision and recall: a share; standard errors, exceeded once in a hundred times
COPIES = -3.0
COLLAPSE = 0.5
ROWS_A_CELL, MAX_CELLS = 100, 10  # of the test for copies


class Material(NamedTuple):
    """Tables that the checks compare, in original units: ``fresh`` rows and ``others``, two samples of the data, and
    ``samples``, as many as both together, half of them by the members that held out the fresh rows. ``held_out`` says
    whether they did. ``by_member`` (M, P, d) are samples of each member, in model space."""

    fresh: Any
    others: Any
    samples: Any
    held_out: bool
    by_member: np.ndarray


def of_implicit(fit: Fit) -> Found:
    """All of them; none where the density has a formula."""
    if fit.pair.generate is None:
        return [], {}
    found, details = of_training(fit)
    if len(fit.train) < 2 * MIN_ROWS:
        return [*found, Check("mode coverage", info=f"fewer than {2 * MIN_ROWS} rows tell nothing of it")], details
    for part in (_of_samples, of_members):
        new, tables = part(fit)
        found += new
        details |= tables
    return found, details


def material(fit: Fit) -> Material:
    """The rows and samples that are compared, made once for a fit."""
    known = fit.__dict__.get("_material")
    if known is not None:
        return known
    rng, held = np.random.default_rng(fit.seed), held_out_pairs(fit)
    if held is not None:
        members, rows = held
        size = min(len(rows), MAX_ROWS, len(fit.train) - len(rows))
    else:
        rows = chosen_rows(fit, 2 * MAX_ROWS, rng)
        size = len(rows) // 2
        members = rng.integers(num_members(fit), size=size)
    first = rows[:size]
    left = np.setdiff1d(chosen_rows(fit, len(fit.train), rng), rows if held is not None else first)
    others = rng.permutation(left)[:size]
    who = np.concatenate([members[:size], rng.integers(num_members(fit), size=size)])
    each = max(int(np.bincount(who).max()), min(len(fit.train), MAX_ROWS))
    drawn = draw(fit, np.repeat(np.arange(num_members(fit)), each), fit.seed).reshape(num_members(fit), each, -1)
    place = np.empty(len(who), int)
    for m in np.unique(who):
        place[who == m] = np.arange((who == m).sum())
    found = Material(table_of(fit, fit.train.x[first]), table_of(fit, fit.train.x[others]),
                     table_of(fit, drawn[who, place]), held is not None, drawn)  # fmt: skip
    fit.__dict__["_material"] = found
    return found


def num_members(fit: Fit) -> int:
    return len(next(iter(fit.posterior.values())))


def chosen_rows(fit: Fit, limit: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``limit`` training rows in random order, those of greater weight rather."""
    weights = fit.train.weights
    if weights is None:
        return rng.permutation(len(fit.train))[:limit]
    number = min(limit, int((weights > 0).sum()))
    return rng.choice(len(weights), number, replace=False, p=weights / weights.sum())


def held_out_pairs(fit: Fit) -> tuple[np.ndarray, np.ndarray] | None:
    """Members (n,) and rows (n,) that they did not train on, each row once, in random order; None where too few were
    held out."""
    from ppl_gen.checks_networks import held_out_by

    held = held_out_by(fit)
    if held is None:
        return None
    counted = held & (True if fit.train.weights is None else np.asarray(fit.train.weights) > 0)
    rng = np.random.default_rng([fit.seed, 2])
    rows = rng.permutation(np.flatnonzero(counted.any(0)))
    if len(rows) < MIN_HELD_OUT or len(fit.train) - len(rows) < MIN_HELD_OUT:
        return None
    members = np.where(counted[:, rows], rng.random((len(held), len(rows))), -1.0).argmax(0)
    return members, rows


def draw(fit: Fit, members: np.ndarray, seed: int) -> np.ndarray:
    """(n, d) rows of model space, each by the member named; what is conditioned on is that of random training rows."""
    from ppl_gen.conditions import join, rows_to_draw_for
    from ppl_gen.sampling import sample_at

    conditions = rows_to_draw_for(fit, len(members), seed, None)
    if conditions is None:
        return sample_at(fit, fit.posterior, members, seed)
    context = fit.schema.only_conditions().context(conditions[0])
    return join(fit.schema, sample_at(fit, fit.posterior, members, seed, context), conditions[0])


def table_of(fit: Fit, x: np.ndarray) -> Any:
    """Model-space rows (n, d) as a table, or images, of the user's."""
    from ppl_gen import images

    return fit.schema.decode(x) if fit.schema.image is None else images.decode(fit.schema, x)


def _joined(first: Any, second: Any) -> Any:
    import pandas as pd

    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    return pd.concat([first, second], ignore_index=True)


def _of_samples(fit: Fit) -> Found:
    """What the samples of all members together lack, and whether they can be told from rows."""
    import pandas as pd

    there = material(fit)
    number, seed = len(there.fresh), fit.seed
    kind = "held-out rows" if there.held_out else "rows"
    some = there.samples[:number]
    clusters = clusters_of(fit)
    reached = metrics.precision_recall(there.others, some, seed=seed)
    by_rows = metrics.precision_recall(there.others, there.fresh, seed=seed)
    found = [
        Check.of(
            "mode coverage", clusters.num_missed, "at most", 0,
            info=f"of {len(clusters.rows)} clusters of the rows are missed; they hold {clusters.share:.1%} of the rows",
            advice="Samples miss places where rows are: set pack=2 or more, use regularizer='r1', a larger batch_size, "
            "or loss='wasserstein' with a gradient penalty.",
        ),
        Check.of(
            "precision", reached.precision, "at least", _limit(reached.precision, by_rows.precision, number),
            info=f"of samples lie among rows; of {kind} {by_rows.precision:.3g}",
            advice="Samples lie where no rows are: train longer (max_steps), make the networks larger, or draw with "
            "correct='rejection' or 'latent_hmc'.",
        ),
        Check.of(
            "recall", reached.recall, "at least", _limit(reached.recall, by_rows.recall, number),
            info=f"of rows lie among samples; among as many {kind} {by_rows.recall:.3g}",
            advice="Samples lack variety: set pack=2 or more, raise latent_dim or the generator's widths.",
        ),
    ]  # fmt: skip
    found += told_apart(
        fit, "train longer, or with another loss or regularizer; correct='latent_hmc' may mend what the discriminator "
        "sees", "train longer, or with larger networks; see the pictures pairs and modes",
    )  # fmt: skip
    table = pd.DataFrame({"rows": clusters.rows, "samples": clusters.samples, "p_value": clusters.p_values,
                          "missed": clusters.missed})  # fmt: skip
    return found, {"modes": table}


def told_apart(fit: Fit, unlike: str, told: str) -> list[Check]:
    """Whether samples can be told from rows, and what to do where a kernel tells them and where a classifier does."""
    there, number = material(fit), len(material(fit).fresh)
    test = metrics.mmd(there.fresh, there.samples[:number], seed=fit.seed)
    found = metrics.classifier_two_sample_test(there.fresh, there.samples[:number], seed=fit.seed)
    return [
        Check.of(
            "MMD p", test.p_value, "at least", P_VALUE,
            info=f"squared discrepancy {test.squared:.2g}, {number:,} samples and {'held-out ' * there.held_out}rows",
            advice=f"Samples are not spread like the rows: {unlike}.",
        ),
        Check.of(
            "classifier two-sample p", found.p_value, "at least", P_VALUE,
            info=f"a classifier tells {found.accuracy:.1%} of {found.num_test:,} rows from samples (1/2 by chance)",
            advice=f"Samples can be told from rows: {told}.",
        ),
    ]  # fmt: skip


def clusters_of(fit: Fit) -> metrics.ClusterCoverage:
    """Clusters of the rows, and how many of the samples are in each."""
    there = material(fit)
    return metrics.cluster_coverage(_joined(there.fresh, there.others), there.samples, p_value=P_VALUE, seed=fit.seed)


def _limit(share: float, usual: float, number: int) -> float:
    """The least that a share of ``number`` may be where that of rows is the usual one: the margin, or chance."""
    error = np.sqrt((share * (1 - share) + usual * (1 - usual)) / number)
    return float(f"{usual - max(MARGIN, ERRORS * error):.3g}")


def of_members(fit: Fit, smaller: str = "use smaller networks, fewer max_steps, or more rows") -> Found:
    """Of each member: whether its samples are copies of its training rows, or of each other.

    :param smaller: what to do about copies.
    """
    import pandas as pd

    from ppl_gen.checks_networks import held_out_by

    held, number = held_out_by(fit), min(len(fit.train), MAX_ROWS)
    table = []
    for m in range(min(num_members(fit), MAX_MEMBERS)):
        drawn = table_of(fit, material(fit).by_member[m, :number])
        own = np.ones(len(fit.train), bool) if held is None else ~held[m]
        fresh = None
        if held is not None and held[m].sum() >= MIN_HELD_OUT:
            fresh = table_of(fit, fit.train.x[random_rows_of(~own, fit.seed)])
        rows = table_of(fit, fit.train.x[random_rows_of(own, fit.seed, 10 * MAX_ROWS)])
        compared = len(rows) if fresh is None else len(fresh)
        table.append({"member": m, **_copies(rows, drawn, fresh, compared, fit.seed), **_crowding(rows, drawn)})
    frame = pd.DataFrame(table)
    found = []
    if frame["z"].notna().any():
        worst = frame.iloc[int(frame["z"].argmin())]
        found.append(Check.of(
            "copies of rows", worst["z"], "at least", COPIES,
            info=f"z; {worst['nearer']:.0%} of pairs have the sample nearer to a training row than a fresh row is",
            advice=f"Samples are copies of training rows: {smaller}.",
        ))  # fmt: skip
    if frame["crowding"].notna().any():
        worst = frame.iloc[int(frame["crowding"].argmin())]
        found.append(Check.of(
            "collapse", worst["crowding"], "at least", COLLAPSE,
            info=f"distance of samples to their nearest, over that of rows; spread {worst['spread']:.2g} of the rows'",
            advice="Samples are near copies of each other: set pack=2 or more, lower learning_rate, or use "
            "regularizer='r1'.",
        ))  # fmt: skip
    return found, {"generators": frame}


def random_rows_of(chosen: np.ndarray, seed: int, limit: int = MAX_ROWS) -> np.ndarray:
    """At most ``limit`` of the rows that are chosen, in random order."""
    rows = np.flatnonzero(chosen)
    return np.random.default_rng(seed).permutation(rows)[:limit]


def _copies(rows: Any, drawn: Any, fresh: Any, compared: int, seed: int) -> dict[str, float]:
    cells = max(1, min(MAX_CELLS, compared // ROWS_A_CELL))
    for number in (cells, 1):
        try:
            test = metrics.data_copying_test(rows, drawn, fresh, num_cells=number, seed=seed)
        except DataError:  # a cell without samples, which the next number of cells has not
            continue
        return {"z": test.z, "nearer": test.nearer}
    return {"z": np.nan, "nearer": np.nan}


def _crowding(rows: Any, drawn: Any) -> dict[str, float]:
    """Distances within samples over those within as many rows: of each to its nearest, and of two at random. NaN where
    rows have as a rule an exact copy, as in tables of labels."""
    size = min(len(rows), len(drawn), MAX_ROWS)
    x, y = points(rows[:size], drawn[:size])
    (near, apart), (near_samples, apart_samples) = (nearest_and_mean(part) for part in (x, y))
    return {"crowding": near_samples / near if near > 0 else np.nan, "spread": apart_samples / max(apart, 1e-300)}
