"""Seconds of a step: simulated at the machine's clock, and by automatic differentiation as measured here."""

from __future__ import annotations

from pathlib import Path

from pintac.experiments.files import read_json
from pintac.experiments.results import Results, quotient
from pintac.experiments.rows import Row
from pintac.json_kinds import each, having, number
from pintac.machine import Machine

HARDWARE = "hardware.json"
BASELINE = "nested autograd"
"""The paper's baseline."""

_SECONDS = having({}, ad_seconds_per_step=each(each(number)))


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
    measured = read_json(path, _SECONDS, "remove it, `pintac reproduce hardware` measures again")
    value = measured.get("ad_seconds_per_step", {}).get(problem, {}).get(method)
    return None if value is None else float(value)


def speed_up(results: Results, row: Row) -> float | None:
    """How many times faster a simulated step is than one by automatic differentiation here."""
    seconds = measured_ad_seconds(results.store.results, row.run.problem)
    return quotient(seconds, simulated_seconds(results, row))
