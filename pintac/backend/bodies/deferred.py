"""Weight gradients with loops of their own, behind those that make what they are sums of.

A gradient that SRAM has no room for beside the work on activations would go through DRAM at every loop body, for every
body adds to all of it. Its operands are quantised and a few bytes an element: writing them once and reading them back
in a loop that does nothing else takes fewer bytes as soon as a gradient is larger than the operands of a few bodies. So
the gradient's whole chain (the rows of every point set, in the order in which NUMERICS 2 adds them) becomes one
*deferred* unit: the accumulator is in SRAM alone with tiles of both operands. One that is too large even then is cut
along its columns, and each strip has loops over all rows.

In DRAM the operands' rows are one matrix: every group of rows begins on a block, and what pads it is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pintac.backend.grouping.kinds import VIEWS, root
from pintac.backend.grouping.units import Units, accumulator
from pintac.backend.tiles import vpu
from pintac.backend.tiles.tile import Buffer, CopyOp, Item, Loop, MatmulOp, TileOp, View
from pintac.backend.tiles.views import apply, column_parts, compact_size, compact_view, narrow, row_blocks
from pintac.ir import Graph, Node
from pintac.isa import Space

STRIP = 0.7
"""Part of SRAM that the accumulator of a strip may take."""

LEAST_ROWS = 16
"""Rows of a tile below which results take longer to write than to compute."""

Chain = tuple[Node, ...]


def chain_of(graph: Graph, node: Node) -> Chain:
    """`node` and the contractions that go on from its result, as far as nothing else reads it."""
    links = [node]
    outputs = set(graph.outputs.values())
    while links[-1] not in outputs:
        users = graph.users(links[-1])
        if len(users) != 1 or users[0].op != "matmul_tn" or accumulator(users[0]) is not links[-1]:
            break
        links.append(users[0])
    return tuple(links)


def deferrable(chain: Chain, units: Units) -> bool:
    """Whether every link's operands are quantised rows that can lie in DRAM as one matrix, and none is an output."""
    outputs = set(units.graph.outputs.values())
    for link in chain:
        sources = [root(o) for o in link.operands[:2]]
        if link.op != "matmul_tn" or link in outputs or any(s not in units.of for s in sources):
            return False
        if any(units.of[s][0].kind not in ("points", "evaluations") for s in sources):
            return False
        if not all(o.type.is_smx for o in link.operands[:2]):
            return False
        views = [rows_in(compact_view(Buffer("", 0, root(o).type.bits), root(o).shape), o) for o in link.operands[:2]]
        if views[0] is None or views[1] is None or views[0].shape[0] != views[1].shape[0]:
            return False
    return accumulator(chain[0]) is None


def rows_in(whole: View, operand: Node) -> View | None:
    """`operand`, views of the value that lies in `whole`, as a matrix of all its rows; None where they are apart."""
    chain: list[Node] = []
    node = operand
    while node.op in VIEWS:
        chain.append(node)
        node = node.operands[0]
    view = whole
    for step in reversed(chain):
        view = apply(step, view, step.shape)
    found = list(row_blocks(view, view))
    return found[0][0] if len(found) == 1 and view.strides[-1] == 1 else None


def strips(shape: tuple[int, ...], capacity: int) -> list[tuple[int, int]]:
    """(first column, columns) of the parts of an accumulator that are in SRAM at a time."""
    rows, cols = shape
    return column_parts(cols, -(-4 * rows * cols // int(STRIP * capacity)))


@dataclass(frozen=True)
class Tiles:
    """Rows of a tile and tiles of a loop body."""

    rows: int = 64
    count: int = 2

    def smaller(self) -> Tiles:
        """The next smaller ones; the smallest are their own."""
        if self.rows > LEAST_ROWS:
            return Tiles(self.rows // 2, self.count)
        return Tiles(self.rows, max(1, self.count // 2))

    def halved(self, times: int) -> Tiles:
        """Those so many times smaller."""
        return self.smaller().halved(times - 1) if times else self


def deferred_unit(
    chain: Chain,
    accumulator_of: Buffer,
    operand: Callable[[Node], View],
    tiles: Tiles,
    capacity: int,
    tile_buffer: Callable[[Buffer], None],
    ordered: Callable[[list[TileOp], int], list[TileOp]],
) -> list[Item]:
    """The loops of a chain whose result goes to `accumulator_of`.

    `operand` says where an operand lies in DRAM, `tile_buffer` is told of buffers of loop bodies and `ordered` puts the
    operations of a body that runs so many times in order.
    """
    shape = chain[0].type.shape
    whole = compact_view(accumulator_of, shape)
    items: list[Item] = []
    in_dram = accumulator_of.space == Space.DRAM
    for start, cols in strips(shape, capacity) if in_dram else [(0, shape[1])]:
        part = narrow(whole, 1, start, cols)
        target = part
        if in_dram:
            target = compact_view(Buffer(f"{chain[-1].name}.{start}", shape[0] * cols), part.shape)
        items.append(vpu.fill(0.0, target, f"start {chain[0].name}", chain[0].loc))
        for link in chain:
            a, g = (rows_in(operand(o), o) for o in link.operands[:2])
            assert a is not None and g is not None
            items += _rows(link, a, narrow(g, 1, start, cols), target, tiles, tile_buffer, ordered)
        if in_dram:
            items.append(CopyOp(f"store {chain[-1].name}", chain[-1].loc, target, part))
    return items


def _rows(
    link: Node,
    a: View,
    g: View,
    target: View,
    tiles: Tiles,
    tile_buffer: Callable[[Buffer], None],
    ordered: Callable[[list[TileOp], int], list[TileOp]],
) -> Iterator[Item]:
    """Loops that add the products of all rows onto `target`."""
    group = tiles.rows * tiles.count
    size = a.shape[0]
    full, rest = divmod(size, group)

    def body(first: int, extents: Sequence[int], trips: int) -> list[TileOp]:
        ops: list[TileOp] = []
        at = first
        for i, extent in enumerate(extents):
            local = []
            for name, whole in (("left", a), ("right", g)):
                remote = narrow(whole, 0, at, extent, (0, group) if trips > 1 else None)
                bits = whole.bits
                buffer = Buffer(f"{link.name}.{name}{i}", compact_size(remote.shape, bits), bits)
                tile_buffer(buffer)
                local.append(compact_view(buffer, remote.shape))
                ops.append(CopyOp(f"load {whole.buffer.name}", link.loc, remote, local[-1]))
            m, n = target.shape
            ops.append(
                MatmulOp(link.name, link.loc, local[0], local[1], target, m, n, extent, ta=True, accumulate=True)
            )
            at += extent
        return ordered(ops, trips)

    if full:
        ops = body(0, [tiles.rows] * tiles.count, full)
        if full > 1:
            yield Loop(0, full, list(ops), name=f"rows of {link.name}")
        else:
            yield from ops
    if rest:
        extents = [min(tiles.rows, rest - at) for at in range(0, rest, tiles.rows)]
        yield from body(full * group, extents, 1)
