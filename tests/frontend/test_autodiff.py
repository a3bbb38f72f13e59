"""Training by automatic differentiation: derivatives, agreement with the estimator, training, refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pintac import api
from pintac.errors import IRError, PassError, UsageError
from pintac.frontend import (
    Adam,
    AutodiffStep,
    OrthonormalDirections,
    Points,
    Problem,
    SampledStep,
    Stein,
    Term,
    TrainStep,
    Uniform,
    builtin_step,
    dt,
    grad,
    laplacian,
    load_step,
)
from pintac.frontend.autodiff import METHODS
from pintac.passes.expand_operators import ExpandOperators
from tests.cli.support import TINY
from tests.frontend.support import Net, OneTerm, make_step, mlp, points
from tests.frontend.test_supported_ops import CASES


def residual_of(step: TrainStep, method: str, t: int = 0) -> Tensor:
    return AutodiffStep(step, method, dtype=torch.float64).residuals(t)["only"].detach()


def term_at(x, residual) -> OneTerm:  # type: ignore[no-untyped-def]
    """A problem with one term at given points."""

    class Fixed(OneTerm):
        def terms(self) -> list[Term]:
            return [Term("only", Points(x), residual)]

    return Fixed(residual)


@pytest.mark.parametrize("method", METHODS)
def test_derivatives_of_a_known_function(method: str) -> None:
    """u = w sin(x0) x1^2 + exp(x2), by hand."""

    class Known(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            u = self.w * torch.sin(x[:, :1]) * x[:, 1:2] ** 2 + torch.exp(x[:, 2:])
            return torch.cat([u, x[:, 1:2] * u], 1)

    def residual(u, x):  # type: ignore[no-untyped-def]
        g = grad(u, x)
        return torch.cat([g[:, 0], g[:, 1], laplacian(u, x, dims=slice(0, 2)), dt(u, x), laplacian(u, x)], 1)

    x = points(6, 3)
    found = residual_of(TrainStep(Known(), term_at(x, residual), Adam(), Stein(K=2)), method)
    a, b, c = torch.from_numpy(x).T
    s, co, e = torch.sin(a), torch.cos(a), torch.exp(c)
    u = 2 * s * b**2 + e
    first, second = [2 * co * b**2, 4 * s * b, e], [-2 * s * b**2, 4 * s, e]
    v_second = [b * second[0], b * second[1] + 2 * first[1], b * second[2]]
    expected = [*first, b * first[0], u + b * first[1], b * e, second[0] + second[1], v_second[0] + v_second[1],
                e, b * e, sum(second), sum(v_second)]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(expected, 1), rtol=1e-12, atol=1e-12)


WITHOUT_DERIVATIVE = {"heaviside", "floor divide", "atan2 of nothing"}  # in torch


@pytest.mark.parametrize("case", [case for case in CASES if case not in WITHOUT_DERIVATIVE])
def test_every_supported_operation(case: str) -> None:
    """Gradient and Laplacian through each operation, against the exact operators on the module itself."""

    def residual(u, x):  # type: ignore[no-untyped-def]
        return grad(u, x).flatten(1).sum(1, keepdim=True) + 0.25 * laplacian(u, x, dims=slice(0, 1)) + laplacian(u, x)

    net = Net(CASES[case])
    x = points(7, 2)
    expected = residual(copy.deepcopy(net).double(), torch.from_numpy(x)).detach()
    for method in ("nested", "forward"):
        step = TrainStep(net, term_at(x, residual), Adam(), Stein(K=2), init="module")
        torch.testing.assert_close(residual_of(step, method), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["poisson2d", "hjb20", "hjb20-wave", "heat100-wave"])
def test_small_sigma_limit_of_the_estimator(name: str) -> None:
    """Orthonormal directions give Laplacians to O(sigma^2); loss and gradients of a step meet those of autograd.

    `hjb20*` have hard constraints. All three ways to differentiate agree to rounding.
    """
    dims = {"poisson2d": 2, "hjb20": 20, "hjb20-wave": 20, "heat100-wave": 100}[name]
    pairs = 2 * dims if name == "poisson2d" else 2 * (dims + 1)
    small = {"width": 16, "rank": 4, "estimator": "orthonormal", "K": pairs, "sigma": 1e-3}
    counts = {"points": 5} if name.startswith("hjb") else {"interior": 5}
    step = builtin_step(name, **small, **counts)
    sampled = SampledStep(step, ExpandOperators().run, seed=3, dtype=torch.float64).loss_and_gradients(2)
    for method in METHODS:
        loss, gradients = AutodiffStep(step, method, seed=3, dtype=torch.float64).loss_and_gradients(2)
        assert loss == pytest.approx(sampled[0], rel=1e-4)
        for state, gradient in gradients.items():
            scale = sampled[1][state].abs().max().item()
            torch.testing.assert_close(gradient, sampled[1][state], rtol=1e-3, atol=1e-3 * scale + 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_chunks_add_up(method: str) -> None:
    step = make_step(mlp(3, 5, 2), lambda u, x: laplacian(u, x) * u(x) + dt(u, x), 3)
    whole = AutodiffStep(step, method, dtype=torch.float64).loss_and_gradients(1)
    parts = AutodiffStep(step, method, dtype=torch.float64, chunk=3).loss_and_gradients(1)
    assert parts[0] == pytest.approx(whole[0], rel=1e-12)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(parts[1][name], gradient, rtol=1e-10, atol=1e-12)


def test_inverse_problems_train_their_parameter() -> None:
    class Inverse(Problem):
        def __init__(self) -> None:
            self.k = nn.Parameter(torch.tensor(0.5))

        def terms(self) -> list[Term]:
            return [Term("only", Uniform([(0.0, 1.0)]), lambda u, x: self.k * laplacian(u, x) - u(x), points=4)]

    step = TrainStep(mlp(1, 4, 1), Inverse(), Adam(), Stein(K=2))
    _, gradients = AutodiffStep(step, dtype=torch.float64).loss_and_gradients(0)
    assert gradients["problem.k"].abs() > 0


def test_a_residual_without_derivatives_is_the_estimators_too() -> None:
    step = make_step(mlp(2, 4, 1), lambda u, x: u(x) - 1)
    expected = SampledStep(step, ExpandOperators().run).loss_and_gradients(0)[0]
    assert AutodiffStep(step).loss_and_gradients(0)[0] == expected


@pytest.mark.parametrize("derivatives", ["autograd", "forward"])
def test_training(derivatives: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A user's file, through the public function: the error falls, and the run says what it was."""
    (tmp_path / "my_pde.py").write_text(TINY.replace("points=3", "points=20").replace("points=2,", "points=20,"))
    step = load_step(f"{tmp_path}/my_pde.py:make")
    step = TrainStep(step.net, step.problem, Adam(1e-2), Stein(K=4))
    after = api.train(step, 150, quant="none", derivatives=derivatives, progress=False)
    before = api.train(step, 1, quant="none", derivatives=derivatives, progress=False)
    assert after.l2 is not None and before.l2 is not None
    assert after.l2 < 0.2 < before.l2
    assert after.as_dict()["derivatives"] == derivatives
    assert after.as_dict()["cycles_per_step"] is None


