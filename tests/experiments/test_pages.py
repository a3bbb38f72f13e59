"""Pages and figures: written from the store, and equal to it as they are committed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from pintac.errors import PintacError, ResultsError
from pintac.experiments.catalogue import EXPERIMENTS, load_experiment
from pintac.experiments.experiment import TableExperiment
from pintac.experiments.pages import block, filled, publish, stale
from pintac.experiments.plots import _series, digest, draw, figure_path, plotted
from pintac.experiments.results import Results
from pintac.experiments.rows import Row
from pintac.experiments.runs import Run
from pintac.experiments.store import Store
from pintac.experiments.tables import Figure, Table
from tests.experiments.support import keep, know

COMMITTED = Path(__file__).parents[2] / "docs/results"
HINT = "make figures"
RUN = Run.of("poisson2d", K=4)
ROW = Row("a row", RUN)
CURVES = Figure("curves", "Error", (ROW, Row("missing", RUN.but(lr=0.5)), Row("fp32", RUN.but(quant="none"))))
POINTS = Figure("points", "Error", (ROW,), kind="points")
SERIES = Figure("series", "Error", (Row("stein, K = 4", RUN), Row("stein, K = 8", RUN.but(seed=1))), kind="series")
SIGMA = Figure("sigma", "Error", (Row("diff, 0.01", RUN),), kind="series", against="sigma")
EXPERIMENT = TableExperiment("mine", "My table", (Table("", (ROW,)),), figures=(CURVES,))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A repository's docs/results with one run."""
    store = Store(tmp_path / "docs/results")
    know(store, RUN)
    keep(store, RUN, 0.02)
    keep(store, RUN.but(quant="none"), 0.01)
    return Results(store)


def test_without_a_block_a_page_of_its_own(results: Results) -> None:
    written = publish(EXPERIMENT, results, figures=False)
    folder = results.store.results
    assert written == [folder / "mine.json", folder / "mine.md"]
    text = written[1].read_text()
    assert text.startswith("# My table\n\n| configuration |") and "| a row |" in text
    assert json.loads(written[0].read_text())["tables"][0]["rows"][0]["l2"] == 0.02


def test_blocks_are_filled_and_prose_is_not_touched(results: Results) -> None:
    docs = results.store.results.parent
    prose = "# All\n\nbefore\n\n<!-- begin mine -->\nold\n<!-- end mine -->\n\nafter \\1 <!-- begin other -->\n"
    for page in (docs / "RESULTS.md", docs.parent / "README.md"):
        page.write_text(prose)
    assert [p.name for p in publish(EXPERIMENT, results)] == ["mine.json", "curves.svg", "RESULTS.md", "README.md"]
    text = (docs / "RESULTS.md").read_text()
    assert text.startswith("# All\n\nbefore\n\n<!-- begin mine -->\n| configuration |")
    assert text.endswith("<!-- end mine -->\n\nafter \\1 <!-- begin other -->\n") and "old" not in text
    assert "![Error](figures/curves.svg)" in text
    assert "![Error](docs/figures/curves.svg)" in (docs.parent / "README.md").read_text()
    assert stale([EXPERIMENT], results) == []
    keep(results.store, RUN.but(seed=1), 0.03)
    assert stale([EXPERIMENT], Results(results.store)) == ["RESULTS.md (mine)", "README.md (mine)"]


def test_quick_results_touch_no_page(results: Results) -> None:
    docs = results.store.results.parent
    (docs / "RESULTS.md").write_text("<!-- begin mine -->\n<!-- end mine -->\n")
    written = publish(EXPERIMENT, Results(results.store, quick=True))
    assert [path.name for path in written] == ["mine-quick.json", "mine-quick.md"]
    assert (docs / "RESULTS.md").read_text() == "<!-- begin mine -->\n<!-- end mine -->\n"


def test_a_block_without_an_end() -> None:
    with pytest.raises(ResultsError, match=r"docs/RESULTS\.md:3: the block mine has no end"):
        filled("# All\n\n<!-- begin mine -->\ntext `<!-- end mine -->`", "mine", "new", Path("docs/RESULTS.md"))
    assert block("no block", "mine") is None


