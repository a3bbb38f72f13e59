"""Rewrites the generated pages of docs/ from the tables in the package: `make docs`."""

from __future__ import annotations

from pathlib import Path

from pintac.report.isa_page import isa_page
from pintac.report.machine_page import updated

PAGES = {"ISA.md": isa_page}


def main() -> None:
    """Write every generated page."""
    docs = Path(__file__).parents[1] / "docs"
    for name, page in PAGES.items():
        (docs / name).write_text(page(), encoding="utf-8")
        print(f"wrote docs/{name}")
    machine = docs / "MACHINE.md"
    machine.write_text(updated(machine.read_text(encoding="utf-8")), encoding="utf-8")
    print("wrote section 2 of docs/MACHINE.md")


if __name__ == "__main__":
    main()
