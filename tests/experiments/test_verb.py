"""`pintac reproduce` as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pintac.errors import ResultsError, UsageError
from pintac.experiments import costs
from pintac.experiments.catalogue import ALIASES, EXPERIMENTS, load_experiment
from pintac.experiments.files import figures_folder
from pintac.experiments.latency import measured_ad_seconds, simulated_seconds, speed_up
from pintac.experiments.results import Results
from pintac.experiments.rows import Seeds
from pintac.experiments.runs import Run
from pintac.experiments.store import Store
from tests.cli.conftest import cli
from tests.cli.support import TINY, Cli
from tests.experiments.support import keep, know, result

assert cli  # a fixture

PROBLEMS = ("poisson2d", "hjb20", "hjb20-wave", "heat100", "heat100-wave")


def known(folder: Path) -> Store:
    """A store with the facts of every problem, so that nothing has to be traced."""
    store = Store(folder)
    know(store, *map(Run, PROBLEMS))
    return store


def test_list(cli: Cli, tmp_path: Path) -> None:
    keep(Store(tmp_path / "results"), Run("poisson2d"), 0.004)
    done = cli("reproduce", "--list", "--results", "results")
    assert done.code == 0 and [line.split()[0] for line in done.out.splitlines()] == list(EXPERIMENTS)
    assert "   1 of  " in done.out


def test_render_shows_what_is_there(cli: Cli, tmp_path: Path) -> None:
    store = known(tmp_path / "results")
    keep(store, Run("poisson2d"), 0.0043)
    keep(store, Run.of("poisson2d", bits="8/8/8/12"), 0.02)
    keep(store, Run.of("hjb20", quant="naive", scheme="dense", bits="8/8/8/12"), 0.04)
    keep(store, Run.of("hjb20", scheme="dense", bits="8/8/8/12"), 0.01)
    done = cli("reproduce", "first", "--render", "--no-plots")
    assert done.code == 0
    assert "| < 6.00e-03 | 4.30e-03 | 1 | **pass** |" in done.out
    assert "| < 6.00e-03 | 2.00e-02 | 1 | **miss**: debug DiffQuant |" in done.out
    assert "| >= 10 | 4 | 1 | **miss**: check sigma |" in done.out
    assert "| >= 50 | - | - | **not run** |" in done.out
    assert "wrote results/first.md" in done.err
    assert (tmp_path / "results/first.json").exists()


def test_pages_do_not_depend_on_the_seeds_asked_for(cli: Cli, tmp_path: Path) -> None:
    store = known(tmp_path / "results")
    for seed, l2 in enumerate((0.004, 0.008)):
        keep(store, Run("poisson2d", seed=seed), l2)
    done = cli("reproduce", "first", "--render", "--no-plots", "--seeds", "1")
    assert "4.00e-03" in done.out and "6.00e-03 | x" not in done.out
    assert "6.00e-03 | x1.63" in (tmp_path / "results/first.md").read_text()


def test_latency(tmp_path: Path) -> None:
    from pintac.experiments.catalogue.first import HEAT

    store = known(tmp_path)
    results = Results(store)
    assert measured_ad_seconds(tmp_path, "heat100") is None and speed_up(results, HEAT) is None
    keep(store, HEAT.run, 0.5, steps=1, cycles_per_step=1_000_000)
    (tmp_path / "hardware.json").write_text('{"ad_seconds_per_step": {"heat100": {"nested autograd": 0.06}}}')
    results = Results(store)
    assert simulated_seconds(results, HEAT) == pytest.approx(1e-3), "a clock of 1 GHz"
    assert speed_up(results, HEAT) == pytest.approx(60)
    (tmp_path / "hardware.json").write_text("{")
    with pytest.raises(ResultsError, match=r"hardware\.json"):
        measured_ad_seconds(tmp_path, "heat100")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce"], "what shall be reproduced"),
        (["reproduce", "frist"], "did you mean 'first'"),
        (["reproduce", "first", "--seeds", "few"], "--seeds 3,4,5"),
        (["reproduce", "first", "--seeds", "0"], "--seeds 3,4,5"),
        (["reproduce", "first", "--only", "nothing like it"], "has no row"),
        (["reproduce", "first", "--jobs", "0"], "positive"),
    ],
)
def test_usage(cli: Cli, arguments: list[str], message: str, tmp_path: Path) -> None:
    done = cli(*arguments)
    assert done.code == 2 and message in done.err and done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_run_is_one_message(cli: Cli, tmp_path: Path) -> None:
    store = known(tmp_path / "results")
    keep(store, Run("poisson2d"), 0.004)
    store.path(Run("poisson2d")).write_text("{")
    for render in ([], ["--render"]):  # before the first of the runs that are missing, too
        done = cli("reproduce", "first", *render)
        assert done.code == 1 and "poisson2d,seed=0.json" in done.err and done.out == ""
        assert "runs are missing" not in done.err and "internal" not in done.err


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("first", "hardware.json", ""),
        ("first", "hardware.json", "[]"),
        ("first", "hardware.json", '{"ad_seconds_per_step": null}'),
        ("first", "hardware.json", '{"ad_seconds_per_step": {"heat100": {"nested autograd": "fast"}}}'),
        ("hardware", "hardware.json", '{"torch": {"heat100": {"nested autograd, eager": {"seconds": [null]}}}}'),
        ("hardware", "hardware.json", '{"tornado": {"heat100": {"clock_ghz": {"low": {"seconds": 1.0}}}}}'),
        ("hardware", "hardware.json", '{"pinta": []}'),
        ("blocks", "blocks-costs.json", ""),
        ("blocks", "blocks-costs.json", '{"Stein": {"shapes": [{"shape": "4x4"}]}}'),
        ("first", "facts.json", "[1]"),
        ("first", "facts.json", '{"problems": null}'),
        ("first", "facts.json", '{"problems": {"poisson2d": {"affine": "x"}}}'),
    ],
)
def test_damaged_figures_are_one_message(cli: Cli, tmp_path: Path, name: str, file: str, content: str) -> None:
    from pintac.experiments.catalogue.first import HEAT

    store = known(tmp_path / "results")
    keep(store, HEAT.run, 0.5, steps=1)
    path = tmp_path / "results" / file
    path.write_text(content)
    done = cli("reproduce", name, "--render", "--no-plots")
    assert done.code == 1 and done.out == "" and path.read_text() == content, "nothing is overwritten"
    assert f"{file} cannot be read" in done.err and "hint: remove it" in done.err


def test_results_that_could_not_be_kept_are_not_made(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cli("reproduce", "first", "--results", "file/results")
    assert done.code == 1 and "cannot write results to file/results" in done.err and "missing" not in done.err


def test_figures_stay_in_a_folder_of_results_without_pages(tmp_path: Path) -> None:
    assert figures_folder(tmp_path / "mine") == tmp_path / "mine/figures"
    (tmp_path / "RESULTS.md").write_text("")
    assert figures_folder(tmp_path / "mine") == tmp_path / "figures"


def test_pages_are_looked_at_before_the_first_run(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "docs/results").mkdir(parents=True)
    (tmp_path / "docs/RESULTS.md").write_text("# All\n\n<!-- begin first -->\n")
    done = cli("reproduce", "first", "--no-plots", "--seeds", "1")
    assert done.code == 1 and done.out == ""
    assert "RESULTS.md:3: the block first has no end" in done.err and "runs are missing" not in done.err


def test_every_name_is_an_experiment() -> None:
    for name in [*EXPERIMENTS, *ALIASES]:
        experiment = load_experiment(name)
        assert experiment.name == ALIASES.get(name, name) and experiment.title
    with pytest.raises(UsageError, match="no experiment"):
        load_experiment("table2")


def test_a_failing_run_is_reported_and_the_rest_is_shown(cli: Cli, tmp_path: Path) -> None:
    store = known(tmp_path / "results")
    runs = load_experiment("examples").runs(Seeds(1))
    for run in runs[1:]:
        know(store, run)
        keep(store, run, 0.01)
    know(store, runs[0])
    done = cli("reproduce", "examples", "--seeds", "1", "--no-plots")  # there is no folder examples/ here
    assert done.code == 1
    assert f"failed: {runs[0].command}" in done.err and "no such file" in done.err
    assert "| Helmholtz, 2-D | 8/16/8/12 | 0 | 1.00e-02 |" in done.out


# --- costs --------------------------------------------------------------------------------------------------------


def test_costs_of_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny run is kept with costs of another program; its own come back, its bits stay."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.py").write_text(TINY)
    import pintac
    from pintac.frontend import load_step

    run = Run("tiny.py:step", seed=2)
    store = Store(tmp_path / "results")
    made = pintac.train(load_step(run.problem), seed=2, progress=False).as_dict()
    store.save(run, {**made, "cycles_per_step": 1, "energy_j_per_step": 1.0}, "2020-01-01")
    other = run.but(seed=3)
    store.save(other, {**made, "seed": 3, "cycles_per_step": 1, "l2_rel": 0.5}, "2020-01-01")
    renewed = costs.refresh([run, other, run.but(seed=4)], store)
    assert [done.run.seed for done in renewed] == [2, 3] and renewed[0].date == "2020-01-01"
    assert [done.result["cycles_per_step"] for done in renewed] == [made["cycles_per_step"]] * 2
    assert [done.result["l2_rel"] for done in renewed] == [made["l2_rel"], 0.5]
    assert renewed[0].result["history"] == made["history"]
    assert costs.refresh([run.but(seed=4)], store) == []


def test_costs_of_some_rows(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pintac.experiments import reproduce

    asked: list[str] = []
    monkeypatch.setattr(reproduce, "refresh", lambda runs, store: asked.extend(run.label for run in runs) or [])
    assert cli("reproduce", "sigma", "--costs", "--only", "naive", "--results", str(tmp_path)).code == 0
    assert asked and all("quant=naive" in label or "quant=none" in label for label in asked), "and their float twins"
    assert cli("reproduce", "sigma", "--costs", "--only", "nothing", "--results", str(tmp_path)).code == 2


def test_other_losses_are_another_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = Run("poisson2d")
    keep(store, run, 0.01)
    kept = store.load(run)
    assert kept is not None
    fresh = result(run, 0.01, cycles_per_step=150)
    renewed = costs.compared(kept, fresh)
    assert renewed["cycles_per_step"] == 150 and "l2_rel" not in renewed
    fresh["history"] = [[20, 3.0, None], [40, 2.0000002, None]]
    with pytest.raises(ResultsError, match=r"step 40 has the loss 2\.0000002, recorded is 2\.0") as caught:
        costs.compared(kept, fresh)
    assert caught.value.exit_code == 4
    with pytest.raises(ResultsError, match="none to compare"):
        costs.compared(kept, {**fresh, "history": []})
