"""Where the collocation points of a term are drawn.

A sampler emits IR over the counter-based random numbers of NUMERICS 8, and `sample` evaluates that same IR: the
compiled step, the float twin and the test set see identical fp32 points.

Keys: the k-th random tensor of term number i (in the order of `Problem.terms`) is drawn with
`term = DRAWS_PER_TERM * i + k` in the stream `STREAM_POINTS` while training and `STREAM_TEST` for the test set.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pintac.errors import ModelError, PintacError
from pintac.frontend.locate import function_location, user_code, user_location
from pintac.frontend.numbers import as_array, as_count, as_real
from pintac.ir import Builder, Location, Node
from pintac.ir.evaluate import evaluate
from pintac.points_file import read_points
from pintac.rng import STREAM_POINTS

DRAWS_PER_TERM = 16
"""Random tensors that the sampler of one term may use."""

POINTS = "points."
"""The beginning of the names of arrays that have a row for each point of a term."""

Interval = tuple[float, float]


class Draws:
    """Hands out the random tensors of one term, each with a key of its own, and collects its constant arrays."""

    def __init__(self, builder: Builder, term: int, stream: int = STREAM_POINTS) -> None:
        self.builder = builder
        self.stream = stream
        self.data: dict[str, np.ndarray] = {}
        self._term = term
        self._used = 0

    def _random(self, kind: str, shape: Sequence[int]) -> Node:
        if self._used == DRAWS_PER_TERM:
            raise ModelError(f"a sampler draws more than {DRAWS_PER_TERM} random tensors", hint="split the term in two")
        key = DRAWS_PER_TERM * self._term + self._used
        self._used += 1
        return self.builder.random(kind, self.stream, key, shape)

    def uniform(self, *shape: int) -> Node:
        """f32[shape] in [0, 1), multiples of 2^-24."""
        return self._random("uniform", shape)

    def normal(self, *shape: int) -> Node:
        """f32[shape] of standard normals."""
        return self._random("normal", shape)

    def array(self, values: np.ndarray) -> Node:
        """A constant array stored beside the program."""
        name = f"{POINTS}{self._term}.{len(self.data)}"
        self.data[name] = values
        return self.builder.data(name, values.shape)


class Sampler(ABC):
    """Draws points [n, dim]. Subclasses emit IR; the rest follows from that."""

    dim: int

    @property
    def fixed_points(self) -> int | None:
        """The number of points for samplers that have one, None for those that draw any number."""
        return None

    @property
    def on_surface(self) -> bool:
        """Whether the points have fewer dimensions than the space: a boundary, a sphere, a fixed coordinate."""
        return False

    @abstractmethod
    def emit(self, draws: Draws, n: int) -> Node:
        """IR of n points: f32[n, dim]. The builder has a default location."""

    def sample(self, n: int, seed: int, step: int = 0, term: int = 0, stream: int = STREAM_POINTS) -> np.ndarray:
        """The points that the compiled step sees: float32 [n, dim], bit for bit."""
        builder = Builder("sample")
        draws = Draws(builder, term, stream)
        with builder.at(Location.synthetic("sampler")), user_code(function_location(self.emit)):
            builder.output("x", self.emit(draws, n))
        return np.asarray(
            evaluate(builder.finish(), draws.data, {"seed": seed, "step": step}, mode="smx")["x"], dtype=np.float32
        )


def _box(box: Sequence[Interval], name: str) -> tuple[Interval, ...]:
    try:
        intervals = tuple((float(low), float(high)) for low, high in box)
    except (TypeError, ValueError):
        raise ModelError(
            f"{name} needs a list of (low, high) pairs, got {box!r}",
            location=user_location(),
            hint="for example [(0.0, 1.0), (0.0, 1.0)]; one pair for each coordinate",
        ) from None
    if not intervals or any(not (math.isfinite(low) and math.isfinite(high) and low < high) for low, high in intervals):
        raise ModelError(
            f"{name}: every interval needs finite low < high, got {list(intervals)}", location=user_location()
        )
    return intervals


def _axes(axes: object, dim: int) -> list[int]:
    """Numbers of coordinates of a space of `dim`; none if there is anything else among them."""
    if not isinstance(axes, Iterable):
        return []
    given = [as_count(axis, least=-dim) for axis in axes]
    axes = [axis for axis in given if axis is not None and axis < dim]
    return axes if len(axes) == len(given) else []


def _row(builder: Builder, values: Sequence[float]) -> Node:
    """A constant row [1, len(values)]."""
    same = len(set(values)) == 1
    return builder.const(values[:1] if same else values, (1, len(values)))


def _in_box(draws: Draws, box: tuple[Interval, ...], n: int) -> Node:
    b = draws.builder
    x = draws.uniform(n, len(box))
    widths = [high - low for low, high in box]
    if any(width != 1.0 for width in widths):
        x = b.mul(x, _row(b, widths))
    if any(low != 0.0 for low, _ in box):
        x = b.add(x, _row(b, [low for low, _ in box]))
    return x


class Uniform(Sampler):
    """Uniform in a box, one (low, high) for each coordinate."""

    def __init__(self, box: Sequence[Interval]) -> None:
        self.box = _box(box, "Uniform")
        self.dim = len(self.box)

    def emit(self, draws: Draws, n: int) -> Node:
        return _in_box(draws, self.box, n)


class Boundary(Sampler):
    """The surface of a box: a uniform point of the box is pushed to a random side (low or high) of a random axis.

    Every one of the 2 d sides gets the same share, whatever its area. `axes` limits the axes that are pushed: spatial
    boundaries of a space-time box leave time out.
    """

    def __init__(self, box: Sequence[Interval], axes: Sequence[int] | None = None) -> None:
        self.box = _box(box, "Boundary")
        self.dim = len(self.box)
        chosen = range(self.dim) if axes is None else _axes(axes, self.dim)
        if not chosen:
            raise ModelError(
                f"Boundary: axes {axes!r} are not coordinates of a box with {self.dim}",
                location=user_location(),
                hint="a list of their numbers: axes=[0]",
            )
        self.axes = tuple(sorted({axis % self.dim for axis in chosen}))

    @property
    def on_surface(self) -> bool:
        return True

    def emit(self, draws: Draws, n: int) -> Node:
        b = draws.builder
        x = _in_box(draws, self.box, n)
        which, side = draws.uniform(n, 1), draws.uniform(n, 1)
        # which < upper_j holds from the chosen axis on: the difference with which < lower_j is 1 on that axis alone.
        count = len(self.axes)
        rank = {axis: k for k, axis in enumerate(self.axes)}
        upper = [(rank[axis] + 1) / count if axis in rank else 0.0 for axis in range(self.dim)]
        lower = [rank[axis] / count if axis in rank else 0.0 for axis in range(self.dim)]
        chosen = b.sub(b.compare("lt", which, _row(b, upper)), b.compare("lt", which, _row(b, lower)))
        low, high = _row(b, [low for low, _ in self.box]), _row(b, [high for _, high in self.box])
        return b.select(chosen, b.select(b.compare("lt", side, b.scalar_const(0.5)), low, high), x)


    def normal(self, x: Tensor) -> Tensor:
        """The outward unit normals at points x [N, dim] that this sampler has drawn: [N, dim].

        Neumann conditions: `(grad(u, x)[:, 0] * edge.normal(x)).sum(-1, keepdim=True)` is the slope of u outwards.
        """
        columns = []
        for axis, (low, high) in enumerate(self.box):
            at = x[:, axis : axis + 1].float()  # points are drawn in fp32, edges too
            outwards = (at == high).to(x.dtype) - (at == low).to(x.dtype) if axis in self.axes else 0.0 * at.to(x.dtype)
            columns.append(outwards)
        return torch.cat(columns, 1)


def _centre(center: Sequence[float] | None, dim: int, name: str) -> tuple[float, ...] | None:
    if center is None:
        return None
    given = [as_real(value) for value in center] if isinstance(center, Iterable) else []
    values = tuple(value for value in given if value is not None)
    if len(values) != dim or len(given) != dim:
        raise ModelError(
            f"{name}: the center is a list of {dim} numbers, one a coordinate, got {center!r}", location=user_location()
        )
    return values if any(values) else None


class Sphere(Sampler):
    """Uniform on the surface of a ball of dimension `dim`."""

    def __init__(self, dim: int, radius: float = 1.0, center: Sequence[float] | None = None) -> None:
        dims, length = as_count(dim), as_real(radius)
        if dims is None or length is None or not length > 0:
            raise ModelError(
                f"{type(self).__name__}: needs dim >= 1 and radius > 0, got {dim!r} and {radius!r}",
                location=user_location(),
            )
        self.dim = dims
        self.radius = length
        self.center = _centre(center, self.dim, type(self).__name__)

    def _direction(self, draws: Draws, n: int) -> Node:
        b = draws.builder
        z = draws.normal(n, self.dim)
        return b.div(z, b.sqrt(b.sum(b.mul(z, z), (1,), keepdims=True)))

    def _place(self, b: Builder, unit: Node) -> Node:
        x = unit if self.radius == 1.0 else b.mul(unit, self.radius)
        return x if self.center is None else b.add(x, _row(b, self.center))

    @property
    def on_surface(self) -> bool:
        return True

    def emit(self, draws: Draws, n: int) -> Node:
        return self._place(draws.builder, self._direction(draws, n))


class Ball(Sphere):
    """Uniform in a ball of dimension `dim`: a random direction times U^(1/dim)."""

    @property
    def on_surface(self) -> bool:
        return False

    def emit(self, draws: Draws, n: int) -> Node:
        b = draws.builder
        unit = self._direction(draws, n)
        # U is a multiple of 2^-24 and can be 0, whose logarithm is no number: half a step stands for it.
        u = b.max(draws.uniform(n, 1), 2.0**-25)
        length = u if self.dim == 1 else b.sqrt(u) if self.dim == 2 else b.exp(b.mul(b.log(u), 1.0 / self.dim))
        return self._place(b, b.mul(unit, length))


class At(Sampler):
    """The same point every time: `At(0.0)` for t = 0 in a Product, `At(1.0, 2.0)` for two coordinates."""

    def __init__(self, *values: float) -> None:
        known = [value for value in map(as_real, values) if value is not None]
        if not known or len(known) != len(values):
            raise ModelError(f"At needs finite coordinates, got {values!r}", location=user_location())
        self.values = tuple(known)
        self.dim = len(self.values)

    @property
    def on_surface(self) -> bool:
        return True

    def emit(self, draws: Draws, n: int) -> Node:
        return draws.builder.broadcast(_row(draws.builder, self.values), (n, self.dim))


class Points(Sampler):
    """A fixed set of points, used whole and in order at every step: an array [n, dim], or the path of a file of one.

    A `.npy` file, or a `.csv` file: numbers separated by commas, a point a line. The first line may name the
    columns, if no cell of it is a number.
    """

    def __init__(self, points: object) -> None:
        source = f"Points({str(points)!r})" if isinstance(points, (str, Path)) else "Points"
        if isinstance(points, (str, Path)) and Path(points).suffix.lower() not in (".npy", ".csv"):
            raise ModelError(
                f"{source}: neither a .npy nor a .csv file",
                location=user_location(),
                hint="other files: Points(numpy.loadtxt(...)), or whatever reads them",
            )
        try:
            loaded = read_points(Path(points)) if isinstance(points, (str, Path)) else points
            values = as_array(loaded, np.float32)
        except PintacError as error:
            raise ModelError(f"{source}: {error.message}", location=user_location(), hint=error.hint) from error
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"{source}: {error}",
                location=user_location(),
                hint="an array [n, dim] of numbers, or a .npy or .csv file",
            ) from error
        if values.ndim != 2 or 0 in values.shape:
            raise ModelError(
                f"{source}: needs values of shape [n, dim], got {list(values.shape)}", location=user_location()
            )
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values).all(1)))
            raise ModelError(
                f"{source}: row {row} (counted from 0) is not finite: {values[row].tolist()}", location=user_location()
            )
        self.points = values
        self.dim = values.shape[1]

    @property
    def fixed_points(self) -> int | None:
        return len(self.points)

    def emit(self, draws: Draws, n: int) -> Node:
        if n > len(self.points):
            raise ModelError(f"Points has {len(self.points)} points, {n} were asked for")
        return draws.array(self.points[:n])


class Product(Sampler):
    """Independent coordinates side by side: `Product(Ball(100, 1.0), Uniform([(0.0, 1.0)]))` is space and time."""

    def __init__(self, *parts: Sampler) -> None:
        if not parts or any(not isinstance(part, Sampler) for part in parts):
            raise ModelError(
                "Product needs samplers", location=user_location(), hint="for example Product(Ball(2), At(0.0))"
            )
        self.parts = parts
        self.dim = sum(part.dim for part in parts)

    @property
    def fixed_points(self) -> int | None:
        counts = [count for part in self.parts if (count := part.fixed_points) is not None]
        return min(counts) if counts else None

    @property
    def on_surface(self) -> bool:
        return any(part.on_surface for part in self.parts)

    def emit(self, draws: Draws, n: int) -> Node:
        columns = [part.emit(draws, n) for part in self.parts]
        return columns[0] if len(columns) == 1 else draws.builder.concat(columns, 1)


class Mixture(Sampler):
    """Each point from one of several samplers, which one is drawn by `shares` (default: equal ones).

    An L-shaped domain is two boxes by their areas: `Mixture(Uniform(a), Uniform(b), shares=[2.0, 1.0])`.
    """

    def __init__(self, *parts: Sampler, shares: Sequence[float] | None = None) -> None:
        if not parts or any(not isinstance(part, Sampler) or part.fixed_points is not None for part in parts):
            raise ModelError(
                "Mixture needs samplers that draw their points",
                location=user_location(),
                hint="for example Mixture(Uniform(a), Uniform(b), shares=[2.0, 1.0])",
            )
        if len({part.dim for part in parts}) != 1:
            raise ModelError(
                f"Mixture: the samplers have {', '.join(str(part.dim) for part in parts)} coordinates",
                location=user_location(),
            )
        wanted = [1.0] * len(parts) if shares is None else shares
        given = [as_real(share) for share in wanted] if isinstance(wanted, Iterable) else []
        known = [share for share in given if share is not None and share > 0]
        if len(known) != len(parts) or len(given) != len(parts):
            raise ModelError(
                f"Mixture needs a positive share for each of {len(parts)} samplers, got {shares!r}",
                location=user_location(),
            )
        self.parts = parts
        self.shares = tuple(share / sum(known) for share in known)
        self.dim = parts[0].dim

    def emit(self, draws: Draws, n: int) -> Node:
        b = draws.builder
        which = draws.uniform(n, 1)
        drawn = [part.emit(draws, n) for part in self.parts]
        x = drawn[-1]
        for k in range(len(drawn) - 2, -1, -1):
            x = b.select(b.compare("lt", which, sum(self.shares[: k + 1])), drawn[k], x)
        return x
