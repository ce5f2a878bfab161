"""What is behind each row as numbers alone, for whatever learns from numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ppl_gen.errors import UnsupportedError
from ppl_gen.scoring import encode

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

CODES = re.compile(r"[zh]\d+")


def transform(fit: Fit, table: Any, member: int | None) -> pd.DataFrame:
    """See :meth:`Fit.transform <ppl_gen.result.Fit.transform>`."""
    data = encode(fit, table)
    try:
        found = fit.latents(data, member=member)
    except UnsupportedError as error:
        raise UnsupportedError(f"{error} What stands for a row as numbers is its latents: fit a family that has some, "
                               "such as gmm, vae, rbm or diffusion.") from None  # fmt: skip
    names = [name for name in found.columns if CODES.fullmatch(str(name))]
    if not names:  # probabilities of the values of discrete latents
        names = [name for name in found.columns if "=" in str(name) and not str(name).endswith("_sd")]
    kept = found[names]
    return kept if data.index is None else kept.set_axis(data.index)
