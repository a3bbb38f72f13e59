"""What the machine's sticky flags say at the end of a run: blocks that were clipped, values that are not finite."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pintac import api
from pintac.report.summary import summary
from tests.cli.support import Cli


@pytest.mark.parametrize(
    ("value", "saturated", "nonfinite"), [(None, False, False), (1e30, True, False), (np.nan, False, True)]
)
def test_flags_of_a_run(cli: Cli, tiny: str, value: float | None, saturated: bool, nonfinite: bool) -> None:
    """Base weights of 1e30 lie far above 2^47, the largest SMX scale."""
    assert cli("compile", tiny, "-o", "p.pinta").code == 0
    program = api.load("p.pinta")
    states = {s.name: s.shape for s in program.symbols_of("state")}
    weights = None
    if value is not None:
        weights = {
            name: np.full(states[entry["state"]][:: -1 if entry["transposed"] else 1], value, np.float32)
            for name, entry in program.meta["export"].items()
        }
    result = api.run(program, 1, progress=False, weights=weights)
    assert result.nonfinite is nonfinite or value == 1e30  # products of such weights overflow
    assert result.saturated is saturated
    shown = summary(result.as_dict())
    assert ("\nsaturated" in shown) == saturated and ("\nnon-finite" in shown) == bool(result.nonfinite)
    described = json.loads(result.to_json())
    assert (described["saturated"], described["nonfinite"]) == (saturated, result.nonfinite)


def test_no_machine_no_flags(cli: Cli, tiny: str) -> None:
    done = cli("train", tiny, "--quant", "none", "--steps", "1", "--json", "-", "--quiet")
    described = json.loads(done.out)
    assert described["saturated"] is None and described["nonfinite"] is None
