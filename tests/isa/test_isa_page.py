"""The generated ISA page in docs/ agrees with the tables."""

from __future__ import annotations

from pathlib import Path

from pintac.isa import DEFS, MicroOp
from pintac.report.isa_page import isa_page


def test_the_committed_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "ISA.md"
    assert page.read_text(encoding="utf-8") == isa_page(), "docs/ISA.md is stale: run `make docs`"


def test_every_field_and_micro_op_is_on_the_page() -> None:
    page = isa_page()
    for definition in DEFS.values():
        for field in definition.header:
            assert f"| `{field.name}` |" in page
    for op in MicroOp:
        assert f"`{op.name.lower()}`" in page
