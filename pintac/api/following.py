"""Who is told of a run while it runs, and what ends it early."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from pintac.api.steps import positive
from pintac.errors import PintacError, UsageError
from pintac.report.files import STDOUT, check_writable, write_bytes
from pintac.runtime.history import Row, finite

HISTORY_POINTS = 50  # measurements of a run, evenly spread over the steps, unless `every` says otherwise

Callback = Callable[[int, Mapping[str, Any]], object]
"""Gets the number of steps done and what was measured (`metrics_of`); what it returns is true if the run shall end.

What it raises ends the run after its step, with everything kept: Ctrl-C as usual, anything else as a `CallbackError`.
"""


@dataclass(frozen=True)
class Following:
    """What `run` and `train` say of these arguments."""

    progress: bool = True
    callback: Callback | None = None
    every: int | None = None
    log: str | Path | None = None
    stop_below: float | None = None

    def check(self, has_exact: bool) -> None:
        """Refuse what cannot be before any work is done. Raises UsageError, PintacError."""
        if self.every is not None:
            positive(self.every, "every so many steps, a positive whole number")
        if self.stop_below is not None:
            if not (isinstance(self.stop_below, (int, float, np.number)) and 0 < self.stop_below < math.inf):
                raise UsageError(f"expected a positive error to stop below, got {self.stop_below!r}")
            if not has_exact:
                raise UsageError("there is no l2 to stop below: the problem has no exact solution", hint="def exact")
        if self.log is not None:
            if str(self.log) == STDOUT:
                raise UsageError("a log is a file, that a resumed run goes on with", hint="--log run.jsonl")
            check_writable(str(self.log))
        if self.callback is not None:
            _check_callback(self.callback)

    def due(self, step: int, total: int) -> bool:
        """Whether this step is measured."""
        return step == total or step % (self.every or max(1, total // HISTORY_POINTS)) == 0

    def verdict(self, row: Row) -> str | None:
        """Tell the callback; why the run shall end, None if it shall go on. Raises what the callback raises."""
        if self.callback is not None and self.callback(row.step, metrics_of(row)):
            return f"by the callback after step {row.step}"
        if self.stop_below is not None and row.l2 is not None and row.l2 < self.stop_below:
            return f"after step {row.step}: l2 {row.l2:.3e} is below {self.stop_below:g}"
        return None


def check_new(checkpoint: str | Path | None, log: str | Path | None) -> None:
    """Refuse to begin a run over the files of another one. Raises UsageError."""
    for what, path in (("checkpoint", checkpoint), ("log", log)):
        if path is not None and Path(path).is_file() and Path(path).stat().st_size:
            raise UsageError(
                f"there is a {what} {path} of an earlier run, which this one would overwrite",
                hint="--resume (resume=True, with its checkpoint) goes on with it, --overwrite (overwrite=True) begins "
                f"anew; or another --{what}",
            )


def _check_callback(callback: Callback) -> None:
    """Raises UsageError for what cannot be called with a step and its metrics."""
    hint = "callback=lambda step, metrics: metrics['loss'] < 1e-3"
    if not callable(callback):
        raise UsageError(f"a callback is a function of step and metrics, got {callback!r}", hint=hint)
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # not every built-in function says
        return
    try:
        signature.bind(0, {})
    except TypeError as error:
        raise UsageError(f"a callback is called with step and metrics: {error}, {signature}", hint=hint) from None


def metrics_of(row: Row) -> dict[str, Any]:
    """What was measured: `loss` and `l2` (None if unknown), `loss:<term>`, the problem's small parameters by name."""
    return {"loss": row.loss, "l2": row.l2, **row.values}


class Log:
    """A JSON object a line, as the run goes. The lines of a resumed run go on where its checkpoint was.

    A log that can no longer be written ends; the run does not.
    """

    def __init__(self, path: str | Path, step: int) -> None:
        """`step`: steps done so far. Raises PintacError if the file cannot be written, or is no log to go on with."""
        self.path = Path(path)
        if step:
            write_bytes(str(path), "".join(self._kept(step)).encode())
        try:
            self._file: TextIO | None = self.path.open("a" if step else "w")
        except OSError as error:
            raise PintacError(f"cannot write {path}: {error.strerror}") from None

    def _kept(self, step: int) -> list[str]:
        if not self.path.exists():
            return []
        kept = []
        try:
            lines = self.path.read_text().splitlines(keepends=True)
            for line in lines:
                if line.endswith("\n") and int(json.loads(line)["step"]) <= step:  # the last one may be torn
                    kept.append(line)
        except (OSError, ValueError, TypeError, KeyError):
            raise PintacError(f"cannot go on with {self.path}: it is no log of a run", hint="another --log") from None
        return kept

    def write(self, row: Row) -> str | None:
        """Add a line; what is to be said if that was not possible."""
        if self._file is None:
            return None
        line = {"step": row.step, **metrics_of(row)}
        try:
            self._file.write(json.dumps(finite(line), allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # what could not be written is not written now
                self._file.close()
            self._file = None
            return f"{self.path} ends before step {row.step}: {error.strerror}"
        return None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
