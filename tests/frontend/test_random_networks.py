"""Generated networks: whatever is composed of supported parts, the IR computes what torch computes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pintac.frontend import TTLinear, trace
from pintac.ir.verify import verify
from tests.frontend.support import ir_of_net, make_step, points, torch_of_net

ACTIVATIONS = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "cos": torch.cos,
    "sigmoid": torch.sigmoid,
    "silu": nn.functional.silu,
    "exp": lambda h: torch.exp(-h * h),
    "power": lambda h: h**3 / (1 + h**2),
}


class Block(nn.Module):
    """One layer and how its result meets its input."""

    def __init__(self, width: int, layer: str, activation: str, join: str) -> None:
        super().__init__()
        self.main = TTLinear(width, width, rank=2) if layer == "tt" else nn.Linear(width, width, bias=layer == "linear")
        self.gate = nn.Linear(width, width) if join == "gate" else None
        self.activation, self.join = activation, join

    def forward(self, h: Tensor) -> Tensor:
        y = ACTIVATIONS[self.activation](self.main(h))
        if self.join == "residual":
            return h + 0.5 * y
        if self.gate is not None:
            return y * torch.sigmoid(self.gate(h))
        if self.join == "halves":
            half = (h.shape[1] + 1) // 2
            return torch.cat([y[:, :half], h[:, half:]], -1)
        return y


class Composed(nn.Module):
    def __init__(self, dims: int, width: int, outputs: int, blocks: list[tuple[str, str, str]], hard: bool) -> None:
        super().__init__()
        self.lift = nn.Linear(dims, width)
        self.blocks = nn.ModuleList([Block(width, *block) for block in blocks])
        self.head = nn.Linear(width, outputs)
        self.scale = nn.Parameter(torch.ones(outputs))
        self.hard = hard

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.lift(2 * x - 1))
        for block in self.blocks:
            h = block(h)
        u = self.head(h) * self.scale
        return x.sum(-1, keepdim=True) + x[:, :1] * (1 - x[:, :1]) * u if self.hard else u


networks = st.builds(
    Composed,
    dims=st.integers(1, 4),
    width=st.integers(1, 9),
    outputs=st.integers(1, 3),
    blocks=st.lists(
        st.tuples(
            st.sampled_from(["tt", "linear", "no bias"]),
            st.sampled_from(sorted(ACTIVATIONS)),
            st.sampled_from(["plain", "residual", "gate", "halves"]),
        ),
        max_size=4,
    ),
    hard=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(net=networks, rows=st.integers(1, 9))
def test_ir_equals_torch(net: Composed, rows: int) -> None:
    x = points(rows, net.lift.in_features)
    np.testing.assert_allclose(ir_of_net(net, x), torch_of_net(net, x), rtol=1e-10, atol=1e-11)


@settings(max_examples=20, deadline=None)
@given(net=networks)
def test_steps_verify_and_know_their_parameters(net: Composed) -> None:
    traced = trace(make_step(net, dims=net.lift.in_features), infer_rows=3)
    verify(traced.step)
    verify(traced.infer)
    assert set(traced.step.states()) == set(traced.layout.parameters)
    for name, node in traced.step.states().items():
        assert node.shape == traced.layout.from_module()[name].shape
