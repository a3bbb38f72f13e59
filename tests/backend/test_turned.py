"""Loops whose last tile is half a turn behind run every tile, each half once and in order; where a body is cut."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pintac.backend.grouping.fuse import NodeStep, Step
from pintac.backend.grouping.units import storage_bytes
from pintac.backend.scheduling.turned import UNEVEN, Turn, crossing, made, middle, read, turn
from pintac.ir import Builder, Location, Node


def halves(at: Turn) -> list[tuple[int, int, str]]:
    """(first row, rows, half) in the order in which the program runs them."""
    out = [(0, at.rows, "early")]
    for i in range(at.count):
        first = i * at.step
        out.append((first, at.rows, "late"))
        for tile in range(1, at.tiles):
            out += [(first + tile * at.rows, at.rows, "early"), (first + tile * at.rows, at.rows, "late")]
        out.append((first + at.step, at.rows, "early"))
    out.append((at.count * at.step, at.rows, "late"))
    for first, rows in at.rest:
        out += [(first, rows, "early"), (first, rows, "late")]
    return out


@given(st.integers(1, 400), st.integers(1, 8).map(lambda n: 4 * n), st.integers(1, 4))
def test_every_row_once_in_order(size: int, rows: int, tiles: int) -> None:
    at = turn(size, rows, tiles)
    if at is None:
        assert tiles < 2 or size // rows < 2 * tiles + 1
        return
    for half in ("early", "late"):
        found = [(first, n) for first, n, h in halves(at) if h == half]
        assert [first for first, _ in found] == list(range(0, size, rows))
        assert all(n == min(rows, size - first) for first, n in found)
    run = [(first, half) for first, _, half in halves(at)]
    assert all(run.index((first, "early")) < run.index((first, "late")) for first, _ in run)


@st.composite
def chains(draw: st.DrawFn) -> list[Step]:
    """Steps that read values of earlier ones, and a value from outside."""
    b = Builder("g")
    with b.at(Location("net.py", 12)):
        values = [b.input("x", (4, 4))]
        for _ in range(draw(st.integers(1, 9))):
            parts = [draw(st.sampled_from(values)) for _ in range(draw(st.integers(1, 2)))]
            joined = b.concat(parts, 1)
            values.append(b.slice(joined, 1, 0, draw(st.integers(1, min(4, joined.shape[1])))))
    return [NodeStep(node) for node in b.finish().nodes if node.op == "concat"]


def kept(steps: Sequence[Step], cut: int) -> set[Node]:
    """By the definition: what somebody before the cut makes and somebody behind it reads."""
    late = {node for step in steps[cut:] for node in read(step)}
    return {node for step in steps[:cut] for node in made(step)} & late


@given(chains(), st.data())
def test_a_body_is_cut_where_least_crosses(steps: list[Step], data: st.DataObject) -> None:
    costs = data.draw(st.lists(st.floats(1, 10), min_size=len(steps), max_size=len(steps)))
    whole = {node for step in steps for node in made(step) if data.draw(st.booleans())}
    assert all(set(crossing(steps, cut)) == kept(steps, cut) for cut in range(len(steps) + 1))
    half = sum(costs) / 2
    near = [cut for cut in range(1, len(steps)) if abs(sum(costs[:cut]) - half) < 2 * UNEVEN * half]
    fine = [cut for cut in near if not kept(steps, cut) & whole]
    cut = middle(steps, costs, whole)
    if not fine:
        assert cut is None
        return
    sizes = {at: sum(storage_bytes(node) for node in kept(steps, at)) for at in fine}
    assert cut in fine and sizes[cut] == min(sizes.values())
