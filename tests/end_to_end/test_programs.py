"""A compiled program: the same bits on every engine, from every compilation, across interruptions, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pintac
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower
from pintac.asm import assemble, disassemble
from pintac.cli import main
from pintac.errors import CheckpointError, PintacError, ProgramError
from pintac.frontend import TrainStep, load_step
from pintac.program import Program
from pintac.program_file import load
from pintac.runtime.session import Session
from tests.architecture.support import BLOCK_TORCH

ROOT = Path(pintac.__file__).parents[1]


def test_engines_and_evaluator_agree(tiny_file: Path, tiny_program: Program) -> None:
    """All of DRAM and SRAM equal between engines; parameters, moments and losses equal to the IR evaluator's."""
    jit, reference = Session(tiny_program, "jit"), Session(tiny_program, "reference")
    evaluator = EvaluatorSession(lower(load_step(f"{tiny_file}:step")))
    for _ in range(2):
        for session in (jit, reference, evaluator):
            session.step()
        np.testing.assert_array_equal(jit.state.dram, reference.state.dram)
        np.testing.assert_array_equal(jit.state.sram, reference.state.sram)
        assert jit.metrics() == evaluator.metrics()
        states = evaluator.state_arrays()
        for name, value in jit.state_arrays().items():
            np.testing.assert_array_equal(value.view(np.uint32), states[name].view(np.uint32), err_msg=name)
    x = tiny_program.test_x[:7]
    np.testing.assert_array_equal(jit.infer(x), evaluator.infer(x))
    np.testing.assert_array_equal(jit.infer(x), reference.infer(x))


def test_training_reports_what_it_took(tiny_file: Path) -> None:
    step = load_step(f"{tiny_file}:step")
    before = {name: value.clone() for name, value in step.net.state_dict().items()}
    result = pintac.train(step, 3, progress=False, machine="tiny")
    assert result.machine == "tiny" and result.steps == 3
    assert result.l2 == pytest.approx(result.l2_float, rel=0.05)
    assert result.cycles == 3 * result.cost.cycles_per_step >= 3 * result.cost.tcu_cycles_per_step > 0
    assert result.cost.cycles_per_step >= result.cost.lower_bound_cycles > 0
    assert result.energy > 0
    assert all(bool((step.net.state_dict()[name] == value).all()) for name, value in before.items()), "net is unchanged"
    step.net.load_state_dict(result.state_dict())
    assert not bool((step.net.state_dict()["0.weight"] == before["0.weight"]).all())


def test_steps_do_not_change_the_schedule(tiny_file: Path) -> None:
    """Two steps of five are the first two of five."""
    step = load_step(f"{tiny_file}:step")
    short, whole = (pintac.train(step, n, progress=False, engine="jit") for n in (2, 5))
    assert short.history[:1] == whole.history[:1]
    assert [row[1] for row in short.history] == [row[1] for row in whole.history[:2]]


def test_resuming_is_exact(tiny_program: Program, tmp_path: Path) -> None:
    whole = pintac.run(tiny_program, 4, progress=False)
    checkpoint = tmp_path / "c"
    pintac.run(tiny_program, 2, progress=False, checkpoint=checkpoint)
    resumed = pintac.run(tiny_program, 4, progress=False, checkpoint=checkpoint, resume=True)
    assert resumed.steps == 4 and resumed.l2 == whole.l2
    assert resumed.history == whole.history and len(whole.history) == 4, "also what was measured before"
    for name, value in whole.weights.items():
        np.testing.assert_array_equal(value, resumed.weights[name])


def test_a_checkpoint_of_another_program(tiny_file: Path, tiny_program: Program, tmp_path: Path) -> None:
    other = pintac.compile(load_step(f"{tiny_file}:step"), bits="8/8/8/12")
    pintac.run(tiny_program, 1, progress=False, checkpoint=tmp_path / "c")
    with pytest.raises(CheckpointError, match="another program"):
        pintac.run(other, 2, progress=False, checkpoint=tmp_path / "c", resume=True)


def test_weights_of_a_run_predict(tiny_program: Program) -> None:
    """`predict` with the trained weights is what the run measured its error on."""
    result = pintac.run(tiny_program, 2, progress=False)
    u = pintac.predict(tiny_program, tiny_program.test_x, weights=result.weights).astype(np.float64)
    exact = tiny_program.test_u.astype(np.float64)
    assert np.linalg.norm(u - exact) / np.linalg.norm(exact) == result.l2


def test_text_round_trip(tiny_program: Program) -> None:
    text = disassemble(tiny_program)
    assert assemble(text).to_bytes() == tiny_program.to_bytes()
    assert disassemble(assemble(text)) == text


