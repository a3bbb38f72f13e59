"""Every diagnosis fires on a run that has the fault, and none on healthy ones; looking never changes a bit."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pintac
from pintac.api import watching
from pintac.api.sigma import SigmaLook
from pintac.frontend import initial_states, load_step
from pintac.frontend.problems import BUILTIN
from pintac.passes import PipelineOptions, default_pipeline, print_pipeline
from pintac.program import Program
from pintac.report import diagnostics
from pintac.report.diagnostics import Finding, Settings
from pintac.report.probe import Noise, Place, Probe, Sample, enough_points, from_text, small, to_text
from pintac.report.purpose import from_meta
from pintac.report.rank import Factored, Followed, followed

SMALL = {"interior": 8, "boundary": 8, "width": 64, "K": 4, "estimator": "orthonormal"}


@pytest.fixture(autouse=True)
def look_whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SHARE", 100.0)


def poisson(steps: int, settings: Mapping[str, Any] | None = None, **flags: Any) -> pintac.Result:
    step = load_step("poisson2d", **{**SMALL, **(settings or {})})
    return pintac.train(step, steps, engine="evaluator", progress=False, **flags)


def found(result: pintac.Result, kind: str) -> dict[str, Any]:
    """The finding of a kind, as the JSON of the result has it."""
    entries = result.as_dict()["diagnostics"]
    return next(entry for entry in entries if entry["kind"] == kind)


# --- each fault -----------------------------------------------------------------------------------------------------


def test_naive_quantisation_masks(capsys: pytest.CaptureFixture[str]) -> None:
    entry = found(poisson(2, quant="naive"), "masking")
    assert 0.25 < entry["value"] < 1 and entry["layer"] in "0246"
    assert entry["phase"] in ("forward delta", "perturbations")
    assert entry["file"].endswith("poisson2d.py") and entry["line"] > 0 and entry["cure"].startswith("--quant diff")
    said = capsys.readouterr().err
    assert said.count("warning: masking") == 1 and "poisson2d.py:" in said and "cure: --quant diff" in said


def test_wide_naive_quantisation_does_not() -> None:
    assert poisson(2, quant="naive", bits="8/16/16/12").diagnostics == ()


def test_four_bits_of_plus_and_minus() -> None:
    entry = found(poisson(2, bits="8/16/4/12"), "masking")
    assert entry["value"] > diagnostics.ROUNDING and "--quant even-odd" in entry["cure"]
    assert "--bits 8/16/8/12 (deltas)" in entry["cure"] and "residual" in entry["message"]


def test_four_bits_of_halves_are_enough() -> None:
    assert poisson(2, bits="8/16/4/12", quant="even-odd").diagnostics == ()


@pytest.mark.parametrize(("quant", "words"), [("diff", "of the largest term"), ("even-odd", "exactly 0 in fp32")])
def test_a_tiny_sigma(quant: str, words: str) -> None:
    entry = found(poisson(2, {"sigma": 1e-6, "interior": 100}, quant=quant), "masking")
    assert words in entry["message"] and entry["cure"].startswith("sigma=0.01")


def test_exponents_at_both_ends() -> None:
    result = poisson(1, {"sigma": 1e-18})
    under, over = found(result, "exponent underflow"), found(result, "saturation")
    assert under["layer"] == "0" and under["value"] == 1.0 and "2^-63" in under["message"] and "sigma" in under["cure"]
    assert over["value"] > 0 and "gradients of layer 6" in over["message"]
    weights = found(poisson(1, {"weight": 1e-25}), "exponent underflow")
    assert "gradients of layer" in weights["message"] and "weights of the loss" in weights["cure"]
    assert [entry["kind"] for entry in poisson(1, {"weight": 1e-25, "interior": 8}).diagnostics].count("masking") == 0


def test_not_finite_names_where_it_began_and_stops() -> None:
    result = poisson(30, {"lr": 1e3})
    entry = found(result, "not finite")
    assert result.steps == entry["step"] < 10 and not result.interrupted
    assert "layer" in entry["message"] and entry["layer"] in "0246" and "training stops" in entry["message"]
    assert entry["step"] > 1 and "a smaller lr" in entry["cure"]


def test_rank_one_cannot_follow_its_gradient() -> None:
    """The shares are those of a projection computed by hand, and a rank that is enough is not warned about."""
    place = Place("4", "weight gradient", load_place())

    def count(*looks: tuple[int, float, float]) -> int:
        samples = [Sample(step, ranks=[(place, Followed(1.0, share, 1 / cosine, 2))]) for step, share, cosine in looks]
        return len(list(diagnostics.low_rank(samples, Settings())))

    assert count((10, 0.01, 0.9), (20, 0.01, 0.9)) == 1
    assert count((1, 0.01, 0.9), (10, 0.01, 0.9)) == 0 and count((10, 0.01, 0.9), (20, 0.01, 0.1)) == 0
    assert count((10, 0.1, 0.9), (20, 0.1, 0.9)) == 0
    settings = {"lr": 0.003, "interior": 100, "boundary": 100, "width": 256}
    one = found(poisson(20, {**settings, "rank": 1}), "rank too low")
    assert one["layer"] in "24" and one["value"] < diagnostics.FOLLOWED and one["cure"] == "rank=8 (--tt-rank)"
    assert poisson(20, {**settings, "rank": 16}).diagnostics == ()


def test_the_projection_is_that_of_the_tangent_space() -> None:
    """B dA + dB A is followed wholly; what has no column of B and no row of A, not at all."""
    rng = np.random.default_rng(0)
    b, a = rng.standard_normal((6, 2)), rng.standard_normal((2, 5))
    tangent = b @ rng.standard_normal((2, 5)) + rng.standard_normal((6, 2)) @ a
    beside_b, beside_a = (np.linalg.qr(f, "complete")[0][:, 2:] for f in (b, a.T))
    normal = beside_b @ rng.standard_normal((4, 3)) @ beside_a.T
    for gradient, share in ((tangent, 1.0), (normal, 0.0)):
        rows = np.eye(6)[None].repeat(2, 0)  # both halves have the gradient itself
        values: dict[Any, np.ndarray] = {"x": rows, "b": b, "a": a, "g": gradient[None].repeat(2, 0)}
        seen = followed([Factored(*"xbag")], values)  # type: ignore[arg-type]
        np.testing.assert_allclose(seen.within, share * seen.whole, atol=1e-9)
        assert seen.whole == pytest.approx(float((gradient**2).sum())) and seen.rank == 2


def test_cures_start_from_the_bits_that_ran() -> None:
    def of(bits: str, **more: str) -> Settings:
        passes = print_pipeline(default_pipeline(PipelineOptions.from_bits(bits, **more)))
        return Settings.of({"bits": bits, "passes": passes, "estimator": {"sigma": 0.01}})

    single = of("8/8/8/12,2.delta=4", quant="naive")
    assert single == Settings((8, 8, 8, 12), "naive", 0.01, "2.delta=4")
    assert single.with_bits(2) == "--bits 8/8/12/12,2.delta=4" and of("16/16/16/16").with_bits(0) is None
    chosen = "insert-smx{weight=12,base=12,delta=8,grad=8,saved=smx}"  # what auto:0.05 may have come to
    assert Settings.of({"bits": "auto:0.05", "passes": chosen}).bits == (12, 12, 8, 8)
    assert Settings.of({}).bits == Settings.of({"passes": "no-such-pass"}).bits == (8, 16, 8, 12)


def test_steps_without_a_rate() -> None:
    def found(rates: list[float]) -> list[Finding]:
        return list(diagnostics.spent(lambda t: rates[t], len(rates)))

    assert found([1.0, 0.0, 0.5]) == [] and found([1.0]) == []
    (one,) = found([1.0, 0.0, 0.5, 0.0, 0.0])
    assert (one.step, one.value) == (4, 2.0) and "--steps 3, or a schedule of 5 steps" in one.cure
    (none,) = found([0.0, 0.0])
    assert none.step == 1 and none.cure == "a schedule of 2 steps"


def test_divergence_and_plateau() -> None:
    def kinds(losses: np.ndarray, ended: bool = True) -> list[str]:
        return [f.kind for f in diagnostics.losses(losses, Settings(), ended)]

    noise = np.exp(np.random.default_rng(0).normal(0, 0.3, 1000))
    falls = 50 * np.exp(-np.arange(1000) / 150) + 0.05
    assert kinds(noise * falls) == [] and kinds(noise[:30] * falls[:30]) == []
    assert kinds(noise * falls[::-1]) == ["divergence"]
    assert kinds(noise) == ["plateau"] and kinds(noise, ended=False) == [] and kinds(noise[:200]) == []
    assert kinds(noise * np.maximum(falls, 20)) == ["plateau"]
    assert [f.kind for f in diagnostics.losses([np.nan] * 400, Settings(), True)] == []


def test_rounding_is_judged_beside_sampling_and_over_several_looks() -> None:
    place = Place("0", "residual", load_place())

    def sample(step: int, rounding: float, sampling: float) -> Sample:
        return Sample(step, [], [Noise(place, rounding, sampling, 1.0)])

    def count(*samples: Sample) -> int:
        return len(list(diagnostics.rounding(samples, Settings())))

    assert count(sample(1, 1.0, 0.1)) == 1 and count(sample(1, 0.5, 0.1)) == 0 and count(sample(10, 0.5, 0.1)) == 0
    assert count(sample(10, 0.5, 0.1), sample(20, 0.5, 0.1)) == 1 and count(sample(10, 5.0, 2.0)) == 0
    assert count(sample(1, 9.0, 0.1), sample(10, 0.1, 0.1), sample(20, 0.1, 0.1)) == 0


def load_place() -> Any:
    from pintac.ir import Location

    return Location("a.py", 3)


# --- healthy runs ---------------------------------------------------------------------------------------------------

HEALTHY: Mapping[str, dict[str, Any]] = {
    "poisson2d": {"interior": 4, "boundary": 8},
    "hjb20": {"points": 4},
    "hjb20-wave": {"points": 4, "surface": 4},
    "heat100": {"interior": 4, "initial": 4, "surface": 4},
    "examples/allen_cahn_1d.py:step": {},
    "examples/helmholtz2d.py:step": {},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_are_silent(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = pintac.train(load_step(name, **HEALTHY[name]), 5, engine="evaluator", progress=False)
    assert result.diagnostics == () and "warning" not in capsys.readouterr().err


def test_evaluations_that_a_derivative_ignores_are_no_fault() -> None:
    """Odd halves serve the time derivative alone: the gradient of the others is zero by construction."""
    step = load_step("heat100", interior=4, initial=4, surface=4, K=8, estimator="orthonormal", width=64, rank=8)
    assert pintac.train(step, 2, engine="evaluator", quant="even-odd", progress=False).diagnostics == ()


# --- sigma ----------------------------------------------------------------------------------------------------------


class Rod(pintac.Problem):
    """A rod of one millimetre in metres: -L^2 u'' = pi^2 sin(pi x / L)."""

    length = 1e-3

    def terms(self) -> list[pintac.Term]:
        return [pintac.Term("inside", pintac.Uniform([(0.0, self.length)]), self.residual, points=16)]

    def residual(self, u: Any, x: torch.Tensor) -> torch.Tensor:
        return pintac.laplacian(u, x) * self.length**2 + math.pi**2 * torch.sin(math.pi * x / self.length)


def rod(scale: float, sigma: float = 0.01) -> pintac.TrainStep:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(scale * x)

    adam = pintac.Adam(1e-3, schedule=pintac.linear_decay(10))
    return pintac.TrainStep(Scaled(), Rod(), adam, pintac.SecondDifference(K=4, sigma=sigma))


@pytest.mark.parametrize("flags", [{"engine": "evaluator"}, {}, {"quant": "none"}], ids=str)
def test_perturbations_longer_than_the_network_is_smooth(flags: dict[str, Any]) -> None:
    result = pintac.train(rod(1e3), 1, progress=False, **flags)
    entry = found(result, "sigma too large")
    assert entry["step"] == 1 and entry["value"] > 0.5 and entry["limit"] == diagnostics.BIAS
    assert "the Laplacian of the term inside" in entry["message"]
    assert entry["file"].endswith("test_diagnostics.py") and entry["line"] > 0
    better = float(re.match(r"sigma=([\d.e-]+), or scale", entry["cure"])[1])
    assert 1e-5 < better < 1e-3
    cured = pintac.train(rod(1e3, better), 1, progress=False, **flags).diagnostics or ()
    assert all(entry["kind"] != "sigma too large" for entry in cured)


def test_perturbations_that_leave_the_domain() -> None:
    """The network itself is smooth over them, as it has not learnt anything yet."""
    entry = found(pintac.train(rod(1.0), 1, progress=False, engine="evaluator"), "sigma too large")
    assert "along coordinate 0" in entry["message"] and entry["value"] == pytest.approx(10, rel=0.2)
    assert found(poisson(1, {"sigma": 50.0}), "sigma too large")["value"] > 0.5
    assert poisson(1, {"sigma": 0.1}).diagnostics == ()


EXAMPLES = [str(path) for path in sorted((Path(pintac.__file__).parents[1] / "examples").glob("*.py"))]


@pytest.mark.parametrize("name", [*sorted(BUILTIN), *EXAMPLES])
def test_sigma_fits_the_built_in_problems_and_examples(name: str) -> None:
    step = load_step(name)
    look = SigmaLook(step)
    assert look(0, 0, initial_states(step, 0), 1) == []
    derivatives = look._derivatives()
    assert derivatives is not None
    changes = [bias.change for bias in derivatives.biases(0, 0, initial_states(step, 0))]
    assert derivatives.columns() and max(changes, default=0.0) < diagnostics.BIAS / 20


def test_a_network_without_second_derivatives_is_not_blamed() -> None:
    """All that a Laplacian has there is rounding, at any sigma."""
    step = load_step("poisson2d", **SMALL)
    linear = dataclasses.replace(step, net=torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Linear(8, 1)))
    assert SigmaLook(linear)(0, 0, initial_states(linear, 0), 1) == []


def test_residuals_that_take_a_fixed_set_whole() -> None:
    target = torch.linspace(0, 1, 9)[:, None]

    class Fixed(pintac.Problem):
        def terms(self) -> list[pintac.Term]:
            x = np.linspace(0, 1e-3, 9)[:, None]
            return [pintac.Term("all", pintac.Points(x), lambda u, x: pintac.laplacian(u, x) - target)]

    step = dataclasses.replace(rod(1e3), problem=Fixed())
    (finding,) = SigmaLook(step)(0, 0, initial_states(step, 0), 1)
    assert finding.kind == "sigma too large" and "the term all" in finding.message


# --- the probe ------------------------------------------------------------------------------------------------------


def test_a_probe_has_the_bits_of_the_step() -> None:
    """Its rows of the perturbed path, and their gradients, are the first rows of the whole step."""
    from pintac.api.lowering import lower
    from pintac.ir.evaluate import Evaluator

    lowered = lower(load_step("poisson2d", **{**SMALL, "interior": 12}))
    graph = small(lowered.graphs["step"], 4)
    params = {"seed": 3, "step": 7, "lr": 1e-3, "bc1": 1.0, "bc2": 1.0}
    whole: dict[str, np.ndarray] = {}
    Evaluator("smx", params).run(
        lowered.graphs["step"], lowered.init, lambda n, v: whole.update({n.name: getattr(v, "mant", None)})
    )
    probe = Probe(graph, from_meta(lowered.meta, "step"), lowered.data)
    checked = 0
    for node, value, _ in probe._run(Evaluator("smx", params), lowered.init):
        if node.op == "quantize" and node.type.rank == 4:
            np.testing.assert_array_equal(value.mant, whole[node.name][:4])  # type: ignore[union-attr]
            checked += 1
    assert checked >= 10
    assert {n.name for n in from_text(to_text(graph)).nodes} == {n.name for n in graph.nodes}
    assert enough_points(lowered.graphs["step"]) == 512


# --- programs and the command line ----------------------------------------------------------------------------------


def test_looking_changes_no_bit(tiny_program: Program) -> None:
    looked = pintac.run(tiny_program, 5, progress=False)
    blind = pintac.run(tiny_program, 5, progress=False, diagnostics=False)
    assert looked.history == blind.history and looked.diagnostics == () and blind.diagnostics is None
    for name, value in looked.weights.items():
        np.testing.assert_array_equal(value, blind.weights[name])


def test_a_program_knows_where_it_began(tiny_program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """`pintac run` has no torch and no user's file, and still names layer and line; the session ends where it would."""
    weights = {name: value * np.float32(1e30) for name, value in pintac.run(tiny_program, 1).weights.items()}
    looked = pintac.run(tiny_program, 4, progress=False, weights=weights)
    entry = found(looked, "not finite")
    assert entry["file"].endswith("tiny_pde.py") and entry["layer"] in ("0", "2", "4") and looked.steps == 1
    blind = pintac.run(tiny_program, 1, progress=False, weights=weights, diagnostics=False)
    for name, value in looked.weights.items():
        np.testing.assert_array_equal(value, blind.weights[name])
    assert "no learning rate" in entry["cure"]  # of the first step
    assert "not finite" in capsys.readouterr().err


