"""Perturbations: orthonormal bases and lattices are what they claim, and their estimates exact or unbiased."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pintac.errors import PassError
from pintac.ir import Builder, Node
from pintac.ir.evaluate import evaluate
from pintac.passes.designs import hadamard, hadamard_order, lattice
from pintac.passes.directions import DIRECTIONS, directions
from pintac.passes.expand_operators import ExpandOperators
from pintac.passes.sampling import KINDS, Block
from tests.passes.models import LOC, PARAMS, step_graph, values

SIGMA = 0.1


def drawn(kind: str, points: int, pairs: int, columns: int, mode: str = "float64", step: int = 0) -> np.ndarray:
    """delta [points, pairs, columns] of one block."""
    b = Builder("g")
    with b.at(LOC):
        block = Block(tuple(range(columns)), 0, pairs, 7)
        b.output("delta", directions(b, kind, block, points, pairs, SIGMA))
    return evaluate(b.finish(), {}, {**PARAMS, "step": step}, mode)["delta"]


# ---------------------------------------------------------------------------------------------- tables


def test_hadamard_matrices() -> None:
    orders = sorted({hadamard_order(columns) for columns in range(1, 132)})
    assert {1, 2, 4, 20, 28, 36, 52, 100} <= set(orders) and 92 not in orders
    for order in orders:
        matrix = hadamard(order)
        assert set(np.unique(matrix)) <= {-1, 1}
        np.testing.assert_array_equal(matrix @ matrix.T, order * np.eye(order))
    for order in (3, 6, 92):
        with pytest.raises(ValueError, match=f"order {order}"):
            hadamard(order)


def test_orders_are_little_too_large() -> None:
    assert [hadamard_order(columns) for columns in (1, 2, 3, 4, 5, 20, 21, 89, 100)] == [1, 2, 4, 4, 8, 20, 24, 96, 100]
    assert all(columns <= hadamard_order(columns) < columns + 8 for columns in range(1, 129))


@pytest.mark.parametrize(("points", "dims"), [(1, 2), (4, 2), (16, 2), (30, 3), (256, 42)])
def test_lattices(points: int, dims: int) -> None:
    """A group modulo 1, on a grid that fp32 holds; every coordinate of a prime lattice is equidistributed."""
    table = lattice(points, dims)
    assert table.shape == (points, dims) and (table >= 0).all() and (table < 1).all()
    np.testing.assert_array_equal(table * 2.0**24 % 1, 0)
    np.testing.assert_array_equal(table.astype(np.float32), table)
    grid = np.rint(table * points).astype(int)
    rows = {tuple(row) for row in grid.tolist()}
    assert len(rows) == points
    assert {tuple(row) for row in ((grid[:, None] + grid[None]) % points).reshape(-1, dims).tolist()} == rows
    np.testing.assert_allclose(np.sort(table[:, 0]), np.arange(points) / points, atol=2.0**-23)


# ---------------------------------------------------------------------------------------------- directions


def test_every_estimator_says_what_it_draws() -> None:
    assert tuple(DIRECTIONS) == KINDS
    with pytest.raises(PassError, match="'antipodal' has no directions"):
        drawn("antipodal", 4, 2, 2)


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 7, 20, 100])
@pytest.mark.parametrize("bases", [1, 3])
def test_a_whole_basis_is_orthonormal(columns: int, bases: int) -> None:
    """Length sigma sqrt(c); the mean of delta delta^T is sigma^2 I at every point, not only on average."""
    size = hadamard_order(columns)
    delta = drawn("orthonormal", 4, bases * size, columns)
    np.testing.assert_allclose(np.linalg.norm(delta, axis=-1), SIGMA * np.sqrt(columns), rtol=1e-12)
    for basis in np.split(delta, bases, axis=1):
        outer = np.einsum("npi,npj->nij", basis, basis) / size
        np.testing.assert_allclose(outer, np.broadcast_to(SIGMA**2 * np.eye(columns), outer.shape), atol=1e-15)
        if size == columns:
            inner = np.einsum("npi,nqi->npq", basis, basis)
            np.testing.assert_allclose(
                inner, SIGMA**2 * columns * np.broadcast_to(np.eye(size), inner.shape), atol=1e-14
            )
    if bases > 1 and columns > 1:  # and they are different bases
        first, second = np.split(delta, bases, axis=1)[:2]
        assert all(np.abs(first[0] - other).max() > 1e-3 for other in (second[0], -second[0], second[0][::-1]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [2, 3, 6])
def test_each_direction_by_itself_is_unbiased(kind: str, columns: int) -> None:
    """E[delta delta^T] = sigma^2 I for each of fewer pairs than a basis; 20,000 points, five standard errors."""
    points = 20_000
    delta = drawn(kind, points, 2, columns)
    for pair in range(2):
        outer = np.einsum("ni,nj->ij", delta[:, pair], delta[:, pair]) / points
        assert np.abs(outer - SIGMA**2 * np.eye(columns)).max() < 5 * SIGMA**2 * np.sqrt(2 / points)


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_quasi_random_directions_are_normal(columns: int) -> None:
    """Each one by itself: the empirical distribution of 10,000 points is the normal one (Kolmogorov, 1 in 10^5)."""
    from math import erf

    delta = drawn("quasi-random", 10_000, 3, columns)
    for pair in range(3):
        for column in range(columns):
            sample = np.sort(delta[:, pair, column] / SIGMA)
            cdf = np.array([0.5 * (1 + erf(z / np.sqrt(2))) for z in sample])
            assert np.abs(cdf - (np.arange(10_000) + 0.5) / 10_000).max() < 2.5 / np.sqrt(10_000)


@pytest.mark.parametrize("kind", KINDS)
def test_points_and_steps_have_directions_of_their_own(kind: str) -> None:
    delta = drawn(kind, 8, 4, 4)
    assert all(np.abs(delta[i] - delta[j]).max() > 1e-3 for i in range(8) for j in range(i))
    assert np.abs(delta - drawn(kind, 8, 4, 4, step=1)).max() > 1e-3
    np.testing.assert_array_equal(delta, drawn(kind, 8, 4, 4))
    np.testing.assert_array_equal(delta[:3], drawn(kind, 3, 4, 4))  # a point's numbers do not depend on the others


@pytest.mark.parametrize("kind", KINDS)
def test_fp32_draws_the_same_directions(kind: str) -> None:
    exact, single = drawn(kind, 50, 8, 6), drawn(kind, 50, 8, 6, "smx")
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, atol=2e-6 * SIGMA, rtol=1e-6 if kind == "orthonormal" else 1e-4)


# ---------------------------------------------------------------------------------------------- polynomials


def polynomial(degree: int, dims: int) -> Callable[[Builder, Node], Node]:
    """The sum of the powers 1..degree of w.x: [N, 1]. The state makes it a network value."""

    def u(b: Builder, x: Node) -> Node:
        w = next((n for n in b.finish().of("state")), None) or b.state("w", (dims, 1))
        s = b.matmul(x, w, lhs_role="base", rhs_role="weight")
        total = power = s
        for _ in range(degree - 1):
            power = b.mul(power, s)
            total = b.add(total, power)
        return total

    return u


def derivatives(degree: int, dims: int, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s = x @ w
    first = sum(k * s ** (k - 1) for k in range(1, degree + 1))
    second = sum(k * (k - 1) * s ** (k - 2) for k in range(2, degree + 1))
    return first * w[:, 0], second * (w**2).sum()


def estimate(kind: str, K: int, degree: int, dims: int, *, time: bool = False, step: int = 0, sigma: float = 0.05):  # type: ignore[no-untyped-def]
    """(gradient, laplacian over space) and the true ones at 4 points."""
    u = polynomial(degree, dims)

    def residual(b: Builder, x: Node) -> Node:
        y = u(b, x)
        gradient = b.reshape(b.gradient(y, x), (4, dims))
        return b.concat([gradient, b.laplacian(y, x, 0, dims - time)], 1)

    times = [dims - 1] if time else []
    graph = step_graph(
        {"r": residual}, points=4, dims=dims, estimator={"kind": kind, "K": K, "sigma": sigma, "time_dims": times}
    )
    found = values(ExpandOperators().run(graph), step=step)["residual:r"]
    b = Builder("x")
    with b.at(LOC):
        b.output("x", b.random("uniform", 1, 0, (4, dims)))
    x = evaluate(b.finish(), {}, {**PARAMS, "step": step})["x"]
    from tests.passes.models import feeds_for

    w = feeds_for(graph)["w"]
    gradient, laplacian = derivatives(degree, dims, x, w)
    if time:
        second = laplacian / (w**2).sum()
        laplacian = second * (w[:-1] ** 2).sum()
    return found[:, :dims], found[:, dims:], gradient, laplacian


@pytest.mark.parametrize("dims", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("degree", [1, 2])
def test_a_whole_basis_is_exact_for_quadratics(dims: int, degree: int) -> None:
    gradient, laplacian, true_gradient, true_laplacian = estimate("orthonormal", 2 * hadamard_order(dims), degree, dims)
    np.testing.assert_allclose(gradient, true_gradient, atol=1e-10)
    np.testing.assert_allclose(laplacian, true_laplacian, atol=1e-9)


@pytest.mark.parametrize("dims", [3, 5, 21])
def test_time_has_a_pair_of_its_own(dims: int) -> None:
    """K = 2 (whole basis + 1): the Laplacian over space is exact, and so is every first derivative."""
    K = 2 * (hadamard_order(dims - 1) + 1)
    gradient, laplacian, true_gradient, true_laplacian = estimate("orthonormal", K, 2, dims, time=True)
    np.testing.assert_allclose(gradient, true_gradient, atol=1e-10)
    np.testing.assert_allclose(laplacian, true_laplacian, atol=1e-9)


@pytest.mark.parametrize("dims", [2, 4])
def test_a_whole_basis_is_of_second_order_in_sigma(dims: int) -> None:
    """A quartic: the Laplacian's error falls with sigma^2; for a cubic it vanishes."""
    errors = []
    for sigma in (0.2, 0.1):
        _, laplacian, _, true = estimate("orthonormal", 2 * dims, 4, dims, sigma=sigma)
        errors.append(np.abs(laplacian - true).max())
        _, cubic, _, true_cubic = estimate("orthonormal", 2 * dims, 3, dims, sigma=sigma)
        np.testing.assert_allclose(cubic, true_cubic, rtol=1e-9)
    assert 3.0 < errors[0] / errors[1] < 5.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dims", "K"), [(2, 2), (3, 4), (6, 6), (11, 8)])
def test_few_pairs_are_unbiased(kind: str, dims: int, K: int) -> None:
    """A quadratic at 4 points in 150 steps: the mean error within five of its standard errors."""
    errors = []
    for step in range(150):
        gradient, laplacian, true_gradient, true_laplacian = estimate(kind, K, 2, dims, step=step)
        errors.append(np.concatenate([(gradient - true_gradient), laplacian - true_laplacian], 1))
    sample = np.concatenate(errors)
    assert sample.std(0).min() > 1e-4  # there is an error to average
    assert (np.abs(sample.mean(0)) < 5 * sample.std(0) / np.sqrt(len(sample))).all()


def test_structure_lowers_the_variance() -> None:
    """The Laplacian of a quadratic in two dimensions, 32 pairs: a lattice halves the error, whole bases have none."""

    def spread(kind: str) -> float:
        found = [estimate(kind, 64, 2, 2, step=step) for step in range(40)]
        return float(np.sqrt(np.mean([(laplacian - true) ** 2 for _, laplacian, _, true in found])))

    normal = spread("second-difference")
    assert spread("quasi-random") < 0.5 * normal
    assert spread("orthonormal") < 1e-8 * normal
