# ruff: noqa: E501
"""Tracing: the graphs of a step, their locations, states, attributes; the design's own example."""

from __future__ import annotations

import inspect
import math
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pintac
from pintac.frontend import (
    Adam,
    Points,
    Problem,
    SecondDifference,
    Stein,
    Term,
    TrainStep,
    TTLinear,
    Uniform,
    dt,
    grad,
    laplacian,
)
from pintac.frontend.problems import BUILTIN, options_of, poisson2d
from pintac.frontend.schedules import cosine_decay, linear_decay
from pintac.frontend.tracing import TracedStep, trace
from pintac.ir import Graph
from pintac.ir.evaluate import evaluate
from pintac.ir.verify import verify
from tests.frontend.support import make_step, mlp, points, trace_residual

EXAMPLES = Path(pintac.__file__).parent.parent / "examples"

# DESIGN "Problems are written in torch", character for character.
DESIGN_FILE = """
import torch, pintac
from pintac import Adam, Problem, SecondDifference, Term, TrainStep, TTLinear, Boundary, Uniform, grad, laplacian, linear_decay

class Poisson2D(Problem):
    def terms(self):
        box = [(0.0, 1.0), (0.0, 1.0)]
        return [Term("interior", Uniform(box), self.pde, points=100),
                Term("boundary", Boundary(box), self.bc, points=100, weight=300.0)]
    def pde(self, u, x): return laplacian(u, x) + torch.sin(x.sum(-1, keepdim=True))
    def bc(self, u, x):  return u(x) - self.exact(x)
    def exact(self, x):  return torch.sin(x.sum(-1, keepdim=True)) / 2        # optional: no exact, no l2

net = torch.nn.Sequential(torch.nn.Linear(2, 256), torch.nn.Tanh(), TTLinear(256, 256, rank=16), torch.nn.Tanh(),
                          TTLinear(256, 256, rank=16), torch.nn.Tanh(), torch.nn.Linear(256, 1))
step = TrainStep(net, Poisson2D(), Adam(1e-3, schedule=linear_decay(1000)), SecondDifference(K=512, sigma=0.01))
if __name__ == "__main__":
    r = pintac.train(step, steps=1000)          # progress bar in a terminal or a notebook
    print(r.l2, r.cycles, r.energy); net.load_state_dict(r.state_dict())
"""


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


@pytest.fixture(scope="module")
def design(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TracedStep]:
    path = tmp_path_factory.mktemp("design") / "my_pde.py"
    path.write_text(DESIGN_FILE)
    return path, trace(runpy.run_path(str(path))["step"])


def test_the_design_file_traces_as_it_stands(design: tuple[Path, TracedStep]) -> None:
    _, traced = design
    verify(traced.step)
    verify(traced.infer)
    assert dict(traced.step.attrs) == {
        "name": "Poisson2D",
        "dims": 2,
        "terms": [
            {"name": "interior", "points": 100, "weight": 1.0},
            {"name": "boundary", "points": 100, "weight": 300.0},
        ],
        "estimator": {"kind": "second-difference", "K": 512, "sigma": 0.01, "time_dims": []},
        "optimizer": {
            "kind": "adam",
            "lr": 1e-3,
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-8,
            "schedule": {"kind": "linear", "steps": 1000},
        },
    }
    assert {key: str(node.type) for key, node in traced.step.outputs.items()} == {
        "residual:interior": "f32[100,1]",
        "residual:boundary": "f32[100,1]",
    }
    assert [str(node.type) for node in traced.infer.outputs.values()] == ["f32[1024,1]"]
    assert ops(traced.step).count("tt_matmul") == 4 and ops(traced.step).count("laplacian") == 1
    assert set(traced.step.states()) == set(traced.infer.states()) == set(traced.layout.parameters)
    assert traced.step.states()["0.weight"].shape == (2, 256)


def test_every_node_has_a_line_of_the_users_file(design: tuple[Path, TracedStep]) -> None:
    path, traced = design
    lines = path.read_text().splitlines()
    for graph in (traced.step, traced.infer):
        for node in graph.nodes:
            assert node.loc.file == str(path), node
            assert lines[node.loc.line - 1].strip() == node.loc.text, node
    (lap,) = traced.step.of("laplacian")
    assert "def pde" in lap.loc.text
    assert all("Term(" in node.loc.text for node in traced.step.of("random"))
    assert all("TrainStep(" in node.loc.text for node in traced.infer.nodes)


