"""`pintac estimate`: time, energy and cost of training runs on PINTA, beside steps of the same training timed here.

Equal numbers of steps stand side by side; nothing is said about the errors that they reach.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pintac.experiments.hardware import host
from pintac.experiments.hardware.rows import FORWARD, METHOD_NAMES, NESTED, SAMPLED, WATTS_PER_CORE, HostRow
from pintac.program import Program
from pintac.timeline import program_machine, simulate

JOULES_PER_KWH = 3.6e6
BUDGET, TIMEOUT = 1.0, 120.0
"""Seconds that steps are timed for on this host, and that a process may take."""

ROWS = 2048
"""Sampled evaluations at a time in torch, so that they stay in cache."""

PINTA = "PINTA (model)"
NOTE = "equal numbers of steps; nothing here says that they reach equal errors"


@dataclass(frozen=True)
class Line:
    """One way to train: seconds and joules of a step, and of all runs; `note` where there is none."""

    name: str
    seconds_per_step: float | None
    joules_per_step: float | None
    steps: int
    kwh_price: float
    note: str = ""

    @property
    def seconds(self) -> float | None:
        """Of all steps of all runs, one after another."""
        return None if self.seconds_per_step is None else self.seconds_per_step * self.steps

    @property
    def kwh(self) -> float | None:
        return None if self.joules_per_step is None else self.joules_per_step * self.steps / JOULES_PER_KWH

    @property
    def cost(self) -> float | None:
        return None if self.kwh is None else self.kwh * self.kwh_price

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "seconds_per_step": self.seconds_per_step,
            "joules_per_step": self.joules_per_step,
            "seconds": self.seconds,
            "kwh": self.kwh,
            "cost": self.cost,
            "note": self.note,
        }


@dataclass(frozen=True)
class Estimate:
    """Inputs by name, and a line a way to train."""

    inputs: Mapping[str, Any]
    lines: tuple[Line, ...]

    def text(self) -> str:
        """A table below its inputs."""
        width = max(len(key) for key in self.inputs)
        rows = [f"{key:<{width}}  {_plain(value)}" for key, value in self.inputs.items()]
        wide = max(len(line.name) for line in self.lines)
        rows += ["", f"{'':<{wide}}  {'ms a step':>10} {'mJ a step':>10} {'hours':>10} {'kWh':>10} {'cost':>10}"]
        for line in self.lines:
            cells = [
                _cell(line.seconds_per_step, 1e3),
                _cell(line.joules_per_step, 1e3),
                _cell(line.seconds, 1 / 3600),
                _cell(line.kwh),
                _cell(line.cost),
            ]
            note = f"  {line.note}" if line.note else ""
            rows.append(f"{line.name:<{wide}}  " + " ".join(f"{cell:>10}" for cell in cells) + note)
        return "\n".join([*rows, "", NOTE]) + "\n"

    def to_json(self) -> str:
        """Everything, sorted."""
        content = {"inputs": dict(self.inputs), "lines": [line.as_dict() for line in self.lines], "note": NOTE}
        return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def estimate(
    program: Program,
    spec: str,
    settings: Mapping[str, Any],
    *,
    runs: int,
    steps: int,
    kwh_price: float,
    static_watts: float = 0.0,
    host_watts: float | None = None,
    threads: int = 1,
    measured: bool = True,
) -> Estimate:
    """What `runs` runs of `steps` steps take with `program`, and with torch on this host.

    spec          what the program was compiled from, timed here with `settings` unless `measured` is False
    static_watts  of PINTA, on top of the model, in which leakage, clock and control cost no energy
    host_watts    of a busy core, for hosts whose energy cannot be read (default: docs/HARDWARE.md)
    """
    machine = program_machine(program)
    timing = simulate(program)
    seconds = machine.seconds(timing.cycles)
    inputs: dict[str, Any] = {
        "training": f"{program.meta.get('problem', spec)}, {program.meta.get('quant')} {program.meta.get('scheme')}, "
        f"bits {program.meta.get('bits')}",
        "runs": runs,
        "steps a run": steps,
        "price of a kWh": kwh_price,
        "PINTA": f"machine {machine.name}, {machine.clock_ghz:g} GHz, {timing.cycles:,} cycles and "
        f"{timing.joules * 1e3:.4g} mJ a step: model values (docs/MACHINE.md)",
        "PINTA's static watts": static_watts,
    }
    total = runs * steps
    lines = [Line(PINTA, seconds, timing.joules + static_watts * seconds, total, kwh_price)]
    if measured:
        watts = host_watts if host_watts is not None else WATTS_PER_CORE
        counter = host.joules_counter() is not None and host_watts is None
        inputs |= {
            "host": f"{host.cpu_model()}, {threads} of {host.processors()} processors, "
            f"load {host.load_average() or 0:.1f}",
            "host's energy": "measured (RAPL, all packages)" if counter else f"time x {watts:.3g} W a busy core"
            + ("" if host_watts is not None else ", assumed (docs/HARDWARE.md)"),
        }  # fmt: skip
        scheme = str(program.meta.get("scheme", "prs"))
        chunk = max(1, ROWS // int(program.meta["estimator"]["K"]))
        rows = [
            HostRow(method, threads=threads, chunk=chunk if method == SAMPLED else None, scheme=scheme, memory=False)
            for method in (NESTED, FORWARD, SAMPLED)
        ]
        lines += _host_lines(spec, settings, rows, total, kwh_price, None if counter else watts)
    return Estimate(inputs, tuple(lines))


def _host_lines(
    spec: str,
    settings: Mapping[str, Any],
    rows: Sequence[HostRow],
    total: int,
    kwh_price: float,
    watts: float | None,
) -> Sequence[Line]:
    """Quick measurements, one process each; `watts` of a core where energy is not read."""
    lines = []
    for row in rows:
        found = host.run_row(spec, settings, row, BUDGET, TIMEOUT)
        name = f"host, {METHOD_NAMES[row.method]}"
        if "note" in found:
            lines.append(Line(name, None, None, total, kwh_price, found["note"]))
            continue
        seconds = float(found["seconds"])
        joules = found["joules"] if watts is None else seconds * watts * row.threads
        lines.append(Line(name, seconds, joules, total, kwh_price))
    return lines


def _cell(value: float | None, factor: float = 1.0) -> str:
    return "-" if value is None else f"{value * factor:.4g}"


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
