"""What follows from the measurements: best arrangements, ratios, joules, effects of each constant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pintac.experiments.hardware.model import STATIC_WATTS
from pintac.experiments.hardware.rows import (
    METHOD_NAMES,
    NESTED,
    RUN_STEPS,
    WATTS_PER_CORE,
)

Data = Mapping[str, Any]


@dataclass(frozen=True)
class HostFigure:
    """The fastest arrangement of a method: its name, seconds and joules of a step (None: not known)."""

    arrangement: str
    seconds: float
    joules: float | None

    @property
    def run_seconds(self) -> float:
        return self.seconds * RUN_STEPS

    @property
    def run_joules(self) -> float | None:
        return None if self.joules is None else self.joules * RUN_STEPS


def threads_of(arrangement: str) -> int | None:
    """Threads in an arrangement's name; None on a GPU."""
    words = [part.split() for part in arrangement.split(", ")]
    found = [int(word[0]) for word in words if len(word) == 2 and word[1] in ("thread", "threads")]
    return found[0] if found else None


def seconds_of(entry: Data) -> float | None:
    """The least over rounds of a process's median step."""
    rounds = entry.get("seconds")
    return min(rounds) if rounds else None


def joules_of(host: Data, arrangement: str, entry: Data) -> float | None:
    """Joules of a step: as measured, else time x watts of the busy cores or of the GPU."""
    if entry.get("joules") is not None:
        return float(entry["joules"])
    seconds, threads = seconds_of(entry), threads_of(arrangement)
    if seconds is None:
        return None
    watts = host.get("gpu_watts") if threads is None else threads * host.get("watts_per_core", WATTS_PER_CORE)
    return None if watts is None else seconds * watts


def best(data: Data, problem: str, method: str, threads: int | None = None) -> HostFigure | None:
    """The fastest arrangement of a method, with so many threads if that is said; None where nothing is measured."""
    prefix = METHOD_NAMES[method] + ", "
    found = []
    for name, entry in data.get("torch", {}).get(problem, {}).items():
        seconds = seconds_of(entry)
        if seconds is None or not name.startswith(prefix) or name.removeprefix(prefix).startswith("vectorised"):
            continue
        if threads is None or threads_of(name) == threads:
            arrangement = name.removeprefix(prefix)
            found.append(HostFigure(arrangement, seconds, joules_of(data.get("host", {}), name, entry)))
    return min(found, key=lambda figure: figure.seconds, default=None)


def best_of(data: Data, problem: str, methods: tuple[str, ...]) -> tuple[str, HostFigure] | None:
    """The fastest of several methods over all their arrangements."""
    found = [(method, figure) for method in methods if (figure := best(data, problem, method)) is not None]
    return min(found, key=lambda pair: pair[1].seconds, default=None)


def program(data: Data, problem: str, configuration: str) -> Data | None:
    """Costs of a program; None where there is none."""
    entry = data.get("pinta", {}).get(problem, {}).get(configuration)
    found: Data | None = entry if entry and "cycles" in entry else None
    return found


def ad_seconds_per_step(data: Data) -> dict[str, dict[str, float]]:
    """Problem -> method -> seconds of its fastest arrangement: what other experiments ask for."""
    out: dict[str, dict[str, float]] = {}
    for problem in data.get("torch", {}):
        figures = {name: best(data, problem, method) for method, name in METHOD_NAMES.items()}
        out[problem] = {name: figure.seconds for name, figure in figures.items() if figure is not None}
    return out


# ---------------------------------------------------------------------------------------------- tornado


@dataclass(frozen=True)
class Bar:
    """Speed-up and energy ratio with a constant at its low and its high value; None where there is no such machine."""

    name: str
    values: str
    how: str
    speed_up: tuple[float | None, float | None]
    energy: tuple[float | None, float | None]

    def reach(self, base: float, which: str) -> float:
        """The largest factor by which it moves the base."""
        found = [value for value in getattr(self, which) if value is not None]
        return max((max(value / base, base / value) for value in found), default=1.0)


@dataclass(frozen=True)
class Tornado:
    """Ratios of host to PINTA against one baseline, and what each constant does to them."""

    problem: str
    baseline: str
    speed_up: float
    energy: float
    bars: tuple[Bar, ...]


def tornado(data: Data, problem: str, method: str = NESTED) -> Tornado | None:
    """Bars of a problem, the largest effect on either ratio first; None until everything is there."""
    host = best(data, problem, method)
    varied = dict(data.get("tornado", {}).get(problem, {}))
    base = varied.pop("base", None)
    if base is None or host is None or host.joules is None or not varied:
        return None
    seconds, joules = float(base["seconds"]), float(base["joules"])
    speed_up, energy = host.seconds / seconds, host.joules / joules
    bars = [_bar(key, sides, host) for key, sides in varied.items()]
    watts = data["host"].get("watts_per_core", WATTS_PER_CORE)
    bars.append(
        Bar("host watts a core", f"{watts / 2:.3g} / {watts * 2:.3g}", "host", (None, None), (energy / 2, energy * 2))
    )
    static = host.joules / (joules + STATIC_WATTS * seconds)
    bars.append(Bar("static power of PINTA", f"{STATIC_WATTS:g} W", "added", (None, None), (None, static)))
    ordered = sorted(
        bars, key=lambda bar: (-max(bar.reach(speed_up, "speed_up"), bar.reach(energy, "energy")), bar.name)
    )
    return Tornado(problem, METHOD_NAMES[method], speed_up, energy, tuple(ordered))


def _bar(key: str, sides: Data, host: HostFigure) -> Bar:
    assert host.joules is not None
    speeds: list[float | None] = []
    energies: list[float | None] = []
    for side in ("low", "high"):
        found = sides.get(side, {})
        speeds.append(host.seconds / found["seconds"] if "seconds" in found else None)
        energies.append(host.joules / found["joules"] if "joules" in found else None)
    shown = [_value(sides[side]["value"]) if side in sides else "-" for side in ("low", "high")]
    again = any(found.get("recompiled") for found in sides.values())
    lost = [found["note"] for found in sides.values() if "note" in found]
    how = "compiled again" if again or lost else "same program"
    return Bar(
        key,
        " / ".join(shown),
        how + (f" ({lost[0]})" if lost else ""),
        (speeds[0], speeds[1]),
        (energies[0], energies[1]),
    )


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
