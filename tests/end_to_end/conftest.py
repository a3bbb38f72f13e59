"""One compiled program for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import pintac
from pintac.frontend import load_step
from pintac.program import Program
from tests.cli.support import TINY


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's file with a 2-8-8-1 network, odd numbers of points, and an object `step`."""
    path = tmp_path_factory.mktemp("user") / "tiny_pde.py"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny_program(tiny_file: Path) -> Program:
    """Its program."""
    return pintac.compile(load_step(f"{tiny_file}:step"))
