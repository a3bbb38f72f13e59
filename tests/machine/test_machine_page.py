"""The assumptions in docs/MACHINE.md are those of the machine file and the model, numbered."""

import re
from pathlib import Path

import pytest

from pintac.machine import KEYS, Machine
from pintac.report.machine_page import assumptions, machine_section, updated

PAGE = Path(__file__).parents[2] / "docs" / "MACHINE.md"


def test_the_committed_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == updated(page), "docs/MACHINE.md is stale: run `make docs`"


def test_every_key_is_on_the_page_once() -> None:
    section = machine_section()
    for key in KEYS:
        assert section.count(f"`{key}` =") == 1


def test_assumptions_are_numbered_without_gaps() -> None:
    numbers = [int(n) for n in re.findall(r"(?m)^(\d+)\. ", machine_section())]
    assert numbers == list(range(1, len(assumptions()) + 1))
    assumed = [key for key in KEYS if Machine.default().provenance[key].tag == "assumed"]
    assert [what for what, _ in assumptions()][: len(assumed)] == assumed
    assert len(assumptions()) > len(assumed) + 10


def test_lost_markers_are_noticed() -> None:
    with pytest.raises(ValueError, match="markers"):
        updated("# The machine\n")
