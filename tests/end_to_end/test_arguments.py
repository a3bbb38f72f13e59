"""Arguments of the public functions that cannot be: an error that says what to pass, never a traceback of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pintac
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
