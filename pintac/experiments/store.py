"""Finished runs, one JSON file each, named after the run.

A file is {"command", "date", "run", "result"}: `result` is what `pintac train --json` wrote. It appears whole or not
at all, so an interrupted write leaves the old file or none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pintac.container import write_atomically
from pintac.errors import PintacError, ResultsError, UsageError
from pintac.experiments.runs import Run
from pintac.json_kinds import Kind, KindError, having, items, maybe, number, row, whole

SUFFIX = ".json"
HINT = "it is written again when you remove it and repeat the command"


def _size(value: Any, place: str) -> None:
    number(value, place)
    if value < 0:
        raise KindError(f"{place} is {value}, below 0")


def _record(value: Any, place: str) -> None:
    """An entry of the history: step, loss, l2, and what else was followed."""
    row(_COUNT, maybe(number), maybe(_size))(value[:3] if isinstance(value, list) else value, place)


_COUNT = whole(low=0)
_COST = maybe(_size)
NEEDED: Mapping[str, Kind] = {
    "l2_rel": maybe(_size),
    "steps": _COUNT,
    "seed": _COUNT,
    "history": items(_record),
    "cycles_per_step": _COST,
    "energy_j_per_step": _COST,
    "lower_bound_cycles": _COST,
}
"""What a result has to hold for tables to be made of it."""

_RESULT = having(
    NEEDED,
    l2_rel_float=maybe(_size),
    macs_per_step=_COST,
    tcu_cycles_per_step=_COST,
    vpu_cycles_per_step=_COST,
    sim_seconds_per_step=_COST,
)

_HISTORY = "@history@"


@dataclass(frozen=True)
class Finished:
    """A finished run: the command that made it, the day, and what `pintac train --json` wrote."""

    run: Run
    command: str
    date: str
    result: Mapping[str, Any]

    def to_json(self) -> str:
        """The file: sorted, one key a line, the history on one."""
        content = {
            "command": self.command,
            "date": self.date,
            "run": self.run.as_dict(),
            "result": {**self.result, "history": _HISTORY},
        }
        text = json.dumps(content, sort_keys=True, indent=1, allow_nan=False)
        return text.replace(f'"{_HISTORY}"', json.dumps(self.result["history"], allow_nan=False)) + "\n"


class Store:
    """The folder of finished runs, `<results>/runs`."""

    def __init__(self, results: Path | str) -> None:
        self.results = Path(results)
        self.folder = self.results / "runs"

    def path(self, run: Run) -> Path:
        """Where the run's file is, or would be."""
        return self.folder / (run.name + SUFFIX)

    def __contains__(self, run: Run) -> bool:
        return self.path(run).exists()

    def load(self, run: Run) -> Finished | None:
        """A finished run; None if it is not there. Raises ResultsError for a file that is damaged or of another run."""
        path = self.path(run)
        return read_finished(path) if path.exists() else None

    def save(self, run: Run, result: Mapping[str, Any], date: str) -> Finished:
        """Keep a finished run. Raises ResultsError for a result that is not this run's, or that was interrupted."""
        finished = Finished(run, run.command, date, result)
        _check(self.path(run), run, result)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path(run), finished.to_json().encode())
        except OSError as error:
            raise ResultsError(f"cannot write {self.path(run)}: {error.strerror}") from None
        return finished

    def __iter__(self) -> Iterator[Finished]:
        """Every finished run, in the order of names."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            yield read_finished(path)


def read_finished(path: Path) -> Finished:
    """A file of the store. Raises ResultsError, naming it, for anything else than a whole run of that name."""
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ResultsError(f"{path} cannot be read as a finished run: {error}", hint=HINT) from None
    keys = {"command", "date", "run", "result"}
    if not isinstance(content, dict) or set(content) != keys or not isinstance(content["result"], dict):
        raise ResultsError(f"{path} is not a finished run: expected the keys {', '.join(sorted(keys))}", hint=HINT)
    try:
        run = Run.from_dict(content["run"])
    except (UsageError, TypeError, AttributeError) as error:
        message = error.message if isinstance(error, PintacError) else str(error)
        raise ResultsError(f"{path} does not say which run it is: {message}", hint=HINT) from None
    if run.name + SUFFIX != path.name:
        raise ResultsError(f"{path} holds the run {run.name}", hint="a file is named after its run")
    _check(path, run, content["result"])
    return Finished(run, str(content["command"]), str(content["date"]), content["result"])


def _check(path: Path, run: Run, result: Mapping[str, Any]) -> None:
    missing = [key for key in NEEDED if key not in result]
    if missing:
        raise ResultsError(f"{path}: the result has no {', '.join(missing)}", hint=HINT)
    try:
        _RESULT(result, "")
    except KindError as error:
        raise ResultsError(f"{path}: in the result {error}", hint=HINT) from None
    if result.get("interrupted"):
        raise ResultsError(f"{path}: the run was interrupted after {result['steps']} steps")
    if result["seed"] != run.seed:
        raise ResultsError(f"{path}: the result is of seed {result['seed']}, the run of seed {run.seed}")
