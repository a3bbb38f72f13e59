"""Seconds of a step: simulated at the machine's clock, and by automatic differentiation as measured here."""

from __future__ import annotations

import json
from pathlib import Path

from pintac.errors import ResultsError
from pintac.experiments.results import Results, quotient
from pintac.experiments.rows import Row
from pintac.machine import Machine

HARDWARE = "hardware.json"
BASELINE = "nested autograd"
"""The paper's baseline."""


def simulated_seconds(results: Results, row: Row, machine: str = "pinta") -> float | None:
    """Seconds of a step of a row: its cycles at the machine's clock."""
    cycles = results[row].cycles
    return None if cycles is None else Machine.load(machine).seconds(cycles)


def measured_ad_seconds(results: Path, problem: str, method: str = BASELINE) -> float | None:
    """Seconds of a training step in torch by automatic differentiation, as `reproduce hardware` measured it here.

    It is `["ad_seconds_per_step"][problem][method]` of `<results>/hardware.json`; None where that is not there.
    """
    path = results / HARDWARE
    if not path.exists():
        return None
    try:
        measured = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} cannot be read: {error}", hint="pintac reproduce hardware") from None
    value = measured.get("ad_seconds_per_step", {}).get(problem, {}).get(method)
    return None if value is None else float(value)


def speed_up(results: Results, row: Row) -> float | None:
    """How many times faster a simulated step is than one by automatic differentiation here."""
    seconds = measured_ad_seconds(results.store.results, row.run.problem)
    return quotient(seconds, simulated_seconds(results, row))
