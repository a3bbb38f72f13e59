"""Section 2 of docs/MACHINE.md: every key of the default machine and every statement of the model, numbered."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from pintac import cost, timeline
from pintac.machine import KEYS, Machine

BEGIN = "<!-- generated from pintac/machines/pinta.toml, cost.py and timeline.py by `make docs` -->"
END = "<!-- end of the generated part -->"


def assumptions() -> list[tuple[str, str]]:
    """(what, text) of every numbered assumption: assumed keys in the machine file's order, then the model's rules."""
    machine = Machine.default()
    keys = [key for key in KEYS if machine.provenance[key].tag == "assumed"]
    out = [(key, f"`{key}` = {_value(machine, key)}: {KEYS[key].doc}. {_source(machine, key)}") for key in keys]
    out += [("cost", text) for text in cost.ASSUMPTIONS]
    out += [("timeline", text) for text in timeline.ASSUMPTIONS]
    return out


def _value(machine: Machine, key: str) -> str:
    value = getattr(machine, key)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _source(machine: Machine, key: str) -> str:
    source = machine.provenance[key].source
    return f"Source: {source}." if source else ""


def machine_section() -> str:
    """The generated part, markers included."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    machine = Machine.default()
    yield BEGIN
    yield ""
    yield "Published or derived:"
    yield ""
    for key in KEYS:
        p = machine.provenance[key]
        if p.tag != "assumed":
            yield from _wrapped("- ", f"`{key}` = {_value(machine, key)} ({p.tag}): {p.source}.")
    yield ""
    yield "Assumed, by key of the machine file:"
    yield ""
    numbered = assumptions()
    for number, (what, text) in enumerate(numbered, start=1):
        if what in ("cost", "timeline") and numbered[number - 2][0] != what:
            title = {"cost": "cost of one instruction (`pintac/cost.py`)", "timeline": "timing (`pintac/timeline.py`)"}
            yield ""
            yield f"Assumed, {title[what]}:"
            yield ""
        yield from _wrapped(f"{number}. ", text)
    yield ""
    yield END


def _wrapped(bullet: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, 118, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def updated(page: str) -> str:
    """docs/MACHINE.md with its generated part as it should be. Raises ValueError if the markers are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("docs/MACHINE.md has lost the markers of its generated part")
    return before + machine_section().rstrip("\n") + after
