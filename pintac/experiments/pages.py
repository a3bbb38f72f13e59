"""Where results are written: blocks of hand-written pages, or a page of their own; JSON; figures.

A block stands between the lines `<!-- begin NAME -->` and `<!-- end NAME -->`. What is between is generated; the prose
around it is not touched, and may quote these marks anywhere but at the start of a line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pintac.container import write_atomically
from pintac.errors import ResultsError
from pintac.experiments.experiment import Experiment
from pintac.experiments.files import SIGN
from pintac.experiments.plots import draw, figure_path, plotted
from pintac.experiments.results import Results
from pintac.experiments.tables import Rendered


def publish(experiment: Experiment, results: Results, *, figures: bool = True) -> list[Path]:
    """Write everything that an experiment shows; the files that were written.

    `<results>/NAME.json` always, Markdown into every block of that name, or to `<results>/NAME.md` if there is none,
    figures to `files.figures_folder`. Quick results are `NAME-quick` and no part of any page.
    """
    rendered = experiment.render(results)
    folder = results.store.results
    name = experiment.name + ("-quick" if results.quick else "")
    written = [folder / f"{name}.json"]
    text = json.dumps(rendered.data, indent=1, sort_keys=True, allow_nan=False) + "\n"
    _write(written[0], text)
    if figures and not results.quick:
        written += [draw(figure, results) for figure in rendered.figures if plotted(figure, results)]
        written += [path for path in (drawing() for drawing in rendered.drawings) if path is not None]
    pages = [] if results.quick else pages_with(name, folder)
    for page in pages:
        _write(page, filled(page.read_text(), name, block_text(rendered, results, page), page))
    if not pages:
        page = folder / f"{name}.md"
        _write(page, f"# {experiment.title}\n\n{block_text(rendered, results, page)}")
        pages = [page]
    return written + pages


def block_text(rendered: Rendered, results: Results, page: Path) -> str:
    """The Markdown of an experiment with its figures, as it stands on a page."""
    parts = [rendered.markdown]
    for figure in rendered.figures:
        path = figure_path(figure, results)
        if path.exists() and not results.quick:
            target = os.path.relpath(path, page.parent).replace(os.sep, "/")
            parts.append(f"\n![{figure.title}]({target})\n")
    return "".join(parts)


def pages_with(name: str, results: Path) -> list[Path]:
    """Pages beside these results that have a block of this name."""
    folder = results.resolve().parent
    if not (folder / SIGN).is_file():
        return []
    pages = [*sorted(folder.glob("*.md")), folder.parent / "README.md"]
    begin = _mark("begin", name)
    return [page for page in pages if page.is_file() and begin.search(page.read_text())]


def check_pages(experiments: Sequence[Experiment], results: Path) -> None:
    """What `publish` will ask of the pages beside these results. Raises ResultsError for a block that does not end."""
    for experiment in experiments:
        for page in pages_with(experiment.name, results):
            filled(page.read_text(), experiment.name, "", page)


def filled(text: str, name: str, shown: str, page: Path) -> str:
    """The text of this page with something new shown in the block. Raises ResultsError if the block does not end."""
    if _block(name).search(text) is None:
        found = _mark("begin", name).search(text)
        line = text.count("\n", 0, found.start()) + 1 if found else 1
        raise ResultsError(f"{page}:{line}: the block {name} has no end", hint=f"a line <!-- end {name} --> below it")
    return _block(name).sub(lambda match: f"{match[1]}\n{shown.strip()}\n{match[3]}", text)


def block(page: str, name: str) -> str | None:
    """What a page has in the block; None without one."""
    found = _block(name).search(page)
    return found[2] if found else None


def _mark(side: str, name: str) -> re.Pattern[str]:
    return re.compile(rf"^<!-- {side} {re.escape(name)} -->", re.MULTILINE)


def _block(name: str) -> re.Pattern[str]:
    """A block: its first mark, what is between, its last mark."""
    begin, end = (_mark(side, name).pattern for side in ("begin", "end"))
    return re.compile(rf"({begin})\n(.*?)({end})", re.DOTALL | re.MULTILINE)


def stale(experiments: Sequence[Experiment], results: Results) -> list[str]:
    """Files that are not what the store gives today, each as `FILE (NAME)`."""
    found = []
    for experiment in experiments:
        rendered = experiment.render(results)
        for page in pages_with(experiment.name, results.store.results):
            text = block_text(rendered, results, page)
            if block(page.read_text(), experiment.name) != text.strip() + "\n":
                found.append(f"{page.name} ({experiment.name})")
    return found


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror}") from None
