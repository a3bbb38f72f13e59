"""Names of the tensors that insert-smx quantises, so that each can be given bits of its own.

    0.weight                   the matrix of a linear layer; a tensor-train layer has one for each factor: 2.weight.0
    0.base, 0.delta            the rows that it multiplies, at the points and of the perturbed path; 2.delta.1 are the
                               rows between its factors 0 and 1. Even/odd DiffQuant: 2.delta.odd.0, 2.delta.even.0
    0.grad.base, 0.grad.delta  the adjoint of the product with these rows, which dX and dW both read
    2.core.0                   operands of the matmuls that contract a layer's cores, in order; 2.grad.core.0: the
                               adjoints of these products
    2.saved                    what is quantised for the backward pass alone (NUMERICS 6) behind this layer

A layer is called as its module in the network. The terms of a loss share these names: the evaluation of the solution
reads the same weights and base rows as training does, and one tensor has one precision. Values that get one name for
another reason (a layer that is applied twice) also share their bits; nothing else depends on names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cached_property

from pintac.errors import PassError, suggest
from pintac.ir import Graph, Node
from pintac.passes.expand_optimizer import MOMENTS

FIXED = "fixed"
"""The layer of weights that no parameter enters."""

WIDTHS = (4, 8, 12, 16)

_EVEN, _ODD = "even", "odd"
_KINDS = ("weight", "base", "delta", "grad", "core", "saved")
_WORDS = (*_KINDS, _EVEN, _ODD)
_LINEAR = ("reshape", "permute", "slice", "pad", "broadcast", "neg", "sum", "concat")


def layer_of(state: str) -> str:
    """The module that a parameter (or a moment of it) belongs to: `2` for `2.cores.1`, `trunk.0` for `trunk.0.bias`."""
    for prefix in MOMENTS:
        state = state.removeprefix(prefix)
    *module, name = state.split(".")
    if name.isdigit() and len(module) > 1:
        module.pop()
    return ".".join(module) or "-"


def split_name(tensor: str) -> tuple[str, str]:
    """(layer, kind) of a tensor's name: 2 and delta.odd of 2.delta.odd.1."""
    parts = tensor.split(".")
    start = len(parts)
    while start > 1 and (parts[start - 1] in _WORDS or parts[start - 1].isdigit()):
        start -= 1
    while parts[start] not in _KINDS:  # the layer's own number
        start += 1
    return ".".join(parts[:start]), ".".join(part for part in parts[start:] if not part.isdigit())


def role_of(tensor: str) -> str:
    """weight, base, delta or grad: whose bits a tensor has if it is given none of its own."""
    kind = split_name(tensor)[1].split(".")[0]
    return {"core": "weight", "saved": "delta"}.get(kind, kind)


