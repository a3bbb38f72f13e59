"""`pintac estimate`: its arithmetic, its inputs, what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pintac.experiments import estimate as estimating
from pintac.experiments.estimate import Estimate, Line
from tests.cli.support import Cli


def test_arithmetic() -> None:
    """A step of 5 ms and 72 mJ, 10 runs of 1000 steps at 0.5 a kWh: 50 s, 720 J = 2e-4 kWh."""
    line = Line("x", 0.005, 0.072, 10_000, 0.5)
    assert line.seconds == pytest.approx(50.0)
    assert line.kwh == pytest.approx(2e-4)
    assert line.cost == pytest.approx(1e-4)
    nothing = Line("y", None, None, 10_000, 0.5, "no step within 1 s")
    assert (nothing.seconds, nothing.kwh, nothing.cost) == (None, None, None)
    text = Estimate({"runs": 10, "price": 0.5}, (line, nothing)).text()
    assert "runs   10" in text and "0.0002" in text and "no step within 1 s" in text
    assert "nothing here says that they reach equal errors" in text


def test_estimate(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PINTA's line follows from the program; the host's from what was measured, charged by watts and threads."""
    asked: list[tuple[str, int, int | None]] = []

    def run_row(spec: str, settings: Any, row: Any, budget: float, timeout: float) -> dict[str, Any]:
        asked.append((row.method, row.threads, row.chunk))
        return {"note": "failed: here"} if row.method == "forward" else {"seconds": 0.02, "joules": None}

    monkeypatch.setattr(estimating.host, "run_row", run_row)
    done = cli(
        "estimate", tiny, "--runs", "3", "--kwh-price", "0.25", "--static-watts", "2", "--host-watts", "10",
        "--threads", "2", "--steps", "50", "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(done.out)
    inputs, lines = found["inputs"], {line["name"]: line for line in found["lines"]}
    assert (inputs["runs"], inputs["steps a run"], inputs["price of a kWh"]) == (3, 50, 0.25)
    assert inputs["PINTA's static watts"] == 2.0 and inputs["host's energy"] == "time x 10 W a busy core"
    assert [method for method, _, _ in asked] == ["nested", "forward", "sampled"]
    assert {threads for _, threads, _ in asked} == {2} and asked[2][2] == 2048 // 4
    model = lines["PINTA (model)"]
    cycles = int(inputs["PINTA"].split(" GHz, ")[1].split(" cycles")[0].replace(",", ""))
    assert model["seconds_per_step"] == pytest.approx(cycles * 1e-9)
    assert model["seconds"] == pytest.approx(150 * cycles * 1e-9)
    millijoules = float(inputs["PINTA"].split("and ")[1].split(" mJ")[0])
    assert model["joules_per_step"] == pytest.approx(millijoules * 1e-3 + 2 * cycles * 1e-9, rel=1e-3)
    host = lines["host, nested autograd"]
    assert host["joules_per_step"] == pytest.approx(0.02 * 10 * 2)
    assert host["cost"] == pytest.approx(host["joules_per_step"] * 150 / 3.6e6 * 0.25)
    assert lines["host, forward Laplacian"]["note"] == "failed: here"
    assert lines["host, forward Laplacian"]["cost"] is None


def test_without_measuring(cli: Cli, tiny: str) -> None:
    """Steps are the schedule's; a slower clock takes longer and no more energy."""
    arguments = ("estimate", tiny, "--runs", "1", "--kwh-price", "0", "--no-measure", "--json", "-")
    plain, slow = (json.loads(cli(*arguments, *more).out) for more in ((), ("--machine-key", "clock_ghz=0.5")))
    assert plain["inputs"]["steps a run"] == 5 and "host" not in plain["inputs"]
    assert len(plain["lines"]) == 1 and plain["lines"][0]["cost"] == 0.0
    assert slow["lines"][0]["seconds"] > plain["lines"][0]["seconds"]
    assert slow["lines"][0]["joules_per_step"] == pytest.approx(plain["lines"][0]["joules_per_step"], rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["poisson2d", "--kwh-price", "0.3"], "--runs"),
        (["poisson2d", "--runs", "3"], "--kwh-price"),
        (["poisson2d", "--runs", "0", "--kwh-price", "0.3"], "positive whole number"),
        (["poisson2d", "--runs", "3", "--kwh-price", "-1"], "a number from 0"),
        (["poisson2d", "--runs", "3", "--kwh-price", "cheap"], "a number from 0"),
        (["poisson2d", "--runs", "3", "--kwh-price", "0.3", "--quant", "none"], "runs no program"),
        (["poisson2d", "--runs", "3", "--kwh-price", "0.3", "--block", "8x8"], "4x4 blocks, not 8x8"),
        (["--runs", "3", "--kwh-price", "0.3"], "what shall be trained"),
    ],
)
def test_refusals(cli: Cli, arguments: list[str], message: str) -> None:
    done = cli("estimate", *arguments)
    assert done.code == 2 and message in done.err and done.out == ""


def test_a_schedule_without_an_end(cli: Cli, tiny: str, tmp_path: Any) -> None:
    path = tmp_path / "tiny_pde.py"
    path.write_text(path.read_text().replace("Adam(1e-3, schedule=linear_decay(5))", "Adam(1e-3)"))
    done = cli("estimate", tiny, "--runs", "1", "--kwh-price", "1", "--no-measure")
    assert done.code == 2 and "--steps" in done.err


def test_derivatives_on_the_command_line(cli: Cli, tiny: str) -> None:
    """`train --derivatives`: recorded, and refused on the machine."""
    done = cli("train", tiny, "--quant", "none", "--derivatives", "autograd", "--steps", "2", "--json", "-", "--quiet")
    assert json.loads(done.out)["derivatives"] == "autograd"
    done = cli("train", tiny, "--derivatives", "autograd", "--steps", "2", "--quiet")
    assert done.code == 2 and "--quant none" in done.err
    done = cli("train", tiny, "--quant", "none", "--derivatives", "exact", "--steps", "2")
    assert done.code == 2
