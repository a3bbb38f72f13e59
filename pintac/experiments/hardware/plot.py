"""The tornado plots as one SVG: what each assumed constant does to speed-up and energy. Equal data, equal file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pintac.errors import ResultsError
from pintac.experiments.files import figures_folder
from pintac.experiments.hardware.figures import Data, Tornado, tornado
from pintac.experiments.hardware.rows import WORKLOADS
from pintac.experiments.plots import need_matplotlib

FILE = "hardware-tornado.svg"
MOST_BARS = 14
LOW, HIGH = "#4878a8", "#d07838"


def figure_path(results: Path) -> Path:
    """The figure's file."""
    return figures_folder(results) / FILE


def shown(data: Data) -> list[tuple[str, Tornado]]:
    """Title and tornado of each problem that has one."""
    found = [(workload.title, tornado(data, workload.problem)) for workload in WORKLOADS]
    return [(title, value) for title, value in found if value is not None]


def digest(data: Data) -> str:
    """Of the data that the figure shows; it stands in the file."""
    content = [[title, found.speed_up, found.energy, [vars(bar) for bar in found.bars]] for title, found in shown(data)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def draw(data: Data, path: Path) -> Path | None:
    """Write the figure; None while there is nothing to show. Raises PintacError if matplotlib is not there."""
    tornados = shown(data)
    if not tornados:
        return None
    need_matplotlib("--no-plots")
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "pintac", "svg.fonttype": "path", "font.size": 8}):
        canvas, axes = pyplot.subplots(
            len(tornados), 2, figsize=(11, 3.6 * len(tornados)), layout="constrained", squeeze=False
        )
        for row, (title, found) in zip(axes, tornados, strict=True):
            _bars(row[0], found, "speed_up", f"{title}: speed-up over {found.baseline}", "host seconds / PINTA seconds")
            _bars(row[1], found, "energy", f"{title}: energy over PINTA's", "host joules / PINTA joules")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            canvas.savefig(path, metadata={"Date": None, "Description": f"data {digest(data)}"})
        except OSError as error:
            raise ResultsError(f"cannot write {path}: {error.strerror}") from None
        finally:
            pyplot.close(canvas)
    return path


def _bars(axes: Any, found: Tornado, which: str, title: str, unit: str) -> None:
    from matplotlib.ticker import LogLocator

    base = getattr(found, which)
    bars = sorted(found.bars, key=lambda bar: (-bar.reach(base, which), bar.name))
    bars = [bar for bar in bars if bar.reach(base, which) > 1.005][:MOST_BARS]
    for place, bar in enumerate(reversed(bars)):
        for value, colour in zip(getattr(bar, which), (LOW, HIGH), strict=True):
            if value is not None:
                axes.barh(place, value - base, left=base, color=colour, height=0.7, alpha=0.85)
    axes.axvline(base, color="black", lw=0.8)
    axes.axvline(1.0, color="grey", lw=0.8, ls=":")
    axes.set_xscale("log")
    axes.set_xlabel(unit)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_yticks(range(len(bars)), [f"{bar.name} ({bar.values})" for bar in reversed(bars)])
    axes.set_title(f"{title}\nat the defaults {base:.3g}; low blue, high orange", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
