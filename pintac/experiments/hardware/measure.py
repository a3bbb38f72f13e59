"""Everything the hardware table needs, measured or modelled once and kept: an interrupted command goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pintac.container import write_atomically
from pintac.experiments.files import read_json
from pintac.experiments.hardware import host, model
from pintac.experiments.hardware.rows import (
    CONFIGURATIONS,
    CONTRACTIONS,
    PAPER,
    WORKLOADS,
    HostRow,
    Workload,
    host_rows,
    overhead_rows,
)
from pintac.json_kinds import each, having, items, maybe, number, text
from pintac.machine import Machine

ROUNDS, QUICK_ROUNDS = 2, 1
BUDGET, QUICK_BUDGET = 1.5, 0.5
"""Seconds that steps are timed for in one process."""

TIMEOUT = 150.0
"""Seconds that a process may take with imports and recording, `COMPILE_TIMEOUT` with torch.compile."""

COMPILE_TIMEOUT = 240.0
TORNADO = ("poisson2d", "heat100")

_HOST, _MODELS = ("host", "torch", "overhead"), ("pinta", "contraction", "tornado")
PARTS: Mapping[str, tuple[str, ...]] = {"host": _HOST, "models": _MODELS, "all": (*_HOST, *_MODELS)}
"""What can be made again: measurements of this host, programs for PINTA."""

Say = Callable[[str], None]
Data = dict[str, Any]

_TIMED = having({}, seconds=items(number), load=items(number), note=text)
_VARIED = having({"value": lambda value, place: None}, seconds=number, joules=number, note=text)
_COST = having({}, cycles=number, seconds=number, joules=number, note=text)
_KIND = having(
    {},
    host=having({}, watts_per_core=maybe(number), gpu_watts=maybe(number)),
    torch=each(each(_TIMED)),
    overhead=each(_TIMED),
    pinta=each(each(_COST)),
    contraction=each(_COST),
    tornado=each(each(having({}, seconds=number, joules=number, low=_VARIED, high=_VARIED))),
)
"""What `hardware.json` holds, as far as its readers rely on it."""


def path_of(results: Path, quick: bool) -> Path:
    """The file of everything measured."""
    return results / ("hardware-quick.json" if quick else "hardware.json")


def load(results: Path, quick: bool = False) -> Data:
    """What is there; empty without a file. Raises ResultsError for one that cannot be read."""
    path = path_of(results, quick)
    if not path.exists():
        return {}
    data: Data = read_json(path, _KIND, "remove it, `pintac reproduce hardware` measures again")
    return data


class Collector:
    """Fills in what is missing, keeping every figure as soon as it is there."""

    def __init__(self, results: Path, quick: bool, say: Say, again: str = "") -> None:
        self.path, self.quick, self.say = path_of(results, quick), quick, say
        self.data = load(results, quick)
        for part in PARTS.get(again, ()):
            self.data.pop(part, None)
        self.rounds = QUICK_ROUNDS if quick else ROUNDS
        self.budget = QUICK_BUDGET if quick else BUDGET

    def run(self) -> None:
        """Everything: the models first, then the host round by round, so that a busy minute spoils no row."""
        self.models()
        if self._hosts_missing():
            self.data["host"] = host.describe()
            for done in range(self.rounds):
                for entry, workload, row in self._hosts():
                    if len(entry.get("seconds", ())) <= done and "note" not in entry:
                        self._measure(entry, workload, row)

    # ---- the host

    def _hosts(self) -> Iterator[tuple[Data, Workload, HostRow]]:
        count = host.processors()
        for workload in WORKLOADS:
            rows = host_rows(workload.chunk, self.quick, bool(self.data.get("host", {}).get("gpu")))
            part = self.data.setdefault("torch", {}).setdefault(workload.problem, {})
            for row in rows:
                yield part.setdefault(row.key(count), {}), workload, row
        if not self.quick:
            part = self.data.setdefault("overhead", {})
            for name, row in overhead_rows(WORKLOADS[0].chunk).items():
                yield part.setdefault(name, {}), WORKLOADS[0], row

    def _hosts_missing(self) -> bool:
        return any(len(entry.get("seconds", ())) < self.rounds and "note" not in entry for entry, _, _ in self._hosts())

    def _measure(self, entry: Data, workload: Workload, row: HostRow) -> None:
        passes = f" {row.passes}" if row.method == "explicit" else ""
        self.say(f"{workload.problem}: {row.key(host.processors())}{passes}")
        timeout = COMPILE_TIMEOUT if row.mode == "compiled" else TIMEOUT
        alone = replace(row, threads=1)
        known = self.data.get("torch", {}).get(workload.problem, {}).get(alone.key(host.processors()), {})
        if row.threads == 0 and "note" in known:  # more threads do not record or compile it any sooner
            found = {"note": known["note"]}
        else:
            found = host.run_row(workload.problem, {}, row, self.budget, timeout)
        if "note" in found:
            entry["note"] = found["note"]
        else:
            entry.setdefault("seconds", []).append(found["seconds"])
            entry.setdefault("load", []).append(found["load"])
            entry["first_seconds"] = found["first_seconds"]
            for key in ("peak_bytes", "rss_bytes"):
                if found[key] is not None:
                    entry[key] = found[key]
            if found["joules"] is not None and found["joules"] > 0:
                entry["joules"] = min(entry.get("joules", found["joules"]), found["joules"])
        self.save()

    # ---- the machine

    def models(self) -> None:
        """Programs of the table, both orders of contraction, the tornado."""
        configurations = CONFIGURATIONS[:1] if self.quick else CONFIGURATIONS
        for workload in WORKLOADS:
            part = self.data.setdefault("pinta", {}).setdefault(workload.problem, {})
            for configuration in configurations:
                if configuration.name not in part:
                    self.say(f"{workload.problem}: program, {configuration.name}")
                    part[configuration.name] = model.cost_or_reason(workload, configuration)
                    self.save()
        if self.quick:
            return
        part = self.data.setdefault("contraction", {})
        for configuration in CONTRACTIONS:
            if configuration.name not in part:
                self.say(f"{WORKLOADS[0].problem}: {configuration.name}")
                part[configuration.name] = model.cost_or_reason(WORKLOADS[0], configuration)
                self.save()
        for workload in WORKLOADS:
            if workload.problem in TORNADO:
                self._tornado(workload)

    def _tornado(self, workload: Workload) -> None:
        """Variants of one program: another one (of another version of the backend) starts from the beginning."""
        part = self.data.setdefault("tornado", {}).setdefault(workload.problem, {})
        every = model.variations(Machine.default())
        if "base" in part and all(v.side in part.get(v.key, {}) for v in every):
            return
        base = model.program_of(workload, PAPER)
        costs = model.costs_of(base)
        if part.get("base") != costs:
            part.clear()
            part["base"] = costs
        for variation in [v for v in every if v.side not in part.get(v.key, {})]:
            self.say(f"{workload.problem}: {variation.key} = {variation.value}")
            part.setdefault(variation.key, {})[variation.side] = model.varied(workload, PAPER, base, variation)
            self.save()

    def save(self) -> None:
        """Write everything that is there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.data, indent=1, sort_keys=True, allow_nan=False) + "\n"
        write_atomically(self.path, text.encode())
