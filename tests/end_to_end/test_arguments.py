"""Arguments of the public functions that cannot be: an error that says what to pass, never a traceback of ours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pintac
from pintac.cli import main
from pintac.errors import PintacError, UsageError
from pintac.frontend import load_step
from pintac.program import Program

QUIET = {"progress": False, "diagnostics": False}


@pytest.fixture
def step(tiny_file: Path) -> pintac.TrainStep:
    return load_step(f"{tiny_file}:step")


def test_what_is_trained_is_a_step(step: pintac.TrainStep) -> None:
    wrong = {"a problem": step.problem, "a network": step.net, "the class TrainStep": pintac.TrainStep, "a int": 3}
    for kind, value in wrong.items():
        for function in (lambda v: pintac.train(v, 2, **QUIET), pintac.compile):
            with pytest.raises(UsageError, match=f"is a TrainStep, got {kind}"):
                function(value)


def test_a_step_by_name(step: pintac.TrainStep, tiny_file: Path) -> None:
    assert pintac.train(f"{tiny_file}:step", 1, **QUIET).weights.keys() == step.net.state_dict().keys()
    with pytest.raises(PintacError, match="unknown problem 'poison2d'"):
        pintac.train("poison2d", 1)
    dense = pintac.train("poisson2d", 1, quant="none", scheme="dense", **QUIET)
    assert "2.weight" in dense.weights, "built-in problems make their layers by the scheme, as the command line does"


@pytest.mark.parametrize("seed", [None, -1, 1.5, 2**32, True, "0"])
def test_seeds(step: pintac.TrainStep, tiny_program: Program, seed: Any) -> None:
    for how in ({}, {"quant": "none"}, {"engine": "evaluator"}):
        with pytest.raises(UsageError, match="expected a seed"):
            pintac.train(step, 1, seed=seed, **QUIET, **how)
    with pytest.raises(UsageError, match="expected a seed"):
        pintac.compile(step, seed=seed)
    if seed is not None:  # that of the program
        with pytest.raises(UsageError, match="expected a seed"):
            pintac.run(tiny_program, 1, seed=seed, **QUIET)


def test_seeds_of_numpy(tiny_program: Program) -> None:
    assert pintac.run(tiny_program, 1, seed=np.int64(3), **QUIET).seed == 3


@pytest.mark.parametrize(
    "wrong",
    [{"bits": 8}, {"bits": None}, {"quant": 3}, {"scheme": None}, {"engine": 3}, {"machine": 3}, {"stop_below": "a"},
     {"effort": "a"}, {"effort": -1.0}, {"threads": 0}, {"threads": "a"}, {"passes": 3}, {"verify": "all"},
     {"rows": 1}, {"saved": 2}, {"block": 4}, {"derivatives": 3},
     {"weights": 3}, {"weights": "w.safetensors"}, {"weights": {"0.weight": "a"}}],
    ids=str,
)  # fmt: skip
def test_arguments_of_other_types(step: pintac.TrainStep, wrong: dict[str, Any]) -> None:
    with pytest.raises(PintacError):
        pintac.train(step, 1, **{**QUIET, **wrong})


RANDOM = """
import numpy as np, torch, pintac
net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
class Data(pintac.Problem):
    def terms(self):
        x = np.random.rand(5, 2)
        return [pintac.Term("data", pintac.Points(x), lambda u, x, v: u(x) - v, values=np.random.rand(5, 1))]
step = pintac.TrainStep(net, Data(), pintac.Adam(1e-2), pintac.SecondDifference(K=2), init="module")
"""


def test_the_seed_is_that_of_the_users_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("random_pde.py").write_text(RANDOM)
    results = {}
    for name, seed in {"a": "0", "b": "0", "c": "1"}.items():
        command = ["train", "random_pde.py:step", "--quant", "none", "--steps", "3", "--seed", seed, "--quiet"]
        assert main([*command, "--json", f"{name}.json"]) == 0
        results[name] = json.loads(Path(f"{name}.json").read_text())["history"]
    assert results["a"] == results["b"] != results["c"]
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    result = pintac.train("random_pde.py:step", 3, quant="none", **QUIET)
    assert [row[1] for row in result.history] == [row[1] for row in results["a"]]
    assert torch.equal(before[0], torch.get_rng_state()) and np.random.get_state()[1].tolist() == before[1]


def test_weights_that_are_not_used_are_said(step: pintac.TrainStep, capsys: pytest.CaptureFixture[str]) -> None:
    said = "are not used, init='xavier' draws others"
    pintac.train(step, 1, **QUIET)
    assert said not in capsys.readouterr().err
    with torch.no_grad():
        step.net[0].bias.copy_(torch.linspace(-2, 2, 8))
    for train in (lambda s, **k: pintac.train(s, 1, quant="none", **QUIET, **k), lambda s, **k: pintac.compile(s, **k)):
        train(step)
        assert said in capsys.readouterr().err
        train(step, weights=step.net.state_dict())
        train(dataclasses.replace(step, init="module"))
        assert said not in capsys.readouterr().err
