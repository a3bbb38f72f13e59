"""Finding a training step by name or in a user's file, and saying what is wrong with one that cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pintac.errors import ModelError, UsageError
from pintac.frontend.adapters import load_step
from pintac.frontend.problem import TrainStep

USER_FILE = """
import torch
from dataclasses import dataclass
from helper_of_the_user import WIDTH
from pintac import Adam, Problem, Stein, Term, TrainStep, TTLinear, Uniform, laplacian

@dataclass
class P(Problem):
    k: float = 1.0
    def terms(self):
        return [Term("pde", Uniform([(0.0, 1.0)]), lambda u, x: laplacian(u, x), points=3)]

net = torch.nn.Sequential(torch.nn.Linear(1, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, 1))
problem = P()
step = TrainStep(net, problem, Adam(), Stein(K=2))
pair = (net, problem)
number = 3
def make(tt_rank=4, K=2):
    net = torch.nn.Sequential(torch.nn.Linear(1, 4), TTLinear(4, 1, rank=tt_rank))
    return TrainStep(net, problem, Adam(), Stein(K=K))
def needy(width, *args, **kwargs): return step
def nothing(): pass
def failing(): raise ValueError("no")
if __name__ == "__main__":
    raise SystemExit("a file that is loaded is not run as a script")
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    (tmp_path / "helper_of_the_user.py").write_text("WIDTH = 5\n")
    path = tmp_path / "my_pde.py"
    path.write_text(USER_FILE)
    yield path
    sys.modules.pop("helper_of_the_user", None)


def test_a_step_of_a_file(user_file: Path) -> None:
    path_before = list(sys.path)
    step = load_step(f"{user_file}:step")
    assert isinstance(step, TrainStep) and step.net[0].out_features == 5
    assert isinstance(load_step(str(user_file)), TrainStep)
    assert sys.path == path_before


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("stepp", "has no 'stepp'", "step"),
        ("net", "is a network, not a TrainStep", "TrainStep(net, problem"),
        ("problem", "is a problem, not a TrainStep", "TrainStep(net, problem"),
        ("pair", "optimizer and an estimator", "TrainStep(net, problem"),
        ("number", "is a int, not a TrainStep", "TrainStep(net, problem"),
        ("needy", "needs the arguments width", "give them defaults"),
        ("nothing", "returns a NoneType", ""),
        ("failing", "ValueError: no", ""),
    ],
)
def test_other_objects_of_a_file(user_file: Path, name: str, message: str, hint: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_step(f"{user_file}:{name}")
    assert message in caught.value.message and hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("x = 1\ny = 1 / 0\n", "ZeroDivisionError", 2),
        ("def f(:\n", "SyntaxError", 1),
        ("\nimport no_such_module_at_all\n", "ModuleNotFoundError", 2),
        ("from pintac import Stein\n\nStein(K=3)\n", "even number", 3),
    ],
)
def test_files_that_fail(tmp_path: Path, text: str, message: str, line: int) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    before = set(sys.modules)
    with pytest.raises(ModelError) as caught:
        load_step(f"{path}:step")
    assert message in caught.value.message
    assert caught.value.location is not None and caught.value.location.line == line
    assert not any("broken" in name for name in set(sys.modules) - before)


def test_files_and_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_step(f"{tmp_path}/nothing.py:step")
    with pytest.raises(ModelError, match="not a Python file"):
        (tmp_path / "a.txt").write_text("")
        load_step(f"{tmp_path}/a.txt:step")
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(ModelError, match="defines no TrainStep"):
        load_step(str(empty))
    with pytest.raises(ModelError, match="unknown problem 'poison2d'") as caught:
        load_step("poison2d")
    assert "poisson2d" in (caught.value.hint or "")


def test_options_are_for_built_in_problems(user_file: Path) -> None:
    step = load_step("poisson2d", width=8, rank=2, K=4)
    assert step.estimator.K == 4
    with pytest.raises(UsageError, match=r"the option rank \(--tt-rank\): only for built-in"):
        load_step(f"{user_file}:step", rank=2)
    assert load_step(f"{user_file}:make", rank=1, K=6).net[1].ranks == (1, 1, 1)
    assert load_step(f"{user_file}:make").net[1].ranks == (2, 1, 1)
    with pytest.raises(UsageError, match="has no parameter 'rnk'"):
        load_step(f"{user_file}:make", rnk=1)
    with pytest.raises(UsageError, match="no option 'rnk'") as caught:
        load_step("poisson2d", rnk=2)
    assert "rank" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="width"):
        load_step("poisson2d", width="wide")
