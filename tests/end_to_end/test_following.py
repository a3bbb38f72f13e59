"""What is told while a run goes: loss of each term, parameters that are found, callbacks, logs; what ends it early."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pintac
from pintac.api.dry_run import dry_run
from pintac.api.following import Following
from pintac.api.loop import CHECKPOINT_SECONDS
from pintac.api.weights import save_weights
from pintac.cli import main
from pintac.cli.arguments import build_parser
from pintac.errors import UsageError
from pintac.frontend import load_step
from pintac.program import Program
from pintac.report.summary import summary

ROOT = Path(pintac.__file__).parents[1]
Captured = pytest.CaptureFixture[str]
HOW = {"jit": {}, "evaluator": {"engine": "evaluator"}, "float": {"quant": "none"}}


class Decay(pintac.Problem):
    """k and c of u = k x with c = (1, 2): parameters of the problem; `many` is too large to be reported."""

    def __init__(self) -> None:
        self.k = torch.nn.Parameter(torch.tensor(0.5))
        self.c = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        self.many = torch.nn.Parameter(torch.ones(17))

    def terms(self) -> list[pintac.Term]:
        box = [(0.0, 1.0)]
        return [
            pintac.Term("inside", pintac.Uniform(box), self.inside, points=4),
            pintac.Term("data", pintac.Points(np.array([[0.5], [1.0]])), self.data, weight=5.0),
        ]

    def inside(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return pintac.grad(u, x)[..., 0] - self.k - self.many.sum() / 17

    def data(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return u(x) - (self.c[None, :] * x).sum(-1, keepdim=True)

    def exact(self, x: Tensor) -> Tensor:
        return 3 * x


def inverse(steps: int = 4) -> pintac.TrainStep:
    net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    adam = pintac.Adam(1e-2, schedule=pintac.linear_decay(steps))
    return pintac.TrainStep(net, Decay(), adam, pintac.SecondDifference(K=2))


@pytest.mark.parametrize("how", HOW)
def test_history_has_the_terms_and_what_is_found(how: str) -> None:
    result = pintac.train(inverse(), progress=False, **HOW[how])
    assert [row.step for row in result.history] == [1, 2, 3, 4]
    for row in result.history:
        assert set(row.values) == {"loss:inside", "loss:data", "problem.k", "problem.c"}
        assert row.values["loss:inside"] + row.values["loss:data"] == pytest.approx(row.loss, rel=1e-6)
        assert row.l2 is not None
    last = result.history[-1].values
    assert result.parameters == {"problem.k": last["problem.k"], "problem.c": last["problem.c"]}
    assert result.parameters["problem.k"] == float(result.weights["problem.k"]) != 0.5
    described = json.loads(result.to_json())
    assert described["parameters"] == result.parameters and described["history"][-1][3] == last
    text = summary(result.as_dict())
    assert f"found       problem.k = {last['problem.k']:.6g}\n" in text and "problem.c = [" in text
    assert f"inside {last['loss:inside']:.3e}" in text and "many" not in text


@pytest.mark.parametrize("how", HOW)
def test_a_callback_sees_and_stops(how: str) -> None:
    seen: list[tuple[int, Mapping[str, Any]]] = []

    def callback(step: int, metrics: Mapping[str, Any]) -> bool:
        seen.append((step, metrics))
        return step >= 4

    result = pintac.train(inverse(9), progress=False, callback=callback, every=2, **HOW[how])
    assert [step for step, _ in seen] == [2, 4] == [row.step for row in result.history]
    assert set(seen[0][1]) == {"loss", "l2", "loss:inside", "loss:data", "problem.k", "problem.c"}
    assert result.steps == 4 and not result.interrupted
    assert result.stopped == "by the callback after step 4" and result.as_dict()["stopped"] == result.stopped
    assert f"stopped     {result.stopped}\n" in summary(result.as_dict())


@pytest.mark.parametrize("how", HOW)
def test_what_a_callback_raises_takes_nothing_with_it(how: str, tmp_path: Path) -> None:
    def callback(step: int, metrics: Mapping[str, Any]) -> None:
        if step == 2:
            raise KeyError("mine")

    files = {"log": tmp_path / "l.jsonl", **({"checkpoint": tmp_path / "c"} if how == "jit" else {})}
    with pytest.raises(pintac.CallbackError, match=r"test_following.py:\d+: the callback raised KeyError") as it:
        pintac.train(inverse(4), progress=False, callback=callback, every=1, **files, **HOW[how])
    assert isinstance(it.value.__cause__, KeyError) and "after step 2" in str(it.value)
    result = it.value.result
    whole = pintac.train(inverse(4), progress=False, every=1, **HOW[how])
    assert (result.steps, result.history) == (2, whole.history[:2]) and result.l2 and not result.interrupted
    assert [line["step"] for line in lines(str(files["log"]))] == [1, 2]
    if how == "jit":
        assert "resume=True" in str(it.value)
        on = pintac.train(inverse(4), progress=False, every=1, checkpoint=tmp_path / "c", resume=True)
        assert on.history == whole.history and on.l2 == whole.l2


@pytest.mark.parametrize("how", HOW)
def test_ctrl_c_in_a_callback(how: str) -> None:
    def callback(step: int, metrics: Mapping[str, Any]) -> None:
        if step == 2:
            raise KeyboardInterrupt

    result = pintac.train(inverse(4), progress=False, callback=callback, every=1, **HOW[how])
    assert (result.steps, result.interrupted, result.stopped) == (2, True, None)


def test_exits_of_a_callback_are_not_ours(tiny_program: Program, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        pintac.run(tiny_program, 3, progress=False, callback=lambda *_: sys.exit(1), checkpoint=tmp_path / "c")
    assert (tmp_path / "c").exists()


def test_callbacks_that_cannot_be_called(tiny_program: Program) -> None:
    for wrong in (3, lambda metrics: None, lambda step, metrics, more: None):
        with pytest.raises(UsageError, match="step and metrics"):
            pintac.run(tiny_program, 1, progress=False, callback=wrong)
    for right in (max, lambda *both: None, lambda step, metrics, more=1: None):
        Following(callback=right).check(False)


def test_a_callback_of_a_program(tiny_program: Program) -> None:
    seen: list[int] = []
    result = pintac.run(tiny_program, 3, progress=False, callback=lambda step, metrics: seen.append(step))
    assert seen == [1, 2, 3] and result.stopped is None and result.steps == 3


@pytest.mark.parametrize("how", HOW)
def test_stop_below(how: str) -> None:
    whole = pintac.train(inverse(6), progress=False, **HOW[how])
    errors = [row.l2 for row in whole.history]
    level = (errors[2] + min(errors[:2])) / 2
    assert errors[2] < level < min(errors[:2]), "the third step is the first below the level"
    result = pintac.train(inverse(6), progress=False, stop_below=level, **HOW[how])
    assert result.steps == 3 and result.history == whole.history[:3]
    assert result.stopped == f"after step 3: l2 {errors[2]:.3e} is below {level:g}"


def test_what_cannot_be_followed(tiny_program: Program, tiny_file: Path, tmp_path: Path) -> None:
    numbers = [{"every": 0}, {"every": True}, {"every": 2.0}, {"stop_below": 0.0}, {"stop_below": float("nan")}]
    for wrong in (*numbers, {"log": "-"}):
        with pytest.raises(UsageError):
            pintac.run(tiny_program, 1, progress=False, **wrong)
    unknown = tmp_path / "unknown.py"
    unknown.write_text(tiny_file.read_text().replace("def exact(", "def known(").replace("self.exact(", "self.known("))
    with pytest.raises(UsageError, match="no exact solution"):
        pintac.train(load_step(f"{unknown}:step"), 1, progress=False, stop_below=0.1)


def lines(path: str = "l.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_program: Program) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_program.save("p.pinta")
    return tmp_path


def test_a_log_goes_on_where_the_checkpoint_was(folder: Path, capsys: Captured) -> None:
    began = ("run", "p.pinta", "--quiet", "--checkpoint", "c", "--log", "l.jsonl", "--every", "2")
    assert main(["run", "p.pinta", "--quiet", "--steps", "5", "--every", "2", "--log", "whole.jsonl"]) == 0
    assert [line["step"] for line in lines("whole.jsonl")] == [2, 4, 5]
    assert set(lines("whole.jsonl")[0]) == {"step", "loss", "l2", "loss:interior", "loss:boundary"}
    assert main([*began, "--steps", "2"]) == 0
    kept = Path("c").read_bytes()
    assert main([*began, "--steps", "4", "--resume"]) == 0
    Path("c").write_bytes(kept)  # as if the run had been killed after step 4, its last checkpoint of step 2
    with Path("l.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert main([*began, "--steps", "5", "--resume"]) == 0
    assert Path("l.jsonl").read_text() == Path("whole.jsonl").read_text()
    Path("l.jsonl").write_text("notes of mine\n")
    assert main([*began, "--steps", "5", "--resume"]) == 1
    assert "it is no log of a run" in capsys.readouterr().err and Path("l.jsonl").read_text() == "notes of mine\n"
    assert main([*began, "--steps", "5", "--resume", "--log", "absent/l.jsonl"]) == 1


def test_a_log_appears_while_the_run_goes(folder: Path, tiny_program: Program) -> None:
    counts: list[int] = []
    pintac.run(
        tiny_program, 3, progress=False, log="l.jsonl", callback=lambda step, metrics: counts.append(len(lines()))
    )
    assert counts == [1, 2, 3]


def test_a_diverged_log_is_json(folder: Path, tiny_program: Program) -> None:
    weights = {name: value * np.float32(1e30) for name, value in pintac.run(tiny_program, 1).weights.items()}
    result = pintac.run(tiny_program, 3, progress=False, weights=weights, log="l.jsonl", diagnostics=True)
    assert lines()[-1]["loss"] is None and lines()[-1]["l2"] is None
    assert result.stopped == "after step 1: the weights are no numbers any more"


def test_on_the_command_line(folder: Path, tiny_file: Path, capsys: Captured) -> None:
    arguments = ["train", f"{tiny_file}:step", "--quiet", "--json", "r.json", "--stop-below", "5", "--log", "l.jsonl"]
    assert main(arguments) == 0
    assert json.loads(Path("r.json").read_text())["stopped"].startswith("after step 1: l2 ") and len(lines()) == 1
    for wrong in (["--stop-below", "0"], ["--stop-below", "nan"], ["--every", "0"]):
        assert main([*arguments, *wrong]) == 2


def test_a_diverged_run_is_a_result(folder: Path, tiny_program: Program, capsys: Captured) -> None:
    """Exit code 0, and everything says so."""
    weights = {name: value * np.float32(1e30) for name, value in pintac.run(tiny_program, 1).weights.items()}
    save_weights("w.safetensors", weights)
    assert main(["run", "p.pinta", "--steps", "3", "--quiet", "--weights", "w.safetensors", "--json", "r.json"]) == 0
    result = json.loads(Path("r.json").read_text())
    assert result["l2_rel"] is None and result["nonfinite"] and result["stopped"] and result["diagnostics"]


# --- how many steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, -3, 1.5, True, "3"])
def test_steps_that_are_none(steps: Any, tiny_program: Program, tiny_file: Path) -> None:
    for run in (
        lambda: pintac.run(tiny_program, steps, progress=False),
        lambda: pintac.train(load_step(f"{tiny_file}:step"), steps, progress=False),
        lambda: pintac.train(load_step(f"{tiny_file}:step"), steps, progress=False, quant="none"),
        lambda: dry_run(tiny_program, steps),
    ):
        with pytest.raises(UsageError, match="positive whole number of steps"):
            run()


def test_steps_of_numpy(tiny_program: Program) -> None:
    assert pintac.run(tiny_program, np.int64(2), progress=False).steps == 2


# --- steps behind the schedule --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
def test_steps_behind_the_schedule_are_said(how: str, capsys: Captured) -> None:
    result = pintac.train(inverse(2), 5, progress=False, **HOW[how])
    said = capsys.readouterr().err
    assert said.count("warning: no learning rate") == 1 and "from step 3 to step 5" in said and "--steps 2" in said
    assert result.diagnostics is not None and [f["kind"] for f in result.diagnostics] == ["no learning rate"]
    assert "warnings    no learning rate" in summary(result.as_dict())
    if result.program is not None:
        again = pintac.run(result.program, 5, progress=False)
        assert "no learning rate" in capsys.readouterr().err and again.diagnostics == result.diagnostics
        pintac.run(result.program, 2, progress=False)
    pintac.train(inverse(2), 2, progress=False, twin=not HOW[how], **HOW[how])
    assert capsys.readouterr().err == ""


def test_once_beside_a_twin(capsys: Captured) -> None:
    pintac.train(inverse(2), 3, progress=False, twin=True)
    assert capsys.readouterr().err.count("no learning rate") == 1


def test_the_example_of_the_documentation(folder: Path, tiny_file: Path, capsys: Captured) -> None:
    text = (Path(pintac.__file__).parents[1] / "docs" / "HOWTO.md").read_text()
    (example,) = re.findall(r"## Following a run\n\n```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {"pintac": pintac, "step": load_step(f"{tiny_file}:step")}
    exec(example, names)
    steps = [line["step"] for line in lines("run.jsonl")]
    assert steps and steps == [row.step for row in names["r"].history] == list(range(100, steps[-1] + 1, 100))
    assert len(capsys.readouterr().out.splitlines()) == len(steps)


def test_files_of_an_earlier_run_are_kept(folder: Path, capsys: Captured) -> None:
    began = ("run", "p.pinta", "--quiet", "--steps", "2")
    for name in ("checkpoint", "log"):
        assert main([*began, f"--{name}", "f"]) == 0
        kept = Path("f").read_bytes()
        capsys.readouterr()
        assert main([*began, f"--{name}", "f"]) == 2
        said = capsys.readouterr().err
        assert f"there is a {name} f of an earlier run" in said and "--resume" in said and "--overwrite" in said
        assert Path("f").read_bytes() == kept
        assert main([*began, f"--{name}", "f", "--overwrite", "--seed", "1"]) == 0
        assert Path("f").read_bytes() != kept
        with pytest.raises(UsageError, match="overwrite=True"):
            pintac.train(inverse(2), progress=False, **{name: "f"})
        Path("f").write_text("")  # nothing to lose
        assert main([*began, f"--{name}", "f"]) == 0
        Path("f").unlink()
    with pytest.raises(UsageError, match="a log l"):
        Path("l").write_text("notes of mine")
        pintac.train(inverse(2), progress=False, quant="none", log="l")
    assert main([*began, "--checkpoint", "c", "--resume", "--overwrite"]) == 2


def test_how_often_checkpoints_are_written_is_said() -> None:
    words = f"{CHECKPOINT_SECONDS:g} seconds"
    assert words in str(pintac.run.__doc__) and words in (ROOT / "docs" / "HOWTO.md").read_text()
    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
        build_parser().parse_args(["train", "--help"])
    assert words in " ".join(said.getvalue().split())