def test_lines_inside_a_users_module() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 4), nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.sigmoid(self.a(x))  # the gate
            return self.b(h * h)

    graph = trace_residual(lambda u, x: u(x), Gate())
    (gate,) = graph.of("sigmoid")
    assert gate.loc.file == "tests/frontend/test_tracing.py" and "# the gate" in gate.loc.text


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_examples_trace(name: str) -> None:
    traced = trace(runpy.run_path(str(EXAMPLES / name))["step"])
    verify(traced.step)
    verify(traced.infer)


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_built_in_problems_trace_with_their_own_lines(name: str) -> None:
    traced = trace(BUILTIN[name]())
    verify(traced.step)
    files = {node.loc.file for graph in (traced.step, traced.infer) for node in graph.nodes}
    own = name.replace("-", "_")
    assert files == {f"pintac/frontend/problems/{own}.py", "pintac/frontend/problems/common.py"}


def test_two_traces_are_the_same_text() -> None:
    assert str(trace(poisson2d(width=8, rank=2)).step) == str(trace(poisson2d(width=8, rank=2)).step)


def test_residuals_evaluate_to_what_torch_computes() -> None:
    """Points, network and residual in IR against the same in torch, for a residual without derivatives."""
    net = mlp(2, 5, 2)
    step = make_step(net, lambda u, x: u(x) * torch.sin(3 * x) - x.sum(-1, keepdim=True) ** 2, points=11)
    traced = trace(step)
    feeds = {**traced.layout.from_module(), **traced.data}
    found = evaluate(traced.step, feeds, {"seed": 3, "step": 2}, mode="float64")["residual:only"]
    x = torch.from_numpy(Uniform([(0.0, 1.0)] * 2).sample(11, seed=3, step=2)).double()
    with torch.no_grad():
        expected = net.double()(x) * torch.sin(3 * x) - x.sum(-1, keepdim=True) ** 2
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-13)


# ---------------------------------------------------------------------------------------------- u and operators


def test_u_is_computed_once_for_the_same_points() -> None:
    graph = trace_residual(lambda u, x: u(x) + laplacian(u, x) * u(x) + grad(u, x)[..., 0] + dt(u, x), mlp(2, 4, 1))
    assert ops(graph).count("tanh") == 1
    assert {node.operands for node in graph.of("gradient", "laplacian")} == {
        (graph.of("laplacian")[0].operands[0], graph.of("random")[0])
    }


def test_other_points_are_another_evaluation() -> None:
    graph = trace_residual(lambda u, x: u(x) - u(x + 1.0), mlp(2, 4, 1))
    assert ops(graph).count("tanh") == 2


def test_shapes_of_operators_for_vector_outputs() -> None:
    shapes = {}

    def residual(u, x):  # type: ignore[no-untyped-def]
        shapes["u"] = tuple(u(x).shape)
        shapes["grad"] = tuple(grad(u, x).shape)
        shapes["component"] = tuple(grad(u, x)[..., 2].shape)
        shapes["laplacian"] = tuple(laplacian(u, x, dims=slice(0, -1)).shape)
        shapes["dt"] = tuple(dt(u, x).shape)
        return dt(u, x) - laplacian(u, x, dims=slice(0, -1)) + grad(u, x)[..., 0] * u(x)

    graph = trace_residual(residual, mlp(3, 4, 2), dims=3)
    assert shapes == {"u": (7, 2), "grad": (7, 2, 3), "component": (7, 2), "laplacian": (7, 2), "dt": (7, 2)}
    (lap,) = graph.of("laplacian")
    assert (lap.attrs["start"], lap.attrs["stop"]) == (0, 2)
    assert str(graph.outputs["residual:only"].type) == "f32[7,2]"


def test_operators_on_functions_of_u() -> None:
    graph = trace_residual(lambda u, x: laplacian(lambda z: u(z) ** 2 + z[:, :1], x), mlp(2, 4, 1))
    (lap,) = graph.of("laplacian")
    assert lap.operands[0].op == "add" and lap.operands[1] is graph.of("random")[0]


