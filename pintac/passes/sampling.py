"""Which perturbed evaluations an estimator makes at one tensor of points (NUMERICS 7).

The K evaluations of a point are K / 2 antithetic pairs, divided into groups; all operators on one (u, x) share them.

- `stein`: one group, every column of x perturbed.
- `second-difference`: the sum of (u+ + u- - 2u) gives the Laplacian over *all* perturbed columns, so every range of
  columns with a Laplacian of its own is a group of its own (normally there is one). Time columns, and columns that no
  Laplacian covers, are left out of delta; if something needs a derivative along one, it has one pair of its own,
  +-sigma along that column. These pairs count: the K evaluations are K in total. Without any Laplacian one group
  perturbs every column but time.

A group is evaluated by itself, padded by itself: no SMX block mixes its rows with another group's (NUMERICS 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pintac.errors import PassError, suggest
from pintac.ir import Location

STREAM_DELTA = 2
"""Philox stream of perturbations (NUMERICS 8)."""

KINDS = ("stein", "second-difference")

_TERMS, _POINTS, _GROUPS = 256, 16, 16
"""How many loss terms, point tensors of a term and groups at one x have draws of their own: 16 bits in all."""


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
class Group:
    """Pairs that perturb the same columns. `key` numbers the random draw; None: one pair +-sigma along one column."""

    columns: tuple[int, ...]
    pairs: int
    key: int | None

    def positions(self, start: int, stop: int) -> tuple[int, int] | None:
        """Where the columns start..stop of x stand among `columns`; None when there are none."""
        inside = [index for index, column in enumerate(self.columns) if start <= column < stop]
        return (inside[0], inside[-1] + 1) if inside else None


@dataclass
class Demand:
    """What the operators on one x ask for: ranges of columns with a Laplacian, ranges with first derivatives."""

    laplacians: list[tuple[int, int]]
    gradients: list[tuple[int, int]]


def draw_key(term: int, points: int, group: int, loc: Location) -> int:
    """The `term` of a draw: the loss term's number for its first points and first group, else a number of its own.

    Machine code has 16 bits for it (it shares a word with the stream); raises PassError when they do not suffice.
    """
    limits = ((term, _TERMS, "loss terms"), (points, _POINTS, "point tensors with derivatives in one term"))
    for number, limit, what in (*limits, (group, _GROUPS, "Laplacians over different columns at one x")):
        if number >= limit:
            raise PassError(f"more than {limit} {what}", location=loc)
    return term + _TERMS * (points + _POINTS * group)


def plan_groups(
    estimator: Estimator, dims: int, demand: Demand, term: int, points: int, loc: Location
) -> tuple[Group, ...]:
    """The groups of pairs at points with `dims` columns, in order of their columns.

    `term` is the number of the loss term, `points` numbers the point tensors within it. Raises PassError when the
    pairs do not suffice.
    """
    if estimator.kind == "stein":
        return (Group(tuple(range(dims)), estimator.pairs, draw_key(term, points, 0, loc)),)
    time = set(estimator.time)
    blocks = _blocks(dims, demand.laplacians, time)
    covered = {column for block in blocks for column in block}
    if not blocks:
        rest = tuple(column for column in range(dims) if column not in time)
        blocks = [rest] if rest and _touches(rest, demand.gradients) else []
        covered = set(rest)
    wanted = demand.gradients + demand.laplacians
    alone = [column for column in range(dims) if column not in covered and _touches((column,), wanted)]
    random_pairs = estimator.pairs - len(alone)
    if random_pairs < len(blocks):
        needed = 2 * (len(blocks) + len(alone))
        raise PassError(
            f"K = {estimator.evaluations} evaluations are too few: these derivatives need at least {needed}",
            location=loc,
            hint="raise K of the estimator",
        )
    groups: list[Group] = []
    for index, block in enumerate(blocks):
        share = random_pairs // len(blocks) + (index < random_pairs % len(blocks))
        groups.append(Group(block, share, draw_key(term, points, index, loc)))
    groups += [Group((column,), 1, None) for column in alone]
    return tuple(sorted(groups, key=lambda group: group.columns))


def _touches(columns: Sequence[int], ranges: Sequence[tuple[int, int]]) -> bool:
    return any(start <= column < stop for column in columns for start, stop in ranges)


def _blocks(dims: int, ranges: Sequence[tuple[int, int]], time: set[int]) -> list[tuple[int, ...]]:
    """The columns that a Laplacian covers, cut wherever one begins or ends, time left out."""
    by_cover: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for column in range(dims):
        cover = tuple(r for r in ranges if r[0] <= column < r[1])
        if cover and column not in time:
            by_cover.setdefault(tuple(sorted(set(cover))), []).append(column)
    return sorted(tuple(columns) for columns in by_cover.values())
