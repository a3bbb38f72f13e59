"""`pintac train` where there is no program: the IR evaluator and the fp32 run in torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pintac.frontend.problem import TrainStep
from pintac.frontend.problems import BUILTIN
from tests.cli.support import Cli

KEYS = {
    "l2_rel", "l2_rel_float", "steps", "seed", "bits", "cycles_per_step", "lower_bound_cycles", "tcu_cycles_per_step",
    "vpu_cycles_per_step", "dram_bytes_per_step", "energy_j_per_step", "program_bytes",
    "instructions_executed_per_step", "macs_per_step", "sim_seconds_per_step", "compile_seconds", "engine", "machine",
    "isa_hash",
}  # fmt: skip


def test_evaluator(cli: Cli, tiny: str) -> None:
    done = cli("train", tiny, "--engine", "evaluator", "--steps", "3", "--json", "-", "--twin", "float")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert set(result) >= KEYS
    assert (result["steps"], result["seed"], result["bits"], result["engine"]) == (3, 0, "8/16/8/12", "evaluator")
    assert [row[0] for row in result["history"]] == [1, 2, 3]
    # the same weights, points and deltas: the quantised loss of step 0 is the float one up to quantisation
    assert result["history"][0][1] == pytest.approx(result["history_twin"][0][1], rel=0.1)
    assert result["l2_rel"] == pytest.approx(result["l2_rel_twin"], rel=0.1)
    assert result["cycles_per_step"] is None
    assert "l2 error" in done.err and "step 3/3" in done.err
    (loss,) = (line for line in done.err.splitlines() if line.startswith("loss "))
    last, twin = result["history"][-1][1], result["history_twin"][-1][1]
    assert loss.split(maxsplit=1)[1] == f"{last:.3e} at step 3  (float twin {twin:.3e})"


def test_runs_are_reproducible(cli: Cli, tiny: str) -> None:
    def l2(*arguments: str) -> float:
        done = cli("train", tiny, "--engine", "evaluator", "--steps", "2", "--quiet", "--json", "-", *arguments)
        return json.loads(done.out)["l2_rel"]

    assert l2() == l2()
    assert l2() != l2("--seed", "1")
    assert l2() != l2("--bits", "4/4/4/4")
    assert l2() != l2("--quant", "naive")


def test_float_has_no_cycles(cli: Cli, tiny: str) -> None:
    done = cli("train", tiny, "--quant", "none", "--steps", "2", "--json", "r.json", "--quiet")
    assert done.code == 0 and done.err == ""
    assert "none: fp32 in torch runs no program" in done.out
    result = json.loads(Path("r.json").read_text())
    assert set(result) >= KEYS
    assert result["cycles_per_step"] is None and result["energy_j_per_step"] is None
    assert result["l2_rel"] == result["l2_rel_float"] > 0


def test_flags_without_effect_are_said(cli: Cli, tiny: str) -> None:
    run = ("train", tiny, "--quant", "none", "--steps", "1", "--quiet")
    flags = {"--bits": "8/8/8/8", "--rows": "packed", "--machine": "tiny", "--engine": "reference", "--threads": "2"}
    flags |= {"--scheme": "sequential", "--effort": "2", "--saved": "f32", "--machine-key": "sram_kib=192"}
    done = cli(*run, *(part for flag in flags.items() for part in flag))
    assert done.code == 0 and done.err.startswith("note: --quant none is fp32 in torch") and done.err.count("\n") == 1
    assert set(done.err.split(" of ")[1].strip().split(", ")) == set(flags)
    assert cli(*run, "--bits", "8/16/8/12", "--seed", "3").err == ""
    small = ["--set", "width=8", "--set", "K=4", "--set", "interior=2", "--set", "boundary=2"]
    built_in = cli("train", "poisson2d", *small, *run[2:], "--scheme", "dense")
    assert built_in.code == 0 and built_in.err == "", "a built-in problem makes its layers by the scheme"


def test_weights_out_and_in(cli: Cli, tiny: str) -> None:
    """Trained weights have the names of the state_dict and are where the next run starts."""
    assert cli("train", tiny, "--engine", "evaluator", "--steps", "2", "-o", "w.safetensors", "--quiet").code == 0
    weights = safetensors.numpy.load_file("w.safetensors")
    assert set(weights) == {
        "0.weight", "0.bias", "2.cores.0", "2.cores.1", "2.cores.2", "2.cores.3", "2.bias", "4.weight", "4.bias",
    }  # fmt: skip
    assert weights["0.weight"].shape == (8, 2)  # torch's layout

    def first_loss(*arguments: str) -> float:
        done = cli("train", tiny, "--engine", "evaluator", "--steps", "1", "--quiet", "--json", "-", *arguments)
        return json.loads(done.out)["history"][0][1]

    drawn, trained = first_loss(), first_loss("--weights", "w.safetensors")
    assert trained != drawn
    zeros = {name: np.zeros_like(value) for name, value in weights.items()}
    safetensors.numpy.save_file(zeros, "z.safetensors")
    # u = 0: the residuals are sin(x + y) inside, half of it on the boundary, so the loss is below 1 + 10 / 4
    assert 0.5 < first_loss("--weights", "z.safetensors") < 3.5


def test_default_steps_are_the_schedules(cli: Cli, tiny: str) -> None:
    done = cli("train", tiny, "--engine", "evaluator", "--quiet", "--json", "-")
    assert json.loads(done.out)["steps"] == 5


def test_options_of_a_built_in_problem(cli: Cli) -> None:
    small = ["--set", "width=8", "--set", "K=4", "--set", "interior=2", "--set", "boundary=2", "--tt-rank", "2"]
    done = cli("train", "poisson2d", *small, "--quant", "none", "--steps", "1", "--quiet", "-o", "w.safetensors")
    assert done.code == 0, done.err
    assert safetensors.numpy.load_file("w.safetensors")["2.cores.0"].shape == (1, 2, 2)
    done = cli(
        "train", "poisson2d", *small, "--scheme", "dense", "--quant", "none", "--steps", "1", "-o", "d.safetensors"
    )
    assert done.code == 0, done.err
    assert safetensors.numpy.load_file("d.safetensors")["2.weight"].shape == (8, 8)


def test_a_factory_is_asked_for_what_the_user_gave(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A built-in problem without a choice of layers: no word of a scheme that nobody asked for."""

    def klein(width: int = 8) -> TrainStep:
        return BUILTIN["poisson2d"](width=width, rank=2, K=4, interior=3, boundary=3, scheme="dense")

    monkeypatch.setitem(BUILTIN, "klein", klein)  # type: ignore[arg-type]
    done = cli("train", "klein", "--quant", "none", "--steps", "1", "--quiet")
    assert done.code == 0, done.err
    done = cli("train", "klein", "--quant", "none", "--steps", "1", "--scheme", "dense")
    assert done.code == 2 and "klein has no option 'scheme'" in done.err
