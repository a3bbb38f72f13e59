"""The hardware tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pintac.experiments.hardware.figures import Data, HostFigure, Tornado, best, best_of, program, seconds_of, tornado
from pintac.experiments.hardware.model import contraction_macs
from pintac.experiments.hardware.rows import (
    AD_METHODS,
    CONFIGURATIONS,
    CONTRACTIONS,
    FORWARD,
    METHOD_NAMES,
    NESTED,
    PAPER_ENERGY,
    PAPER_SPEED_UP,
    RUN_STEPS,
    SAMPLED,
    WORKLOADS,
    Workload,
)

MOST_BARS = 16
MISSING = "-"


def markdown(data: Data) -> str:
    """Everything that is there; a figure that is not is `-`."""
    parts = [_host_line(data), _summary(data)]
    for workload in WORKLOADS:
        parts.append(f"### {workload.title} (`{workload.problem}`)\n")
        parts += [_hosts(data, workload), _programs(data, workload)]
    parts += ["### Against the paper\n", _against_the_paper(data)]
    parts += ["### Which assumed constants matter\n", *(_tornado(data, w) for w in WORKLOADS)]
    parts += ["### Memory of a step\n", _memory(data)]
    parts += ["### Order of contraction\n", _contraction(data)]
    parts += ["### DiffQuant and TT on a commodity processor\n", _overhead(data)]
    parts += ["### Every measurement\n", _everything(data)]
    return "\n".join(part for part in parts if part)


def table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    """A Markdown table with a line break after it."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _host_line(data: Data) -> str:
    host = data.get("host")
    if not host:
        return "Nothing has been measured on a host yet.\n"
    loads = [
        load
        for part in (*data.get("torch", {}).values(), data.get("overhead", {}))
        for entry in part.values()
        for load in entry.get("load", ())
        if load is not None
    ]
    load = f"load average {min(loads):.1f} to {max(loads):.1f}" if loads else "load average not known"
    return (
        f"Measured {host['date']}: {host['cpu']}, {host['processors']} processors, torch {host['torch']}, Python "
        f"{host['python']}, {load}. Energy of the host: {host['energy']}, {host['watts_per_core']:.3g} W a busy core "
        f"({host['watts_source']}). GPU: {'yes' if host['gpu'] else 'none here'}.\n"
    )


SUMMARISED = (
    ("paper", "the paper's configuration"),
    ("improved", "the improved recipe"),
    ("one micro-op", "one micro-op"),
)


def _summary(data: Data) -> str:
    """Ranges over the problems, configuration by configuration."""
    lines = []
    for configuration, title in SUMMARISED:
        over_nested, over_best, energy_nested, energy_best = [], [], [], []
        for workload in WORKLOADS:
            costs = program(data, workload.problem, configuration)
            nested, strongest = best(data, workload.problem, NESTED), best_of(data, workload.problem, AD_METHODS)
            if costs is None or nested is None or strongest is None:
                continue
            over_nested.append(nested.seconds / costs["seconds"])
            over_best.append(strongest[1].seconds / costs["seconds"])
            if nested.joules is not None and strongest[1].joules is not None:
                energy_nested.append(nested.joules / costs["joules"])
                energy_best.append(strongest[1].joules / costs["joules"])
        if over_nested:
            lines.append(
                f"- *{title}*: {_range(over_nested)} the speed of nested autograd, {_range(over_best)} that of the "
                f"fastest automatic differentiation found; energy {_range(energy_nested)} and "
                f"{_range(energy_best)} less."
            )
    if not lines:
        return ""
    names = ", ".join(workload.title for workload in WORKLOADS)
    return f"Over {names} (each with its fastest arrangement on this host):\n\n" + "\n".join(lines) + "\n"


def _range(values: Sequence[float]) -> str:
    return f"{_times(min(values))} to {_times(max(values))}" if values else MISSING


