"""Makes the runs that are missing: each in its own process, several at once, to be interrupted and gone on with.

A run is the command `pintac train` with a JSON file and, where there is a simulator, a checkpoint. Ctrl-C is passed on
once: every run ends its step, writes its checkpoint and stops. The next call goes on from there, bit for bit.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pintac
from pintac.errors import PintacError, ResultsError
from pintac.experiments.runs import Run
from pintac.experiments.store import Store

UNFINISHED = "unfinished"
INTERRUPTED = 130  # exit code of `pintac train` after Ctrl-C
_STEP = re.compile(r"step (\d+)/(\d+)")
_FOREIGN = "belongs to another program"


@dataclass(frozen=True)
class Event:
    """Something that happened to a run: started, step, finished, interrupted, failed, busy (another process has it)."""

    kind: str
    run: Run
    step: int = 0
    total: int = 0
    message: str = ""


@dataclass
class Report:
    """How a call ended."""

    finished: list[Run] = field(default_factory=list)
    failed: list[tuple[Run, str]] = field(default_factory=list)
    busy: list[Run] = field(default_factory=list)
    interrupted: bool = False


@dataclass(frozen=True)
class Files:
    """Where an unfinished run writes."""

    result: Path
    checkpoint: Path
    lock: Path

    @classmethod
    def of(cls, store: Store, run: Run) -> Files:
        """The files of a run."""
        folder = store.results / UNFINISHED
        return cls(*(folder / f"{run.name}.{kind}" for kind in ("json", "checkpoint", "lock")))


Command = Callable[[Run, Files], list[str]]


def train_command(run: Run, files: Files) -> list[str]:
    """The command line of a run, going on from its checkpoint if there is one."""
    command = [sys.executable, "-m", "pintac", *run.arguments, "--json", str(files.result)]
    if run.has_program:
        command += ["--checkpoint", str(files.checkpoint)]
        if files.checkpoint.exists():
            command.append("--resume")
    return command


def missing(runs: Sequence[Run], store: Store) -> list[Run]:
    """Those that are not finished, in their order."""
    return [run for run in runs if run not in store]


def execute(
    runs: Sequence[Run],
    store: Store,
    *,
    jobs: int = 1,
    show: Callable[[Event], None] = lambda event: None,
    command: Command = train_command,
) -> Report:
    """Make the missing ones of `runs`, `jobs` at a time, and keep each in the store as it finishes.

    A run that fails does not stop the others. Ctrl-C stops all of them where they can go on; a second one kills them.
    """
    waiting = deque(missing(runs, store))
    workers = _Workers(store, waiting, command)
    report = Report()
    for _ in range(min(jobs, len(waiting))):
        workers.start()
    while True:
        try:
            event = workers.events.get() if workers.alive else workers.events.get_nowait()
        except queue.Empty:
            return report
        except KeyboardInterrupt:
            report.interrupted = True
            workers.stop()
            continue
        if event is None:
            workers.alive -= 1
            continue
        if event.kind == "finished":
            report.finished.append(event.run)
        elif event.kind == "failed":
            report.failed.append((event.run, event.message))
        elif event.kind == "busy":
            report.busy.append(event.run)
        try:
            show(event)
        except KeyboardInterrupt:
            report.interrupted = True
            workers.stop()


class _Workers:
    """Threads that each look after one child process at a time."""

    def __init__(self, store: Store, waiting: deque[Run], command: Command) -> None:
        self.store, self.waiting, self.command = store, waiting, command
        self.events: queue.Queue[Event | None] = queue.Queue()
        self.alive = 0
        self._children: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = 0

    def start(self) -> None:
        """One more worker."""
        self.alive += 1
        threading.Thread(target=self._work, daemon=True).start()

    def stop(self) -> None:
        """Interrupt every child; the second time, kill it."""
        with self._lock:
            self._stopped += 1
            self.waiting.clear()
            for child in self._children:
                child.send_signal(signal.SIGINT if self._stopped == 1 else signal.SIGKILL)

    def _work(self) -> None:
        try:
            while True:
                try:
                    run = self.waiting.popleft()
                except IndexError:
                    return
                try:
                    self._make(run)
                except (PintacError, OSError) as error:
                    self.events.put(Event("failed", run, message=str(error)))
        finally:
            self.events.put(None)

    def _make(self, run: Run) -> None:
        files = Files.of(self.store, run)
        files.lock.parent.mkdir(parents=True, exist_ok=True)
        with _held(files.lock) as ours:
            if not ours or run in self.store:
                self.events.put(Event("busy", run, message="another process makes it"))
                return
            code, errors = self._child(run, files)
            if code == 1 and _FOREIGN in errors:  # the compiler has changed since: its bits may have, so from the start
                files.checkpoint.unlink()
                code, errors = self._child(run, files)
            if code == INTERRUPTED or (self._stopped and code):
                files.result.unlink(missing_ok=True)  # a part of a run is no result
                self.events.put(Event("interrupted", run))
                return
            if code:
                self.events.put(Event("failed", run, message=errors.strip() or f"exit code {code}"))
                return
            try:
                result = json.loads(files.result.read_text())
            except (OSError, ValueError) as error:
                raise ResultsError(f"{files.result}: the run wrote no result: {error}") from None
            finished = self.store.save(run, result, datetime.date.today().isoformat())
            for path in (files.result, files.checkpoint):
                path.unlink(missing_ok=True)
            l2 = finished.result["l2_rel"]
            steps = int(finished.result["steps"])
            message = "diverged" if l2 is None else f"l2 {l2:.2e}"
            self.events.put(Event("finished", run, steps, steps, message))

    def _child(self, run: Run, files: Files) -> tuple[int, str]:
        """(exit code, last lines of stderr) of the run's process; its progress becomes events."""
        source = str(Path(pintac.__file__).parents[1])
        paths = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        with self._lock:
            if self._stopped:
                return INTERRUPTED, ""
            child = subprocess.Popen(
                self.command(run, files),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
                start_new_session=True,  # Ctrl-C in the terminal reaches us alone; we pass it on once
            )
            self._children.add(child)
        self.events.put(Event("started", run))
        last: deque[str] = deque(maxlen=20)
        assert child.stderr is not None
        with child.stderr:
            for line in child.stderr:
                found = _STEP.search(line)
                if found:
                    self.events.put(Event("step", run, int(found[1]), int(found[2])))
                else:
                    last.append(line)
        code = child.wait()
        with self._lock:
            self._children.discard(child)
        return code, "".join(last)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Whether this process alone holds the lock file; it is given back with the process, however that ends."""
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