class TensorNames:
    """The name of every matmul operand of a graph that is not quantised yet."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.layers = _layers(graph)
        self.names: dict[tuple[Node, str], str] = {}
        """(value, role) -> name."""
        self._parity: dict[Node, str | None] = {}
        self._row_products()
        self._gradients()
        self._cores()

    @cached_property
    def known(self) -> tuple[str, ...]:
        """Every name, in the order of first use, those for the backward pass alone last."""
        return tuple(dict.fromkeys([*self.names.values(), *(f"{layer}.saved" for layer in self._delta_layers)]))

    def saved(self, value: Node) -> str:
        """The name of a value that only the backward pass reads: that of the last layer it depends on."""
        seen: set[Node] = set()
        stack = [value]
        last: Node | None = None
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            if at.op == "matmul" and at.attrs["lhs_role"] == "delta":
                if last is None or self._order[at] > self._order[last]:
                    last = at
                continue
            stack.extend(at.operands)
        return f"{FIXED if last is None else self.layers.get(last.operands[1], FIXED)}.saved"

    @cached_property
    def _order(self) -> dict[Node, int]:
        return {node: index for index, node in enumerate(self.graph.nodes)}

    @cached_property
    def _delta_layers(self) -> list[str]:
        rows = [n for n in self.graph.of("matmul") if n.attrs["lhs_role"] == "delta"]
        return list(dict.fromkeys(self.layers.get(n.operands[1], FIXED) for n in rows))

    def _row_products(self) -> None:
        """Rows times weights: names of both, a factor of a layer numbered by its first use."""
        factors: dict[str, list[Node]] = {}
        products: list[tuple[Node, str, int]] = []
        for node in self.graph.of("matmul"):
            role, weight = str(node.attrs["lhs_role"]), node.operands[1]
            if role not in ("base", "delta") or node.attrs["rhs_role"] != "weight":
                continue
            layer = self.layers.get(weight, FIXED)
            known = factors.setdefault(layer, [])
            if weight not in known:
                known.append(weight)
            products.append((node, layer, known.index(weight)))
        halves: dict[tuple[str, int], set[str | None]] = {}
        for node, layer, index in products:
            if node.attrs["lhs_role"] == "delta":
                halves.setdefault((layer, index), set()).add(self._half(node.operands[0]))
        for node, layer, index in products:
            role, rows = str(node.attrs["lhs_role"]), node.operands[0]
            part = [str(index)] if len(factors[layer]) > 1 else []
            half = self._half(rows) if role == "delta" and len(halves[layer, index]) > 1 else None
            self._name(rows, role, [layer, role, *([half] if half else []), *part])
            self._name(node.operands[1], "weight", [layer, "weight", *part])

    def _gradients(self) -> None:
        """Adjoints, by the rows whose product they belong to; the layer is that of the dX matmul if there is one."""
        weights: dict[Node, str] = {}
        for node in self.graph.of("matmul"):
            if node.attrs["lhs_role"] == "grad":
                weights.setdefault(node.operands[0], self.names.get((node.operands[1], "weight"), ""))
        for node in self.graph.of("matmul_tn"):
            role, (rows, adjoint) = str(node.attrs["lhs_role"]), node.operands[:2]
            of_rows = self.names.get((rows, role))
            if role not in ("base", "delta") or of_rows is None:
                continue
            layer, _, rest = of_rows.rpartition(f".{role}")
            of_weight = weights.get(adjoint, "")
            if of_weight:  # rows that two layers read have the name of the first, their adjoints have not
                layer, _, index = of_weight.rpartition(".weight")
                halves = [part for part in rest.split(".") if part in (_EVEN, _ODD)]
                rest = "".join(f".{half}" for half in halves) + index
            self._name(adjoint, "grad", [layer, "grad", role + rest])

    def _cores(self) -> None:
        """Operands and adjoints of the contraction of cores, numbered in a layer."""
        count: dict[str, int] = {}
        for node in self.graph.of("matmul", "matmul_tn"):
            for operand, side in zip(node.operands, ("lhs_role", "rhs_role"), strict=False):
                role = str(node.attrs[side])
                if (operand, role) in self.names or not role:
                    continue
                other = node.operands[1 if operand is node.operands[0] else 0]
                layer = self.layers.get(operand) or self.layers.get(other) or FIXED
                stem = f"{layer}.core" if role == "weight" else f"{layer}.{role}.core"
                index = count.get(stem, 0)
                count[stem] = index + 1
                self._name(operand, role, [stem, str(index)])

    def _name(self, value: Node, role: str, parts: list[str]) -> None:
        self.names.setdefault((value, role), ".".join(parts))

    def _half(self, value: Node) -> str | None:
        """Whether a value of the perturbed path changes its sign with the perturbation; None where neither is plain.

        Drawn perturbations are odd and what does not depend on them is even; half sums and differences of a pair are
        taken at their word.
        """
        stack = [value]
        while stack:
            at = stack[-1]
            if at in self._parity:
                stack.pop()
                continue
            waiting = [operand for operand in at.operands if operand not in self._parity]
            if waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            self._parity[at] = self._parity_of(at)
        return self._parity[value]

    def _parity_of(self, node: Node) -> str | None:
        if node.op == "random":
            return _ODD
        found = [self._parity[operand] for operand in node.operands]
        if all(parity == _EVEN for parity in found):  # constants, weights, base rows
            return _EVEN
        if node.op == "mul":
            pair = half_of(node)
            if pair is not None and None in [self._parity[operand] for operand in node.operands[0].operands]:
                return _EVEN if pair == "add" else _ODD
            if None in found:
                return None
            return _EVEN if found[0] == found[1] else _ODD
        if node.op in ("matmul", "div") and found[1] == _EVEN:
            return found[0]
        if node.op in ("add", "sub", *_LINEAR):
            return found[0] if len(set(found)) == 1 else None
        return None


def half_of(node: Node) -> str | None:
    """`add` or `sub` for the half sum or half difference of two values, None for anything else."""
    if node.op != "mul":
        return None
    total, factor = node.operands
    if total.op not in ("add", "sub") or factor.op != "const" or factor.attrs["values"] != (0.5,):
        return None
    return total.op


def _layers(graph: Graph) -> dict[Node, str]:
    """Values that depend on parameters alone -> the layer of these."""
    found: dict[Node, list[str]] = {}
    constant: set[Node] = set()
    for node in graph.nodes:
        if node.op == "state":
            found[node] = [layer_of(str(node.attrs["name"]))]
        elif node.op in ("const", "data", "scalar"):
            constant.add(node)
        elif node.operands and all(operand in found or operand in constant for operand in node.operands):
            layers = [layer for operand in node.operands for layer in found.get(operand, ())]
            if layers:
                found[node] = list(dict.fromkeys(layers))
            else:
                constant.add(node)
    return {node: "+".join(_label(layer) for layer in layers) for node, layers in found.items()}


def _label(layer: str) -> str:
    """A layer's name without the words that follow it in names of tensors: a module called `base` is `base_`."""
    return ".".join(f"{part}_" if part in _WORDS else part for part in layer.split("."))


def parse_bits(text: str) -> dict[str, int]:
    """`2.delta.0=4, *.base=16` as pattern -> bits, in order. Raises PassError for what cannot be read."""
    found: dict[str, int] = {}
    for item in text.split(","):
        if not item.strip():
            continue
        name, equals, bits = (part.strip() for part in item.partition("="))
        if not (name and equals) or bits not in map(str, WIDTHS):
            raise PassError(
                f"insert-smx: cannot read {item.strip()!r} in bits", hint='bits="NAME=4,...", 4, 8, 12 or 16 bits'
            )
        if name in found:
            raise PassError(f"insert-smx: bits of {name!r} are given twice")
        found[name] = int(bits)
    return found


def print_bits(bits: Mapping[str, int]) -> str:
    """The text that `parse_bits` reads."""
    return ",".join(f"{name}={width}" for name, width in bits.items())


def resolve_bits(patterns: Mapping[str, int], known: Iterable[str], strict: bool) -> dict[str, int]:
    """Name -> bits for the names that a pattern matches (`*` any characters); of several patterns the last counts.

    With `strict`, raises PassError for a pattern that matches nothing.
    """
    names = list(known)
    found: dict[str, int] = {}
    for pattern, width in patterns.items():
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if strict and not matched:
            raise PassError(f"insert-smx: no tensor is called {pattern!r}", hint=suggest(pattern, names))
        found |= dict.fromkeys(matched, width)
    return found