def _hosts(data: Data, workload: Workload) -> str:
    paper, improved = (program(data, workload.problem, name) for name in ("paper", "improved"))

    def rows() -> Iterator[list[str]]:
        for method, name in METHOD_NAMES.items():
            one, fastest = best(data, workload.problem, method, 1), best(data, workload.problem, method)
            if one is None and fastest is None:
                continue
            for figure in dict.fromkeys([one, fastest]):
                if figure is not None:
                    yield [
                        name,
                        figure.arrangement,
                        f"{figure.seconds * 1e3:.3g}",
                        f"{figure.run_seconds:.3g}",
                        _number(figure.run_joules),
                        *_ratios(figure, paper),
                        *_ratios(figure, improved),
                    ]

    head = (
        "host", "fastest arrangement", "ms a step", f"s, {RUN_STEPS} steps", f"J, {RUN_STEPS} steps",
        "speed-up, paper's", "energy", "speed-up, improved", "energy",
    )  # fmt: skip
    return table(head, rows())


def _ratios(figure: HostFigure, costs: Data | None) -> tuple[str, str]:
    if costs is None:
        return MISSING, MISSING
    joules = None if figure.joules is None else figure.joules / costs["joules"]
    return _times(figure.seconds / costs["seconds"]), _times(joules)


def _programs(data: Data, workload: Workload) -> str:
    hosts = [best(data, workload.problem, method) for method in (NESTED, FORWARD, SAMPLED)]

    def rows() -> Iterator[list[str]]:
        for configuration in CONFIGURATIONS:
            entry = data.get("pinta", {}).get(workload.problem, {}).get(configuration.name)
            if entry is None:
                continue
            if "note" in entry:
                yield [configuration.title, entry["note"], *[MISSING] * 7]
                continue
            speed = [MISSING if host is None else _times(host.seconds / entry["seconds"]) for host in hosts]
            joules = hosts[0].joules if hosts[0] is not None else None
            yield [
                configuration.title,
                f"{entry['cycles']:,}",
                f"{entry['seconds'] * 1e3:.3g}",
                f"{entry['seconds'] * RUN_STEPS:.3g}",
                f"{entry['joules'] * 1e3:.3g}",
                f"{entry['joules'] * RUN_STEPS:.3g}",
                " / ".join(speed),
                MISSING if joules is None else _times(joules / entry["joules"]),
            ]

    settings = ", ".join(f"{key} = {value}" for key, value in workload.improved.items())
    head = (
        "PINTA, simulated", "cycles a step", "ms", f"s, {RUN_STEPS} steps", "mJ a step", f"J, {RUN_STEPS} steps",
        "speed-up over nested / forward Laplacian / SE", "energy, nested",
    )  # fmt: skip
    return table(head, rows()) + f"\nImproved: {settings}, even/odd halves.\n"


def _against_the_paper(data: Data) -> str:
    def rows() -> Iterator[list[str]]:
        for workload in WORKLOADS:
            paper = program(data, workload.problem, "paper")
            nested = best(data, workload.problem, NESTED)
            strongest = best_of(data, workload.problem, AD_METHODS)
            if paper is None or nested is None or strongest is None:
                continue
            method, figure = strongest
            energies = [None if f.joules is None else f.joules / paper["joules"] for f in (nested, figure)]
            yield [
                workload.title,
                PAPER_SPEED_UP,
                _times(nested.seconds / paper["seconds"]),
                f"{_times(figure.seconds / paper['seconds'])} ({METHOD_NAMES[method]}, {figure.arrangement})",
                PAPER_ENERGY,
                *map(_times, energies),
            ]

    head = (
        "problem", "speed-up, paper", "over nested autograd here", "over the fastest AD here", "energy, paper",
        "nested autograd here", "fastest AD here",
    )  # fmt: skip
    return table(head, rows())


def _tornado(data: Data, workload: Workload) -> str:
    found = tornado(data, workload.problem)
    if found is None:
        return ""
    intro = (
        f"{workload.title}, the paper's configuration against {found.baseline}: speed-up {_times(found.speed_up)}, "
        f"energy {_times(found.energy)}. Ratios with a constant at half / double its value, largest effects first.\n"
    )
    return intro + "\n" + table(("constant", "values", "speed-up", "energy", "how"), _bar_rows(found))


def _bar_rows(found: Tornado) -> Iterator[list[str]]:
    for bar in found.bars[:MOST_BARS]:
        yield [
            f"`{bar.name}`" if "_" in bar.name else bar.name,
            bar.values,
            " / ".join(map(_times, bar.speed_up)),
            " / ".join(map(_times, bar.energy)),
            bar.how,
        ]


