"""Sessions: steps, metrics, inference, resuming, interrupting."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac.api.following import Following
from pintac.api.loop import drive
from pintac.api.running import SessionSteps
from pintac.container import seal, unseal
from pintac.errors import CheckpointError, ExecutionError, PintacError
from pintac.runtime import ENGINES, Session
from pintac.runtime.interrupt import Interrupts
from tests.runtime.toy import STEPS, TEST_X, expected_loss, expected_w, toy_program

PROGRAM = toy_program()


def session(seed: int = 0, engine: str = "reference") -> Session:
    return Session(PROGRAM, engine=engine, seed=seed)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", [0, 12345, 2**32 - 1])
def test_steps_use_their_row_of_the_table_and_their_random_numbers(seed: int, engine: str) -> None:
    run = session(seed, engine)
    assert run.metrics() == {}
    for n in range(1, STEPS + 3):  # beyond the table its last row holds, and random numbers go on
        run.step()
        expected = expected_w(n, seed)
        np.testing.assert_array_equal(run.state_arrays()["w"], expected)
        assert run.metrics() == {"loss": expected_loss(expected)}
    assert run.step_number == STEPS + 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("points", [0, 1, 5, 13])
def test_inference_in_chunks(points: int, engine: str) -> None:
    run = session(engine=engine)
    run.step(2)
    np.testing.assert_array_equal(run.infer(TEST_X[:points]), 2 * TEST_X[:points] + expected_w(2, 0)[0])


def test_inference_does_not_disturb_training() -> None:
    plain, disturbed = session(), session()
    plain.step(3)
    for _ in range(3):
        disturbed.infer(TEST_X)
        disturbed.step()
    np.testing.assert_array_equal(plain.state_arrays()["w"], disturbed.state_arrays()["w"])


def test_points_of_another_width_are_refused() -> None:
    with pytest.raises(ExecutionError, match=r"shape \[3, 2\] given, the program takes \[n, 4\]"):
        session().infer(np.zeros((3, 2)))


def test_work_counts_what_a_step_executes() -> None:
    work = session().work()
    assert (work.instructions, work.macs, work.vpu_elements) == (4, 0, 16)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ENGINES)
@pytest.mark.parametrize("second", ENGINES)
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path: Path, first: str, second: str) -> None:
    whole = session(9)
    whole.step(6)
    stopped = session(9, first)
    stopped.step(4)
    stopped.save_checkpoint(tmp_path / "c")
    resumed = session(0, second)  # the checkpoint brings its seed
    resumed.load_checkpoint(tmp_path / "c")
    assert (resumed.step_number, resumed.seed) == (4, 9)
    resumed.step(2)
    np.testing.assert_array_equal(resumed.state_arrays()["w"], whole.state_arrays()["w"])
    assert resumed.metrics() == whole.metrics()
    np.testing.assert_array_equal(resumed.infer(TEST_X), whole.infer(TEST_X))
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_flags_and_metrics_come_back(tmp_path: Path) -> None:
    run = session()
    run.step()
    run.state.status[0] = 2
    run.save_checkpoint(tmp_path / "c")
    other = session()
    other.load_checkpoint(tmp_path / "c")
    assert other.nonfinite and not other.saturated
    assert other.metrics() == run.metrics()


def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path) -> None:
    session().save_checkpoint(tmp_path / "c")
    other = Session(toy_program("another"), engine="reference")
    with pytest.raises(CheckpointError, match="belongs to another program") as caught:
        other.load_checkpoint(tmp_path / "c")
    assert "torch.manual_seed" in (caught.value.hint or "")


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    PROGRAM.save(tmp_path / "p.pinta")
    with pytest.raises(CheckpointError, match="another kind of file"):
        session().load_checkpoint(tmp_path / "p.pinta")
    with pytest.raises(CheckpointError, match="cannot read"):
        session().load_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match="cannot write"):
        session().save_checkpoint(tmp_path / "no" / "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"program": 3}, "program is 3, not a string"),
        ({"step": "1"}, "step is '1', not a whole number"),
        ({"seed": None}, "seed is None"),
        ({"status": 2**40}, "status is"),
        ({"history": [[1, 2.0]]}, r"history\[0\] is .*, not a list of 4"),
        ({"history": [[1, "x", None, {}]]}, r"history\[0\]\[1\] is 'x', not a finite number"),
    ],
)
def test_a_checkpoint_of_other_kinds_of_values_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    run = session()
    run.save_checkpoint(tmp_path / "c")
    header, arrays = unseal("pintac-checkpoint", (tmp_path / "c").read_bytes())
    (tmp_path / "c").write_bytes(seal("pintac-checkpoint", header | change, arrays)[0])
    with pytest.raises(CheckpointError, match=message):
        run.load_checkpoint(tmp_path / "c")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "c"
    run = session()
    run.step()
    run.save_checkpoint(path)
    raw = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)
    with pytest.raises(PintacError):
        run.load_checkpoint(path)
    np.testing.assert_array_equal(run.state_arrays()["w"], expected_w(1, 0))


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_control_c_stops_after_the_step_and_saves(tmp_path: Path) -> None:
    run = session()

    def interrupted_measurement() -> float:
        if run.step_number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return 0.0

    before = signal.getsignal(signal.SIGINT)
    outcome = drive(
        SessionSteps(run),
        6,
        title="toy",
        following=Following(progress=False),
        measure=interrupted_measurement,
        save=lambda: run.save_checkpoint(tmp_path / "c"),
    )
    assert signal.getsignal(signal.SIGINT) is before
    assert outcome.interrupted and run.step_number in (2, 3)
    np.testing.assert_array_equal(run.state_arrays()["w"], expected_w(run.step_number, 0))
    resumed = session()
    resumed.load_checkpoint(tmp_path / "c")
    assert resumed.step_number == run.step_number


def test_a_second_control_c_ends_at_once() -> None:
    with Interrupts() as interrupts:
        assert not interrupts.asked
        signal.raise_signal(signal.SIGINT)
        assert interrupts.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_other_threads_leave_signals_alone() -> None:
    seen: list[object] = []

    def inside() -> None:
        before = signal.getsignal(signal.SIGINT)
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [True]
