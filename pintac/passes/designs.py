"""Point sets with structure, as tables: Hadamard matrices for orthonormal directions, lattices for quasi-random."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Signs = NDArray[np.int64]
F64 = NDArray[np.float64]


def hadamard_order(columns: int) -> int:
    """The smallest order >= `columns` of which `hadamard` knows a matrix."""
    order = columns
    while not _known(order):
        order += 1
    return order


@cache
def _known(order: int) -> bool:
    if order in (1, 2):
        return True
    return order % 4 == 0 and (_paley(order) is not None or _factors(order) is not None)


def _factors(order: int) -> tuple[int, int] | None:
    """Two orders whose Kronecker product has this one."""
    return next(((f, order // f) for f in range(2, order) if order % f == 0 and _known(f) and _known(order // f)), None)


def _paley(order: int) -> tuple[int, int, bool] | None:
    """p, e and the kind of Paley's construction over q = p^e elements, e <= 2: its order is q + 1 or 2 (q + 1)."""
    for q, second in ((order - 1, False), (order // 2 - 1, True)):
        if q % 4 == (1 if second else 3):
            for exponent in (1, 2):
                root = round(q ** (1 / exponent))
                if root**exponent == q and _is_prime(root):
                    return root, exponent, second
    return None


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % f for f in range(2, int(n**0.5) + 1))


def hadamard(order: int) -> Signs:
    """A matrix of +1 and -1 with orthogonal rows: H H^T = order I. Raises ValueError for an order that is not known.

    Paley's constructions over fields of p or p^2 elements, and Kronecker products.
    """
    if not _known(order):
        raise ValueError(f"no Hadamard matrix of order {order} is known here")
    if order == 1:
        return np.ones((1, 1), np.int64)
    if order == 2:
        return np.array([[1, 1], [1, -1]])
    paley = _paley(order)
    if paley is None:
        factors = _factors(order)
        assert factors is not None
        return np.kron(hadamard(factors[0]), hadamard(factors[1]))
    p, exponent, second = paley
    character = _jacobsthal(p, exponent)
    q = len(character)
    if not second:  # skew conference matrix plus the identity
        s = np.zeros((q + 1, q + 1), np.int64)
        s[0, 1:], s[1:, 0], s[1:, 1:] = 1, -1, character
        return s + np.eye(q + 1, dtype=np.int64)
    c = np.zeros((q + 1, q + 1), np.int64)
    c[0, 1:], c[1:, 0], c[1:, 1:] = 1, 1, character
    one = np.eye(q + 1, dtype=np.int64)
    return np.kron(c, np.array([[1, 1], [1, -1]])) + np.kron(one, np.array([[1, -1], [-1, -1]]))


def _jacobsthal(p: int, exponent: int) -> Signs:
    """chi(a - b) for elements a, b of the field of p^exponent elements: 1 for squares, -1 for others, 0 for zero."""
    if exponent == 1:
        squares = {a * a % p for a in range(1, p)}
        chi = np.array([0, *(1 if a in squares else -1 for a in range(1, p))])
        a = np.arange(p)
        return chi[(a[:, None] - a[None, :]) % p]
    # elements x + y i with i^2 a number that is no square modulo p, numbered x + p y
    number = next(a for a in range(2, p) if a not in {b * b % p for b in range(p)})
    x, y = np.arange(p * p) % p, np.arange(p * p) // p
    chi = np.full(p * p, -1)
    chi[(x * x + number * y * y) % p + p * (2 * x * y % p)] = 1
    chi[0] = 0
    return chi[(x[:, None] - x[None, :]) % p + p * ((y[:, None] - y[None, :]) % p)]


_WEIGHT = 0.3
"""Weight of a coordinate in the lattice criterion: small enough that the kernel stays positive."""


_MULTIPLIERS = 256


@cache
def _generator(points: int, dims: int) -> int:
    """The multiplier of the Korobov lattice with the smallest worst-case error among the first few hundred."""
    best, least = 1, np.inf
    for multiplier in range(1, min(points // 2, _MULTIPLIERS) + 1):
        x = _korobov(points, dims, multiplier)
        score = float(np.prod(1 + _WEIGHT * 2 * np.pi**2 * (x * x - x + 1 / 6), axis=1).mean())
        if score < least * (1 - 1e-12):
            best, least = multiplier, score
    return best


def _korobov(points: int, dims: int, multiplier: int) -> F64:
    powers = np.empty(dims, np.int64)
    power = 1
    for j in range(dims):
        powers[j] = power
        power = power * multiplier % points
    return (np.arange(points)[:, None] * powers[None, :] % points) / points


def lattice(points: int, dims: int) -> F64:
    """A rank-1 lattice of `points` points in [0, 1)^dims, rounded to multiples of 2^-24: [points, dims].

    Korobov's form (1, a, a^2, ...), the multiplier by the worst-case error in the space of smooth periodic functions.
    """
    return np.floor(_korobov(points, dims, _generator(points, dims)) * 2.0**24) / 2.0**24