def test_a_mark_that_a_page_quotes_is_no_block(results: Results) -> None:
    docs = results.store.results.parent
    quoted = "3. A block `<!-- begin mine -->`, `<!-- end mine -->` on a page\n"
    real = "<!-- begin mine -->\na mark: `<!-- end mine -->`\n<!-- end mine -->\n"
    (docs / "RESULTS.md").write_text("# All\n" + real)
    (docs / "HOWTO.md").write_text(quoted)
    assert "RESULTS.md" in [path.name for path in publish(EXPERIMENT, results, figures=False)]
    assert (docs / "HOWTO.md").read_text() == quoted
    assert "a mark" not in (docs / "RESULTS.md").read_text()


# --- figures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", [CURVES, POINTS, SERIES, SIGMA], ids=lambda figure: figure.name)
def test_equal_results_give_equal_figures(results: Results, figure: Figure) -> None:
    pytest.importorskip("matplotlib")
    first = draw(figure, results).read_bytes()
    assert draw(figure, results).read_bytes() == first
    assert f"data {digest(figure, results)}".encode() in first
    keep(results.store, RUN.but(seed=1), 0.03)
    assert digest(figure, Results(results.store)) != digest(figure, results)


def test_what_a_figure_shows(results: Results) -> None:
    (shown,) = plotted(CURVES, results)
    assert shown["curves"] == [[[0.04, 0.5], [0.08, 0.02], [2.0, 0.02]]], "2 mJ a step"
    assert (shown["label"], shown["at"], shown["l2"], shown["twin"]) == ("a row", 2.0, [0.02], 0.01)
    assert [row["at"] for row in plotted(SIGMA, results)] == [0.01]


def test_places_of_a_series_are_named_where_they_are(results: Results) -> None:
    """Once above each other, at each where they are apart, not where the axis says it."""
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    def row(label: str, at: float, l2: float) -> dict[str, object]:
        return {"label": label, "curves": [], "at": at, "l2": [l2], "twin": None}

    canvas, axes = pyplot.subplots()
    over_each_other = [row("a, R = 8", 1.0, 0.1), row("b, R = 8", 1.01, 0.2)]
    _series(axes, [*over_each_other, row("c, R = 8", 2.0, 0.05), row("d, 3", 3, 1)])
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("R = 8", (1.01, 0.2)), ("R = 8", (2.0, 0.05))]
    pyplot.close(canvas)


def test_without_matplotlib(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PintacError, match="not installed") as error:
        draw(CURVES, results)
    assert "pintac[plot]" in str(error.value)


# --- what is committed --------------------------------------------------------------------------------------------


def test_committed_pages_are_what_the_runs_say() -> None:
    assert stale([load_experiment(name) for name in EXPERIMENTS], Results(Store(COMMITTED))) == [], HINT


def test_committed_tables_are_what_the_runs_say() -> None:
    results = Results(Store(COMMITTED))
    for name in EXPERIMENTS:
        data = json.loads((COMMITTED / f"{name}.json").read_text())
        assert data == json.loads(json.dumps(load_experiment(name).render(results).data)), f"{name}: {HINT}"


def test_committed_figures_show_these_runs() -> None:
    results = Results(Store(COMMITTED))
    for name in EXPERIMENTS:
        for figure in load_experiment(name).render(results).figures:
            if plotted(figure, results):
                text = figure_path(figure, results).read_text()
                assert f"data {digest(figure, results)}" in text, f"{figure.name}: {HINT}"


def test_every_experiment_has_its_place() -> None:
    docs = COMMITTED.parent
    pages = "\n".join(path.read_text() for path in [*docs.glob("*.md"), docs.parent / "README.md"])
    names = set(re.findall(r"^<!-- begin ([\w-]+) -->", pages, re.MULTILINE))
    assert names == set(EXPERIMENTS)


def test_what_costs_nothing_scores_what_the_facts_say() -> None:
    """The table of trivial errors in PROBLEMS, by hand: `-` is none, `> 1` a bound, else some digits."""
    problems = json.loads((COMMITTED / "facts.json").read_text())["problems"]
    page = (COMMITTED.parent / "PROBLEMS.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` ((?:\| [^|]+ ){5})\|$", page, re.MULTILINE)
    assert {name for name, _ in rows} == {name for name in problems if not name.startswith("examples.")}
    for name, cells in rows:
        for key, text in zip(("zero", "constant", "affine", "untrained", "time"), cells.split("|")[1:], strict=True):
            known, words = problems[name][key], text.split()
            if words[0] in "->":
                assert known is None if words[0] == "-" else known > 1, (name, key, known)
            else:
                assert float(words[0]) == pytest.approx(known, rel=0.01, abs=1e-12), (name, key, known)
