"""Networks with every op that may stand between the points and u, for tests that compare two forms of a graph."""

from __future__ import annotations

from collections.abc import Mapping

from pintac.ir import Builder, Node
from tests.passes.models import Net, linear, mlp, tt_linear


def gated(b: Builder, x: Node) -> Node:
    """A product of two perturbed values, and a residual connection."""
    h = b.tanh(linear(b, x, "in", 6))
    gate = b.sigmoid(linear(b, h, "gate", 6))
    return linear(b, b.add(h, b.mul(gate, b.tanh(linear(b, h, "value", 6)))), "out", 1)


def silu(b: Builder, x: Node) -> Node:
    z = linear(b, x, "in", 5)
    return linear(b, b.mul(z, b.sigmoid(z)), "out", 2)


def quotient(b: Builder, x: Node) -> Node:
    h = b.tanh(linear(b, x, "in", 5))
    bell = b.div(1.0, b.add(b.mul(h, h), 1.5))
    return linear(b, b.div(b.sub(h, b.mul(bell, 0.5)), b.add(b.exp(h), 1.0)), "out", 1)


def pieces(b: Builder, x: Node) -> Node:
    """Concatenation with the points themselves, slices, reductions, negation, broadcasts."""
    n = x.shape[0]
    h = b.sin(linear(b, x, "in", 6))
    left, right = b.slice(h, 1, 0, 3), b.slice(h, 1, 3, 6)
    mean = b.mul(b.sum(h, (1,), keepdims=True), 1 / 6)
    joined = b.concat([b.neg(b.sub(left, right)), b.broadcast(mean, (n, 2)), x, b.pad(left, 1, 1, 0)], 1)
    folded = b.sum(b.permute(b.reshape(b.cos(joined), (n, joined.shape[1], 1)), (0, 2, 1)), (1,))
    return linear(b, folded, "out", 1)


def powers(b: Builder, x: Node) -> Node:
    """log and sqrt of positive values, and a branch decided by a value that is not perturbed."""
    z = linear(b, x, "in", 4)
    positive = b.add(b.mul(z, z), 1.0)
    side = b.random("uniform", 5, 0, (x.shape[0], 4))
    chosen = b.select(b.compare("gt", side, 0.5), b.log(positive), b.sqrt(positive))
    return linear(b, chosen, "out", 1)


def constrained(b: Builder, x: Node) -> Node:
    """g(x) + d(x) net(x): a hard boundary constraint."""
    x0 = b.slice(x, 1, 0, 1)
    d = b.mul(x0, b.sub(1.0, x0))
    return b.add(b.sin(x0), b.mul(d, mlp(5, 5, 1)(b, x)))


def tensor_train(b: Builder, x: Node) -> Node:
    h = b.tanh(linear(b, x, "in", 6))
    h = b.tanh(tt_linear(b, h, "tt", (2, 3), (3, 2), (2, 3, 2)))
    return linear(b, h, "out", 1)


NETWORKS: Mapping[str, Net] = {
    "mlp": mlp(7, 5, 1),
    "deep": mlp(4, 4, 4, 4, 4, 4, 1),
    "one layer": mlp(1),
    "sin": mlp(5, 5, 2, activation="sin"),
    "cos": mlp(5, 3, activation="cos"),
    "exp": mlp(5, 1, activation="exp"),
    "sigmoid": mlp(6, 6, 1, activation="sigmoid"),
    "gated": gated,
    "silu": silu,
    "quotient": quotient,
    "pieces": pieces,
    "powers": powers,
    "constrained": constrained,
    "tensor train": tensor_train,
}
"""Networks of x [N, 2]."""
