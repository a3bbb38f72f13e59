"""An entry to be scheduled, and what is decided about it before its operations are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pintac.backend.bodies.deferred import Chain
from pintac.backend.bodies.tiling import Tiling
from pintac.backend.tiles.tile import Buffer
from pintac.ir import Graph, Node
from pintac.machine import Machine


@dataclass(frozen=True)
class Entry:
    """One entry of a program: its graph, and where DRAM has its leaves (states, inputs, arrays) and outputs by key.

    `again` is what the graph computes a second time (see `recompute`).
    """

    graph: Graph
    machine: Machine
    leaves: Mapping[Node, Buffer]
    outputs: Mapping[str, Buffer]
    again: frozenset[Node] = frozenset()


@dataclass(frozen=True)
class Choices:
    """What makes an entry fit.

    `spilled` are values kept in DRAM because SRAM is short, `not_in_psum` matmuls whose results go to SRAM though they
    would fit PSUM, `rooms` bytes of SRAM by unit for what belongs to a loop body alone, `deferred` gradients that are
    folded in loops of their own. Parameters of more than `whole` bytes are worked on in loops over their rows; None: of
    as many as SRAM has room for in most networks.
    """

    tiling: Tiling
    spilled: frozenset[Node] = frozenset()
    not_in_psum: frozenset[Node] = frozenset()
    rooms: Mapping[str, int] = field(default_factory=dict)
    deferred: tuple[Chain, ...] = ()
    whole: int | None = None