def test_the_same_points_and_weights_as_the_twin() -> None:
    """The first loss differs by the estimator's error alone: the boundary term is equal."""
    step = builtin_step("poisson2d", width=16, rank=4, interior=8, boundary=8)
    sampled, exact = SampledStep(step, ExpandOperators().run, seed=5), AutodiffStep(step, seed=5)
    assert torch.equal(sampled.residuals(1)["boundary"], exact.residuals(1)["boundary"])
    assert all(torch.equal(state, exact.states[name]) for name, state in sampled.states.items())


# ---------------------------------------------------------------------------------------------- refusals


def test_only_torch_differentiates() -> None:
    step = make_step(mlp(2, 4, 1), lambda u, x: laplacian(u, x))
    with pytest.raises(UsageError, match="the machine has the estimator alone") as caught:
        api.train(step, 1, derivatives="autograd", progress=False)
    assert "--quant none" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="float twin"):
        api.train(step, 1, quant="none", derivatives="autograd", twin=True, progress=False)
    with pytest.raises(UsageError, match="no derivatives 'autograt'") as caught:
        api.train(step, 1, quant="none", derivatives="autograt", progress=False)
    assert "autograd" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="unknown way to differentiate"):
        AutodiffStep(step, "backwards")


def test_points_stay_apart() -> None:
    """What the estimator refuses is refused here: the derivative at a point would be one of the batch."""

    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            u = self.layer(x)
            return torch.tanh(u) - torch.tanh(u).sum(0, keepdim=True)

    step = make_step(Mixing(), lambda u, x: laplacian(u, x))
    with pytest.raises(PassError, match="mixes points"):
        api.train(step, 1, quant="none", derivatives="autograd", progress=False)
    with pytest.raises(IRError, match="mixes points"):
        AutodiffStep(step, "forward").loss_and_gradients(0)


def test_orthonormal_directions_do_not_matter_here() -> None:
    """The estimator of the step plays no part."""
    losses, net = [], mlp(2, 4, 1)
    for estimator in (Stein(K=2), OrthonormalDirections(K=4)):
        step = make_step(net, lambda u, x: laplacian(u, x), estimator=estimator)
        losses.append(AutodiffStep(step).loss_and_gradients(0)[0])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("method", METHODS)
def test_gradients_through_layer_norm_are_those_of_differences(method: str) -> None:
    """Of a loss with second derivatives, where torch 2.13's own nested autograd of nn.LayerNorm is wrong (HOWTO)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 10), nn.LayerNorm(10), nn.Tanh(), nn.Linear(10, 1))
    step = AutodiffStep(make_step(net, lambda u, x: laplacian(u, x) - u(x)), method, dtype=torch.float64)
    _, gradients = step.loss_and_gradients(0)
    bias, found = step.states["0.bias"], []
    for k in range(10):
        losses = []
        for change in (1e-6, -2e-6):
            with torch.no_grad():
                bias[k] += change
            losses.append(step.loss_and_gradients(0)[0])
        with torch.no_grad():
            bias[k] += 1e-6
        found.append((losses[0] - losses[1]) / 2e-6)
    torch.testing.assert_close(gradients["0.bias"], torch.tensor(found, dtype=torch.float64), rtol=1e-6, atol=1e-9)
