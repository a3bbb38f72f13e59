"""Means, spreads, ratios and claims against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pintac.experiments.claims import dominates, error_below, error_ratio, saving
from pintac.experiments.experiment import TableExperiment
from pintac.experiments.facts import parameters, trivial
from pintac.experiments.markdown import figure, seeds_text
from pintac.experiments.results import Results, geometric_mean, geometric_spread
from pintac.experiments.rows import Row, Seeds
from pintac.experiments.runs import Run
from pintac.experiments.store import Store
from pintac.experiments.tables import Table
from tests.experiments.support import DAY, keep, know

RUN = Run.of("poisson2d", K=4)
ROW = Row("a row", RUN)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Errors 0.02, 0.04, 0.08 for seeds 0 to 2, twins 0.01 and 0.04 for two of them."""
    store = Store(tmp_path / "results")
    know(store, RUN)
    for seed, l2 in enumerate((0.02, 0.04, 0.08)):
        keep(store, RUN.but(seed=seed), l2)
    for seed, l2 in enumerate((0.01, 0.04)):
        keep(store, RUN.but(seed=seed, quant="none"), l2)
    return store


def test_figures_of_a_row(store: Store) -> None:
    row = Results(store)[ROW]
    assert row.seeds == (0, 1, 2) and row.twin_seeds == (0, 1)
    assert row.l2 == pytest.approx(0.14 / 3)
    assert row.spread == pytest.approx(2), "logs 0, 1, 2 times log 2: variance of a sample 1"
    assert row.twin == pytest.approx(0.025)
    assert row.ratio == pytest.approx(math.sqrt(2)), "2 and 1, geometric"
    assert row.skill == pytest.approx(1.4 / 3) and (row.constant, row.affine) == (0.5, 0.1)
    assert row.mse == pytest.approx(4 * (0.0004 + 0.0016 + 0.0064) / 3)
    assert (row.cycles, row.over_bound, row.joules_step) == (200, 2.0, 2e-3)
    assert (row.joules, row.cycles_run) == (pytest.approx(2.0), 200_000)
    assert (row.busy("tcu"), row.busy("vpu")) == (0.5, 0.25)
    assert row.steps_to() == (40.0, 3) and row.steps_to(1e-3) == (None, 0)
    assert (row.parameters, row.compression, row.dates) == (100, 4.0, (DAY,))


def test_seeds_that_are_asked_for(store: Store) -> None:
    assert Results(store, Seeds.parse("2"))[ROW].seeds == (0, 1)
    assert Results(store, Seeds.parse("1,7"))[ROW].seeds == (1,)
    assert Results(store, Seeds.parse("2,"))[ROW].errors == (0.08,)
    assert Row("later", RUN, first_seed=2).seeds(Seeds()) == (2, 3, 4, 5, 6)
    assert Results(store)[Row("later", RUN, first_seed=2)].seeds == (2,)


def test_one_seed_has_no_spread_and_none_no_figure(store: Store) -> None:
    assert Results(store, Seeds(1))[ROW].spread is None
    empty = Results(store)[Row("other", RUN.but(lr=0.5))]
    assert (empty.l2, empty.spread, empty.ratio, empty.cycles, empty.joules, empty.mse) == (None,) * 6


def test_a_run_that_diverged(store: Store) -> None:
    keep(store, RUN.but(seed=3), None)
    row = Results(store)[ROW]
    assert row.l2 == math.inf and row.spread is None and row.diverged == 1
    text = TableExperiment("x", "t", (Table("", (ROW,)),)).render(Results(store)).markdown
    assert "diverged (1 of 4)" in text and "inf" not in text and "nan" not in text


def test_fp32_has_no_cost_and_no_twin(store: Store) -> None:
    row = Results(store)[Row("fp32", RUN.but(quant="none"))]
    assert row.l2 == pytest.approx(0.025)
    assert (row.cycles, row.joules, row.twin, row.ratio, row.busy("tcu")) == (None,) * 5


