"""Which perturbed evaluations an estimator makes at one tensor of points (NUMERICS 7).

The K evaluations of a point are K / 2 antithetic pairs, the rows of one perturbed evaluation [N, 2, P, d]; all
operators on one (u, x) share them. Rows are divided into blocks that perturb the same columns:

- `stein`: one block, every column of x perturbed.
- the others estimate the Laplacian by u+ + u- - 2u, which sums over *all* perturbed columns: every range of columns
  with a Laplacian of its own is a block of its own (normally there is one). Time columns, and columns that no Laplacian
  covers, are left out; if something needs a derivative along one, it has one pair of its own, +-sigma along that
  column, after the blocks. These pairs count: the K evaluations are K in total. Without any Laplacian one block
  perturbs every column but time.

How a block's directions are drawn is `directions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pintac.errors import PassError, suggest
from pintac.ir import Location

STREAM_DELTA = 2
"""Philox stream of perturbations (NUMERICS 8)."""

KINDS = ("stein", "second-difference", "orthonormal", "quasi-random")
"""Estimators: the Stein Laplacian, and second differences along normal, orthonormal and quasi-random directions.

Every list of estimators is this one: the classes of the frontend, and what each draws (`directions`).
"""

_TERMS, _POINTS, _BLOCKS = 256, 16, 16
"""How many loss terms, point tensors of a term and blocks at one x have draws of their own: 16 bits in all."""


@dataclass(frozen=True)
class Estimator:
    """How derivatives are sampled: `kind`, K evaluations a point, `sigma`, columns of x that are time."""

    kind: str
    evaluations: int
    sigma: float
    time: tuple[int, ...] = ()

    @property
    def pairs(self) -> int:
        return self.evaluations // 2

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any], loc: Location) -> Estimator:
        """From `graph.attrs["estimator"]`; raises PassError for an estimator that is missing or cannot be."""
        given = attrs.get("estimator")
        if not isinstance(given, Mapping):
            raise PassError(
                "the graph has derivatives but no estimator", location=loc, hint="give the TrainStep an estimator"
            )
        kind, evaluations, sigma = str(given.get("kind")), given.get("K"), given.get("sigma")
        if kind not in KINDS:
            raise PassError(f"unknown estimator {kind!r}", location=loc, hint=suggest(kind, list(KINDS)))
        if not isinstance(evaluations, int) or evaluations < 2 or evaluations % 2:
            raise PassError(f"K = {evaluations!r}: evaluations come in pairs, K must be even", location=loc)
        if not isinstance(sigma, (int, float)) or not sigma > 0:
            raise PassError(f"sigma = {sigma!r}: must be a positive number", location=loc)
        return cls(kind, evaluations, float(sigma), tuple(int(column) for column in given.get("time_dims", ())))


@dataclass(frozen=True)
class Block:
    """Rows start..stop of the pairs perturb the same columns at random. `key` numbers the random draw."""

    columns: tuple[int, ...]
    start: int
    stop: int
    key: int

    @property
    def pairs(self) -> int:
        return self.stop - self.start

    def positions(self, start: int, stop: int) -> tuple[int, int] | None:
        """Where the columns start..stop of x stand among `columns`; None when there are none."""
        inside = [index for index, column in enumerate(self.columns) if start <= column < stop]
        return (inside[0], inside[-1] + 1) if inside else None


@dataclass(frozen=True)
class Plan:
    """The rows of the perturbed evaluation at one x: blocks, then a pair +-sigma along each of the columns `alone`."""

    blocks: tuple[Block, ...]
    alone: tuple[int, ...]

    @property
    def pairs(self) -> int:
        return sum(block.pairs for block in self.blocks) + len(self.alone)

    def row(self, column: int) -> int:
        """The row of a column that has a pair of its own."""
        return self.pairs - len(self.alone) + self.alone.index(column)


@dataclass
class Demand:
    """What the operators on one x ask for: ranges of columns with a Laplacian, ranges with first derivatives."""

    laplacians: list[tuple[int, int]]
    gradients: list[tuple[int, int]]


def draw_key(term: int, points: int, block: int, loc: Location) -> int:
    """The `term` of a draw: the loss term's number for its first points and first block, else a number of its own.

    Machine code has 16 bits for it (it shares a word with the stream); raises PassError when they do not suffice.
    """
    limits = ((term, _TERMS, "loss terms"), (points, _POINTS, "point tensors with derivatives in one term"))
    for number, limit, what in (*limits, (block, _BLOCKS, "Laplacians over different columns at one x")):
        if number >= limit:
            raise PassError(f"more than {limit} {what}", location=loc)
    return term + _TERMS * (points + _POINTS * block)


def plan_rows(estimator: Estimator, dims: int, demand: Demand, term: int, points: int, loc: Location) -> Plan:
    """The rows of pairs at points with `dims` columns: blocks in order of their columns, then single pairs.

    `term` is the number of the loss term, `points` numbers the point tensors within it. Raises PassError when the
    pairs do not suffice.
    """
    if estimator.kind == "stein":
        return Plan((Block(tuple(range(dims)), 0, estimator.pairs, draw_key(term, points, 0, loc)),), ())
    time = set(estimator.time)
    ranges = _ranges(dims, demand.laplacians, time)
    covered = {column for columns in ranges for column in columns}
    if not ranges:
        rest = tuple(column for column in range(dims) if column not in time)
        ranges = [rest] if rest and _touches(rest, demand.gradients) else []
        covered = set(rest)
    wanted = demand.gradients + demand.laplacians
    alone = tuple(column for column in range(dims) if column not in covered and _touches((column,), wanted))
    random_pairs = estimator.pairs - len(alone)
    if random_pairs < len(ranges):
        needed = 2 * (len(ranges) + len(alone))
        raise PassError(
            f"K = {estimator.evaluations} evaluations are too few: these derivatives need at least {needed}",
            location=loc,
            hint="raise K of the estimator",
        )
    blocks: list[Block] = []
    start = 0
    for index, columns in enumerate(ranges):
        stop = start + random_pairs // len(ranges) + (index < random_pairs % len(ranges))
        blocks.append(Block(columns, start, stop, draw_key(term, points, index, loc)))
        start = stop
    return Plan(tuple(blocks), alone)


def _touches(columns: Sequence[int], ranges: Sequence[tuple[int, int]]) -> bool:
    return any(start <= column < stop for column in columns for start, stop in ranges)


def _ranges(dims: int, ranges: Sequence[tuple[int, int]], time: set[int]) -> list[tuple[int, ...]]:
    """The columns that a Laplacian covers, cut wherever one begins or ends, time left out."""
    by_cover: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for column in range(dims):
        cover = tuple(r for r in ranges if r[0] <= column < r[1])
        if cover and column not in time:
            by_cover.setdefault(tuple(sorted(set(cover))), []).append(column)
    return sorted(tuple(columns) for columns in by_cover.values())
