"""Where the error of a run is measured, and that it compares like with like."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import pintac
from pintac import At, Ball, Boundary, Points, Product, Sampler, Term, Uniform, rng
from pintac.accuracy import l2_rel
from pintac.cli import main
from pintac.errors import ModelError, PintacError
from pintac.frontend import Sphere, load_step, test_set
from pintac.report.summary import summary

BOX = [(0.0, 1.0), (0.0, 1.0)]


class Known(pintac.Problem):
    """u = x + y at the points of some samplers; `columns` are those of exact."""

    def __init__(self, *samplers: Sampler, columns: int = 1) -> None:
        self.samplers, self.columns = samplers, columns

    def terms(self) -> list[Term]:
        counts = [sampler.fixed_points or 2 for sampler in self.samplers]
        return [
            Term(f"t{number}", sampler, self.residual, points=count)
            for number, (sampler, count) in enumerate(zip(self.samplers, counts, strict=True))
        ]

    def residual(self, u: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return u(x) - x.sum(-1, keepdim=True)

    def exact(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(-1, keepdim=True).expand(-1, self.columns)


def step_of(problem: pintac.Problem, outputs: int = 1) -> pintac.TrainStep:
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, outputs))
    adam = pintac.Adam(1e-2, schedule=pintac.linear_decay(2))
    return pintac.TrainStep(net, problem, adam, pintac.SecondDifference(K=2))


def test_nothing_is_broadcast() -> None:
    u = np.ones((4, 1))
    assert l2_rel(1.01 * u, u) == pytest.approx(0.01)
    assert l2_rel(np.full((4, 1), np.nan), u) == np.inf
    with pytest.raises(PintacError, match=r"\[4, 3\], exact values have \[4, 1\]"):
        l2_rel(np.ones((4, 3)), u)


class Partly(Known):
    """A solution that is no number where x < 1/2, or nothing at all."""

    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(Uniform(BOX))
        self.how = how

    def exact(self, x: torch.Tensor) -> torch.Tensor:
        return self.how(x[:, :1])


class Given(Partly):
    def test_data(self) -> tuple[object, object]:
        x = np.full((3, 2), [0.25, 0.5])
        return x, self.how(torch.from_numpy(x)[:, :1])


@pytest.mark.parametrize("problem", [Partly, Given])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda x: torch.log(x - 0.5), "is not finite at"),
        (lambda x: 1 / (x - x), "is not finite at"),
        (lambda x: 0 * x, "is 0 at all"),
    ],
)
def test_a_solution_that_no_error_is_relative_to(problem: type[Partly], how: Callable, said: str) -> None:
    function = "test_data" if problem is Given else "exact"
    with pytest.raises(ModelError) as caught:
        pintac.train(step_of(problem(how)), 2)
    assert caught.value.message.startswith(f"{function}(") and said in caught.value.message
    assert caught.value.location is not None and caught.value.location.file.endswith("test_error_points.py")
    assert caught.value.location.line == inspect.getsourcelines(getattr(problem, function))[1]


def test_the_error_of_zero_warns_of_nothing() -> None:
    with np.errstate(all="raise"):
        assert l2_rel(np.ones((4, 1)), np.zeros((4, 1))) == np.inf


@pytest.mark.parametrize("quant", ["diff", "none"])
@pytest.mark.parametrize(("outputs", "columns"), [(2, 1), (1, 2)])
def test_exact_has_the_columns_of_u(outputs: int, columns: int, quant: str) -> None:
    step = step_of(Known(Uniform(BOX), columns=columns), outputs)
    with pytest.raises(ModelError) as caught:
        pintac.train(step, engine="evaluator", progress=False, quant=quant)
    plural = {1: "1 column", 2: "2 columns"}
    assert f"gives {plural[columns]}, u has {plural[outputs]}" in caught.value.message
    place = caught.value.location
    assert place is not None and place.file.endswith("test_error_points.py")
    assert place.line == inspect.getsourcelines(Known.exact)[1]


@pytest.mark.parametrize(
    ("samplers", "term", "inside"),
    [
        ((Uniform(BOX), Boundary(BOX)), "t0", True),
        ((Boundary(BOX), Uniform(BOX)), "t1", True),
        ((Points(np.ones((3, 2))), Sphere(2), At(0.0, 1.0), Ball(2)), "t3", True),
        ((Product(Uniform([(0.0, 1.0)]), At(0.0)), Product(Uniform([(0.0, 1.0)]), Ball(1))), "t1", True),
        ((Boundary(BOX), Points(np.ones((3, 2)))), "t0", False),
    ],
)
def test_the_first_term_inside(samplers: tuple[Sampler, ...], term: str, inside: bool) -> None:
    step = step_of(Known(*samplers))
    test = test_set(step)
    assert test is not None and (test.term, test.inside) == (term, inside)
    expected = samplers[int(term[1:])].sample(len(test.x), 0, stream=rng.STREAM_TEST)
    np.testing.assert_array_equal(test.x, expected)


class Elsewhere(Known):
    def test_sampler(self) -> Sampler:
        return Uniform([(2.0, 3.0), (2.0, 3.0)])


@pytest.mark.parametrize(
    ("problem", "test", "line"),
    [
        (Known(Boundary(BOX), Uniform(BOX)), ("t1", True), "on 16,384 points of the term 't1'\n"),
        (Known(Boundary(BOX)), ("t0", False), "of the term 't0', a fixed set or a surface: test_sampler(self) would"),
        (Elsewhere(Uniform(BOX)), ("", True), "on 16,384 points of the problem's test_sampler or test_data\n"),
    ],
)
@pytest.mark.parametrize("how", ["jit", "evaluator", "none"])
def test_results_say_where(problem: Known, test: tuple[str, bool], line: str, how: str) -> None:
    engine, quant = ("jit", "none") if how == "none" else (how, "diff")
    result = pintac.train(step_of(problem), 1, engine=engine, quant=quant, progress=False)
    found = json.loads(result.to_json())["test"]
    assert found == {"points": 16384, "term": test[0], "inside": test[1]}
    assert line in summary(result.as_dict())
    if result.program is not None:
        again = pintac.run(result.program, 1, progress=False)
        assert again.details["test"] == found and again.l2 == result.l2


def test_no_exact_no_points(tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = tiny_file.read_text().replace("def exact(", "def known(").replace("self.exact(", "self.known(")
    Path("none.py").write_text(text)
    assert main(["train", "none.py:step", "--steps", "1", "--json", "r.json", "--quiet"]) == 0
    assert json.loads(Path("r.json").read_text())["test"] is None


@pytest.mark.parametrize("name", ["poisson2d", "heat100", "heat100-wave", "hjb20", "hjb20-wave"])
def test_built_in_problems_keep_their_points(name: str) -> None:
    step = load_step(name)
    test = test_set(step, 50)
    assert test is not None and test.inside and test.term == step.terms()[0].name
