"""Loops whose last tile is half a turn behind run every tile, each half once and in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pintac.backend.scheduling.turned import Turn, turn


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
