"""The built-in problems: their solutions solve them, their options agree, and what trivial solutions score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import pintac
from pintac.errors import UsageError
from pintac.frontend import SampledStep, TrainStep, test_set, trivial_baselines
from pintac.frontend.estimators import ESTIMATORS
from pintac.frontend.problems import BUILTIN, options_of
from pintac.passes.expand_operators import ExpandOperators
from pintac.passes.sampling import KINDS

NAMES = sorted(BUILTIN)
SHARED = ("width", "hidden", "rank", "scheme", "K", "sigma", "estimator", "lr", "schedule_steps")
RANKING = ("heat100-wave", "hjb20-wave", "poisson2d")
"""Problems on which straight lines are bad: they rank methods."""


def small(name: str, **options: object) -> TrainStep:
    return BUILTIN[name](**{"width": 8, "rank": 2, **options})


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_solution_solves_it(name: str) -> None:
    """Every residual vanishes at u = exact, its derivatives from autograd in double; and not at another u."""
    step = small(name)
    problem = step.problem
    for number, term in enumerate(step.terms()):
        x = torch.from_numpy(term.sampler.sample(3, seed=5, term=number)).double()
        right = term.residual(problem.exact, x)
        assert right.shape == (3, 1) and right.abs().max() < 1e-6

        def wrong(points: Tensor) -> Tensor:
            return problem.exact(points) + 0.1 * torch.sin(points[:, :1] + 2 * points[:, -1:] + 1)

        assert term.residual(wrong, x).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["hjb20", "hjb20-wave"])
def test_hard_terminal_conditions_hold_for_every_network(name: str) -> None:
    step = small(name)
    x = torch.from_numpy(step.terms()[0].sampler.sample(20, seed=1)).double()
    x[:, -1] = 1.0
    net = torch.nn.Linear(21, 1).double()
    torch.testing.assert_close(step.problem.u(net, x), step.problem.exact(x))


def test_they_have_the_options_of_poisson2d() -> None:
    poisson = options_of("poisson2d")
    for name in NAMES:
        options = options_of(name)
        assert {key: options[key] for key in SHARED} == {key: poisson[key] for key in SHARED}
        assert all(isinstance(value, (int, float, str)) for value in options.values())
        inputs = small(name).terms()[0].sampler.dim
        assert small(name, hidden=2, scheme="dense").net[0].in_features == inputs


def test_estimators_are_those_of_the_passes_and_public() -> None:
    assert tuple(ESTIMATORS) == KINDS
    for estimator in ESTIMATORS.values():
        assert getattr(pintac, estimator.__name__) is estimator


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [{"estimator": "steinn"}, {"scheme": "psr"}, {"width": 0}, {"hidden": 0}])
def test_options_that_cannot_be(name: str, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        BUILTIN[name](**wrong)


def test_published_heat_and_hjb_do_not_rank_methods() -> None:
    """Figures of docs/PROBLEMS.md: u = t scores 8.5e-3 on heat, an affine function 1.7e-4, an untrained HJB 5.4e-2."""
    heat, hjb = (trivial_baselines(small(name)) for name in ("heat100", "hjb20"))
    assert heat is not None and heat.time == pytest.approx(8.5e-3, rel=0.02)
    assert heat.affine == pytest.approx(1.7e-4, rel=0.05)
    assert hjb is not None and hjb.untrained == pytest.approx(5.4e-2, rel=0.03) and hjb.affine < 1e-12


@pytest.mark.parametrize("name", RANKING)
def test_ranking_problems_are_not_easy(name: str) -> None:
    found = trivial_baselines(small(name))
    assert found is not None and min(found.affine, found.constant, found.untrained) > 0.09
    assert found.zero == 1.0 and found.skill(found.affine) == 1.0 and found.skill(0.5 * found.affine) == 0.5
    if name != "poisson2d":
        assert found.affine > 0.29 and found.untrained > 0.6
        assert found.time is not None and found.time > 1
    else:
        assert found.time is None


@pytest.mark.parametrize("name", BUILTIN)
def test_the_page_says_what_costs_nothing(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs/PROBLEMS.md").read_text()
    table = page.partition("| name | zero |")[2]
    cells = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |")).split("|")[2:-1]
    found = trivial_baselines(small(name))
    assert found is not None
    for cell, value in zip(
        cells, (found.zero, found.constant, found.affine, found.untrained, found.time), strict=True
    ):
        text = cell.split()[0]
        if text == "-":
            assert value is None
        elif text == ">":
            assert value is not None and value > 1
        else:
            assert value == pytest.approx(float(text), rel=6e-3, abs=1e-12), f"{name}: {cell.strip()}"


def test_baselines_are_those_of_the_points_given() -> None:
    step = small("heat100")
    tests = test_set(step, n=300)
    assert tests is not None
    found = trivial_baselines(step, tests)
    assert found is not None
    mean = np.linalg.norm(tests.u.mean() - tests.u) / np.linalg.norm(tests.u)
    assert found.constant == pytest.approx(mean) and found.as_dict()["affine"] == tests.l2_affine()
    assert found.time == pytest.approx(np.linalg.norm(tests.x[:, -1:] - tests.u) / np.linalg.norm(tests.u))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("estimator", KINDS)
def test_every_estimator_takes_a_step(name: str, estimator: str) -> None:
    """Two steps of the float twin on a few points: finite losses, and every parameter has moved."""
    points = {key: 3 for key in ("interior", "initial", "surface", "boundary", "points") if key in options_of(name)}
    step = small(name, estimator=estimator, K=8, hidden=2, **points)
    twin = SampledStep(step, ExpandOperators().run, seed=1)
    before = twin.arrays()
    assert np.isfinite(twin.train(2)).all()
    after = twin.arrays()
    moved = {key for key in before if not np.array_equal(before[key], after[key])}
    assert moved == set(before)
