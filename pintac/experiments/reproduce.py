"""`pintac reproduce`: make what is missing, then write tables, claims and figures of everything that is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pintac.errors import UsageError
from pintac.experiments.catalogue import ALIASES, EXPERIMENTS, load_experiment
from pintac.experiments.costs import refresh
from pintac.experiments.execute import execute, missing
from pintac.experiments.experiment import Experiment
from pintac.experiments.files import check_folder
from pintac.experiments.pages import check_pages, publish
from pintac.experiments.plots import available
from pintac.experiments.progress import RunProgress
from pintac.experiments.results import Results
from pintac.experiments.rows import Seeds
from pintac.experiments.runs import Run
from pintac.experiments.store import Store
from pintac.experiments.tables import Rendered

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

Say = Callable[[str], None]


def default_results() -> Path:
    """`docs/results` in the repository, else `results`."""
    committed = Path("docs/results")
    return committed if committed.is_dir() else Path("results")


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def listing(results: Path, seeds: Seeds) -> str:
    """Every experiment with how many of its runs are finished."""
    store = Store(results)
    other = {name: alias for alias, name in ALIASES.items()}
    lines = []
    for name in EXPERIMENTS:
        experiment = load_experiment(name)
        runs = experiment.runs(seeds)
        done = len(runs) - len(missing(runs, store))
        also = f" (also: {other[name]})" if name in other else ""
        lines.append(f"{name:<12}{done:>4} of {len(runs):>3} runs  {experiment.title}{also}\n")
    return "".join(lines)


def reproduce(
    names: Sequence[str],
    results: Path,
    *,
    seeds: Seeds,
    quick: bool = False,
    jobs: int = 1,
    only: str | None = None,
    render_only: bool = False,
    plots: bool = True,
    again: str = "",
    out: Say,
    note: Say,
) -> int:
    """Make the missing runs of the named experiments (all if none is named and nothing is to be run), then show them.

    Pages are looked at before the first run. `out` gets the tables, `note` everything else. The exit code: 1 if a run
    failed, 130 after Ctrl-C.
    """
    experiments = _named(names, all_if_none=render_only)
    if not quick:
        check_pages(experiments, results)
    store = Store(results)
    runs = {} if render_only else _runs(experiments, seeds, quick, only)
    check_folder(results)
    code = 0
    if not render_only:
        code = _make(list(runs), store, jobs, note)
        if code != EXIT_INTERRUPTED:
            for experiment in experiments:
                experiment.measure(results, quick, again)
    if plots and not quick and not available():
        note("figures are left out: matplotlib is not installed (pip install 'pintac[plot]')")
        plots = False
    asked, declared = Results(store, seeds, quick), Results(store, quick=quick)
    for experiment in experiments:
        out(_text(experiment, experiment.render(asked)))
    for experiment in experiments:
        # pages do not depend on the seeds that happened to be asked for
        for path in publish(experiment, declared, figures=plots):
            note(f"wrote {_relative(path)}")
    return code


def renew_costs(names: Sequence[str], results: Path, *, seeds: Seeds, only: str | None = None, note: Say) -> int:
    """Take over today's costs into the kept runs of the named experiments, all if none is named; of rows `only`."""
    store = Store(results)
    configurations: dict[str, dict[Run, None]] = {}
    for experiment in _named(names, all_if_none=True):
        for run in (*experiment.runs(seeds, only=only), *experiment.runs(seeds, quick=True, only=only)):
            configurations.setdefault(run.label, {})[run] = None
    for number, (label, runs) in enumerate(configurations.items()):
        renewed = refresh(list(runs), store)
        if renewed:
            cycles = renewed[0].result["cycles_per_step"]
            note(f"[{number + 1}/{len(configurations)}] {label}: {cycles:,} cycles a step, {len(renewed)} seeds")
    return 0


def _named(names: Sequence[str], all_if_none: bool) -> list[Experiment]:
    if not names and not all_if_none:
        raise UsageError("what shall be reproduced?", hint=f"one of {', '.join([*EXPERIMENTS, *ALIASES])}; --list")
    chosen = dict.fromkeys(ALIASES.get(name, name) for name in names or EXPERIMENTS)
    return [load_experiment(name) for name in chosen]


def _runs(experiments: Sequence[Experiment], seeds: Seeds, quick: bool, only: str | None) -> dict[Run, None]:
    runs: dict[Run, None] = {}
    for experiment in experiments:
        runs |= dict.fromkeys(experiment.runs(seeds, quick, only))
    return runs


def _make(runs: Sequence[Run], store: Store, jobs: int, note: Say) -> int:
    wanted = [run for run in runs if store.load(run) is None]  # a damaged one stops here, not behind hours of others
    if not wanted:
        note(f"all {len(runs)} runs are there")
        return 0
    progress = RunProgress(wanted, store, jobs)
    note(f"{len(wanted)} of {len(runs)} runs are missing, {jobs} at a time; Ctrl-C stops, the same command goes on")
    report = execute(wanted, store, jobs=jobs, show=progress.show)
    for run, message in report.failed:
        note(f"failed: {run.command}\n{message}")
    if report.interrupted:
        note("interrupted; the same command goes on from here")
        return EXIT_INTERRUPTED
    return EXIT_FAILED if report.failed else 0


def _text(experiment: Experiment, rendered: Rendered) -> str:
    return f"## {experiment.title}\n\n{rendered.markdown}\n"


def _relative(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
