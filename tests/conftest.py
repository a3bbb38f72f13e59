"""Settings of all tests (few threads, deterministic hypothesis) and golden files."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

GOLDEN = Path(__file__).parent / "golden"

settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing with them")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("ir/step.ir", text)` compares text with tests/golden/ir/step.ir, or writes it with --update-golden."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        how = f"If the new text is right, run: python -m pytest {request.node.nodeid.split('[')[0]} --update-golden"
        if not path.exists():
            pytest.fail(f"golden/{name} is missing. {how}, read it, and commit it.\n\n{text}", pytrace=False)
        expected = path.read_text(encoding="utf-8")
        if text != expected:
            lines = difflib.unified_diff(
                expected.splitlines(), text.splitlines(), f"golden/{name}", "now", lineterm="", n=1
            )
            pytest.fail(f"golden/{name} is stale. {how} and review the diff.\n\n" + "\n".join(lines), pytrace=False)

    return check
