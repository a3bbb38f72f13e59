"""Making runs: kept as they finish, several at once, failures, Ctrl-C, going on bit for bit."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest

import pintac
from pintac.experiments.execute import Event, Files, execute, missing, train_command
from pintac.experiments.progress import RunProgress
from pintac.experiments.runs import Run
from pintac.experiments.store import Store
from pintac.frontend import load_step
from tests.cli.support import TINY
from tests.experiments.support import keep, result

RUNS = [Run("poisson2d", seed=seed) for seed in range(4)]

# Stands for `pintac train`: says where it is, stops at Ctrl-C like it, writes the JSON it is given.
CHILD = """
import json, pathlib, signal, sys, time
target, text, steps, code = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
for step in range(steps):
    print(f"poisson2d: step {step + 1}/{steps}  loss 1.0", file=sys.stderr, flush=True)
    time.sleep(0.02 if steps < 1000 else 1)
if code:
    print("error: no such thing", file=sys.stderr)
    sys.exit(code)
pathlib.Path(target).write_text(text)
"""


def child(steps: int = 2, codes: dict[int, int] | None = None):
    """A command that pretends to train; `codes` are exit codes of seeds that fail."""

    def command(run: Run, files: Files) -> list[str]:
        text = json.dumps(result(run, 0.01 * (run.seed + 1)))
        code = str((codes or {}).get(run.seed, 0))
        return [sys.executable, "-c", CHILD, str(files.result), text, str(steps), code]

    return command


def test_missing_runs_are_made_and_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keep(store, RUNS[1], 0.5)
    events: list[Event] = []
    report = execute(RUNS, store, jobs=2, show=events.append, command=child())
    assert sorted(run.seed for run in report.finished) == [0, 2, 3] and not report.failed and not report.interrupted
    assert missing(RUNS, store) == []
    kept = [store.load(run) for run in RUNS]
    assert [done.result["l2_rel"] for done in kept if done] == [0.01, 0.5, 0.03, 0.04], "what was there stays"
    assert [(e.step, e.total) for e in events if e.kind == "step" and e.run.seed == 2] == [(1, 2), (2, 2)]
    assert list((tmp_path / "unfinished").iterdir()) == []
    assert execute(RUNS, store, command=child()).finished == []


def test_a_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    report = execute(RUNS, store, jobs=2, command=child(codes={1: 1}))
    assert len(report.finished) == 3
    assert [(run.seed, message) for run, message in report.failed] == [(1, "error: no such thing")]


def test_a_result_of_another_run_is_not_kept(tmp_path: Path) -> None:
    def command(run: Run, files: Files) -> list[str]:
        return child()(run.but(seed=7), files)

    report = execute(RUNS[:1], Store(tmp_path), command=command)
    assert len(report.failed) == 1 and "seed 7" in report.failed[0][1]
    assert missing(RUNS[:1], Store(tmp_path)) == RUNS[:1]


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def command(run: Run, files: Files) -> list[str]:
        return child(steps=2 if run.seed == 0 else 1000)(run, files)

    def interrupt(event: Event) -> None:
        if event.kind == "step" and event.run.seed == 1:
            raise KeyboardInterrupt

    start = time.monotonic()
    report = execute(RUNS, store, jobs=1, show=interrupt, command=command)
    assert report.interrupted and [run.seed for run in report.finished] == [0]
    assert [run.seed for run in missing(RUNS, store)] == [1, 2, 3]
    assert time.monotonic() - start < 60, "the child was told, not waited for"


def test_one_process_at_a_time_makes_a_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    reports = []

    def call() -> None:
        reports.append(execute(RUNS[:1], store, command=child(steps=40)))

    other = threading.Thread(target=call)
    other.start()
    lock = Files.of(store, RUNS[0]).lock
    while not lock.exists():
        time.sleep(0.005)
    time.sleep(0.1)
    call()
    other.join()
    assert sorted(len(report.finished) for report in reports) == [0, 1]
    assert sorted(len(report.busy) for report in reports) == [0, 1]


def test_a_checkpoint_of_an_older_compiler_is_dropped(tmp_path: Path) -> None:
    store = Store(tmp_path)
    checkpoint = Files.of(store, RUNS[0]).checkpoint
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("old")
    started = []

    def command(run: Run, files: Files) -> list[str]:
        started.append("--resume" in train_command(run, files))
        if files.checkpoint.exists():
            return [sys.executable, "-c", "import sys; sys.exit('error: it belongs to another program (1, 2)')"]
        return child()(run, files)

    report = execute(RUNS[:1], store, command=command)
    assert started == [True, False] and report.finished == RUNS[:1] and not checkpoint.exists()


def test_progress_estimates_from_other_seeds_and_from_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    keep(store, RUNS[0], 0.1)  # 0.25 s a step, 1000 steps
    now = [0.0]
    other = Run("hjb20")
    progress = RunProgress([*RUNS[1:3], other], store, jobs=2, clock=lambda: now[0])
    assert progress.eta() is None, "nothing is known of hjb20"
    progress.show(Event("started", RUNS[1]))
    progress.show(Event("step", RUNS[1], 500, 1000))
    now[0] = 100.0
    progress.show(Event("finished", RUNS[1], message="l2 1.00e-02"))
    assert progress.eta() == (250 + 100) / 2
    assert "[1/3, ETA 2:55] poisson2d,seed=1: finished, l2 1.00e-02 (1:40)" in capsys.readouterr().err


def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: `pintac train` is interrupted, resumed, and has the uninterrupted run's bits and history."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.py").write_text(TINY)
    run = Run("tiny.py:step", steps=600, seed=5)
    store = Store(tmp_path / "results")

    def interrupt(event: Event) -> None:
        if event.kind == "step":
            raise KeyboardInterrupt

    report = execute([run], store, show=interrupt)
    assert report.interrupted and run not in store
    assert Files.of(store, run).checkpoint.exists()
    report = execute([run], store)
    assert report.finished == [run], report.failed
    whole = pintac.train(load_step(run.problem), 600, seed=5, progress=False)
    done = store.load(run)
    assert done is not None
    assert done.result["l2_rel"] == whole.l2
    assert done.result["history"] == [list(row) for row in whole.history]
    assert len(whole.history) == 50
    assert list((tmp_path / "results/unfinished").iterdir()) == []
