"""What is wrong with a training run, said with layer, source line, measured figure and cure (docs/DIAGNOSTICS.md).

The tests are here, each a function from what was seen to findings, with its threshold; `probe` does the seeing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from pintac.errors import PassError
from pintac.passes import PipelineOptions, options_of, parse_pipeline
from pintac.report.probe import Counts, Noise, Place, Sample
from pintac.report.rank import Followed
from pintac.report.sigma import Bias

UNCHANGED = 0.25
"""Naive quantisation: share of the codes of perturbed rows that are those of the unperturbed ones."""
ROUNDING = 0.35
"""Rounding of the perturbed path, rms over points, in the largest term of the residual."""
OVER_SAMPLING = 3.0
"""Rounding matters only if it is so many times the sampling error of the estimator (with a tiny sigma in any case: the
reference has rounding of its own then)."""
AT_ONCE = 2.0
"""Rounding so many times over its threshold needs no second sample."""
SETTLED = 10
"""Samples of earlier steps say nothing about rounding: an untrained network hardly has second derivatives."""
VANISHED = 0.5
"""Share of exact zeros, in fp32, in a tensor of the perturbed path."""
GRADIENT_ZEROS = 0.6
"""Share of zeros in a quantised gradient."""
BLOCKS = 0.01
"""Share of the blocks of a tensor at an end of the range of exponents."""
DIVERGED = 10.0
"""Loss, geometric mean of a window, over the lowest such mean before."""
PLATEAU_STEPS = 300
PLATEAU_FALL = 0.9
"""The last third of the losses over the middle third, from which on the loss stands still ..."""
PLATEAU_HEIGHT = 0.1
"""... and over the first losses, from which on it stands too high."""
FIRST_LOSSES = 5
FOLLOWED = 0.03
"""Share of the squared gradient of a factored weight within the tangent space of its rank."""
SIGNAL = 0.3
"""Cosine of the gradients of two halves of a step, below which they are noise."""
BIAS = 0.1
"""Change of a derivative when sigma is halved."""
EXTENT = 0.5
"""sigma over the extent of the points along a coordinate."""
UNIT_SIGMA = 0.01
"""What to try in a domain of size 1."""
SMALL_SIGMA = 5e-4
"""The cure is a larger sigma below this."""
WIDER = {4: 8, 8: 12, 12: 16}


@dataclass(frozen=True)
class Finding:
    """One diagnosis. `value` is what was measured, `limit` the threshold that it is beyond."""

    kind: str
    message: str
    cure: str
    step: int
    value: float | None = None
    limit: float | None = None
    place: Place | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        place = self.place
        return {
            "kind": self.kind,
            "message": self.message,
            "cure": self.cure,
            "step": self.step,
            "value": self.value,
            "limit": self.limit,
            "layer": None if place is None else place.layer,
            "phase": None if place is None else place.phase,
            "file": None if place is None else place.loc.file,
            "line": None if place is None else place.loc.line,
        }

    def text(self) -> str:
        """`file:line: masking (step 10): ...`, the cure on a second line."""
        at = f"{self.place.loc.file}:{self.place.loc.line}: " if self.place is not None else ""
        return f"{at}warning: {self.kind} (step {self.step}): {self.message}\n  cure: {self.cure}"


def show(finding: Finding, stream: TextIO | None = None) -> None:
    """Print a finding, coloured in a terminal. Default stream: stderr."""
    out = stream or sys.stderr
    if out.isatty():
        from rich.console import Console
        from rich.text import Text

        Console(file=out).print(Text(finding.text(), style="yellow"))
    else:
        print(finding.text(), file=out, flush=True)


@dataclass(frozen=True)
class Settings:
    """What a run was started with, for cures: `bits` W/B/D/G, `tensors` those of single ones, `quant`, `sigma` of the
    estimator."""

    bits: tuple[int, int, int, int] = (8, 16, 8, 12)
    quant: str = "diff"
    sigma: float | None = None
    tensors: str = ""

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Settings:
        """From what a program says about itself: the passes that made it know the bits, chosen ones too."""
        sigma = (meta.get("estimator") or {}).get("sigma")
        try:
            ran = options_of(parse_pipeline(str(meta["passes"])))
        except (KeyError, PassError):  # written by hand
            ran = PipelineOptions()
        return cls(
            (ran.weight, ran.base, ran.delta, ran.grad),
            str(meta.get("quant", ran.quant)),
            None if sigma is None else float(sigma),
            ran.tensors,
        )

    @property
    def small_sigma(self) -> bool:
        """Whether perturbations are far smaller than any experiment has used."""
        return self.sigma is not None and self.sigma < SMALL_SIGMA

    def with_bits(self, role: int) -> str | None:
        """`--bits` with the next wider format of a role; None if there is none."""
        wider = WIDER.get(self.bits[role])
        if wider is None:
            return None
        bits = [*self.bits]
        bits[role] = wider
        return self.flag(*bits)

    def flag(self, *bits: int) -> str:
        """`--bits` with these bits by role, and those of single tensors as they are."""
        return f"--bits {'/'.join(map(str, bits))}{f',{self.tensors}' if self.tensors else ''}"


def _either(*cures: str | None) -> str:
    return ", or ".join(cure for cure in cures if cure)


# --- what one sample shows --------------------------------------------------------------------------------------------


def masking(sample: Sample, settings: Settings) -> Iterator[Finding]:
    """Naive quantisation: x + delta has the code of x."""
    rows = [c for c in sample.counts if c.role == "delta" and _forward(c)]
    if settings.quant != "naive" or not rows:
        return
    share = sum(c.lost for c in rows) / max(1, sum(c.elements for c in rows))
    worst = max(rows, key=lambda c: c.lost_share)
    if share > UNCHANGED:
        yield Finding(
            "masking",
            f"{share:.0%} of the INT{settings.bits[2]} codes of perturbed values are those of the unperturbed ones, "
            f"{worst.lost_share:.0%} in {worst.place}: x + delta has one scale, of x, and delta is lost in it",
            _either("--quant diff", _set_bits(settings, 16), "a larger sigma"),
            sample.step, share, UNCHANGED, worst.place,
        )  # fmt: skip


def _set_bits(settings: Settings, delta: int) -> str | None:
    w, b, d, g = settings.bits
    return f"{settings.flag(w, b, delta, g)} (perturbed values {delta})" if d < delta else None


def rounding(samples: Sequence[Sample], settings: Settings) -> Iterator[Finding]:
    """Derivatives are mostly rounding of the perturbed path, beyond what sampling costs them anyway."""
    places: dict[Place, list[tuple[int, Noise]]] = {}
    for sample in samples:
        for noise in sample.noise:
            places.setdefault(noise.place, []).append((sample.step, noise))
    for place, seen in places.items():
        settled = [(step, n) for step, n in seen if step >= SETTLED]
        late = settled or seen
        share, sampling = (_rms([getattr(n, k) / n.largest for _, n in late]) for k in ("rounding", "sampling"))
        enough = len(settled) >= 2 or settings.small_sigma or share > AT_ONCE * ROUNDING
        if enough and share > ROUNDING and (settings.small_sigma or share > OVER_SAMPLING * sampling):
            rows = [c for c in samples[-1].counts if c.role == "delta" and _forward(c)]
            worst = max(rows, key=lambda c: c.lost_share, default=None)
            at = place if worst is None else Place(worst.place.layer, place.phase, place.loc)
            where = f"; zero codes: up to {worst.lost_share:.0%}, in {worst.place}" if worst else ""
            yield Finding(
                "masking",
                f"rounding of the INT{settings.bits[2]} perturbed path is {share:.0%} of the largest term of this "
                f"residual (sampling error: {sampling:.1%}){where}",
                _rounding_cure(settings),
                late[-1][0], share, ROUNDING, at,
            )  # fmt: skip


def _rounding_cure(settings: Settings) -> str:
    form = {"diff": "--quant even-odd", "naive": "--quant diff"}.get(settings.quant)
    wider = settings.with_bits(2)
    if settings.small_sigma:
        return _either("sigma=0.01", form)
    return _either(form, wider and f"{wider} (deltas)", "more evaluations (K)")


def vanished(sample: Sample, settings: Settings) -> Iterator[Finding]:
    """The perturbed path is exactly zero in fp32, or a gradient nearly all zeros."""
    rows = [c for c in sample.counts if c.role == "delta" and _forward(c) and "forward" in c.place.phase]
    worst = max(rows, key=lambda c: c.zeros, default=None)
    if worst is not None and worst.zeros > VANISHED * worst.elements:
        share = worst.zeros / worst.elements
        yield Finding(
            "masking",
            f"{share:.0%} of the perturbed path of {worst.place} is exactly 0 in fp32, before any quantisation",
            "sigma=0.01: the square of the perturbation is below the resolution of fp32"
            if settings.small_sigma
            else "a smaller lr: the activations are saturated",
            sample.step, share, VANISHED, worst.place,
        )  # fmt: skip
    gradients = [c for c in sample.counts if c.role == "grad"]
    if any(c.under > BLOCKS * c.blocks for c in gradients):
        return  # zeros are what an underflow leaves behind, and `exponents` tells of it
    gradients = [c for c in gradients if not c.under]
    flat = max(gradients, key=lambda c: (c.zeros + c.lost) / max(1, c.elements), default=None)
    if flat is not None and flat.zeros + flat.lost > GRADIENT_ZEROS * flat.elements:
        share = (flat.zeros + flat.lost) / flat.elements
        exact = flat.zeros / flat.elements
        yield Finding(
            "masking",
            f"{share:.0%} of the gradient of {flat.place} is zero ({exact:.0%} before quantisation)",
            _gradient_cure(settings, exact > 0.5 * share),
            sample.step, share, GRADIENT_ZEROS, flat.place,
        )  # fmt: skip


def _gradient_cure(settings: Settings, before: bool) -> str:
    if settings.quant == "naive":
        return "--quant diff"
    if not before:
        return _either(settings.with_bits(3), "a smaller lr")
    return "sigma=0.01" if settings.small_sigma else "a smaller lr: the layer is saturated"


def exponents(sample: Sample, settings: Settings) -> Iterator[Finding]:
    """Blocks at an end of the range of exponents."""
    for kind, attribute, what in (
        ("exponent underflow", "under", "below the format's smallest scale 2^-63"),
        ("saturation", "over", "above the format's largest scale 2^47: clipped"),
    ):
        worst = max(sample.counts, key=lambda c: getattr(c, attribute) / max(1, c.blocks), default=None)
        if worst is None:
            continue
        share = getattr(worst, attribute) / max(1, worst.blocks)
        if share > (BLOCKS if attribute == "under" else 0.0):
            sizes = "smaller" if attribute == "over" else "larger"
            cure = {
                "delta": f"a {sizes} sigma (sigma=0.01)",
                "grad": f"{sizes} weights of the loss terms, or sigma=0.01",
                "weight": "another initialisation" if attribute == "under" else "a smaller lr",
            }.get(worst.role, f"{sizes} inputs: scale the coordinates")
            yield Finding(
                kind, f"{share:.1%} of the blocks of the {_NAMES[worst.role]} of {worst.place} are {what}", cure,
                sample.step, share, BLOCKS if attribute == "under" else 0.0, worst.place,
            )  # fmt: skip


_NAMES = {"weight": "weights", "base": "values", "delta": "perturbed values", "grad": "gradients", "": "values"}


def low_rank(samples: Sequence[Sample], settings: Settings) -> Iterator[Finding]:
    """A tensor-train layer whose rank can follow next to nothing of its gradient."""
    places: dict[str, list[tuple[Place, Followed]]] = {}
    settled = [sample for sample in samples if sample.step >= SETTLED]
    for sample in settled:
        for place, seen in sample.ranks:
            if seen.whole > SIGNAL * seen.own:
                places.setdefault(place.layer, []).append((place, seen))
    for looks in places.values():
        whole = sum(seen.whole for _, seen in looks)
        share = sum(seen.within for _, seen in looks) / whole
        if len(looks) >= 2 and share < FOLLOWED:
            place, rank = looks[-1][0], looks[-1][1].rank
            yield Finding(
                "rank too low",
                f"rank {rank} of layer {place.layer} can follow {max(0.0, share):.1%} of the gradient of its weight",
                f"rank={max(8, 2 * rank)} (--tt-rank)",
                settled[-1].step, share, FOLLOWED, place,
            )  # fmt: skip


def _forward(counts: Counts) -> bool:
    return "backward" not in counts.place.phase and "gradient" not in counts.place.phase


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(v * v for v in values) / len(values))


# --- what sigma does, whatever the numbers are ------------------------------------------------------------------------


def long_perturbations(worst: Bias, step: int) -> Iterator[Finding]:
    """Derivatives that are differences over distances on which the network changes."""
    if worst.change > BIAS:
        yield Finding(
            LONG,
            f"the {worst.operator} of the term {worst.term} changes by {worst.change:.0%} when sigma = {worst.sigma:g} "
            "is halved: the network changes over such distances, and no number of evaluations helps",
            _either(None if worst.better is None else f"sigma={worst.better:.2g}", _SCALED),
            step, worst.change, BIAS, worst.place,
        )  # fmt: skip


def outside(sigma: float, extents: Mapping[int, float], step: int) -> Iterator[Finding]:
    """Perturbed points that leave the domain; `extents` are those of its points along coordinates derived by."""
    axis = min((axis for axis, extent in extents.items() if extent > 0), key=lambda axis: extents[axis], default=None)
    if axis is not None and sigma > EXTENT * extents[axis]:
        extent = extents[axis]
        yield Finding(
            LONG,
            f"sigma = {sigma:g} is {sigma / extent:.2g} times the extent {extent:.3g} of the points along coordinate "
            f"{axis}: most perturbed points are outside of the domain",
            _either(f"sigma={UNIT_SIGMA * extent:.2g}", _SCALED),
            step, sigma / extent, EXTENT,
        )  # fmt: skip


LONG = "sigma too large"
_SCALED = "scale the coordinates to a domain of size 1: sigma is a length in the coordinates of the points"


# --- what the losses show ---------------------------------------------------------------------------------------------


def losses(history: Sequence[float], settings: Settings, ended: bool) -> Iterator[Finding]:
    """A loss that runs away; at the end, one that stands still too high. `history`: the losses of all steps so far."""
    logs = np.log(np.maximum(np.asarray(history, np.float64), np.finfo(np.float64).tiny))
    n = len(logs)
    if n < FIRST_LOSSES or not np.isfinite(logs).all():
        return
    window = max(FIRST_LOSSES, n // 10)
    means = np.convolve(logs, np.full(window, 1.0 / window), "valid")
    rise = math.exp(min(700.0, means[-1] - min(means.min(), logs[0])))
    if rise > DIVERGED and means[-1] > logs[:FIRST_LOSSES].min():
        yield Finding("divergence", f"the loss is {rise:.3g} times what it was", "a smaller lr", n, rise, DIVERGED)
        return
    third = n // 3
    middle, last = logs[third : 2 * third].mean(), logs[2 * third :].mean()
    stands, height = math.exp(last - middle), math.exp(last - logs[:FIRST_LOSSES].mean())
    if ended and n >= PLATEAU_STEPS and stands > PLATEAU_FALL and height > PLATEAU_HEIGHT:
        yield Finding(
            "plateau",
            f"the loss stands still at {height:.2g} of where it began (last third of the steps over the middle one: "
            f"{stands:.2f})",
            _either("--quant diff" if settings.quant == "naive" else "another lr", "--twin float shows whether "
                    "quantisation has a part in it"),
            n, height, PLATEAU_HEIGHT,
        )  # fmt: skip


def spent(rate: Callable[[int], float], total: int) -> Iterator[Finding]:
    """Steps at the end of a run of `total` whose learning rate, `rate(t)` for t = 0, 1, ..., is 0."""
    last = total
    while last and rate(last - 1) == 0.0:
        last -= 1
    if last < total:
        yield Finding(
            "no learning rate",
            f"the learning rate is 0 from step {last + 1} to step {total}: these steps change no weight",
            _either(f"--steps {last}" if last else None, f"a schedule of {total} steps"),
            last + 1, float(total - last), 0.0,
        )  # fmt: skip


def not_finite(
    step: int, loss: float, op: str | None, place: Place | None, ends: bool, settings: Settings
) -> Finding:
    """The loss of a step is no number. `op` made the first value that is none, as far as the probe saw."""
    first = f"; the first such value is %{op}, {place}" if place is not None else "; it began with no point looked at"
    then = ": the weights are no numbers any more, training stops" if ends else ": the weights are still finite"
    message = f"the loss is {loss}{first}{then}"
    if settings.small_sigma:
        cure = "sigma=0.01"
    elif step == 1:  # nothing has been learnt
        cure = "weights and inputs for which that operation is defined: no learning rate has a part in the first step"
    else:
        cure = "a smaller lr, or inputs of size 1"
    return Finding("not finite", message, cure, step, place=place)
