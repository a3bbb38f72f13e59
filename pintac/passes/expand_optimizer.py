"""expand-optimizer: the gradients become the next parameters and moments, element by element, in fp32.

Adam, with c1 = 1 / (1 - beta1^t) and c2 = 1 / (1 - beta2^t) from the parameter block (t counts from 1):

    m' = beta1 m + (1 - beta1) g
    v' = beta2 v + ((1 - beta2) g) g
    p' = p - (lr (m' c1)) / (sqrt(v' c2) + eps)

in exactly this order of operations. It equals torch.optim.Adam up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pintac.errors import PassError, suggest
from pintac.ir import Builder, Graph, Node
from pintac.passes.base import Pass
from pintac.passes.dataflow import continue_from

_KINDS = ["adam"]
FIRST_MOMENT, SECOND_MOMENT = "adam.m:", "adam.v:"
"""Prefixes of the names of the moments' states."""


@dataclass(frozen=True)
class ExpandOptimizer(Pass):
    """Outputs `grad:<state>` become the next states and moments, by the rule of `graph.attrs["optimizer"]`."""

    name: ClassVar[str] = "expand-optimizer"

    def run(self, graph: Graph) -> Graph:
        gradients = {key.removeprefix("grad:"): node for key, node in graph.outputs.items() if key.startswith("grad:")}
        if not gradients:
            return graph
        optimizer = graph.attrs.get("optimizer")
        loc = next(iter(gradients.values())).loc
        if not isinstance(optimizer, Mapping):
            raise PassError("the graph has gradients but no optimizer", location=loc, hint="give the TrainStep one")
        kind = str(optimizer.get("kind"))
        if kind not in _KINDS:
            raise PassError(f"unknown optimizer {kind!r}", location=loc, hint=suggest(kind, _KINDS))
        builder, new = continue_from(graph)
        states = {name: new[node] for name, node in graph.states().items()}
        for key, node in graph.outputs.items():
            if not key.startswith("grad:"):
                builder.output(key, new[node])
        adam = _Adam(builder, optimizer)
        for name, gradient in gradients.items():
            with builder.at(states[name].loc):
                adam.update(name, states[name], new[gradient])
        return builder.finish()


class _Adam:
    def __init__(self, builder: Builder, attrs: Mapping[str, object]) -> None:
        self.b = builder
        self.beta1, self.beta2, self.eps = (_number(attrs, key) for key in ("beta1", "beta2", "eps"))
        self.scalars: dict[str, Node] = {}

    def scalar(self, name: str) -> Node:
        if name not in self.scalars:
            self.scalars[name] = self.b.scalar(name)
        return self.scalars[name]

    def update(self, name: str, p: Node, g: Node) -> None:
        b = self.b
        m, v = b.state(FIRST_MOMENT + name, p.shape), b.state(SECOND_MOMENT + name, p.shape)
        m_new = b.add(b.mul(m, self.beta1), b.mul(g, 1.0 - self.beta1))
        v_new = b.add(b.mul(v, self.beta2), b.mul(b.mul(g, 1.0 - self.beta2), g))
        step = b.mul(b.mul(m_new, self.scalar("bc1")), self.scalar("lr"))
        size = b.add(b.sqrt(b.mul(v_new, self.scalar("bc2"))), self.eps)
        b.output(f"state:{name}", b.sub(p, b.div(step, size)))
        b.output(f"state:{FIRST_MOMENT}{name}", m_new)
        b.output(f"state:{SECOND_MOMENT}{name}", v_new)


def _number(attrs: Mapping[str, object], key: str) -> float:
    value = attrs.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PassError(f"the optimizer's {key} is {value!r}, not a number")
    return float(value)