def test_means() -> None:
    assert geometric_mean([1, 4]) == pytest.approx(2) and geometric_mean([1, math.inf, 0]) == math.inf
    assert geometric_mean([1, 0]) == 0
    assert geometric_spread([3, 3]) == pytest.approx(1) and geometric_spread([1, 0]) is None
    assert [figure(v) for v in (0, 0.0123, 1.234, 83.51, 4e5, math.inf)] == [
        "0", "1.23e-02", "1.23", "83.5", "4.00e+05", "diverged",
    ]  # fmt: skip
    assert [seeds_text(s) for s in ((), (3,), (0, 1), (3, 4, 5), (1, 3, 5))] == ["", "3", "0, 1", "3-5", "1, 3, 5"]


def test_claims(store: Store) -> None:
    other = Row("twice as bad, half the cycles", RUN.but(lr=0.5))
    results = Results(store)
    claims = [
        error_below("under 0.05", ROW, 0.05, ""),
        error_below("under 0.01", ROW, 0.01, "", (0.04, "look here")),
        error_ratio("other / row", other, ROW, 2.0, "", (3.0, "check sigma")),
        saving("row / other", ROW, other, 2.0, ""),
        dominates("row is better in both", ROW, other, ""),
    ]
    values = [claim.measure(results) for claim in claims]
    assert [claim.verdict(v) for claim, v in zip(claims, values, strict=True)] == ["pass", "miss"] + ["not run"] * 3
    assert claims[1].counsel(values[1]) == "look here" and claims[0].counsel(values[0]) == ""

    keep(store, RUN.but(lr=0.5, seed=1), 0.08, cycles_per_step=100)
    results = Results(store)
    values = [claim.measure(results) for claim in claims]
    assert values[2:] == [2.0, 2.0, 2.0], "0.08 / 0.04 on the seed both have; the worse of 0.58 and 2"
    assert [claim.verdict(v) for claim, v in zip(claims, values, strict=True)][2:] == ["pass", "pass", "miss"]
    assert claims[2].counsel(values[2]) == "check sigma"
    text = TableExperiment("x", "t", (Table("", (ROW, other)),), tuple(claims)).render(results).markdown
    assert "**miss**: look here |" in text and "| >= 2 | 2 | 1 | **pass**: check sigma |" in text


def test_a_table_says_what_was_not_run(store: Store) -> None:
    missing = Row("missing", RUN.but(lr=0.25), paper="< 6e-3")
    rendered = TableExperiment("x", "t", (Table("", (ROW, missing)), Table("two", (missing,)))).render(Results(store))
    rows = [line for line in rendered.markdown.splitlines() if line.startswith("| ")]
    assert rows[1] == (
        "| a row | 8/16/8/12 | 0-2 | 4.67e-02 | x2.00 | 2.50e-02 (2) | 1.41 | 0.467 | 5.00e-01 / 1.00e-01 "
        "| 200 | 2.000 | 2.000 | 2 | - |"
    )
    assert len(rows) == 2 and rendered.markdown.count("Not run: missing.") == 2
    assert "### two\n\nNot run: missing." in rendered.markdown
    assert f"- a row: `pintac train poisson2d --set K=4 --seed` 0-2, {DAY}" in rendered.markdown
    data = rendered.data["tables"][0]["rows"]
    assert data[0]["l2_by_seed"] == [0.02, 0.04, 0.08] and data[1]["l2"] is None


