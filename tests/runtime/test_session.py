"""Sessions: steps, metrics, inference, resuming, interrupting."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac.errors import CheckpointError, ExecutionError, PintacError, UsageError
from pintac.runtime import ENGINES, Progress, Session
from tests.runtime.toy import STEPS, TEST_U, TEST_X, expected_loss, expected_w, toy_program

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


def test_l2_is_relative_to_the_exact_values() -> None:
    run = session()
    run.step()
    u_hat = (2 * TEST_X + expected_w(1, 0)[0]).astype(np.float64)
    assert run.l2() == pytest.approx(
        np.linalg.norm(u_hat - TEST_U) / np.linalg.norm(TEST_U.astype(np.float64)), rel=1e-12
    )


def test_train_reports_progress_and_its_result() -> None:
    seen: list[Progress] = []
    result = session(3).train(5, seen.append, report_every=2, l2_every=4)
    assert [p.step for p in seen] == [2, 4, 5]
    assert [p.l2 is not None for p in seen] == [False, True, False]
    assert all(p.total == 5 and p.steps_per_second > 0 and p.eta_seconds >= 0 for p in seen)
    assert seen[-1].eta_seconds == 0
    assert [p.loss for p in seen] == [expected_loss(expected_w(n, 3)) for n in (2, 4, 5)]
    assert (result.steps, result.seed, result.interrupted, result.saturated) == (5, 3, False, False)
    assert result.history[-1] == (5, result.loss, result.l2)
    np.testing.assert_array_equal(result.states["w"], expected_w(5, 3))
    assert result.work.vpu_elements == 16 and result.work.instructions == 4


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot run -1 steps"):
        session().train(-1)
    with pytest.raises(UsageError, match="reports every 0"):
        session().train(1, report_every=0)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ENGINES)
@pytest.mark.parametrize("second", ENGINES)
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path: Path, first: str, second: str) -> None:
    whole = session(9).train(6)
    session(9, first).train(4, checkpoint=tmp_path / "c", checkpoint_every=3)
    later = session(0, second)  # the checkpoint brings its seed
    resumed = later.train(6, resume=tmp_path / "c")
    assert (resumed.steps, resumed.seed) == (6, 9)
    np.testing.assert_array_equal(resumed.states["w"], whole.states["w"])
    assert (resumed.loss, resumed.l2) == (whole.loss, whole.l2)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_checkpoint_is_written_every_few_steps(tmp_path: Path) -> None:
    steps: list[int] = []

    def look(_: Progress) -> None:
        if (tmp_path / "c").exists():
            other = session()
            other.load_checkpoint(tmp_path / "c")
            steps.append(other.step_number)

    session().train(6, look, checkpoint=tmp_path / "c", checkpoint_every=2)
    assert steps == [2, 2, 4, 4]


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
    with pytest.raises(CheckpointError, match="belongs to another program"):
        other.load_checkpoint(tmp_path / "c")


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    PROGRAM.save(tmp_path / "p.pinta")
    with pytest.raises(CheckpointError, match="another kind of file"):
        session().load_checkpoint(tmp_path / "p.pinta")
    with pytest.raises(CheckpointError, match="cannot read"):
        session().load_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match="cannot write"):
        session().save_checkpoint(tmp_path / "no" / "c")


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


def test_control_c_stops_after_the_step_and_keeps_its_results(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    result = session().train(6, interrupt, checkpoint=tmp_path / "c")
    assert signal.getsignal(signal.SIGINT) is before
    assert result.interrupted and result.steps in (2, 3)
    np.testing.assert_array_equal(result.states["w"], expected_w(result.steps, 0))
    assert result.l2 is not None
    resumed = session().train(6, resume=tmp_path / "c")
    np.testing.assert_array_equal(resumed.states["w"], expected_w(6, 0))


def test_a_second_control_c_ends_at_once() -> None:
    def twice(_: Progress) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        session().train(6, twice)
