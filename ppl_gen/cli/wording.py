"""Advice that is given in Python, put in options of the command line."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppl_gen.diagnostics import Diagnosis

# Arguments of functions that are options of the same name.
OPTIONS = (
    "backend", "checkpoint", "classifier", "columns", "correct", "drop", "engine", "folds", "given", "guidance",
    "hdi_prob", "horizon", "label", "length", "method", "num_draws", "num_samples", "order", "sampler", "seed",
    "sequence", "surrogate", "test", "weights",
)  # fmt: skip
VERBS = (  # verbs of fits that are commands
    (r"fit\.bracket\(\)", "ppl-gen diagnose --bracket"),
    (r"surrogate=AIS\(num_temperatures=(\d+)\)", r"--surrogate-set num_temperatures=\1"),
    (r"(?:fit\.)?sample\(correct='(\w+)'\)", r"ppl-gen sample --correct \1"),
    (r"fit\.chains\(sampler='(\w+)'\)", r"ppl-gen chains --sampler \1"),
    (r"fit\.train_classifier", "ppl-gen train-classifier"),
    (r"fit\.normalize\('(\w+)'\)", r"ppl-gen normalize --method \1"),
    (r"fit\.normalize\(AIS\(num_temperatures=\.\.\., num_chains=\.\.\.\)\) or SMC\(num_particles=\.\.\.\)",
     "ppl-gen normalize --method ais --set num_temperatures=... --set num_chains=..., or --method smc --set "
     "num_particles=..."),
    (r"raise thinning of fit\.normalize\(SMC\(thinning=\.\.\.\)\)",
     "raise the thinning of ppl-gen normalize --method smc --set thinning=..."),
)  # fmt: skip
PLAIN = {  # what the parser of arguments says
    "Input should be a valid integer, unable to parse string as an integer": "it must be a whole number",
    "Input should be a valid number, unable to parse string as a number": "it must be a number",
}  # fmt: skip


def in_options(text: str) -> str:
    """A message with ``drop=['a']`` as ``--drop a``, ``prior=HMMPrior(df=4)`` as ``--set prior.df=4``, ``sequence=`` as
    ``--sequence``, and so on."""
    text = re.sub(r"\bdrop=\[(?=['\"])(.*?['\"])\]", _drop, text)
    text = re.sub(r"\bkinds=\{(['\"])(.*?)\1: '?([\w.]+)'?\}", r"--kind '\2=\3'", text)
    text = re.sub(r"\bprior=\w+Prior\((\w+)=([^()]+)\)", _prior, text)
    for python, words in VERBS:
        text = re.sub(python, words, text)
    text = text.replace("sampler='tempered'", "--sampler tempered")  # of chains; training's has the same name
    text = re.sub(r"\b(correct|surrogate)='(\w+)'", r"--\1 \2", text)
    text = re.sub(r"\b([a-z_]+)='(\w+)'", _setting, text)
    text = re.sub(rf"(?<!['\w])({'|'.join(OPTIONS)}|kinds)=(?![^\s.,:;)])", _option, text)
    for python, words in PLAIN.items():
        text = text.replace(python, words)
    text = re.sub(r"\bn_jobs\b", "--jobs", text)
    text = re.sub(r"^false_discovery_rate(?= must be\b)", "--fdr", text)
    return re.sub(rf"^({'|'.join(OPTIONS)})(?= (?:must be|is for)\b)", _option, text)


def diagnosis_in_options(diagnosis: Diagnosis) -> Diagnosis:
    """The same with its advice in options."""
    checks = tuple(
        dataclasses.replace(check, advice=in_options(check.advice), info=re.sub(*VERBS[0], check.info))
        for check in diagnosis.checks
    )
    return dataclasses.replace(diagnosis, checks=checks)


def place_of(name: str) -> tuple[str, list[str]] | None:
    """The option that takes a setting of this name (``--set`` of families, ``--engine-set`` of engines), and whose
    setting it is; None where nobody has one."""
    from ppl_gen import registry

    for flag, table in (("--set", registry.families()), ("--engine-set", registry.engines())):
        owners = [owner for owner, kind in table.items() if any(f.name == name for f in dataclasses.fields(kind))]
        if owners:
            return flag, owners
    return None


def _drop(found: re.Match[str]) -> str:
    """``drop=['a', 'b,c']`` as ``--drop 'a,"b,c"'``: a name that holds a comma goes in double quotes."""
    try:
        names = ast.literal_eval(f"[{found[1]}]")
    except (SyntaxError, ValueError):  # a long name, cut short
        return f"--drop {found[1]}"
    return "--drop " + shlex.quote(",".join(f'"{name}"' if "," in name else name for name in names))


def _prior(found: re.Match[str]) -> str:
    return "--set " + shlex.quote(f"prior.{found[1]}={found[2]}")


def _setting(found: re.Match[str]) -> str:
    place = place_of(found[1])
    return found[0] if place is None else f"{place[0]} {found[1]}={found[2]}"


def _option(found: re.Match[str]) -> str:
    return "--kind" if found[1] == "kinds" else "--" + found[1].replace("_", "-")
