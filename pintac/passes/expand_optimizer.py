"""expand-optimizer: the gradients become the next parameters and moments, element by element, in fp32.

Adam, with c1 = 1 / (1 - beta1^t) and c2 = 1 / (1 - beta2^t) from the parameter block (t counts from 1):

    m' = beta1 m + (1 - beta1) g
    v' = beta2 v + ((1 - beta2) g) g
    p' = p - (lr (m' c1)) / (sqrt(v' c2) + eps)

AdamW, with keep = 1 - lr weight_decay from the parameter block: the same with keep p in place of p in the last line.

SGD, where `momentum` is 0 with d = h in place of the second and third line:

    h  = g + weight_decay p
    b' = momentum b + h
    d  = b'  (nesterov: h + momentum b')
    p' = p - lr d

in exactly this order of operations. They equal those of torch.optim up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pintac.errors import PassError, suggest
from pintac.ir import Builder, Graph, Node
from pintac.passes.base import Pass
from pintac.passes.dataflow import continue_from

FIRST_MOMENT, SECOND_MOMENT, MOMENTUM = "adam.m:", "adam.v:", "sgd.b:"
MOMENTS = (FIRST_MOMENT, SECOND_MOMENT, MOMENTUM)
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
        if kind not in _RULES:
            raise PassError(f"unknown optimizer {kind!r}", location=loc, hint=suggest(kind, list(_RULES)))
        builder, new = continue_from(graph)
        states = {name: new[node] for name, node in graph.states().items()}
        for key, node in graph.outputs.items():
            if not key.startswith("grad:"):
                builder.output(key, new[node])
        rule = _RULES[kind](builder, optimizer)
        for name, gradient in gradients.items():
            with builder.at(states[name].loc):
                rule.update(name, states[name], new[gradient])
        return builder.finish()


class _Rule:
    """What becomes of one parameter p and its gradient g."""

    def __init__(self, builder: Builder, attrs: Mapping[str, object]) -> None:
        self.b = builder
        self.scalars: dict[str, Node] = {}

    def scalar(self, name: str) -> Node:
        if name not in self.scalars:
            self.scalars[name] = self.b.scalar(name)
        return self.scalars[name]

    def update(self, name: str, p: Node, g: Node) -> None:
        raise NotImplementedError


class _Adam(_Rule):
    def __init__(self, builder: Builder, attrs: Mapping[str, object]) -> None:
        super().__init__(builder, attrs)
        self.beta1, self.beta2, self.eps = (_number(attrs, key) for key in ("beta1", "beta2", "eps"))

    def kept(self, p: Node) -> Node:
        return p

    def update(self, name: str, p: Node, g: Node) -> None:
        b = self.b
        m, v = b.state(FIRST_MOMENT + name, p.shape), b.state(SECOND_MOMENT + name, p.shape)
        m_new = b.add(b.mul(m, self.beta1), b.mul(g, 1.0 - self.beta1))
        v_new = b.add(b.mul(v, self.beta2), b.mul(b.mul(g, 1.0 - self.beta2), g))
        step = b.mul(b.mul(m_new, self.scalar("bc1")), self.scalar("lr"))
        size = b.add(b.sqrt(b.mul(v_new, self.scalar("bc2"))), self.eps)
        b.output(f"state:{name}", b.sub(self.kept(p), b.div(step, size)))
        b.output(f"state:{FIRST_MOMENT}{name}", m_new)
        b.output(f"state:{SECOND_MOMENT}{name}", v_new)


class _AdamW(_Adam):
    def kept(self, p: Node) -> Node:
        return self.b.mul(p, self.scalar("keep"))


class _SGD(_Rule):
    def __init__(self, builder: Builder, attrs: Mapping[str, object]) -> None:
        super().__init__(builder, attrs)
        self.momentum, self.weight_decay = (_number(attrs, key) for key in ("momentum", "weight_decay"))
        self.nesterov = attrs.get("nesterov") is True

    def update(self, name: str, p: Node, g: Node) -> None:
        b = self.b
        if self.weight_decay:
            g = b.add(g, b.mul(p, self.weight_decay))
        moved = g
        if self.momentum:
            moved = b.add(b.mul(b.state(MOMENTUM + name, p.shape), self.momentum), g)
        step = b.add(g, b.mul(moved, self.momentum)) if self.nesterov else moved
        b.output(f"state:{name}", b.sub(p, b.mul(step, self.scalar("lr"))))
        if self.momentum:
            b.output(f"state:{MOMENTUM}{name}", moved)


_RULES: Mapping[str, type[_Rule]] = {"adam": _Adam, "adamw": _AdamW, "sgd": _SGD}


def _number(attrs: Mapping[str, object], key: str) -> float:
    value = attrs.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PassError(f"the optimizer's {key} is {value!r}, not a number")
    return float(value)
