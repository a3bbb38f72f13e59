"""Parts of the command line by themselves: options, progress, files."""

from __future__ import annotations

import io
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pintac.api.following import Following
from pintac.api.loop import drive
from pintac.api.result import Result
from pintac.errors import PintacError
from pintac.report.files import check_writable, read_text, write_text
from pintac.report.progress import Lines, Tick, describe, duration, make_progress
from pintac.report.step_cost import StepCost
from pintac.runtime.history import Row

QUIET = Following(progress=False)


def test_progress_lines_are_sparse() -> None:
    now = [0.0]
    stream = io.StringIO()
    lines = Lines("poisson2d", stream, clock=lambda: now[0])
    with lines:
        for step in range(1, 101):
            now[0] += 0.5
            lines.show(Tick(step, 100, loss=1.5, l2=0.25, rate=2e9, eta=(100 - step) / 2))
    shown = stream.getvalue().splitlines()
    assert shown[0] == "poisson2d: step 1/100  loss 1.500e+00  l2 2.50e-01  2.00 GMAC/s  ETA 0:50"
    assert len(shown) == 6 and shown[-1].startswith("poisson2d: step 100/100 ")


def test_progress_off_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with make_progress("x", enabled=False) as progress:
        progress.show(Tick(1, 2))
    assert capsys.readouterr() == ("", "")


def test_progress_of_a_pipe_is_plain() -> None:
    stream = io.StringIO()
    with make_progress("x", stream=stream) as progress:
        progress.show(Tick(2, 2))
    assert stream.getvalue() == "x: step 2/2\n"


def test_describe_leaves_out_what_is_unknown() -> None:
    assert describe(Tick(3, 9)) == "step 3/9"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (0.2, "0:01"), (61, "1:01"), (3600, "1:00:00"), (-1, "0:00")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_write_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_text("-", "out\n")
    write_text(str(tmp_path / "f"), "file\n")
    assert capsys.readouterr().out == "out\n"
    assert read_text(str(tmp_path / "f")) == ("file\n", str(tmp_path / "f"))


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    """What is no file (/dev/null, /dev/stdout, a pipe) is written to, not replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_writable(str(pipe))
        write_text(str(pipe), "text\n")
        assert os.read(reader, 100) == b"text\n" and pipe.is_fifo()
    finally:
        os.close(reader)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_files_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(PintacError, match="is not a text file"):
        read_text(str(tmp_path / "binary"))
    with pytest.raises(PintacError, match=r"cannot read .*: No such file"):
        read_text(str(tmp_path / "absent"))
    with pytest.raises(PintacError, match="there is no folder"):
        check_writable(str(tmp_path / "absent" / "f"))
    with pytest.raises(PintacError, match="it is a folder"):
        check_writable(str(tmp_path))


def test_result_totals_and_json() -> None:
    cost = StepCost(1000, 900, 600, 64, 2e-6, 50, 4096, 800)
    fields = dict(steps=10, seed=1, engine="jit", machine="tiny", bits="8/16/8/12", l2=0.5, l2_float=0.4, weights={})
    result = Result(cost=cost, sim_seconds_per_step=0.5, compile_seconds=1.0, **fields)
    assert (result.cycles, result.energy) == (10_000, pytest.approx(2e-5))
    assert result.as_dict()["sim_seconds_per_step"] == 0.5
    floating = Result(cost=None, **fields)
    assert floating.cycles is None and floating.energy is None
    assert floating.as_dict()["cycles_per_step"] is None
    assert set(floating.as_dict()) == set(result.as_dict())


def test_a_diverged_run_is_valid_json() -> None:
    fields = dict(steps=1, seed=1, engine="jit", machine="tiny", bits="8/16/8/12", l2_float=None, weights={}, cost=None)
    text = Result(l2=math.inf, history=(Row(1, math.nan, None, {"loss:a": math.inf}),), **fields).to_json()
    result = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert result["l2_rel"] is None and result["history"] == [[1, None, None, {"loss:a": None}]]


class Counter:
    """Steps that only count; `on_step` may interrupt."""

    def __init__(self, on_step: Callable[[int], object] = lambda n: None, start: int = 0) -> None:
        self.step_number = start
        self.on_step = on_step

    def advance(self) -> dict[str, float]:
        self.step_number += 1
        self.on_step(self.step_number)
        return {"loss": 1.0 / self.step_number}

    def answers(self) -> dict[str, object]:
        return {}


def test_loop_counts_from_the_start_of_training() -> None:
    outcome = drive(Counter(start=7), 10, title="x", following=QUIET)
    assert outcome.steps == 3 and not outcome.interrupted
    assert [row[0] for row in outcome.history] == [8, 9, 10]


def test_loop_measures_evenly() -> None:
    measured: list[int] = []
    counter = Counter()
    outcome = drive(
        counter,
        500,
        title="x",
        following=QUIET,
        measure=lambda: measured.append(counter.step_number) or 0.5,
        clock=lambda: 0.0,
    )
    assert measured == list(range(10, 501, 10)) == [row[0] for row in outcome.history]
    assert outcome.history[-1] == (500, 1 / 500, 0.5, {})


def test_ctrl_c_finishes_the_step_and_saves() -> None:
    saved: list[int] = []
    counter = Counter(lambda n: signal.raise_signal(signal.SIGINT) if n == 3 else None)
    outcome = drive(counter, 10, title="x", following=QUIET, save=lambda: saved.append(counter.step_number))
    assert outcome.interrupted and counter.step_number == 3 and saved == [3]


def test_a_second_ctrl_c_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    counter = Counter(lambda n: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt):
        drive(counter, 10, title="x", following=QUIET)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_first_step_is_timed_apart() -> None:
    """It compiles the engine: 10 s for it and 1 s for each of the others is 1 s a step."""
    now = [0.0]

    def pass_time(n: int) -> None:
        now[0] += 10.0 if n == 1 else 1.0

    assert drive(Counter(pass_time), 5, title="x", following=QUIET, clock=lambda: now[0]).seconds_per_step == 1.0
    now[0] = 0.0
    assert drive(Counter(pass_time), 1, title="x", following=QUIET, clock=lambda: now[0]).seconds_per_step == 10.0
