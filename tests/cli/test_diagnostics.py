"""Diagnostics on the command line: on stderr, in the JSON, switched off."""

from __future__ import annotations

from pathlib import Path

from tests.cli.support import Cli


def test_the_switch(cli: Cli, tiny: str) -> None:
    quiet = ("--engine", "evaluator", "--steps", "2", "--quant", "naive", "--quiet", "--json", "r.json")
    assert "warning: masking" in cli("train", tiny, *quiet).err
    assert '"diagnostics": [\n' in Path("r.json").read_text()
    assert cli("train", tiny, *quiet, "--no-diagnostics").err == ""
    assert '"diagnostics": null' in Path("r.json").read_text()
