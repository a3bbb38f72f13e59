"""Buffers and frozen parameters: part of the state_dict, of no training; programs carry them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pintac
import pintac.accuracy
from pintac.api.weights import constants_of, load_weights, to_constants
from pintac.asm import assemble, disassemble
from pintac.cli import main
from pintac.errors import CheckpointError, ProgramError
from pintac.program import Program


class Features(nn.Module):
    """Random features, a frozen layer, a frozen scale, a counter: what a state_dict holds beside what is trained."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.register_buffer("frequencies", torch.randn(1, 4))
        self.register_buffer("calls", torch.tensor(7))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.first = nn.Linear(4, 4)
        self.fixed = nn.Linear(4, 4).requires_grad_(False)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.fixed(torch.tanh(self.first(torch.sin(x @ self.frequencies)))))
        return self.last(h)


class Line(pintac.Problem):
    def terms(self) -> list[pintac.Term]:
        return [pintac.Term("inside", pintac.Uniform([(0.0, 1.0)]), self.residual, points=4)]

    def residual(self, u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return u(x) - self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        return 2 * x


def step_of(net: nn.Module) -> pintac.TrainStep:
    return pintac.TrainStep(net, Line(), pintac.Adam(1e-2, schedule=pintac.linear_decay(3)), pintac.SecondDifference(2))


FIXED = {"frequencies", "calls", "mask", "fixed.weight", "fixed.bias"}


@pytest.fixture(scope="module")
def program() -> Program:
    return pintac.compile(step_of(Features()))


def test_weights_of_train_are_taken_by_run_and_predict(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program.save("p.pinta")
    trained = pintac.train(step_of(Features()), progress=False)
    assert set(trained.weights) >= FIXED
    trained.save_weights("w.safetensors")
    assert main(["run", "p.pinta", "--steps", "1", "--weights", "w.safetensors", "--quiet"]) == 0
    x = np.linspace(0, 1, 5, dtype=np.float32)[:, None]
    u = pintac.predict("p.pinta", x, weights=load_weights("w.safetensors"))
    test = np.asarray(program.test_x)
    again = pintac.predict("p.pinta", test, weights=load_weights("w.safetensors"))
    assert u.shape == (5, 1) and pintac.accuracy.l2_rel(again, np.asarray(program.test_u)) == trained.l2


def test_the_state_dict_of_a_run_loads_strictly(program: Program) -> None:
    result = pintac.run(program, 3, progress=False)
    net = Features(seed=1)
    net.load_state_dict(result.state_dict())
    own = Features().state_dict()
    for name in FIXED:
        assert torch.equal(net.state_dict()[name], own[name]) and net.state_dict()[name].dtype == own[name].dtype
    trained = pintac.train(step_of(Features()), 3, progress=False)
    assert set(trained.weights) == set(result.weights)
    for name, value in trained.weights.items():
        np.testing.assert_array_equal(value, result.weights[name])


def test_other_constants_are_refused(program: Program) -> None:
    weights = pintac.run(program, 1, progress=False).weights
    for name in FIXED:
        other = {**weights, name: ~weights[name] if name == "mask" else weights[name] + 1}
        with pytest.raises(CheckpointError, match=f"other values of '{name}', which is not trained") as caught:
            pintac.run(program, 1, progress=False, weights=other)
        assert "compile the network" in (caught.value.hint or "")
    without = {name: value for name, value in weights.items() if name not in FIXED}
    assert pintac.run(program, 1, progress=False, weights=without).l2 is not None
    with pytest.raises(CheckpointError, match="which the program lacks") as caught:
        pintac.run(program, 1, progress=False, weights={**weights, "frequncies": weights["frequencies"]})
    assert "frequencies" in (caught.value.hint or "")


def test_constants_in_json_and_assembly(program: Program) -> None:
    found = constants_of(json.loads(json.dumps(program.meta)))
    own = {name: value.numpy() for name, value in Features().state_dict().items() if name in FIXED}
    assert set(found) == FIXED
    for name, value in own.items():
        assert found[name].dtype == value.dtype and np.array_equal(found[name], value)
    assert assemble(disassemble(program), "p.s").to_bytes() == program.to_bytes()
    empty = constants_of({"constants": to_constants({"e": np.zeros((0, 3), np.float32)})})
    assert empty["e"].shape == (0, 3)
    for wrong in ({"a": 3}, {"a": {}}, [1], {"a": {"dtype": "<f4", "shape": [2], "values": "AAAA"}}):
        with pytest.raises(ProgramError, match="constants"):
            constants_of({"constants": wrong})


def test_a_network_without_them_says_nothing(tiny_program: Program) -> None:
    assert "constants" not in tiny_program.meta
