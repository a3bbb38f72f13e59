"""Rewrites the example of docs/EXPLAIN.md: compiles the Poisson step and explains it (half a minute)."""

from __future__ import annotations

import datetime
from pathlib import Path

import pintac
from pintac.frontend import load_step

LINES = 8


def main() -> None:
    """Write the page."""
    page = Path(__file__).parents[1] / "docs" / "EXPLAIN.md"
    text = page.read_text(encoding="utf-8")
    head, mark, _ = text.partition("## An example\n")
    if not mark:
        raise SystemExit(f"{page} has no section 'An example'")
    program = pintac.compile(load_step("poisson2d"))
    shown = pintac.explain(program).text(LINES)
    today = datetime.date.today().isoformat()
    page.write_text(
        f"{head}{mark}\n2-D Poisson as it is trained, compiled and explained on {today} (written by\n"
        "`python tools/explain_example.py`):\n\n"
        f"```sh\npintac compile poisson2d -o p.pinta\npintac explain p.pinta --top {LINES}\n```\n\n```\n{shown}```\n",
        encoding="utf-8",
    )
    print(f"wrote {page.name}")


if __name__ == "__main__":
    main()
