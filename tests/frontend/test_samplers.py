"""Samplers: where points fall, how they are distributed, and that IR and NumPy give the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pintac import rng
from pintac.errors import ModelError
from pintac.frontend.problem import Term
from pintac.frontend.samplers import At, Ball, Boundary, Draws, Points, Product, Sampler, Sphere, Uniform
from pintac.ir import Builder, Location
from pintac.ir.evaluate import evaluate

GRID = np.arange(12, dtype=np.float32).reshape(6, 2)

SAMPLERS: dict[str, Sampler] = {
    "unit box": Uniform([(0.0, 1.0)] * 3),
    "box": Uniform([(-1.0, 2.0), (0.5, 0.75)]),
    "boundary": Boundary([(-1.0, 2.0), (0.5, 0.75)]),
    "sides in space": Boundary([(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)], axes=(0, 1)),
    "sphere": Sphere(5, radius=2.0, center=(1.0, 0.0, 0.0, 0.0, 0.0)),
    "ball": Ball(3, radius=0.5),
    "disc": Ball(2),
    "interval ball": Ball(1),
    "point": At(0.0, 0.25),
    "initial": Product(Ball(2), At(0.0)),
    "cylinder": Product(Sphere(3), Uniform([(0.0, 1.0)])),
    "fixed": Points(GRID),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_ir_and_numpy_agree_bit_for_bit(name: str) -> None:
    """The points inside a compiled step are those of `sample`, for each seed, step and term."""
    sampler = SAMPLERS[name]
    builder = Builder("points")
    draws = Draws(builder, term=3)
    with builder.at(Location.synthetic("test")):
        builder.output("x", sampler.emit(draws, 6))
    graph = builder.finish()
    found = [evaluate(graph, draws.data, {"seed": 5, "step": step}, mode="smx")["x"] for step in (0, 1)]
    for step, values in enumerate(found):
        expected = sampler.sample(6, seed=5, step=step, term=3)
        assert expected.dtype == np.float32 and expected.shape == (6, sampler.dim)
        np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))
    if name not in ("point", "fixed"):
        assert not np.array_equal(found[0], found[1])
        assert not np.array_equal(found[0], sampler.sample(6, seed=6, step=0, term=3))
        assert not np.array_equal(found[0], sampler.sample(6, seed=5, step=0, term=2))
        assert not np.array_equal(found[0], sampler.sample(6, seed=5, step=0, term=3, stream=rng.STREAM_TEST))


def test_more_points_begin_with_the_same_ones() -> None:
    sampler = Uniform([(0.0, 1.0)] * 2)
    np.testing.assert_array_equal(sampler.sample(50, seed=1)[:20], sampler.sample(20, seed=1))


def test_uniform_fills_its_box() -> None:
    x = Uniform([(-1.0, 2.0), (0.5, 0.75)]).sample(4000, seed=0)
    assert (x >= [-1.0, 0.5]).all() and (x <= [2.0, 0.75]).all()
    np.testing.assert_allclose(x.mean(0), [0.5, 0.625], atol=0.05)
    np.testing.assert_allclose(x.std(0), np.array([3.0, 0.25]) / 12**0.5, rtol=0.05)


def test_boundary_points_lie_on_one_side_and_use_all_sides_alike() -> None:
    box = [(-1.0, 2.0), (0.5, 0.75), (0.0, 1.0)]
    x = Boundary(box).sample(6000, seed=0)
    low, high = np.array(box, np.float32).T
    on_side = np.stack([x == low, x == high])
    assert (on_side.any((0, 2))).all()
    counts = on_side.sum(1)
    assert counts.sum() == 6000
    np.testing.assert_allclose(counts / 6000, 1 / 6, atol=0.03)
    inside = x[:, 0][~on_side[:, :, 0].any(0)]
    np.testing.assert_allclose(inside.mean(), 0.5, atol=0.06)


def test_boundary_of_chosen_axes() -> None:
    x = Boundary([(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)], axes=(0, -2)).sample(500, seed=0)
    sides = (x[:, 0] == 0) | (x[:, 0] == 1) | (x[:, 1] == 0) | (x[:, 1] == 2)
    assert sides.all()
    assert ((x[:, 2] > 0) & (x[:, 2] < 3)).all()


def test_sphere_and_ball() -> None:
    center = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    shell = Sphere(5, 2.0, center).sample(2000, seed=0) - center
    np.testing.assert_allclose(np.linalg.norm(shell, axis=1), 2.0, rtol=1e-6)
    np.testing.assert_allclose(shell.mean(0), 0.0, atol=0.1)
    for dim in (1, 2, 3, 7):
        radius = np.linalg.norm(Ball(dim, 0.5).sample(3000, seed=1), axis=1)
        assert radius.max() <= 0.5 * (1 + 1e-6)
        # |x|^dim is uniform
        np.testing.assert_allclose(((radius / 0.5) ** dim).mean(), 0.5, atol=0.03)


def test_products_are_independent_columns() -> None:
    x = Product(Uniform([(0.0, 1.0)]), At(0.25), Uniform([(0.0, 1.0)])).sample(2000, seed=0)
    assert (x[:, 1] == 0.25).all()
    assert abs(np.corrcoef(x[:, 0], x[:, 2])[0, 1]) < 0.06


def test_fixed_points(tmp_path: Path) -> None:
    np.save(tmp_path / "grid.npy", GRID)
    for sampler in (Points(GRID), Points(tmp_path / "grid.npy"), Points(str(tmp_path / "grid.npy"))):
        np.testing.assert_array_equal(sampler.sample(6, seed=0), GRID)
        assert Term("a", sampler, lambda u, x: u(x)).count == 6
    assert Product(Points(GRID), At(0.0)).fixed_points == 6


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform([]),
        lambda: Uniform([(1.0, 0.0)]),
        lambda: Uniform([(0.0, float("inf"))]),
        lambda: Uniform((0.0, 1.0)),
        lambda: Boundary([(0.0, 1.0)], axes=(1,)),
        lambda: Boundary([(0.0, 1.0)], axes=()),
        lambda: Sphere(0),
        lambda: Ball(2, radius=-1.0),
        lambda: Ball(2, center=(1.0,)),
        lambda: At(),
        lambda: At(float("nan")),
        lambda: Points("no_such_file.npy"),
        lambda: Points([[float("nan")]]),
        lambda: Points([1.0, 2.0]),
        lambda: Points("pyproject.toml"),
        lambda: Product(),
        lambda: Product(At(0.0), 3.0),
    ],
)
def test_impossible_samplers(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError) as caught:
        make()
    assert caught.value.location is not None and caught.value.location.file.endswith("test_samplers.py")
