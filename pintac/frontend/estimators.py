"""Estimators: how sampled evaluations of u stand for its derivatives (NUMERICS 7).

K is the number of *evaluations* a point costs beside u(x) itself: K / 2 antithetic pairs x + delta, x - delta.
All operators on one (u, x) share the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pintac.errors import ModelError
from pintac.frontend.locate import user_location
from pintac.frontend.numbers import as_count, as_real


@dataclass(frozen=True)
class Estimator:
    """K evaluations a point with perturbations of size sigma.

    `time_dims` are coordinates that the Laplacian's perturbations leave alone. `time_dims=None` means: the last
    coordinate if the problem uses `dt`, else none. Raises ModelError for K odd or less than 2, or sigma not positive.
    """

    kind: ClassVar[str] = ""

    K: int = 512
    sigma: float = 0.01
    time_dims: Sequence[int] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        evaluations = as_count(self.K, least=2)
        if evaluations is None or evaluations % 2:
            raise ModelError(
                f"{name}: K must be an even number of evaluations, at least 2, got {self.K!r}",
                location=user_location(),
                hint="evaluations come in pairs x + delta, x - delta: K = 512 is 256 pairs",
            )
        sigma = as_real(self.sigma)
        if sigma is None or sigma <= 0:
            raise ModelError(f"{name}: sigma must be positive, got {self.sigma!r}", location=user_location())
        object.__setattr__(self, "K", evaluations)
        object.__setattr__(self, "sigma", sigma)
        if self.time_dims is None:
            return
        listed = isinstance(self.time_dims, Sequence) and not isinstance(self.time_dims, str)
        columns = [_column(column) for column in self.time_dims] if listed else [None]
        if None in columns:
            raise ModelError(
                f"{name}: time_dims is a list of coordinates, got {self.time_dims!r}",
                location=user_location(),
                hint="time_dims=[2], or [-1] for the last one",
            )
        object.__setattr__(self, "time_dims", tuple(columns))

    @property
    def pairs(self) -> int:
        return self.K // 2

    def attrs(self, dims: int, uses_dt: bool = False) -> dict[str, object]:
        """Description for the IR; time_dims resolved for points with `dims` coordinates."""
        given = self.time_dims if self.time_dims is not None else ([dims - 1] if uses_dt else [])
        if any(not -dims <= i < dims for i in given):
            raise ModelError(f"{type(self).__name__}: time_dims {tuple(given)} are outside the {dims} coordinates of x")
        time = sorted({i % dims for i in given})
        return {"kind": self.kind, "K": self.K, "sigma": float(self.sigma), "time_dims": time}


def _column(value: object) -> int | None:
    """A coordinate's number, counted from the end if negative; None for what is none."""
    number = as_real(value)
    return None if number is None or number != int(number) else int(number)


@dataclass(frozen=True)
class Stein(Estimator):
    """grad u = sum delta (u+ - u-) / (2 sigma^2 P), lap u = sum (|delta|^2 - d sigma^2)(u+ + u- - 2u) / (2 sigma^4 P).

    Every coordinate is perturbed; `time_dims` has no effect.
    """

    kind: ClassVar[str] = "stein"


@dataclass(frozen=True)
class SecondDifference(Estimator):
    """grad u as Stein; Laplacian = sum (u+ + u- - 2u) / (sigma^2 P). Time coordinates get a pair of their own."""

    kind: ClassVar[str] = "second-difference"


@dataclass(frozen=True)
class OrthonormalDirections(Estimator):
    """As SecondDifference along random orthonormal directions, sigma sqrt(d) long, in place of normal ones.

    With as many pairs as perturbed coordinates (K = 2 d, and a pair for time) gradient and Laplacian have no sampling
    error, only the O(sigma^2) of a central difference; with fewer they are unbiased up to that. Where no Hadamard
    matrix of order d exists, a whole set has a few directions more.
    """

    kind: ClassVar[str] = "orthonormal"


@dataclass(frozen=True)
class QuasiRandom(Estimator):
    """As SecondDifference, its normal directions from a randomly shifted lattice: unbiased, with less variance."""

    kind: ClassVar[str] = "quasi-random"


ESTIMATORS: Mapping[str, type[Estimator]] = {
    estimator.kind: estimator for estimator in (Stein, SecondDifference, OrthonormalDirections, QuasiRandom)
}
"""Estimators by the name that the option `estimator` of the built-in problems takes: those of `passes/sampling.py`."""
