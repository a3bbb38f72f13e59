"""How much of the gradient a low rank can follow.

A layer W = B A of rank R can, to first order, only change within the tangent space of the matrices of its rank. P is
the projection onto it; G the gradient of the loss with respect to the whole W. From two halves of the points of a step,
<P G1, P G2> / <G1, G2> estimates the share of |E G|^2 that the rank can follow: noise of sampling has no part in it,
because the halves are independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pintac.ir import Graph, Node
from pintac.ir.evaluate import Array
from pintac.report.purpose import Purpose

_VIEWS = ("quantize", "reshape", "permute", "decode")


@dataclass(frozen=True)
class Factored:
    """A use of a layer W = B A: rows X, factors B and A, adjoint rows G of X B A, all quantised."""

    x: Node
    b: Node
    a: Node
    g: Node


@dataclass(frozen=True)
class Followed:
    """Products of the gradients of two halves of a step: whole, within the tangent space, each with itself."""

    whole: float
    within: float
    own: float
    rank: int


def factored(graph: Graph, purposes: Mapping[str, Purpose]) -> dict[str, list[Factored]]:
    """The layers that are products of two factors (PRS), with every use of them."""
    found: dict[str, list[Factored]] = {}
    for node in graph.of("matmul_tn"):
        z, g = node.operands[:2]
        first = z
        while first.op in _VIEWS:
            first = first.operands[0]
        if node.attrs["rhs_role"] != "grad" or first.op != "matmul" or first.attrs["lhs_role"] not in ("base", "delta"):
            continue
        seconds = [u for u in graph.users(z) if u.op == "matmul" and u.operands[0] is z]
        layer = purposes.get(first.name, ("", ""))[0]
        if seconds and layer == purposes.get(seconds[0].name, ("-", ""))[0]:
            use = Factored(first.operands[0], first.operands[1], seconds[0].operands[1], g)
            found.setdefault(layer, []).append(use)
    return found


def followed(uses: list[Factored], values: Mapping[Node, Array]) -> Followed:
    """From the decoded values of the nodes of `uses`, halves by points."""
    halves = []
    for first in (True, False):
        total: Array = np.zeros((values[uses[0].b].shape[0], values[uses[0].a].shape[1]))
        for use in uses:
            x, g = values[use.x], values[use.g]
            middle = len(x) // 2
            part = slice(None, middle) if first else slice(middle, None)
            total = total + x[part].reshape(-1, x.shape[-1]).T @ g[part].reshape(-1, g.shape[-1])
        halves.append(total)
    u = np.linalg.qr(values[uses[0].b])[0]
    v = np.linalg.qr(values[uses[0].a].T)[0]
    inside = []
    for g in halves:
        left = u @ (u.T @ g)
        inside.append(left + (g - left) @ v @ v.T)
    own = float(np.linalg.norm(halves[0]) * np.linalg.norm(halves[1]))
    rank = int(values[uses[0].b].shape[1])
    return Followed(float((halves[0] * halves[1]).sum()), float((inside[0] * inside[1]).sum()), own, rank)
