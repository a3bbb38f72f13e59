"""The tables of schedules in docs/PERFORMANCE.md are those of docs/results/schedule.json."""

from __future__ import annotations

import pytest

from tools import schedule_quality


def test_the_committed_tables_are_what_the_rows_say() -> None:
    page = schedule_quality.PAGE.read_text(encoding="utf-8")
    hint = "python tools/schedule_quality.py --write-docs"
    assert schedule_quality.filled(page, schedule_quality.read()) == page, hint


TABLES = (schedule_quality.CONFIGURATIONS, schedule_quality.LONGER, schedule_quality.FEW, schedule_quality.WIDE)


@pytest.mark.parametrize("of", TABLES)
def test_another_row_is_another_table(of: dict[str, object]) -> None:
    page, rows = schedule_quality.PAGE.read_text(encoding="utf-8"), schedule_quality.read()
    name = next(name for name in rows if name in of)
    other = {**rows, name: {**rows[name], "cycles": rows[name]["cycles"] + 1}}
    assert schedule_quality.filled(page, other) != page


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match="lacks the markers"):
        schedule_quality.filled("# Performance", schedule_quality.read())