def test_fewer_points_have_a_part_of_their_own(store: Store) -> None:
    large = Row("large", Run.of("poisson2d", lr=0.5))
    half = Row("half", Run.of("poisson2d", lr=0.25))
    keep(store, large.run.but(interior=8), 0.06)
    keep(store, half.run.but(interior=8), 0.03)
    claims = (
        error_ratio("large / half", large, half, 2.0, "paper"),
        error_ratio("large / a row", large, ROW, 0.5, "paper"),
        error_below("a row", ROW, 0.05, "paper"),
    )
    experiment = TableExperiment("x", "t", (Table("", (large, half, ROW)),), claims)
    text = experiment.render(Results(store)).markdown
    full, _, fewer = text.partition("### Fewer points")
    assert "| a row |" in full and "| large |" not in full
    assert "`--set interior=8`" in fewer and "| large |" in fewer and "| a row | 8/16" not in fewer
    assert "| >= 2 | 2 | 1 | **pass** with fewer points |" in fewer
    assert "| large / a row | paper | >= 0.5 | - | - | **not run** |" in fewer, "of two sizes"
    assert "| < 5.00e-02 | 4.67e-02 | 3 | **pass** |" in fewer
    alone = experiment.render(Results(store, quick=True)).markdown
    assert "| large |" in alone and "| a row | 8/16" in alone and "Fewer points" not in alone


def test_fewer_points_go_where_they_say_no_more(store: Store) -> None:
    large = Row("large", Run.of("poisson2d", lr=0.5), twin=False)
    for seed in (0, 1):
        keep(store, large.run.but(interior=8, seed=seed), 0.06)
    keep(store, large.run.but(seed=0), 0.05)
    experiment = TableExperiment("x", "t", (Table("", (large,)),))
    text = experiment.render(Results(store)).markdown
    assert "### Fewer points" in text and "--set interior=8 --set lr=0.5 --seed` 0, 1," in text, "one seed against two"
    keep(store, large.run.but(seed=1), 0.05)
    rendered = experiment.render(Results(store))
    assert "ewer points" not in rendered.markdown and "interior=8" not in rendered.markdown
    assert [table["quick"] for table in rendered.data["tables"]] == [False, True], "the data keep them"


def test_costs_of_different_days_are_said(store: Store) -> None:
    keep(store, RUN.but(seed=2), 0.08, cycles_per_step=500)
    rendered = TableExperiment("x", "t", (Table("", (ROW,)),)).render(Results(store))
    assert "Programs of different days in a row" in rendered.markdown and "| 300 |" in rendered.markdown


def test_quick_rows_are_smaller_where_they_are_large() -> None:
    assert Row("", Run("poisson2d")).quick().run == Run.of("poisson2d", interior=8)
    assert Row("", Run.of("hjb20", quant="none")).quick().run == Run.of("hjb20", quant="none", points=4)
    assert Row("", RUN).quick().run == RUN, "400 evaluations are quick as they are"
    assert Row("", Run.of("heat100", steps=1)).quick().run == Run.of("heat100", steps=1)


def test_order_of_runs_and_a_part_of_them() -> None:
    other = Row("Other", RUN.but(lr=0.5), twin=False)
    experiment = TableExperiment("x", "t", (Table("", (ROW, other)), Table("", (ROW,))))
    assert [run.name for run in experiment.runs(Seeds(2))] == [
        "poisson2d,K=4,seed=0",
        "poisson2d,K=4,quant=none,seed=0",
        "poisson2d,K=4,lr=0.5,seed=0",
        "poisson2d,K=4,seed=1",
        "poisson2d,K=4,quant=none,seed=1",
        "poisson2d,K=4,lr=0.5,seed=1",
    ]
    assert [run.name for run in experiment.runs(Seeds(1), only="other")] == ["poisson2d,K=4,lr=0.5,seed=0"]


def test_kept_facts_are_those_of_today() -> None:
    import json

    kept = json.loads((Path(__file__).parents[2] / "docs/results/facts.json").read_text())
    assert kept["problems"]["poisson2d"] == pytest.approx(trivial(Run("poisson2d")), nan_ok=False)
    for run in (Run("poisson2d"), Run.of("poisson2d", rank=8), Run.of("poisson2d", scheme="dense")):
        assert kept["networks"][run.name.rpartition(",seed=")[0]] == parameters(run)
