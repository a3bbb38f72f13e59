"""What comes after training, or goes on beside it, costs no finished run."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

import pintac
import pintac.frontend
from pintac.api import loop, twin
from pintac.api.following import Log
from pintac.cli import main
from pintac.errors import CheckpointError, ModelError
from pintac.frontend import load_step
from pintac.report.files import check_writable
from pintac.runtime.session import Session

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def spec(tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"{tiny_file}:step"


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the float twin makes a step."""
    advance = twin._Steps.advance

    def interrupted(self: twin._Steps) -> dict[str, float]:
        if self.step_number == step - 1:
            signal.raise_signal(signal.SIGINT)
        return advance(self)

    monkeypatch.setattr(twin._Steps, "advance", interrupted)


def test_an_interrupted_twin_gives_no_figure(spec: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    interrupt_at(2, monkeypatch)
    files = ["--json", "r.json", "-o", "w.safetensors"]
    assert main(["train", spec, "--steps", "4", "--twin", "float", "--quiet", *files]) == 130
    result = json.loads(Path("r.json").read_text())
    assert (result["interrupted"], result["l2_rel_twin"], result["steps"]) == (True, None, 4)
    assert "history_twin" not in result and result["l2_rel"] > 0
    assert result["notes"] == ["float twin: interrupted after 2 of 4 steps"]
    assert Path("w.safetensors").exists() and "interrupted after 2 of 4 steps" in capsys.readouterr().out


def test_an_interrupted_float_run(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`quant none` by itself: what reproduce makes of twins, which keeps nothing of code 130."""
    interrupt_at(2, monkeypatch)
    assert main(["train", spec, "--steps", "4", "--quant", "none", "--quiet", "--json", "r.json"]) == 130
    assert json.loads(Path("r.json").read_text())["interrupted"] is True


def test_a_failing_float_error_is_a_note(spec: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    predict = pintac.frontend.predict_float

    def fails_on_many(step: object, weights: object, x: np.ndarray) -> np.ndarray:
        if len(x) > 4:
            raise MemoryError("so many points")
        return predict(step, weights, x)  # type: ignore[arg-type]

    monkeypatch.setattr(pintac.frontend, "predict_float", fails_on_many)
    files = ["--json", "r.json", "-o", "w.safetensors"]
    assert main(["train", spec, "--steps", "2", "--quiet", *files]) == 1
    captured = capsys.readouterr()
    assert "note: l2 in fp32: MemoryError: so many points" in captured.err and "failed " in captured.out
    result = json.loads(Path("r.json").read_text())
    assert result["l2_rel"] > 0 and result["l2_rel_float"] is None and len(result["notes"]) == 1
    assert safetensors.numpy.load_file("w.safetensors")["0.weight"].shape == (8, 2)


def test_a_failing_twin_is_a_note(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: twin._Steps) -> dict[str, float]:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(twin._Steps, "advance", fails)
    result = pintac.train(load_step(spec), 2, progress=False, twin=True)
    assert result.notes == ("float twin: RuntimeError: not enough memory",)
    assert result.l2 and result.l2_float and result.l2_twin is None and not result.interrupted


def test_ctrl_c_behind_the_run_keeps_it(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    infer = Session.infer

    def slow(self: Session, x: np.ndarray) -> np.ndarray:
        if len(x) > 1024:
            raise KeyboardInterrupt
        return infer(self, x)

    monkeypatch.setattr(Session, "infer", slow)
    result = pintac.train(load_step(spec), 2, progress=False)
    assert result.interrupted and result.l2 is None and result.steps == 2 and "0.weight" in result.weights


class Fails(pintac.Problem):
    """A solution that torch cannot evaluate: what is only found by trying."""

    def __init__(self) -> None:
        self.traced = 0

    def terms(self) -> list[pintac.Term]:
        return [pintac.Term("inside", pintac.Uniform([(0.0, 1.0)]), self.residual, points=2)]

    def residual(self, u: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return u(x)

    def u(self, net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        if type(x) is torch.Tensor:
            raise ValueError("not in torch")
        return net(x)

    def exact(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("engine", ["jit", "evaluator"])
def test_torch_is_tried_before_the_run(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "drive", None)
    step = pintac.TrainStep(torch.nn.Linear(1, 1), Fails(), pintac.Adam(), pintac.SecondDifference(K=2))
    with pytest.raises(ValueError, match="not in torch"):
        pintac.train(step, 2, engine=engine, progress=False)


def test_the_twin_is_traced_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant with one row a point does not go with the chunks of the twin: said before a step is made."""

    class Rows(Fails):
        def terms(self) -> list[pintac.Term]:
            return [pintac.Term("inside", pintac.Uniform([(0.0, 1.0)]), self.residual, points=30)]

        def residual(self, u: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
            return u(x) * torch.linspace(0.0, 1.0, 30)[:, None]

        def u(self, net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
            return net(x)

    def made(self: Session, n: int = 1) -> None:
        raise AssertionError("a step was made")

    monkeypatch.setattr(Session, "step", made)
    step = pintac.TrainStep(torch.nn.Linear(1, 1), Rows(), pintac.Adam(), pintac.SecondDifference(K=128))
    with pytest.raises(ModelError, match="must match the size"):
        pintac.train(step, 2, progress=False, twin=True)


class Remembers(torch.nn.Module):
    """Keeps an activation, as modules do for hooks and plots: such a module cannot be copied after a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(1, 4)
        self.outer = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h = torch.tanh(self.inner(x))
        return self.outer(self.h)


@pytest.mark.parametrize("how", [{}, {"engine": "evaluator"}, {"quant": "none"}])
def test_a_module_that_keeps_an_activation(how: dict[str, str]) -> None:
    class Identity(Fails):
        def u(self, net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
            return net(x)

    net = Remembers()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    step = pintac.TrainStep(net, Identity(), pintac.Adam(1e-2), pintac.SecondDifference(K=2))
    twin = {} if how else {"twin": True}
    result = pintac.train(step, 3, progress=False, **how, **twin)
    assert result.l2_float is not None and not result.notes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), "net is not changed"


def test_what_cannot_be_written_takes_nothing_with_it(
    spec: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """A folder that disappears while the run goes: the other files are there, weights before all."""
    order: list[str] = []
    save = pintac.Result.save_weights
    monkeypatch.setattr(pintac.Result, "save_weights", lambda self, path: (order.append(path), save(self, path)))
    Path("gone").mkdir()
    monkeypatch.setattr(pintac.Result, "to_json", lambda self: (order.append("json"), Path("gone").rmdir(), "{}")[2])
    files = ["--json", "gone/r.json", "-o", "w.safetensors", "--stats", "s.json"]
    assert main(["train", spec, "--steps", "1", "--quiet", *files]) == 1
    assert order == ["w.safetensors", "json"] and Path("w.safetensors").exists() and Path("s.json").exists()
    captured = capsys.readouterr()
    assert "cannot write gone/r.json" in captured.err and "l2 error" in captured.out


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    check_writable(str(tmp_path / "f"))
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(pintac.PintacError, match=r"cannot write .*/f: .*: Permission denied"):
        check_writable(str(tmp_path / "f"))
    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(pintac.PintacError, match=r"cannot write .*/f: .*: Permission denied"):
        check_writable(str(tmp_path / "f"))


@pytest.mark.parametrize("engine", ["jit", "evaluator"])
def test_checkpoints_are_checked_before_the_run(spec: str, engine: str) -> None:
    with pytest.raises(pintac.PintacError, match="which checkpoint"):
        pintac.train(load_step(spec), 1, engine=engine, resume=True, progress=False)
    seen: list[int] = []
    with pytest.raises(pintac.PintacError, match="no folder absent"):
        pintac.train(load_step(spec), 1, checkpoint="absent/c", progress=False, callback=lambda s, m: seen.append(s))
    assert not seen


def test_checkpoints_and_logs_that_fail_end_no_run(
    spec: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def full(*_: object) -> None:
        raise CheckpointError("cannot write c: No space left on device")

    monkeypatch.setattr(Session, "save_checkpoint", full)
    write = Log.write

    def torn(self: Log, row: tuple[int]) -> str | None:
        if row[0] == 3 and self._file is not None:
            self._file.close()
            self._file = open("/dev/full", "w")  # noqa: SIM115  as if the disk were full
        return write(self, row)  # type: ignore[arg-type]

    monkeypatch.setattr(Log, "write", torn)
    assert main(["train", spec, "--steps", "5", "--quiet", "--checkpoint", "c", "--log", "l.jsonl", "--json", "-"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["notes"] == [
        "l.jsonl ends before step 3: No space left on device",
        "cannot write c: No space left on device",
    ]
    assert captured.err.count("note: ") == 2
    assert [json.loads(line)["step"] for line in Path("l.jsonl").read_text().splitlines()] == [1, 2]