def test_exact_derivatives_in_plain_torch() -> None:
    """Outside a step the operators are autograd's: of sin(x) y^2 they are known."""

    def u(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.sin(x[:, 0]) * x[:, 1] ** 2, x[:, 1] * 2], 1)

    p = torch.from_numpy(points(6, 2))
    x, y = p[:, 0], p[:, 1]
    first = grad(u, p)
    torch.testing.assert_close(first[:, 0], torch.stack([x.cos() * y**2, 2 * x.sin() * y], 1))
    torch.testing.assert_close(first[:, 1], torch.tensor([0.0, 2.0], dtype=torch.float64).expand(6, 2))
    torch.testing.assert_close(laplacian(u, p)[:, 0], -x.sin() * y**2 + 2 * x.sin())
    torch.testing.assert_close(laplacian(u, p, dims=slice(1, 2))[:, 0], 2 * x.sin())
    torch.testing.assert_close(laplacian(u, p)[:, 1], torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(dt(u, p), first[..., -1])


def test_time_is_the_last_coordinate_where_dt_is_used() -> None:
    def time_dims(residual, estimator):  # type: ignore[no-untyped-def]
        return trace(make_step(mlp(3, 4, 1), residual, 3, estimator)).step.attrs["estimator"]["time_dims"]

    assert time_dims(lambda u, x: dt(u, x), SecondDifference(K=8)) == [2]
    assert time_dims(lambda u, x: laplacian(u, x), SecondDifference(K=8)) == []
    assert time_dims(lambda u, x: dt(u, x), SecondDifference(K=8, time_dims=())) == []
    assert time_dims(lambda u, x: laplacian(u, x), SecondDifference(K=8, time_dims=(0, -1))) == [0, 2]


def test_schedules() -> None:
    assert [linear_decay(4).value(t) for t in (0, 1, 4, 9)] == [1.0, 0.75, 0.0, 0.0]
    assert (
        cosine_decay(4).value(0) == 1.0
        and math.isclose(cosine_decay(4).value(2), 0.5)
        and cosine_decay(4).value(5) == 0.0
    )
    assert Adam(0.5, schedule=linear_decay(4)).rate(1) == 0.375 and Adam(0.5).rate(10**6) == 0.5
    assert Adam(schedule=cosine_decay(7)).attrs()["schedule"] == {"kind": "cosine", "steps": 7}
    with pytest.raises(pintac.PintacError, match="positive number of steps"):
        linear_decay(0)


# ---------------------------------------------------------------------------------------------- states and constants


def test_a_shared_layer_is_one_state() -> None:
    shared = nn.Linear(4, 4)
    graph = trace_residual(
        lambda u, x: u(x), nn.Sequential(nn.Linear(2, 4), shared, nn.Tanh(), shared, nn.Linear(4, 1))
    )
    assert list(graph.states()) == ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]


def test_weights_meet_matmul_without_a_transpose() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Linear(2, 4)
            self.out = nn.Linear(2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(self.encode(x)) @ self.encode.weight)

    graph = trace_residual(lambda u, x: u(x), Tied())
    assert "permute" not in [node.op for node in graph.nodes if graph.users(node)]
    assert [bool(node.attrs["transpose_b"]) for node in graph.of("matmul")] == [False, True, False]


def test_frozen_parameters_and_buffers_are_constants() -> None:
    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frequencies", torch.arange(100, dtype=torch.float32).reshape(2, 50))
            self.out = nn.Linear(50, 1)
            self.scale = nn.Parameter(torch.full((1,), 2.0), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.sin(x @ self.frequencies)) * self.scale

    step = make_step(Fourier())
    traced = trace(step)
    assert list(traced.step.states()) == ["out.weight", "out.bias"]
    (array,) = traced.step.of("data")
    np.testing.assert_array_equal(traced.data[str(array.attrs["name"])], np.arange(100).reshape(2, 50))
    assert (2.0,) in [node.attrs["values"] for node in traced.step.of("const")]


def test_products_with_coefficients_of_the_equation_are_not_quantised() -> None:
    """NUMERICS 3: only the network's products are. 0.3 beside 2 in one block would be 0.3125 in INT8."""
    wave, matrix = torch.tensor([0.3, 2.0]), torch.tensor([[1.0, 0.3, -0.2], [0.05, 2.0, 0.7]])

    def residual(u, x):
        columns = [torch.sin(x @ wave)[:, None], x @ matrix.to(x), (matrix.T[:1] @ x.T).T, u(x)]
        return torch.cat(columns, -1)

    net = mlp(2, 5, 1)
    step = make_step(net, residual, points=11)
    traced = trace(step)
    assert len(traced.step.of("matmul")) == 2, "those of the two layers: insert-smx quantises every matmul"
    feeds = {**traced.layout.from_module(), **traced.data}
    found = evaluate(traced.step, feeds, {"seed": 3, "step": 2}, mode="float64")["residual:only"]
    x = torch.from_numpy(Uniform([(0.0, 1.0)] * 2).sample(11, seed=3, step=2)).double()
    wave, matrix = wave.double(), matrix.double()
    np.testing.assert_allclose(found, residual(net.double(), x).detach().numpy(), atol=1e-13)