def test_a_failed_step_is_repeated_from_the_last_copy(tiny_program: Program) -> None:
    """Copies are rare, so steps are run again: the weights before the failing step, then everything as it was."""
    session = pintac.api.running.open_session(tiny_program, "jit", 0, None, 1)
    watch = watching.watch_program(session, tiny_program, 0)
    watch._next_snapshot = 10**9
    for _ in range(3):
        session.step()
        assert not watch.after_step(session.metrics()["loss"], 100)
    before = session.state_arrays()
    session.step()
    after, loss = session.state_arrays(), session.metrics()["loss"]
    seen = []
    probe = watch._the_probe()
    assert probe is not None
    probe.first_nonfinite = lambda params, states: seen.append((params["step"], states))  # type: ignore[method-assign]
    assert not watch.after_step(float("inf"), 100)
    assert seen[0][0] == 3 and session.step_number == 4 and session.metrics()["loss"] == loss
    for name, value in before.items():
        np.testing.assert_array_equal(seen[0][1][name], value)
        np.testing.assert_array_equal(session.state_arrays()[name], after[name])
    assert "weights are still finite" in watch.findings[0].message


def test_looks_are_paid_from_a_share_of_the_time(tiny_program: Program) -> None:
    now = [0.0]
    session = pintac.api.running.open_session(tiny_program, "jit", 0, None, 1)
    program_watch = watching.watch_program(session, tiny_program, 0)
    watch = watching.Watch(session, lambda: None, program_watch._params, {}, clock=lambda: now[0], share=0.02)
    taken = []
    watch._sample = lambda step: (taken.append(step), spend(step))  # type: ignore[assignment,method-assign]

    def spend(step: int) -> None:
        watch._samples.append(Sample(step))
        watch._look_seconds += 1.0

    for _ in range(20):
        session.step()
        now[0] += 15.0
        watch.after_step(1.0, 99)
    assert taken == [1, 10, 20]  # the first; the second when two seconds are 2 % of what has passed
    for total, expected in ((1000, [1, 10, 20]), (99, [1])):  # no time at all: the first, and two settled ones
        watch._samples.clear()
        watch._look_seconds = 0.0
        taken.clear()
        watch._start = now[0]
        for step in (1, 2, 5, 10, 20, 50):
            if watch._affordable(step, total):
                watch._sample(step)
        assert taken == expected
    assert [step for step in range(1, 1001) if watching.due(step)] == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]


def test_findings_are_said_with_place_and_cure() -> None:
    out = io.StringIO()
    place = Place("2", "forward delta", load_place())
    diagnostics.show(Finding("masking", "so much", "do this", 7, 0.5, 0.1, place), out)
    assert out.getvalue() == "a.py:3: warning: masking (step 7): so much\n  cure: do this\n"