def test_equal_files_under_another_hash_seed(tiny_file: Path, tmp_path: Path) -> None:
    def compiled(seed: str) -> bytes:
        out = tmp_path / f"{seed}.pinta"
        command = [sys.executable, "-m", "pintac", "compile", f"{tiny_file}:step", "-o", str(out)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(command, env=environment, check=True, capture_output=True, cwd=ROOT)
        return out.read_bytes()

    assert compiled("1") == compiled("2")


def test_running_needs_no_torch(tiny_program: Program, tmp_path: Path) -> None:
    tiny_program.save(tmp_path / "p.pinta")
    code = BLOCK_TORCH + "from pintac.cli import main\nsys.exit(main(sys.argv[1:]))"
    options = ["--steps", "2", "--quiet", "--json", "-", "-o", str(tmp_path / "w"), "--stats", str(tmp_path / "s")]
    command = [sys.executable, "-c", code, "run", str(tmp_path / "p.pinta"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["l2_rel"] == pintac.run(tiny_program, 2, progress=False).l2
    assert json.loads((tmp_path / "s").read_text())["busy"].keys() == {"load", "store", "tcu", "vpu"}


def test_bad_files_are_refused(tiny_program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Truncated anywhere, one bit flipped anywhere: exit code 1, one message, no output."""
    raw = tiny_program.to_bytes()
    path = tmp_path / "p.pinta"
    positions = [8, 9, 300, len(raw) // 2, len(raw) - 1]
    for at in positions:
        flipped = bytearray(raw)
        flipped[at] ^= 4
        for content in (raw[:at], bytes(flipped)):
            path.write_bytes(content)
            assert main(["dis", str(path)]) == 1
            captured = capsys.readouterr()
            assert captured.out == "" and captured.err.startswith(f"pintac dis: error: {path} is not a usable program")
    path.write_bytes(raw)
    assert load(path) == tiny_program


def test_another_isa_is_refused(tiny_program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pintac import isa

    tiny_program.save(tmp_path / "p.pinta")
    monkeypatch.setattr(isa, "isa_hash", lambda: "0123456789abcdef")
    with pytest.raises(ProgramError, match="0123456789abcdef"):
        load(tmp_path / "p.pinta")


def test_a_step_that_cannot_fit(tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p.pinta"
    keys = ["--machine-key", "sram_kib=4", "--machine-key", "sram_banks=4"]
    wide = ["--set", "width=512", "--set", "K=4", "--set", "interior=4", "--set", "boundary=4"]
    assert main(["compile", "poisson2d", *wide, "-o", str(out), *keys]) == 1
    message = capsys.readouterr().err
    assert "pintac compile: error: " in message and "hint" in message and not out.exists()


def test_problem_without_exact_solution(tiny_file: Path, tmp_path: Path) -> None:
    text = tiny_file.read_text().replace("def exact(", "def solution(").replace("self.exact(", "self.solution(")
    path = tmp_path / "inexact.py"
    path.write_text(text)
    step = load_step(f"{path}:step")
    assert isinstance(step, TrainStep)
    result = pintac.train(step, 1, progress=False)
    assert result.l2 is None and result.l2_float is None and result.cycles > 0
    assert json.loads(replace(result, program=None).to_json())["l2_rel"] is None


def test_rows_that_spoil_their_neighbours(tiny_program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.array(tiny_program.test_x[:12], np.float64)
    u = pintac.predict(tiny_program, x)
    assert "note" not in capsys.readouterr().err
    alone = np.concatenate([pintac.predict(tiny_program, row[None]) for row in x])
    assert 0 < np.abs(alone - u).max() < 1e-3, "other neighbours, other last bits"
    for value in (np.nan, -np.inf, 1e39):
        x[6, 1] = value
        with pytest.raises(PintacError, match="row 7 of 12 is not finite"):
            pintac.predict(tiny_program, x)
    x[6, 1] = 1e20
    spoiled = pintac.predict(tiny_program, x)
    said = capsys.readouterr().err
    assert "note: row 7 of 12 is far outside of the domain (1e+20" in said and "with it, 5 to 8, are rounded" in said
    np.testing.assert_array_equal(spoiled[[*range(4), *range(8, 12)]], u[[*range(4), *range(8, 12)]])
    assert np.abs(spoiled[4:6] - u[4:6]).max() > 1e-2
    pintac.predict(tiny_program, np.full((4, 2), 1e20))
    assert "note" not in capsys.readouterr().err, "alone in their block"
    for wrong in ("abc", [[1.0, 2.0], [3.0]], None):
        with pytest.raises(PintacError, match="expected points"):
            pintac.predict(tiny_program, wrong)
