"""Every experiment by name. One file an experiment: its rows, its claims, nothing that computes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from pintac.errors import UsageError, suggest
from pintac.experiments.experiment import Experiment

EXPERIMENTS: Mapping[str, str] = {
    "first": "first",
    "table1": "table1",
    "table3": "table3",
    "sigma": "sigma",
    "estimators": "estimators",
    "bits": "bits",
    "ranks": "ranks",
    "blocks": "blocks",
    "recipes": "recipes",
    "examples": "examples",
    "hardware": "hardware",
    "summary": "summary",
}
"""Name on the command line -> module of this folder, whose EXPERIMENT it is; in the order of `--list` and of pages."""

ALIASES: Mapping[str, str] = {"precision": "table3", "samples": "estimators"}
"""Other names of the same."""


def load_experiment(name: str) -> Experiment:
    """An experiment by name. Raises UsageError for one that is not there."""
    known = ALIASES.get(name, name)
    if known not in EXPERIMENTS:
        raise UsageError(f"there is no experiment {name!r}", hint=suggest(name, [*EXPERIMENTS, *ALIASES]))
    experiment: Experiment = import_module(f"{__name__}.{EXPERIMENTS[known]}").EXPERIMENT
    return experiment
