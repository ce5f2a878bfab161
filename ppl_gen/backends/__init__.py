"""What can be derived from any pair, one module per backend with the same functions."""

from __future__ import annotations

from types import ModuleType

from ppl_gen.registry import import_backend


def ops(backend: str) -> ModuleType:
    """The module of this backend: ``log_prob``, ``local_posterior``, ``sample_rows``, ``log_joint``."""
    return import_backend(__name__, f"{backend}_ops", backend)


def codes(backend: str) -> ModuleType:
    """The module of this backend for local latents that a guide proposes: ``moments``, ``particles``, ``divergences``,
    ``prior``, ``decoded``, ``drawn``."""
    return import_backend(__name__, f"{backend}_codes", backend)
