"""What cannot be compiled is refused with the user's line, the reason and a way out; all of it at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pintac
from pintac.api.lowering import lower
from pintac.errors import ModelError, PintacError
from pintac.frontend.estimators import SecondDifference, Stein
from pintac.frontend.locate import is_user_file
from pintac.frontend.operators import dt, grad, laplacian
from pintac.frontend.optimizers import SGD, Adam, AdamW
from pintac.frontend.problem import Problem, Term, TrainStep
from pintac.frontend.recorder import Recorder
from pintac.frontend.samplers import Points, Uniform
from pintac.frontend.schedules import exponential_decay, linear_decay, piecewise, warmup
from pintac.frontend.tracing import trace
from pintac.frontend.weights import Layout
from pintac.passes import PipelineOptions
from tests.frontend.support import make_step, mlp, trace_residual

THIS_FILE = "tests/frontend/test_refusals.py"


def refusal(residual: Callable, net: nn.Module | None = None, points: int = 7) -> ModelError:
    with pytest.raises(ModelError) as caught:
        trace_residual(residual, net, points=points)
    return caught.value


def line_of(function: Callable, text: str) -> int:
    """The line of this file on which `text` stands in `function`."""
    lines, start = inspect.getsourcelines(function)
    return start + next(i for i, line in enumerate(lines) if text in line)


def check(residual: Callable, marked: str, message: str, hint: str, net: nn.Module | None = None) -> None:
    error = refusal(residual, net)
    assert error.location is not None
    assert error.location.file.endswith(THIS_FILE)
    assert error.location.line == line_of(residual, marked)
    assert message in error.message
    assert hint in (error.hint or "")


def test_autograd_inside_a_residual() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        x.requires_grad_(True)
        y = u(x)
        du = torch.autograd.grad(y.sum(), x, create_graph=True)[0]  # here
        return du[:, :1]

    check(residual, "# here", "torch.autograd", "pintac.grad(u, x)")


def test_the_axes_of_a_gradient() -> None:
    """A column of [N, m, d] is no derivative: wherever that shows, it is said what is."""
    axes = "grad(u, x) is [points, outputs, coordinates]"

    def sliced(u, x):  # type: ignore[no-untyped-def]
        return grad(u, x)[:, 1:2] - laplacian(u, x)  # here

    def whole(u, x):  # type: ignore[no-untyped-def]
        return u(x) * grad(u, x)  # here

    def returned(u, x):  # type: ignore[no-untyped-def]
        return grad(u, x)

    check(sliced, "# here", "size of tensor", axes)
    check(whole, "# here", "every point would be combined", axes)
    assert axes in (refusal(returned).hint or "")


def test_no_axes_of_a_gradient_where_there_is_none() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return dt(u, x) + u(x) @ torch.ones(5, 5)  # here

    assert "grad(u, x)" not in (refusal(residual).hint or "")


def test_parameters_of_the_network_are_not_reached_through_u() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return laplacian(u, x) * u.nu  # here

    check(residual, "# here", "u is a function of points, it has no 'nu'", "nn.Parameter")


def test_functional_derivatives_inside_a_residual() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        du = torch.func.vmap(torch.func.grad(lambda point: u(point[None])[0, 0]))(x)  # here
        return du[:, :1]

    check(residual, "# here", "torch.autograd", "pintac.grad(u, x)")


def test_control_flow_on_values() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        if u(x).sum() > 0:  # here
            return u(x)
        return -u(x)

    check(residual, "# here", "decides what runs next", "torch.where")


@pytest.mark.parametrize("method", ["item", "tolist", "numpy"])
def test_values_as_python_numbers(method: str) -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        number = getattr(u(x).sum(), method)()  # here
        return u(x) * number

    error = refusal(residual)
    assert error.location is not None and error.location.line == line_of(residual, "# here")
    assert "torch.where" in (error.hint or "")


def test_in_place() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        y = u(x) * 2
        y += 1  # here
        return y

    check(residual, "# here", "in place", "y = y + 1")


def test_writing_into_a_constant() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        out = torch.zeros(7, 1)
        out[:, 0] = u(x)[:, 0]  # here
        return out + u(x)

    check(residual, "# here", "in place", "torch.cat")


def test_third_derivatives() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return grad(lambda z: laplacian(u, z), x)[..., 0]  # here

    check(residual, "# here", "beyond the Laplacian", "laplacian(u, x)")


def test_gradient_of_a_gradient_names_the_laplacian() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return grad(lambda z: grad(u, z)[..., 0], x)[..., 0]  # here

    check(residual, "# here", "beyond the Laplacian", "laplacian(u, x)")


def test_mixed_up_columns() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return u(x) + x[:, 0]  # here

    check(residual, "# here", "[7, 1] and [7]", "keepdim=True")


def test_mixed_up_columns_of_a_sum() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return laplacian(u, x) - torch.sin(x.sum(-1))  # here

    check(residual, "# here", "every point would be combined with every other", "x[:, i:i+1]")


ONE_A_POINT = torch.rand(7)


class Measured(Problem):
    """Values v [7, 1] at seven points, a weight for each."""

    def __init__(self, misfit: Callable, weights: Tensor | None = None) -> None:
        self.misfit = misfit
        self.w = weights

    def terms(self) -> list[Term]:
        points = Points(np.random.default_rng(0).random((7, 2)))
        return [Term("data", points, lambda u, x, v: self.misfit(self, u, x, v), values=np.ones(7))]


EVERY_WITH_EVERY = {
    "a constant [N]": lambda s, u, x, v: u(x) - ONE_A_POINT,
    "a part of one": lambda s, u, x, v: torch.linspace(0, 1, 64)[:7] * laplacian(u, x),
    "a constant [N, 1] with [N]": lambda s, u, x, v: u(x)[:, 0] - ONE_A_POINT[:, None],
    "measured values": lambda s, u, x, v: u(x)[:, 0] - v,
    "measured values without their column": lambda s, u, x, v: u(x) - v.squeeze(),
    "weights that are trained": lambda s, u, x, v: s.w * u(x),
    "what is made of them": lambda s, u, x, v: torch.exp(s.w) * u(x),
    "a condition": lambda s, u, x, v: torch.where(ONE_A_POINT > 0.5, u(x), 0.0),
    "an end of where": lambda s, u, x, v: torch.where(x[:, :1] > 0.5, u(x), ONE_A_POINT),
    "an exponent": lambda s, u, x, v: u(x) ** ONE_A_POINT,
    "a limit": lambda s, u, x, v: torch.clamp(u(x), min=ONE_A_POINT),
    "three operands": lambda s, u, x, v: torch.addcmul(u(x), u(x), ONE_A_POINT),
    "a transpose": lambda s, u, x, v: u(x) - u(x).T,
    "a row": lambda s, u, x, v: u(x) - x[:, 0].reshape(1, -1),
    "all distances": lambda s, u, x, v: ((x[:, None] - x[None]) ** 2).sum((1, 2))[:, None] * u(x),
    "an outer product": lambda s, u, x, v: torch.outer(u(x)[:, 0], x[:, 0]),
    "an outer einsum": lambda s, u, x, v: torch.einsum("ni,mi->nm", u(x), u(x)),
    "a sum of what is refused": lambda s, u, x, v: (u(x) - u(x).T).sum(1, keepdim=True),
}


@pytest.mark.parametrize("how", EVERY_WITH_EVERY)
def test_every_point_with_every_other(how: str) -> None:
    """Whatever the operands are, at the line of the operation."""
    problem = Measured(EVERY_WITH_EVERY[how], nn.Parameter(torch.ones(7)))
    with pytest.raises(ModelError, match="every point would be combined with every other") as caught:
        trace(TrainStep(mlp(2, 4, 1), problem, Adam(), Stein(K=2)))
    source, start = inspect.getsourcelines(inspect.getmodule(Measured))
    line = next(i for i, text in enumerate(source, 1) if text.startswith(f'    "{how}":'))
    assert caught.value.location is not None and caught.value.location.line == start + line
    assert caught.value.hint


def test_a_constant_row_a_point_says_how_it_is_a_column() -> None:
    error = refusal(lambda u, x: u(x) - ONE_A_POINT)
    assert "v[:, None]" in (error.hint or "") and "v[None, :]" in (error.hint or "")


@pytest.mark.parametrize(
    "residual",
    [
        lambda u, x: u(x) - ONE_A_POINT[:, None],
        lambda u, x: u(x)[:, 0] - ONE_A_POINT,
        lambda u, x: torch.sin(x[:, :1] * ONE_A_POINT[None, :]) * u(x),
        lambda u, x: u(x) - u(x).mean(0),
        lambda u, x: u(x) * torch.dot(u(x)[:, 0], x[:, 0]),
        lambda u, x: u(x) * torch.einsum("ni,nj->ij", u(x), x)[:, :1],
        lambda u, x: torch.einsum("nij,nj->ni", grad(u, x), x),
        lambda u, x: u(x) - (u(torch.linspace(0, 1, 14).reshape(7, 2)).T * x[:, :1]).sum(-1, keepdim=True),
    ],
)
def test_points_that_do_not_meet(residual: Callable) -> None:
    assert trace_residual(residual, points=7).outputs


def test_as_many_points_as_units_is_no_mix_up() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(7))
            self.out = nn.Linear(7, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.sin(x[:, :1] * self.scale + torch.linspace(0, 1, 7)))

    assert trace_residual(lambda u, x: u(x), Scaled(), points=7).outputs


def test_stopped_gradients() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return u(x).detach() * u(x)  # here

    check(residual, "# here", "detach", "every value is differentiated")


class Frozen(nn.Module):
    """A layer that would not train its weight."""

    def __init__(self, how: Callable) -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(2, 1), how

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.how(self.layer.weight).T + self.layer.bias  # here


@pytest.mark.parametrize("how", [lambda w: w.detach(), lambda w: w.data])
def test_parameters_whose_gradient_is_stopped(how: Callable) -> None:
    """In a network and in a residual: such a parameter would be trained after all."""
    net, plain = Frozen(how), nn.Linear(2, 1)
    inside = refusal(lambda u, x: u(x), net)
    outside = refusal(lambda u, x: u(x) * how(plain.bias), plain)
    for error, name in ((inside, "layer.weight"), (outside, "bias")):
        assert f"of the parameter '{name}', which is trained" in error.message
        assert "requires_grad_(False)" in (error.hint or "") and "register_buffer" in (error.hint or "")
        assert error.location is not None and error.location.file.endswith(THIS_FILE)
    net.layer.requires_grad_(False)
    assert trace_residual(lambda u, x: u(x), nn.Sequential(net, nn.Linear(1, 1))).outputs


@pytest.mark.parametrize("copied", [lambda p: p.tolist()[0], lambda p: torch.tensor(p)])
def test_parameters_copied_as_numbers(copied: Callable) -> None:
    net = nn.Linear(2, 1)

    def residual(u, x):  # type: ignore[no-untyped-def]
        return u(x) * copied(net.bias)

    assert "out of torch" in str(refusal(residual, net))


@pytest.mark.parametrize("made", [lambda k: k, lambda k: 2 * k, lambda k: k.expand(7, 1)])
def test_tensors_that_want_a_gradient_and_are_no_parameters(made: Callable) -> None:
    k = torch.tensor(1.0, requires_grad=True)

    def residual(u, x):  # type: ignore[no-untyped-def]
        return laplacian(u, x) * made(k)  # here

    check(residual, "# here", "no parameter", "nn.Parameter")
    assert trace_residual(lambda u, x: laplacian(u, x) * made(k.detach())).outputs


def test_no_grad_around_the_network() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            frozen = u(x)  # here
        return frozen * 2

    check(residual, "# here", "no_grad", "every value is differentiated")


def test_detach_of_points_is_harmless() -> None:
    graph = trace_residual(lambda u, x: u(x) * x.detach()[:, :1])
    assert graph.outputs["residual:only"].op == "mul"


def test_random_numbers() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return u(x) + torch.randn(7, 1)  # here

    check(residual, "# here", "same at every step", "sampler")


def test_double_precision_constants() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return u(x) * torch.ones(7, 1, dtype=torch.float64)  # here

    check(residual, "# here", "float64", "float32")


def test_products_of_two_point_values() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return x @ x.T @ u(x)  # here

    check(residual, "# here", "both depend on the points", "(a * b).sum")


@pytest.mark.parametrize(
    ("made", "hint"),
    [
        (lambda g: torch.linalg.det(g), "g[:, 0, 0] * g[:, 1, 1]"),
        (lambda g: torch.linalg.cross(g[..., [0, 1, 0]], g[..., [1, 1, 0]]), "a[:, 1] * b[:, 2]"),
        (lambda g: torch.linalg.solve(g + torch.eye(2), g), "Cramer's rule"),
        (lambda g: torch.diag_embed(g), "a * b"),
        (lambda g: g[:, None][:, [0], :, [0]], "move them together"),
    ],
)
def test_what_can_be_written_out(made: Callable, hint: str) -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return made(grad(u, x)).reshape(7, -1)

    assert hint in str(refusal(residual, mlp(2, 4, 2)))


def test_a_kink_names_smooth_functions() -> None:
    step = make_step(mlp(2, 4, 1, act=nn.ReLU), lambda u, x: laplacian(u, x))
    with pytest.raises(PintacError, match="has a kink") as caught:
        lower(step, PipelineOptions())
    assert all(name in (caught.value.hint or "") for name in ("tanh", "softplus", "GELU", "SiLU"))


def test_active_dropout_and_batch_norm() -> None:
    dropout = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    assert "dropout is active" in str(refusal(lambda u, x: u(x), dropout))
    dropout.eval()
    assert trace_residual(lambda u, x: u(x), dropout).outputs
    norm = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    error = str(refusal(lambda u, x: u(x), norm))
    assert "batch_norm" in error and "couples the points" in error and "net.eval()" in error
    assert trace_residual(lambda u, x: u(x), norm.eval()).outputs


def test_every_problem_is_reported_at_once() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        a = torch.cumsum(u(x), 1)  # first
        b = torch.sort(u(x), 1)[0]  # second
        c = torch.erfinv(x)  # third
        a.add_(b)  # fourth
        return torch.ones(3) + a + b + c.sum() + u(x[:, :1])  # fifth

    message = str(refusal(residual))
    assert "5 reasons" in message
    for marked, what in (
        ("# first", "cumsum"),
        ("# second", "sort"),
        ("# third", "erfinv"),
        ("# fourth", "in place"),
        ("# fifth", "RuntimeError"),
    ):
        line = line_of(residual, marked)
        assert any(f"{THIS_FILE}:{line}:" in row and what in row for row in message.splitlines()), message
    assert message.count("hint:") == 5


def test_problems_of_all_terms_are_reported() -> None:
    class TwoTerms(Problem):
        def terms(self) -> list[Term]:
            box = [(0.0, 1.0)]
            return [
                Term("a", Uniform(box), lambda u, x: torch.cumsum(u(x), 0), points=3),
                Term("b", Uniform(box), lambda u, x: torch.flip(torch.cumprod(u(x), 0), [1]), points=4),
            ]

    with pytest.raises(ModelError, match="2 reasons") as caught:
        trace(TrainStep(mlp(1, 4, 1), TwoTerms(), Adam(), Stein(K=2)))
    assert "cumsum" in str(caught.value) and "cumprod" in str(caught.value)


def test_errors_of_user_code_keep_their_line_and_cause() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return u(x) @ torch.ones(5, 5)  # here

    error = refusal(residual)
    assert error.location is not None and error.location.line == line_of(residual, "# here")
    assert isinstance(error.__cause__, RuntimeError) and "RuntimeError" in error.message


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (lambda u, x: u(x).mean(), "has the shape"),
        (lambda u, x: (u(x) ** 2).sum(0), "has the shape"),
        (lambda u, x: 1.0, "got a float"),
        (lambda u, x: torch.ones(7, 1), "got a constant"),
        (lambda u, x: x * 2, "does not depend on the network"),
        (lambda u, x: None, "got a NoneType"),
        (lambda u, x: u(x[:, 0]), "u needs points [N, d]"),
        (lambda u, x: laplacian(u, torch.ones(7, 2)), "x is a constant"),
        (lambda u, x: grad(lambda z: u(x), x[:, :2] * 1.0)[..., 0], "does not depend on x"),
        (lambda u, x: laplacian(u(x), x), "needs the function u"),
        (lambda u, x: laplacian(u, x, dims=slice(3, 4)), "selects none"),
        (lambda u, x: laplacian(u, x, dims=[0]), "contiguous slice"),
        (lambda u, x: laplacian(u, x, dims=slice(0, 2, 2)), "contiguous slice"),
        (lambda u, x: dt(u, x[:, 0]), "points x [N, d]"),
    ],
)
def test_residuals_of_the_wrong_kind(residual: Callable, message: str) -> None:
    assert message in str(refusal(residual))


def test_networks_of_the_wrong_kind() -> None:
    assert "expected [7, m]" in str(refusal(lambda u, x: u(x), nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))))
    assert "no trainable parameters" in str(refusal(lambda u, x: u(x), nn.Tanh()))
    assert "float64" in str(refusal(lambda u, x: u(x), mlp(2, 4, 1).double()))


@pytest.mark.parametrize(
    ("net", "said", "hint"),
    [
        (lambda: nn.Tanh(), "no trainable parameters", ""),
        (lambda: mlp(2, 4, 1).requires_grad_(False), "no trainable parameters", "net.requires_grad_(True)"),
        (lambda: mlp(2, 4, 1).double(), "is torch.float64", "net.float().cpu()"),
        (lambda: mlp(2, 4, 1).to("meta"), "on the device meta", "to_empty"),
    ],
)
def test_parameters_that_cannot_be_trained(net: Callable, said: str, hint: str) -> None:
    """At the line of the TrainStep."""
    step = TrainStep(net(), Measured(lambda s, u, x, v: u(x) - v), Adam(), Stein(K=2))  # here
    with pytest.raises(ModelError) as caught:
        trace(step)
    assert said in caught.value.message and hint in (caught.value.hint or "")
    assert caught.value.location is not None and caught.value.location.file.endswith(THIS_FILE)
    assert caught.value.location.line == line_of(test_parameters_that_cannot_be_trained, "# here")


def test_a_double_parameter_of_the_problem_names_it() -> None:
    problem = Measured(lambda s, u, x, v: u(x) - v, nn.Parameter(torch.ones(1, dtype=torch.float64)))
    with pytest.raises(ModelError) as caught:
        trace(TrainStep(mlp(2, 4, 1), problem, Adam(), Stein(K=2)))
    assert "self.w.float()" in (caught.value.hint or "")


def test_a_parameter_from_elsewhere() -> None:
    stray = nn.Parameter(torch.ones(1))
    assert "belongs neither to the network nor to the problem" in str(refusal(lambda u, x: u(x) * stray))


def test_a_traced_value_that_escapes() -> None:
    kept = []
    trace_residual(lambda u, x: kept.append(u(x)) or u(x))
    with pytest.raises(ModelError, match="after the trace has ended"):
        kept[0] + 1


BOX = [(0.0, 1.0)]


class Empty(Problem):
    pass


class Mixed(Problem):
    def terms(self) -> list[Term]:
        return [Term("a", Uniform(BOX), self.r, points=2), Term("b", Uniform(BOX * 2), self.r, points=2)]

    def r(self, u, x):  # type: ignore[no-untyped-def]
        return u(x)


class Dimensionless(Uniform):
    def __init__(self) -> None:
        pass


class Listed(Problem):
    def __init__(self) -> None:
        self.terms = []  # type: ignore[assignment]


class OnlyValue:
    def value(self, t: int) -> float:
        return 1.0


def torch_scheduler() -> object:
    return torch.optim.lr_scheduler.StepLR(torch.optim.Adam(mlp(1, 1).parameters()), 5)


class Twice(Mixed):
    def terms(self) -> list[Term]:
        return [Term("a", Uniform(BOX), self.r, points=2), Term("a", Uniform(BOX), self.r, points=2)]


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda: TrainStep(mlp(1, 1), Mixed(), torch.optim.LBFGS, Stein()), "LBFGS", "Adam"),
        (
            lambda: TrainStep(mlp(1, 1), Mixed(), torch.optim.LBFGS(mlp(1, 1).parameters()), Stein()),
            "line search",
            "Adam",
        ),
        (
            lambda: TrainStep(mlp(1, 1), Mixed(), torch.optim.Adam(mlp(1, 1).parameters()), Stein()),
            "torch.optim.Adam",
            "pintac.Adam",
        ),
        (lambda: TrainStep(mlp(1, 1), Mixed(), 1e-3, Stein()), "a float", "pintac.Adam"),
        (lambda: TrainStep(Mixed(), mlp(1, 1), Adam(), Stein()), "nn.Module", None),
        (lambda: TrainStep(mlp(1, 1), Mixed, Adam(), Stein()), "the class Mixed", "Mixed()"),
        (lambda: TrainStep(mlp(1, 1), Mixed(), Adam(), 512), "estimator", "SecondDifference"),
        (lambda: TrainStep(mlp(1, 1), Mixed(), Adam(), Stein(), init="he"), "init", None),
        (lambda: TrainStep(mlp(1, 1), Empty(), Adam(), Stein()).terms(), "does not define terms", "def terms"),
        (lambda: TrainStep(mlp(1, 1), Mixed(), Adam(), Stein()).terms(), "different dimensions", "Product"),
        (lambda: TrainStep(mlp(1, 1), Twice(), Adam(), Stein()).terms(), "same name", None),
        (lambda: Adam(lr=-1.0), "lr > 0", None),
        (lambda: Adam(schedule=3), "not a schedule", "linear_decay"),
        (lambda: Adam(schedule=lambda t: 0.1), "not a schedule", "piecewise"),
        (lambda: Adam(schedule=OnlyValue()), "it has no attrs()", "exponential_decay"),
        (lambda: Adam(schedule=torch_scheduler()), "lr_scheduler.StepLR runs in torch", "exponential_decay"),
        (lambda: Adam(schedule=torch.optim.lr_scheduler.StepLR), "lr_scheduler.StepLR runs in torch", "warmup"),
        (lambda: Adam(1e-3, schedule=linear_decay(5, lr_min=1e-2)), "above the learning rate", None),
        (lambda: linear_decay(5, lr_min=-1.0), "lr_min is a learning rate", None),
        (lambda: linear_decay(2.5), "positive number of steps", None),
        (lambda: exponential_decay(1.5, 10, steps=100), "rate in (0, 1]", None),
        (lambda: exponential_decay(0.5, 0, steps=100), "positive number of steps", None),
        (lambda: piecewise({}), "from step 0 on", "5000"),
        (lambda: piecewise({10: 1.0}), "from step 0 on", "5000"),
        (lambda: piecewise({0: 1.0, 10: "half"}), "from step 0 on", "5000"),
        (lambda: piecewise([1.0]), "from step 0 on", "5000"),
        (lambda: warmup(0), "positive number of steps", None),
        (lambda: warmup(5, then=0.1), "not a schedule", "cosine_decay"),
        (lambda: SGD(lr=0.0), "lr > 0", None),
        (lambda: SGD(nesterov=True), "needs momentum", "0.9"),
        (lambda: AdamW(betas=(0.9,)), "two betas", None),
        (lambda: AdamW(weight_decay=-1.0), "weight_decay >= 0", None),
        (lambda: TrainStep(mlp(1, 1), Mixed(), SGD, Stein()), "the class SGD", "SGD(1e-3)"),
        (lambda: TrainStep(mlp(1, 1), Mixed(), torch.optim.LBFGS, Stein()), "LBFGS", "load_state_dict"),
        (lambda: SecondDifference(K=64, time_dims=2), "a list of coordinates, got 2", "[2]"),
        (lambda: SecondDifference(K=64, time_dims="x"), "a list of coordinates", "[2]"),
        (lambda: SecondDifference(K=64, time_dims=[0.5]), "a list of coordinates", "[2]"),
        (lambda: Stein(K=7), "even number", "256 pairs"),
        (lambda: SecondDifference(K=0), "even number", "pairs"),
        (lambda: Stein(sigma=0.0), "sigma", None),
        (lambda: Term("a b", Uniform(BOX), len, points=2), "letters", None),
        (lambda: Term("a", None, len, points=2), "sampler", "Uniform"),
        (lambda: Term("a", Dimensionless(), len, points=2), "says not how many coordinates", "dim = 2"),
        (lambda: Term("a", Uniform(BOX), len, points=2, weight=nn.Parameter(torch.ones(()))), "positive weight", None),
        (lambda: TrainStep(mlp(1, 1), Listed(), Adam(), Stein()).terms(), "'list' object is not callable", None),
        (lambda: Term("a", Uniform(BOX), len), "how many points", "points=100"),
        (lambda: Term("a", Uniform(BOX), len, points=0), "positive number of points", None),
        (lambda: Term("a", Uniform(BOX), 3, points=2), "residual function", None),
        (lambda: Term("a", Uniform(BOX), len, points=2, weight=-1.0), "positive weight", None),
        (lambda: Term("a", Uniform(BOX), len, points=2, weight=float("nan")), "positive weight", "piecewise"),
        (lambda: Term("a", Uniform(BOX), len, points=2, weight="1"), "positive weight", "piecewise"),
        (lambda: Term("a", Uniform(BOX), len, points=2, weight=piecewise({0: 0.0})), "weights that are positive", None),
        (lambda: Term("a", Points([[0.0], [1.0]]), len, points=3), "fixed set of 2", "leave points out"),
    ],
)
def test_descriptions_that_cannot_be(make: Callable[[], object], message: str, hint: str | None) -> None:
    with pytest.raises(ModelError) as caught:
        make()
    assert message in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")
    assert caught.value.location is not None
    assert caught.value.location.file.endswith(THIS_FILE)


def test_layout_wants_float32() -> None:
    step = make_step(mlp(2, 3, 1))
    with pytest.raises(ModelError, match="float16"):
        Layout.of(mlp(2, 3, 1).half(), step.problem)


def test_a_bug_in_a_rule_is_not_blamed_on_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Recorder, "node")
    with pytest.raises(AttributeError) as caught:
        trace_residual(lambda u, x: u(x))
    assert not isinstance(caught.value, ModelError)


def test_an_attribute_error_of_the_user_is_the_users() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return laplacian(u, x) * "".no_such_attribute  # type: ignore[attr-defined]  # here

    check(residual, "# here", "AttributeError", "")


def test_errors_inside_libraries_are_placed_at_the_users_line() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return u(x) * float(np.linalg.inv(np.zeros((2, 2)))[0, 0])  # here

    check(residual, "# here", "LinAlgError", "")


@pytest.mark.parametrize(
    ("file", "users"),
    [
        (np.__file__, False),
        (str(Path(np.__file__).parents[1] / "scipy" / "linalg" / "basic.py"), False),
        (torch.__file__, False),
        (inspect.__file__, False),
        ("/home/me/torchlike/model.py", True),
        (f"{Path(torch.__file__).parent}_tools/model.py", True),
        (f"{Path(pintac.__file__).parent}_models/pde.py", True),
        ("/home/me/my_dataclasses.py", True),
        (str(Path(pintac.__file__).parent / "frontend" / "problems" / "poisson2d.py"), True),
        (str(Path(pintac.__file__).parent / "frontend" / "twin.py"), False),
    ],
)
def test_whose_file_it_is(file: str, users: bool) -> None:
    assert is_user_file(file) is users


def test_a_submodule_called_problem_is_refused() -> None:
    """Its names are those of the problem's own parameters, which no state_dict of the network has."""
    net = nn.Module()
    net.problem = nn.Linear(2, 1)
    net.forward = net.problem.forward  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"parameter 'problem\.weight'") as caught:
        trace(make_step(net))
    assert "another name" in (caught.value.hint or "")


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    term = Term("a", Uniform(BOX), len, points=np.int64(5), weight=np.float32(2))  # type: ignore[arg-type]
    assert term.count == 5 and type(term.count) is int and type(term.weight) is float and term.weight == 2.0
    assert type(SecondDifference(K=np.int32(8), sigma=np.float32(0.5)).sigma) is float
    assert type(SecondDifference(time_dims=[np.int64(-1)]).attrs(3)["time_dims"][0]) is int  # type: ignore[index]
    assert linear_decay(np.int64(7)).attrs() == {"kind": "linear", "steps": 7}
    assert type(Adam(np.float64(0.5)).lr) is float and Adam(torch.tensor(0.5)).lr == 0.5
    for wrong in (True, np.bool_(True), "5", np.ones(2, int), 5.0):
        with pytest.raises(ModelError, match="positive number of points"):
            Term("a", Uniform(BOX), len, points=wrong)  # type: ignore[arg-type]


def test_points_of_another_dimension() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return u(torch.cat([x, x], -1))  # here

    check(residual, "# here", "RuntimeError", "7 points with 2 coordinates each")


def test_a_coordinate_that_does_not_exist() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        return u(x) * x[:, 2:3]  # here

    check(residual, "# here", "mul of [7, 1] and [7, 0] has no elements", "beyond the end of an axis")
