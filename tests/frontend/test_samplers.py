"""Samplers: where points fall, how they are distributed, and that IR and NumPy give the same bits."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pintac import rng
from pintac.errors import ModelError, PintacError
from pintac.frontend.problem import Term
from pintac.frontend.samplers import At, Ball, Boundary, Draws, Mixture, Points, Product, Sampler, Sphere, Uniform
from pintac.ir import Builder, Location
from pintac.ir.evaluate import evaluate
from pintac.report.points import read

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
    "L": Mixture(Uniform([(-1.0, 0.0), (-1.0, 1.0)]), Uniform([(0.0, 1.0), (-1.0, 0.0)]), shares=[2, 1]),
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


def test_a_mixture_draws_by_share() -> None:
    x = SAMPLERS["L"].sample(6000, seed=0)
    left, right = x[x[:, 0] < 0], x[x[:, 0] >= 0]
    assert len(left) / len(x) == pytest.approx(2 / 3, abs=0.02)
    assert (right[:, 1] < 0).all() and (np.abs(x) <= 1).all()
    np.testing.assert_allclose(left.mean(0), [-0.5, 0.0], atol=0.03)
    even = Mixture(At(0.0), At(1.0), At(2.0)).sample(3000, seed=0)
    np.testing.assert_allclose(np.bincount(even[:, 0].astype(int)) / 3000, 1 / 3, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_point_out_of_the_box(dtype: torch.dtype) -> None:
    boundary = Boundary([(-1.0, 2.0), (0.3, 0.7), (0.0, 1.0)], axes=(0, 1))
    x = boundary.sample(500, seed=0)
    normal = boundary.normal(torch.from_numpy(x)).numpy()
    assert normal.shape == (500, 3) and (np.abs(normal).sum(1) == 1).all() and not normal[:, 2].any()
    outside = x + 0.01 * normal
    low, high = np.array(boundary.box, np.float32).T
    assert ((outside < low) | (outside > high)).any(1).all()
    assert {tuple(row) for row in normal} == {(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)}
    assert boundary.normal(torch.from_numpy(x).to(dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_where_an_edge_is_no_fp32_number(dtype: torch.dtype) -> None:
    """Points that were drawn, and those that a user writes down, in either precision."""
    boundary = Boundary([(0.1, 0.7), (-0.3, 1.1)])
    drawn = torch.from_numpy(boundary.sample(64, 0)).to(dtype)
    written = torch.tensor([[0.1, 0.2], [0.7, 0.2], [0.4, -0.3], [0.4, 1.1]], dtype=dtype)
    assert (boundary.normal(drawn).abs().sum(1) == 1).all()
    assert boundary.normal(written).tolist() == [[-1, 0], [1, 0], [0, -1], [0, 1]]
    assert boundary.normal(drawn).dtype == dtype


def test_the_sampler_of_the_howto() -> None:
    text = (Path(__file__).parents[2] / "docs" / "HOWTO.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Annulus" in block)
    names: dict[str, object] = {}
    exec(code, names)
    sampler = names["Annulus"]()  # type: ignore[operator]
    radius = np.linalg.norm(sampler.sample(4000, seed=0), axis=1)
    assert radius.min() >= 1 - 1e-6 and radius.max() <= 2 + 1e-6
    assert (radius**2).mean() == pytest.approx(2.5, abs=0.05), "uniform in area"


def test_fixed_points(tmp_path: Path) -> None:
    np.save(tmp_path / "grid.npy", GRID)
    np.savetxt(tmp_path / "grid.csv", GRID, delimiter=",")
    np.savetxt(tmp_path / "named.csv", GRID, delimiter=", ", header="x,y", comments="")
    files = [tmp_path / name for name in ("grid.npy", "grid.csv", "named.csv")]
    given = [GRID, torch.from_numpy(GRID).requires_grad_(), *files, *map(str, files)]
    for sampler in map(Points, given):
        np.testing.assert_array_equal(sampler.sample(6, seed=0), GRID)
        assert Term("a", sampler, lambda u, x: u(x)).count == 6
    assert Product(Points(GRID), At(0.0)).fixed_points == 6


@pytest.mark.parametrize("text", ["", "x,y\n", "1,2\n3\n", "1,2\n3,x\n", "1 2\n3 4\n"])
def test_files_of_points_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(ModelError, match=r"points\.csv"):
        Points(tmp_path / "points.csv")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("\ufeff1,2\n3,4\n", 2),
        ("\ufeffx,y\n1,2\n3,4\n", 2),
        ("# x,y\n1,2\n", 1),
        ('"x","y"\n\n1,2\r\n3,4\r\n', 2),
        ("\n1e0, 2\n", 1),
    ],
)
def test_no_row_of_a_file_is_lost(tmp_path: Path, text: str, rows: int) -> None:
    """The same in points of a term and in what `pintac predict` reads; the suffix may be in capitals."""
    file = tmp_path / "POINTS.CSV"
    file.write_bytes(text.encode())
    wanted = np.array([[1, 2], [3, 4]], np.float32)[:rows]
    np.testing.assert_array_equal(Points(file).points, wanted)
    np.testing.assert_array_equal(read(str(file)), wanted)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2x\n3,4\n", "csv:1: cell 2 '2x' is no number"),
        ("1,\n3,4\n", "csv:1: cell 2 is empty"),
        ("x,y\n1,2,\n", "csv:2: cell 3 is empty"),
        ("1,2\n# more\n3,4\n", "csv:2: cell 1 '# more' is no number"),
        ('1,2\n"3","4"\n', "csv:2: cell 1 '\"3\"' is no number"),
        ("x,y\nx,y\n1,2\n", "csv:2: cell 1 'x' is no number"),
        ('"1","2"\n3,4\n', "csv:1: cell 1 '\"1\"' is no number"),
        ("1;2\n", "csv:1: cell 1 '1;2' is no number"),
        ("x,y\n", "shape"),
        ("1,2\n\n3\n", "csv:3: 1 columns, the first row has 2"),
    ],
)
def test_lines_that_are_no_points(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "points.csv"
    file.write_text(text)
    for reading in (lambda: Points(file), lambda: read(str(file))):
        with pytest.raises(PintacError) as caught:
            reading()
        assert said in str(caught.value) and "points.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Points(GRID * 1j), "complex"),
        (lambda: Points([[0.0], [float("nan")]]), "row 1 (counted from 0) is not finite"),
        (lambda: Term("a", Points(GRID), print, values=[1.0, float("nan"), 1.0, 1.0, 1.0, 1.0]), "row 1 (counted from"),
        (lambda: Term("a", Points(GRID), print, values=["x"] * 6), "no array"),
        (lambda: Term("a", Points(GRID), print, values=np.ones(6) * 1j), "complex"),
        (lambda: Term("a", Points(GRID), print, values=np.ones(5)), "for each of 6 points, got 5 rows"),
    ],
)
def test_what_is_wrong_with_points_and_values(make, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError) as caught:
        make()
    assert said in caught.value.message


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
        lambda: Points("no_such_file.csv"),
        lambda: Points([["a", "b"]]),
        lambda: Product(),
        lambda: Product(At(0.0), 3.0),
        lambda: Mixture(),
        lambda: Mixture(At(0.0), 3.0),
        lambda: Mixture(At(0.0), At(0.0, 1.0)),
        lambda: Mixture(At(0.0), At(1.0), shares=[1.0]),
        lambda: Mixture(At(0.0), At(1.0), shares=[1.0, -1.0]),
        lambda: Mixture(At(0.0), Points([[1.0]])),
    ],
)
def test_impossible_samplers(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError) as caught:
        make()
    assert caught.value.location is not None and caught.value.location.file.endswith("test_samplers.py")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sphere(2, radius="a"), lambda: Sphere("2"), lambda: Sphere(2, center=1.0), lambda: At(None),
        lambda: Ball(2, radius=float("nan")), lambda: Boundary([(0, 1)] * 2, axes="x"), lambda: At("a"),
        lambda: Ball(2, center="ab"),
        lambda: Boundary([(0, 1)] * 2, axes=0), lambda: Boundary([(0, 1)] * 2, axes=[2]), lambda: Uniform(3),
        lambda: Boundary([(0, 1)] * 2, axes=[0.5]), lambda: Mixture(Ball(2), Ball(2), shares=3),
    ],
)  # fmt: skip
def test_settings_of_other_types(make: Callable[[], Sampler]) -> None:
    with pytest.raises(ModelError):
        make()
