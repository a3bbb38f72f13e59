"""Each supported torch operation: the IR that is recorded, evaluated in float64, equals torch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pintac.errors import IRError
from pintac.frontend.aten import FAMILIES, RULES
from pintac.frontend.operators import grad, laplacian
from pintac.frontend.tracing import trace_infer
from pintac.frontend.weights import Layout
from pintac.ir.evaluate import evaluate
from pintac.passes import PassManager, PipelineOptions, Verify, default_pipeline
from tests.frontend.support import Net, ir_of_net, make_step, points, torch_of_net, trace_residual


def outer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """[N, 3, 2]."""
    return (x @ w)[:, :, None] * x[:, None]


def stacked(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """[3, N, 3]: points are the second axis."""
    return torch.stack([x @ w, torch.sin(x @ w), x @ w * x[:, :1]])


CASES = {
    # arithmetic
    "add": lambda x, w, s: x @ w + s,
    "add alpha": lambda x, w, s: torch.add(x @ w, s, alpha=3.0),
    "add constant left": lambda x, w, s: 2.5 + x @ w,
    "sub": lambda x, w, s: x @ w - s,
    "sub alpha": lambda x, w, s: torch.sub(x @ w, s, alpha=0.5),
    "rsub": lambda x, w, s: 1.0 - x @ w,
    "mul": lambda x, w, s: (x @ w) * s * 3.0,
    "div": lambda x, w, s: (x @ w) / s,
    "div by a number": lambda x, w, s: (x @ w) / 3.0 + (x @ w) / 4.0,
    "div of a number": lambda x, w, s: 2.0 / (s + x @ w.abs()),
    "neg": lambda x, w, s: -(x @ w),
    "addcmul": lambda x, w, s: torch.addcmul(x @ w, s, s, value=2.0),
    "lerp": lambda x, w, s: torch.lerp(x @ w, s.expand(x.shape[0], 3), 0.25),
    "lerp tensor": lambda x, w, s: torch.lerp(x @ w, s.expand(x.shape[0], 3), x[:, :1]),
    # functions
    "tanh": lambda x, w, s: torch.tanh(x @ w),
    "sin cos": lambda x, w, s: torch.sin(x @ w) + torch.cos(x @ w),
    "tan": lambda x, w, s: torch.tan(0.3 * x @ w),
    "exp": lambda x, w, s: torch.exp(x @ w) + torch.exp2(x @ w) + torch.expm1(x @ w),
    "log": lambda x, w, s: torch.log(s) * x[:, :1] + torch.log2(s) + torch.log10(s) + x @ w,
    "log1p": lambda x, w, s: torch.log1p(s + x @ w.abs()),
    "sqrt": lambda x, w, s: torch.sqrt(s) * x[:, :1] + torch.rsqrt(s) + torch.reciprocal(s) + x @ w,
    "sigmoid": lambda x, w, s: torch.sigmoid(x @ w),
    "silu": lambda x, w, s: F.silu(x @ w),
    "gelu": lambda x, w, s: F.gelu(x @ w),
    "gelu tanh": lambda x, w, s: F.gelu(x @ w, approximate="tanh"),
    "softplus": lambda x, w, s: F.softplus(x @ w) + F.softplus(x @ w, beta=2.0),
    "erf": lambda x, w, s: torch.erf(x @ w),
    "sinh cosh": lambda x, w, s: torch.sinh(x @ w) + torch.cosh(x @ w),
    "relu": lambda x, w, s: F.relu(x @ w),
    "mish": lambda x, w, s: F.mish(x @ w),
    "elu": lambda x, w, s: F.elu(x @ w - 0.2, alpha=0.7) + F.selu(x @ w) + F.celu(x @ w, alpha=2.0),
    "leaky relu": lambda x, w, s: F.leaky_relu(x @ w - 0.2, 0.1) + F.hardtanh(x @ w, -0.1, 0.2),
    "softmax": lambda x, w, s: F.softmax(x @ w, -1) + F.log_softmax(3.0 * x @ w, 1),
    "layer norm": lambda x, w, s: F.layer_norm(x @ w, (3,), s, s, eps=0.01) + F.layer_norm(x @ w, (3,)),
    "batch norm, fixed": lambda x, w, s: (
        F.batch_norm(x @ w, x.new_ones(3), x.new_full((3,), 4.0), s, s, eps=0.0)
        + F.batch_norm(x @ w, x.new_ones(3), x.new_full((3,), 4.0), eps=0.0)
    ),
    "weight norm": lambda x, w, s: x @ torch._weight_norm(w, s[None, :], 1),
    "abs": lambda x, w, s: torch.abs(x @ w),
    "square": lambda x, w, s: torch.square(x @ w),
    # powers
    "pow 0": lambda x, w, s: (x @ w) ** 0 + x @ w,
    "pow 2": lambda x, w, s: (x @ w) ** 2,
    "pow 3": lambda x, w, s: (x @ w) ** 3,
    "pow 7": lambda x, w, s: (x @ w) ** 7,
    "pow -2": lambda x, w, s: (s + x @ w.abs()) ** -2,
    "pow 0.5": lambda x, w, s: (s + x @ w.abs()) ** 0.5,
    "pow -1.5": lambda x, w, s: (s + x @ w.abs()) ** -1.5,
    "pow 0.3": lambda x, w, s: (s + x @ w.abs()) ** 0.3,
    "pow by a constant tensor": lambda x, w, s: (x @ w) ** torch.tensor(3.0),
    "pow by a parameter": lambda x, w, s: (1.0 + x[:, :1]) ** s,
    "pow of a number": lambda x, w, s: 2.0 ** (x @ w),
    # comparisons and choices
    "where": lambda x, w, s: torch.where(x[:, :1] > 0.5, x @ w, s),
    "where with numbers": lambda x, w, s: torch.where(x @ w <= 0.1, 1.0, -1.0) * (x @ w),
    "comparisons": lambda x, w, s: (
        (x[:, :1] < 0.3) * (x @ w) + (x[:, 1:] >= 0.3).float() + (x[:, :1] != 0.5) + (x[:, :1] == 0.5)
    ),
    "logic": lambda x, w, s: torch.where((x[:, :1] > 0.2) & ~(x[:, 1:] > 0.7) | (x[:, :1] > 0.9), x @ w, s),
    "logical functions": lambda x, w, s: torch.where(
        torch.logical_or(torch.logical_and(x[:, :1] > 0.2, torch.logical_not(x[:, 1:] > 0.7)), x[:, :1] > 0.9), x @ w, s
    ),
    "booleans": lambda x, w, s: (
        ((x[:, :1] > 0.2) + (x[:, 1:] > 0.4)) * (x @ w)
        + ((x[:, :1] > 0.5) * (x[:, 1:] > 0.4)) * s
        + ((x[:, :1] > 0.5) ^ (x[:, 1:] > 0.4)).to(x.dtype)
    ),
    "numbers as booleans": lambda x, w, s: (
        torch.where((x[:, :1] - 0.5).bool(), x @ w, s)
        + torch.logical_and(x[:, :1] - 0.5, 3.0 * (x[:, 1:] > 0.3)) * s
        + torch.logical_or(2.0 * (x[:, :1] > 0.7), x[:, 1:] * (x[:, 1:] > 0.3)) * 2.0
        + torch.logical_not(2.0 * (x[:, :1] > 0.7)) * 3.0
        + torch.logical_xor(2.0 * (x[:, :1] > 0.7), x[:, 1:] > 0.3) * 5.0
    ),
    "masked fill": lambda x, w, s: (x @ w).masked_fill(x[:, :1] > 0.5, 2.0),
    "sign": lambda x, w, s: torch.sign(x @ w) * (x @ w) + torch.sgn(x[:, :1] - x[:, :1]),
    "floor round": lambda x, w, s: (
        torch.floor(4.0 * (x @ w)) + torch.ceil(3.0 * (x @ w)) + torch.round(5.0 * (x @ w)) + torch.trunc(6.0 * (x @ w))
        + torch.round(x @ w, decimals=1) + torch.round(70.0 * (x @ w), decimals=-1)
    ),
    "remainder": lambda x, w, s: (
        torch.frac(3.0 * (x @ w)) + (x @ w) % 0.25 + (x @ w) % -0.3 + torch.remainder(2.0, s) + torch.fmod(x @ w, 0.3)
        + torch.div(x @ w, 0.1, rounding_mode="floor") + torch.div(x @ w, s, rounding_mode="trunc")
    ),
    "floor divide": lambda x, w, s: (x @ w) // 0.3 + (x @ w) // s,
    "heaviside": lambda x, w, s: torch.heaviside(x[:, :1] - 0.5, s) * (x @ w) + torch.heaviside(0.0 * x[:, :1], s),
    "atan": lambda x, w, s: torch.atan(x @ w) + torch.atan(1e3 * x[:, :1]) + torch.atan(-1e-6 * x[:, :1]),
    "atan2": lambda x, w, s: (
        torch.atan2(x @ w, x[:, :1] - 0.5)
        + torch.atan2(x[:, :1] - 0.5, x[:, 1:] - 0.5)
        + torch.atan2(x[:, :1] - x[:, :1], -x[:, 1:])
        + torch.atan2(x[:, :1] - 0.5, x[:, :1] - x[:, :1])
    ),
    "atan2 of nothing": lambda x, w, s: torch.atan2(x[:, :1] - x[:, :1], x[:, :1] - x[:, :1]) + x @ w,
    "batched linear": lambda x, w, s: F.linear(torch.stack([x, x * x], 1), w.T, s).prod(1),
    "linear on parts of the features": lambda x, w, s: (
        F.linear(torch.cat([x @ w, x @ w], 1).reshape(-1, 3, 2), w.T, s).tanh().flatten(1)
    ),
    "batched matmul": lambda x, w, s: (torch.stack([x, x * x], 1) @ w).sum(1),
    "minimum maximum": lambda x, w, s: torch.minimum(x @ w, s) + torch.maximum(x @ w, s * 0.1),
    "clamp": lambda x, w, s: (
        torch.clamp(x @ w, -0.2, 0.3) + torch.clamp(x @ w, min=0.0) + (x @ w).clamp_max(0.1) + (x @ w).clamp_min(0.2)
    ),
    # contractions
    "matmul": lambda x, w, s: x @ w,
    "matmul transposed weight": lambda x, w, s: (x @ w) @ w.T @ w,
    "weight on the left": lambda x, w, s: (w.T @ x.T).T,
    "constant matrix": lambda x, w, s: x @ torch.linspace(0, 1, 6).reshape(2, 3).to(x.dtype) + x @ w,
    "large constant matrix": lambda x, w, s: (
        (x @ torch.linspace(-1, 1, 80).reshape(2, 40).to(x.dtype)).sum(-1, keepdim=True) + x @ w
    ),
    "linear": lambda x, w, s: F.linear(x, w.T, s),
    "addmm": lambda x, w, s: torch.addmm(s, x, w, beta=0.5, alpha=2.0),
    "matrix vector": lambda x, w, s: (x @ w @ s).unsqueeze(-1),
    "einsum": lambda x, w, s: torch.einsum("ni,io->no", x, w),
    "dot at every point": lambda x, w, s: torch.einsum("ni,ni->n", x @ w, torch.tanh(x @ w))[:, None],
    "outer product": lambda x, w, s: torch.einsum("ni,nj->nij", x, x @ w).reshape(-1, 6),
    "dot of parameters": lambda x, w, s: x @ w * torch.dot(s, s),
    "normalised weight": lambda x, w, s: x @ (w / torch.linalg.norm(w, dim=0)),
    # structure
    "slices": lambda x, w, s: torch.cat([x[:, :1], x[:, 1:], (x @ w)[:, -2:]], 1),
    "strided slice": lambda x, w, s: (x @ w)[:, ::2],
    "select": lambda x, w, s: (x @ w)[..., 1].unsqueeze(1) + x[:, 0, None],
    "index list": lambda x, w, s: (x @ w)[:, [2, 0, 0]],
    "index lists": lambda x, w, s: torch.cat([outer(x, w)[:, [0, 2, 1], [1, 0, 1]], outer(x, w)[:, [0, 2], [1]]], 1),
    "diagonal": lambda x, w, s: torch.cat([outer(x, w).diagonal(k, 1, 2) for k in (0, 1, -2)], -1),
    "trace": lambda x, w, s: torch.einsum("nii->n", outer(x, w)[:, :2])[:, None],
    "index mask": lambda x, w, s: (x @ w)[:, torch.tensor([True, False, True])],
    "index_select": lambda x, w, s: torch.index_select(x @ w, 1, torch.tensor([1, 2])),
    "split": lambda x, w, s: sum((x @ w).split(1, 1)) + sum((x @ w).split([1, 1, 1], -1)) + sum((x @ w).chunk(3, -1)),
    "unbind": lambda x, w, s: torch.stack([a * b for a, b in zip((x @ w).unbind(1), s.unbind(0), strict=True)], -1),
    "stack": lambda x, w, s: torch.stack([x @ w, s.expand(x.shape[0], 3)], 1).reshape(-1, 6),
    "stack before the points": lambda x, w, s: stacked(x, w).sum(0) + stacked(x, w).mean(0) + stacked(x, w)[1],
    "product of a stack": lambda x, w, s: stacked(x, w).prod(0) * sum(stacked(x, w).unbind(0)),
    "reshape": lambda x, w, s: (x @ w).reshape(-1, 3, 1).squeeze(-1).unsqueeze(1).flatten(1),
    "transpose": lambda x, w, s: (x @ w).T.transpose(0, 1).permute(1, 0).mT,
    "repeat": lambda x, w, s: (x @ w).repeat(1, 2) + x[:, :1].repeat(1, 6) + torch.tile(x, (1, 3)),
    "expand": lambda x, w, s: x[:, :1].expand(-1, 3) * s + x @ w,
    "flip roll": lambda x, w, s: (x @ w).flip(1) + torch.roll(x @ w, 1, 1),
    "pad": lambda x, w, s: F.pad(x @ w, (1, 2)),
    "clone": lambda x, w, s: (x @ w).clone().contiguous().to(x.dtype),
    "zeros_like": lambda x, w, s: torch.zeros_like(x[:, :1]) + torch.ones_like(s) * (x @ w) + x.new_zeros(3),
    "full": lambda x, w, s: torch.cat([torch.full((x.shape[0], 1), 0.25), x @ w], 1),
    # reductions
    "sum": lambda x, w, s: (x @ w).sum(-1, keepdim=True) + (x @ w).sum(1)[:, None] + s.sum(),
    "mean": lambda x, w, s: (x @ w).mean(-1, keepdim=True) + s.mean(),
    "norm": lambda x, w, s: (
        (x @ w).norm(dim=-1, keepdim=True) + torch.linalg.vector_norm(x @ w, ord=1, dim=1, keepdim=True)
    ),
    "amax amin": lambda x, w, s: (x @ w).amax(-1, keepdim=True) - (x @ w).amin(-1, keepdim=True),
    "prod": lambda x, w, s: (x @ w).prod(-1, keepdim=True),
}


@pytest.mark.parametrize("name", CASES)
def test_ir_equals_torch(name: str) -> None:
    net = Net(CASES[name])
    x = points(9, 2)
    expected, found = torch_of_net(net, x), ir_of_net(net, x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


def test_the_arc_tangent_in_float32() -> None:
    """Within some units in the last place, from small values to large ones."""
    x = np.concatenate([sign * 10.0 ** np.linspace(-8, 8, 200) for sign in (1, -1)]).astype(np.float32)[:, None]
    net = Net(lambda x, w, s: torch.atan(x * (s[:1] / s[:1])), dims=1)
    step = make_step(net, dims=1)
    graph, data = trace_infer(step, rows=len(x))
    found = evaluate(graph, {**Layout.of(net, step.problem).from_module(), **data, "x": x}, mode="smx")["u"]
    np.testing.assert_allclose(found, np.arctan(x.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("name", ["expm1", "log1p", "sinh", "elu", "selu", "celu"])
def test_small_values_keep_their_digits_in_float32(name: str) -> None:
    """Relative to the true value, where a difference of numbers near 1 would have lost four digits."""
    of = getattr(F, name, None) or getattr(torch, name)
    x = np.concatenate([sign * 10.0 ** np.linspace(-9, 1, 300) for sign in (1, -1)]).astype(np.float32)[:, None]
    x = x[(x > -0.9) | (name != "log1p")][:, None]
    net = Net(lambda x, w, s: of(x * (s[:1] / s[:1])), dims=1)
    step = make_step(net, dims=1)
    graph, data = trace_infer(step, rows=len(x))
    found = evaluate(graph, {**Layout.of(net, step.problem).from_module(), **data, "x": x}, mode="smx")["u"]
    np.testing.assert_allclose(found, of(torch.from_numpy(x.astype(np.float64))).numpy(), rtol=1e-6)


def test_the_cases_use_every_rule() -> None:
    """The table has no rule that no case exercises."""
    used: set[object] = set()
    assert FAMILIES
    original = dict(RULES)

    def spy(packet: object, rule):  # type: ignore[no-untyped-def]
        def call(*args):  # type: ignore[no-untyped-def]
            used.add(packet)
            return rule(*args)

        return call

    try:
        RULES.update({packet: spy(packet, rule) for packet, rule in original.items()})
        for case in CASES.values():
            ir_of_net(Net(case), points(5, 2))
    finally:
        RULES.update(original)
    # Autograd inserts these around views, depending on the torch release.
    never = {"alias", "detach"}
    unused = {str(packet).removeprefix("aten.") for packet in set(original) - used} - never
    assert not unused, f"no case for {sorted(unused)}"


KINKED = {"gelu", "erf", "relu", "elu", "leaky relu", "abs", "minimum maximum", "clamp", "norm", "amax amin"}
STACKED = {"batched linear", "batched matmul"}  # rows of a stack would share SMX blocks (NUMERICS 4)
BRANCHING = {
    "where", "where with numbers", "logic", "logical functions", "booleans", "numbers as booleans", "masked fill",
    "sign", "floor round", "remainder", "floor divide", "heaviside", "atan2",
    "atan2 of nothing",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(CASES) - KINKED - BRANCHING - STACKED))
def test_whatever_is_smooth_can_be_differentiated_and_lowered(name: str) -> None:
    """Residuals with derivatives of each smooth case go through the default pipeline."""
    graph = trace_residual(lambda u, x: laplacian(u, x) + grad(u, x)[..., 0] * u(x), Net(CASES[name]), points=3)
    lowered = PassManager(default_pipeline(PipelineOptions()), [Verify("ends")]).run(graph)
    assert any(key.startswith("state:") for key in lowered.outputs)


@pytest.mark.parametrize("fn", ["floor", "ceil", "round", "trunc", "frac"])
def test_a_jump_under_a_derivative_is_refused_at_its_line(fn: str) -> None:
    net = Net(lambda x, w, s: getattr(torch, fn)(x @ w) + x @ w)
    graph = trace_residual(lambda u, x: laplacian(u, x), net, points=3)
    with pytest.raises(IRError, match=r"test_supported_ops.py:\d+: (floor|round): jumps") as caught:
        PassManager(default_pipeline(PipelineOptions()), [Verify("ends")]).run(graph)
    assert caught.value.hint == "let it depend on the base point only"
