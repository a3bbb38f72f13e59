"""Figures as SVG: error against joules so far or at the end, against cycles or sigma. Equal results give equal files.

matplotlib is the extra `plot`. Each file says in its metadata which data it shows, so that a test can tell a stale one
without drawing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

from pintac.errors import PintacError, ResultsError
from pintac.experiments.files import figures_folder
from pintac.experiments.results import Results, Summary
from pintac.experiments.tables import Figure

UNITS = {
    "joules": "simulated energy of the run [J]",
    "cycles": "simulated cycles of a step [millions]",
    "sigma": "sigma, a length in the coordinates",
}
MARKERS = "osD^v<>pPX*"
TWIN = 8
"""Size of the mark of a float twin: around the row's own where they agree."""

SAME = 0.1
"""Logarithm of the quotient of two places on the axis that have one name between them."""


def figure_path(figure: Figure, results: Results) -> Path:
    """Its file."""
    return figures_folder(results.store.results) / f"{figure.name}.svg"


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def need_matplotlib(otherwise: str) -> None:
    """Raise PintacError unless matplotlib is installed; `otherwise` is what to do without it."""
    if not available():
        hint = f"pip install 'pintac[plot]', or {otherwise}"
        raise PintacError("figures are drawn with matplotlib, which is not installed", hint=hint)


def plotted(figure: Figure, results: Results) -> list[dict[str, Any]]:
    """What a figure shows, a row each; rows without a finished run or a program are left out."""
    shown: list[dict[str, Any]] = []
    for row in figure.rows:
        summary = results[row]
        step = summary.joules_step
        if step is None or summary.l2 is None or not math.isfinite(summary.l2):
            continue
        runs = [
            [[done * step, l2] for done, _, l2, *_ in run.result["history"] if l2 is not None]
            for run in summary.finished
        ]
        shown.append(
            {
                "label": row.label.replace("`", ""),
                "curves": runs if figure.kind == "curves" else [],
                "at": _place(figure, summary, step),
                "l2": list(summary.errors),
                "twin": summary.twin,
            }
        )
    return shown


def _place(figure: Figure, summary: Summary, step: float) -> float:
    """Where a row is along the axis; `step` are joules of one of its steps."""
    if figure.against == "joules":
        return step * (summary.steps or 0)
    return (summary.cycles or 0.0) / 1e6 if figure.against == "cycles" else float(summary.row.run.setting("sigma"))


def digest(figure: Figure, results: Results) -> str:
    """Of the data that a figure shows."""
    data = [figure.title, figure.kind, figure.against, plotted(figure, results)]
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]


def draw(figure: Figure, results: Results) -> Path:
    """Draw a figure and write it. Raises PintacError if matplotlib is not there."""
    need_matplotlib("--no-plots")
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot, ticker

    path = figure_path(figure, results)
    with matplotlib.rc_context({"svg.hashsalt": "pintac", "svg.fonttype": "path"}):
        canvas, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
        data = plotted(figure, results)
        {"curves": _curves, "points": _points, "series": _series}[figure.kind](axes, data)
        axes.set(yscale="log", xscale="log", xlabel=UNITS[figure.against], ylabel="relative l2 error")
        axes.set_title(figure.title, fontsize="medium")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.margins(x=0.1, y=0.08)
        axes.grid(alpha=0.3)
        if data:
            # a name a row takes room, and curves leave none
            if figure.kind == "points":
                canvas.legend(fontsize="x-small", loc="outside right center")
            elif figure.kind == "curves":
                canvas.legend(fontsize="x-small", loc="outside lower center", ncols=3)
            else:
                axes.legend(fontsize="x-small")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            description = f"data {digest(figure, results)}"
            canvas.savefig(path, metadata={"Date": None, "Description": description})
        except OSError as error:
            raise ResultsError(f"cannot write {path}: {error.strerror}") from None
        finally:
            pyplot.close(canvas)
    return path


def _curves(axes: Any, data: list[dict[str, Any]]) -> None:
    """A line a seed; the float twins' mean as a dashed level in the row's colour."""
    for number, row in enumerate(data):
        colour = f"C{number}"
        for i, curve in enumerate(row["curves"]):
            x, y = zip(*curve, strict=True)
            axes.plot(x, y, color=colour, lw=1.1, alpha=0.8, label=row["label"] if not i else None)
        if row["twin"] is not None and math.isfinite(row["twin"]):
            axes.axhline(row["twin"], color=colour, ls="--", lw=0.8)
    axes.plot([], [], color="grey", ls="--", lw=0.8, label="float twin, at the end")


def _points(axes: Any, data: list[dict[str, Any]]) -> None:
    """A point a row."""
    for number, row in enumerate(data):
        _marks(axes, [row], number, "none", row["label"])
    _name_twins(axes)


def _series(axes: Any, data: list[dict[str, Any]]) -> None:
    """A line through the rows "series, place" of a series; of rows of a place above each other the worst is named."""
    places: list[tuple[float, float, str]] = []
    series: dict[str, list[dict[str, Any]]] = {}
    for row in data:
        name, _, place = row["label"].rpartition(", ")
        series.setdefault(name, []).append(row)
        places.append((max(row["l2"]), row["at"], place))
    for number, (name, rows) in enumerate(series.items()):
        _marks(axes, rows, number, "-", name)
    named: list[tuple[float, str]] = []
    for l2, x, place in sorted(places, reverse=True):
        near = any(place == other and abs(math.log(x / at)) < SAME for at, other in named)
        if not near and place != f"{x:g}":  # the axis says it already
            named.append((x, place))
            axes.annotate(place, (x, l2), xytext=(4, 6), textcoords="offset points", fontsize="x-small")
    _name_twins(axes)


def _marks(axes: Any, rows: list[dict[str, Any]], number: int, line: str, label: str) -> None:
    """Rows with the range of their seeds; a float twin is a hollow mark, which has no energy of its own."""
    style = {"color": f"C{number % 10}", "marker": MARKERS[number % len(MARKERS)]}
    means = [sum(row["l2"]) / len(row["l2"]) for row in rows]
    low = [mean - min(row["l2"]) for mean, row in zip(means, rows, strict=True)]
    high = [max(row["l2"]) - mean for mean, row in zip(means, rows, strict=True)]
    at = [row["at"] for row in rows]
    axes.errorbar(at, means, yerr=[low, high], ms=5, capsize=2, lw=1.0, ls=line, label=label, **style)
    for row in rows:
        if row["twin"] is not None and math.isfinite(row["twin"]):
            axes.plot(row["at"], row["twin"], ms=TWIN, mfc="none", ls="none", **style)


def _name_twins(axes: Any) -> None:
    axes.plot([], [], color="grey", marker="o", ms=TWIN, mfc="none", ls="none", label="float twin")
