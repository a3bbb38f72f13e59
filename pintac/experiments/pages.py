"""Where results are written: blocks of hand-written pages, or a page of their own; JSON; figures.

A block stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. What is between is generated; the prose around it
is not touched.
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
from pintac.experiments.plots import draw, figure_path, plotted
from pintac.experiments.results import Results
from pintac.experiments.tables import Rendered

SIGN = "RESULTS.md"
"""Where this page lies above the folder of results, it and its neighbours and the README may hold blocks."""


def publish(experiment: Experiment, results: Results, *, figures: bool = True) -> list[Path]:
    """Write everything that an experiment shows; the files that were written.

    `<results>/NAME.json` always, Markdown into every block of that name, or to `<results>/NAME.md` if there is none,
    figures to `figures/` beside the results. Quick results are `NAME-quick` and no part of any page.
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
        _write(page, filled(page.read_text(), name, block_text(rendered, results, page)))
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
    return [page for page in pages if page.is_file() and f"<!-- begin {name} -->" in page.read_text()]


def filled(page: str, name: str, text: str) -> str:
    """A page with a new text in the block. Raises ResultsError if the block does not end."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(re.escape(begin) + r"\n.*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise ResultsError(f"the block {name} of a page has no end", hint=f"a line {end}")
    return pattern.sub(lambda match: f"{begin}\n{text.strip()}\n{end}", page)


def block(page: str, name: str) -> str | None:
    """What a page has in the block; None without one."""
    found = re.search(rf"<!-- begin {re.escape(name)} -->\n(.*?)<!-- end {re.escape(name)} -->", page, re.DOTALL)
    return found[1] if found else None


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