def test_frozen_layers_and_features_of_the_network_are_quantised() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frequencies", torch.randn(2, 8))
            self.last = nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.sin(x @ self.frequencies))

    class WithTrainedMatrix(Problem):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(2, 3))

        def terms(self) -> list[Term]:
            return [Term("t", Uniform([(0.0, 1.0)] * 2), lambda u, x: u(x) * (x @ self.matrix), points=8)]

    step = TrainStep(Features(), WithTrainedMatrix(), Adam(1e-3), Stein(K=8, sigma=0.1))
    assert len(trace(step).step.of("matmul")) == 3


def test_parameters_of_the_problem_are_trained() -> None:
    class Inverse(Problem):
        def __init__(self) -> None:
            self.k = nn.Parameter(torch.tensor([0.5]))

        def terms(self) -> list[Term]:
            return [Term("pde", Uniform([(0.0, 1.0)]), lambda u, x: self.k * laplacian(u, x) + u(x), points=3)]

    traced = trace(TrainStep(mlp(1, 3, 1), Inverse(), Adam(), Stein(K=2)))
    assert "problem.k" in traced.step.states() and "problem.k" not in traced.infer.states()


def test_hard_constraints_and_fixed_points() -> None:
    class Constrained(Problem):
        def terms(self) -> list[Term]:
            return [Term("pde", Points([[0.0], [0.5], [1.0]]), lambda u, x: u(x))]

        def u(self, net: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return 7.0 + x * (1 - x) * net(x)

    step = TrainStep(mlp(1, 4, 1), Constrained(), Adam(), Stein(K=2))
    traced = trace(step, infer_rows=3)
    feeds = {**traced.layout.from_module(), **traced.data}
    found = evaluate(traced.step, feeds, {"seed": 0, "step": 0}, mode="float64")["residual:pde"]
    assert found[0] == 7.0 and found[2] == 7.0 and found[1] != 7.0
    x = np.array([[0.0], [0.5], [1.0]])
    np.testing.assert_array_equal(evaluate(traced.infer, {**feeds, "x": x}, {}, mode="float64")["u"], found)


def test_fewer_points_on_request() -> None:
    traced = trace(poisson2d(width=4, rank=2), points={"interior": 3})
    assert [term["points"] for term in traced.step.attrs["terms"]] == [3, 100]


def test_options_of_the_built_in_problem() -> None:
    assert options_of("poisson2d")["K"] == 512
    dense = poisson2d(width=8, scheme="dense")
    assert not any(isinstance(module, TTLinear) for module in dense.net.modules())
    assert len([m for m in poisson2d(width=8, hidden=6).net.modules() if isinstance(m, TTLinear)]) == 5
    for bad in ({"scheme": "both"}, {"estimator": "magic"}, {"hidden": 0}):
        with pytest.raises(pintac.PintacError):
            poisson2d(**bad)


def test_documented_operators_have_docstrings() -> None:
    for function in (grad, laplacian, dt):
        assert "[N, m]" in (inspect.getdoc(function) or "")


def test_tracing_does_not_import_torchs_compiler() -> None:
    """torch.compile's machinery takes seconds to import; a dispatch mode pulls it in unless it declines."""
    code = (
        "import sys; from pintac.frontend import trace; from pintac.frontend.problems import poisson2d;"
        "trace(poisson2d(width=4)); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES.parent, check=False).returncode == 0


def test_habits_of_autograd_code_do_no_harm() -> None:
    def residual(u, x):  # type: ignore[no-untyped-def]
        x.requires_grad = True
        x.requires_grad_(True)
        return u(x) + laplacian(u, x)

    with torch.no_grad():
        assert trace_residual(residual).outputs


def test_a_double_precision_default_is_called_out_where_it_matters() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert trace_residual(lambda u, x: u(x) + 2.0 * x[:, :1], mlp(2, 3, 1).float()).outputs
        with pytest.raises(pintac.PintacError, match="float64 values, a step computes in float32"):
            trace_residual(lambda u, x: u(x) * torch.ones(7, 1), mlp(2, 3, 1).float())
    finally:
        torch.set_default_dtype(torch.float32)