def _memory(data: Data) -> str:
    def rows() -> Iterator[list[str]]:
        for workload in WORKLOADS:
            paper = program(data, workload.problem, "paper")
            chip = None if paper is None else paper["sram_bytes"] + paper["psum_bytes"]
            whole = None if paper is None or chip is None else chip + paper["dram_bytes"]
            cells = []
            for prefix in (
                f"{METHOD_NAMES[NESTED]}, eager, 1 thread",
                f"{METHOD_NAMES[FORWARD]}, eager, 1 thread",
                f"{METHOD_NAMES[SAMPLED]}, eager, 1 thread",
                f"{METHOD_NAMES[SAMPLED]}, eager, 1 thread, {workload.chunk} points at a time",
            ):
                entry = data.get("torch", {}).get(workload.problem, {}).get(prefix, {})
                peak, resident = entry.get("peak_bytes"), entry.get("rss_bytes")
                over = f", {_times(peak / whole)}" if peak and whole else ""
                cells.append(MISSING if peak is None else f"{peak / 1e6:.3g} ({(resident or 0) / 1e6:.3g}){over}")
            mine = MISSING if paper is None or chip is None else f"{chip / 1e6:.3g} + {paper['dram_bytes'] / 1e6:.3g}"
            yield [workload.title, *cells, mine]

    head = (
        "problem", "nested autograd", "forward Laplacian", "SE, all points", "SE, in chunks",
        "PINTA: on chip + DRAM",
    )  # fmt: skip
    note = (
        "MB: most that torch's allocator held for a step beyond what it held before (growth of the process), and "
        "that over PINTA's on-chip memory and DRAM together. PINTA's DRAM includes weights, moments and test points."
    )
    return note + "\n\n" + table(head, rows())


def _contraction(data: Data) -> str:
    found = data.get("contraction", {})

    def rows() -> Iterator[list[str]]:
        for first, second in zip(CONTRACTIONS[::2], CONTRACTIONS[1::2], strict=True):
            prs, sequential = found.get(first.name, {}), found.get(second.name, {})
            if "macs" not in prs or "macs" not in sequential:
                continue
            rank = int(str(first.settings["rank"]))
            ranks = (min(16, rank), rank, min(16, rank))
            formula = [contraction_macs((16, 16), (16, 16), ranks, order) for order in ("prs", "sequential")]
            yield [
                str(rank),
                *(f"{value:,}" for value in formula),
                f"{formula[0] / formula[1]:.2f}",
                *(f"{entry['macs'] / 1e9:.3g}" for entry in (prs, sequential)),
                f"{prs['macs'] / sequential['macs']:.2f}",
                *(f"{entry['cycles']:,}" for entry in (prs, sequential)),
                f"{prs['cycles'] / sequential['cycles']:.2f}",
            ]

    head = (
        "R", "MACs a row and layer, PRS", "sequential", "ratio", "GMAC a step, PRS", "sequential", "ratio",
        "cycles a step, PRS", "sequential", "ratio",
    )  # fmt: skip
    return table(head, rows())


def _overhead(data: Data) -> str:
    found = data.get("overhead", {})
    base = seconds_of(found.get("TT, PRS", {}))
    if base is None:
        return ""

    def rows() -> Iterator[list[str]]:
        for name, entry in found.items():
            seconds = seconds_of(entry)
            if seconds is None:
                yield [name, entry.get("note", MISSING), MISSING]
            else:
                yield [name, f"{seconds * 1e3:.0f}", f"{seconds / base:.2f}"]

    return table(("step of 2-D Poisson in torch, fp32", "ms", "/ TT, PRS"), sorted(rows(), key=_by_ratio))


def _by_ratio(row: Sequence[str]) -> float:
    return float(row[2]) if row[2] != MISSING else float("inf")


def _everything(data: Data) -> str:
    def rows() -> Iterator[list[str]]:
        for workload in WORKLOADS:
            for name, entry in data.get("torch", {}).get(workload.problem, {}).items():
                seconds = entry.get("seconds", ())
                yield [
                    workload.problem,
                    name,
                    " ".join(f"{1e3 * value:.3g}" for value in seconds) or entry.get("note", MISSING),
                    " ".join("-" if value is None else f"{value:.1f}" for value in entry.get("load", ())) or MISSING,
                    f"{entry['first_seconds']:.1f}" if "first_seconds" in entry else MISSING,
                ]

    return table(("problem", "arrangement", "ms a step, by round", "load", "s until the first step"), rows())


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g}"


def _times(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g}x"
