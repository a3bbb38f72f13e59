"""A training run by all that decides its bits: its canonical name, its command line, its float twin.

The name is the file name in the store of finished runs, so it has to be canonical: what has its default value is left
out, what means nothing in a run is left out (the bits of an fp32 run), and settings stand in order.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pintac.blocks import SMX_BLOCK
from pintac.errors import UsageError

Setting = str | int | float

COMMON_SETTINGS: Mapping[str, Setting] = {
    "width": 256,
    "hidden": 3,
    "rank": 16,
    "K": 512,
    "sigma": 0.01,
    "estimator": "stein",
    "lr": 1e-3,
    "schedule_steps": 1000,
}
HEAT_SETTINGS: Mapping[str, Setting] = {
    "interior": 50,
    "initial": 50,
    "surface": 50,
    "initial_weight": 1000.0,
    "surface_weight": 1000.0,
}
DEFAULTS: Mapping[str, Mapping[str, Setting]] = {
    "poisson2d": {**COMMON_SETTINGS, "interior": 100, "boundary": 100, "weight": 300.0},
    "hjb20": {**COMMON_SETTINGS, "points": 100},
    "hjb20-wave": {**COMMON_SETTINGS, "points": 100, "surface": 100, "surface_weight": 100.0},
    "heat100": {**COMMON_SETTINGS, **HEAT_SETTINGS},
    "heat100-wave": {**COMMON_SETTINGS, **HEAT_SETTINGS},
}
"""Options of the built-in problems with their defaults; those of the frontend, here without importing torch."""

PROGRAM_FLAGS = ("bits", "saved", "passes", "block", "rows")
"""Flags that shape the program; an fp32 run in torch has none."""

SAMPLING_SETTINGS = ("K", "sigma", "estimator")
"""Settings of the estimator; derivatives by automatic differentiation have none."""

_FLAG = re.compile(r"[\w.+@-]{1,40}")
_BITS = re.compile(r"\d+-\d+-\d+-\d+")
_DIGEST = re.compile(r",(bits|passes)=[0-9a-f]{8}(,|$)")
_WORD = re.compile(r"[\w.+-]+")
_PROBLEM = re.compile(r"[\w.@+-]+")


@dataclass(frozen=True)
class Run:
    """One training run. Two equal runs have equal bits; `name` is theirs alone.

    problem   a built-in problem, or FILE.py:OBJECT with a path relative to the current folder
    settings  `--set` of the problem as sorted (name, value) pairs, without those that have their default
    steps     None: those of the schedule

    Every other field is the flag of `pintac train` of that name. What cannot be raises UsageError.
    """

    problem: str
    settings: tuple[tuple[str, Setting], ...] = ()
    quant: str = "diff"
    scheme: str = "prs"
    bits: str = "8/16/8/12"
    saved: str = "smx"
    derivatives: str = "estimator"
    passes: str | None = None
    block: str = SMX_BLOCK
    rows: str = "apart"
    steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        given = dict(self.settings)
        known = DEFAULTS.get(self.problem)
        if known is None and ":" not in self.problem:
            raise UsageError(f"unknown problem {self.problem!r} in a run", hint=f"one of {', '.join(DEFAULTS)}")
        if known is not None:
            unknown = sorted(set(given) - set(known))
            if unknown:
                raise UsageError(f"{self.problem} has no option {', '.join(unknown)}")
            given = {key: value for key, value in given.items() if value != known[key]}
        changes: dict[str, Any] = {"settings": tuple(sorted(given.items()))}
        if self.quant == "none":
            changes |= {flag: FLAGS[flag] for flag in PROGRAM_FLAGS}
            # in fp32 both orders of contraction are the same network in the same code
            changes["scheme"] = "dense" if self.scheme == "dense" else "prs"
        elif self.derivatives != FLAGS["derivatives"]:
            raise UsageError(f"derivatives={self.derivatives} is fp32 in torch", hint="quant=none")
        if self.derivatives != FLAGS["derivatives"] and set(given) & set(SAMPLING_SETTINGS):
            raise UsageError(f"derivatives={self.derivatives} draws no samples, so it has no K, sigma or estimator")
        if known is not None and self.steps == given.get("schedule_steps", known["schedule_steps"]):
            changes["steps"] = None
        for key, value in changes.items():
            object.__setattr__(self, key, value)
        if not _PROBLEM.fullmatch(self._file_safe_problem):
            raise UsageError(f"the problem {self.problem!r} makes no file name", hint="a relative path of plain words")
        for key, value in self.settings:
            if not _WORD.fullmatch(_text(value)):
                raise UsageError(f"the setting {key}={value!r} makes no file name")
        if self.seed < 0:
            raise UsageError(f"expected a seed of at least 0, got {self.seed}")

    @classmethod
    def of(cls, problem: str, **arguments: Any) -> Run:
        """A run by keywords: those of the fields are flags, all others settings of the problem."""
        fields = {key: arguments.pop(key) for key in (*FLAGS, "seed") if key in arguments}
        return cls(problem, tuple(sorted(arguments.items())), **fields)

    def but(self, **changes: Any) -> Run:
        """This run with other flags or settings."""
        return Run.of(self.problem, **{**dict(self.settings), **self.flags, "seed": self.seed, **changes})

    # --- what it says --------------------------------------------------------------------------------------------

    @property
    def flags(self) -> dict[str, Any]:
        """The flags that are not default, in the order of the name."""
        return {key: getattr(self, key) for key, default in FLAGS.items() if getattr(self, key) != default}

    def setting(self, name: str) -> Setting:
        """A setting of a built-in problem, its default if it was not given."""
        return dict(self.settings).get(name, DEFAULTS[self.problem][name])

    @property
    def name(self) -> str:
        """`problem,setting=value,...,flag=value,...,seed=n`: a file name, the same for equal runs only."""
        flags = {key: _flag_text(value) for key, value in self.flags.items()}
        parts = [f"{key}={_text(value)}" for key, value in (*self.settings, *flags.items(), ("seed", self.seed))]
        return ",".join([self._file_safe_problem, *parts])

    @property
    def label(self) -> str:
        """The name without the seed: what several seeds are seeds of."""
        return self.name.rpartition(",seed=")[0]

    @property
    def arguments(self) -> list[str]:
        """What follows `pintac` on the command line that makes this run."""
        settings = [part for key, value in self.settings for part in ("--set", f"{key}={_text(value)}")]
        flags = [part for key, value in self.flags.items() for part in (f"--{key}", str(value))]
        engine = [] if self.block == SMX_BLOCK else ["--engine", "evaluator"]  # the machine has 4x4 blocks
        return ["train", self.problem, *settings, *flags, *engine, "--seed", str(self.seed)]

    @property
    def has_program(self) -> bool:
        """Whether it runs on the simulator: what does not has no cycles, no joules and no checkpoints."""
        return self.quant != "none" and self.block == SMX_BLOCK

    @property
    def command(self) -> str:
        """The command line that makes this run."""
        return shlex.join(["pintac", *self.arguments])

    @property
    def twin(self) -> Run | None:
        """Its float twin: fp32, same initial weights, random numbers, estimator, schedule. None for an fp32 run."""
        return None if self.quant == "none" else self.but(quant="none")

    @property
    def _file_safe_problem(self) -> str:
        """`examples/allen_cahn_1d.py:step` is `examples.allen_cahn_1d`; another object than `step` follows an @."""
        if ":" not in self.problem:
            return self.problem
        file, _, target = self.problem.rpartition(":")
        if not file.endswith(".py") or "." in file[:-3] or file.startswith("/") or not target.isidentifier():
            raise UsageError(f"the problem {self.problem!r} makes no file name", hint="a relative path and an object")
        return file[:-3].replace("/", ".") + ("" if target == "step" else f"@{target}")

    # --- reading it back -----------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """For JSON: problem, settings, flags that are not default, seed."""
        return {"problem": self.problem, "settings": dict(self.settings), **self.flags, "seed": self.seed}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Run:
        """The run that `as_dict` described. Raises UsageError for anything else."""
        fields = dict(stored)
        settings = fields.pop("settings", None)
        unknown = sorted(set(fields) - {"problem", "seed", *FLAGS})
        if not isinstance(settings, Mapping) or not isinstance(fields.get("problem"), str) or unknown:
            raise UsageError(f"not the description of a run: {stored!r}"[:200])
        if not isinstance(fields.get("seed"), int):
            raise UsageError(f"a run without its seed: {stored!r}"[:200])
        return cls(settings=tuple(sorted(settings.items())), **fields)

    @classmethod
    def from_name(cls, name: str) -> Run:
        """The run of a name, whatever its order. Raises UsageError for what is no name of a run."""
        problem, *parts = name.split(",")
        if problem not in DEFAULTS and "." in problem:
            file, _, target = problem.partition("@")
            problem = f"{file.replace('.', '/')}.py:{target or 'step'}"
        arguments: dict[str, Any] = {}
        for part in parts:
            key, equals, text = part.partition("=")
            if not equals or key in arguments:
                raise UsageError(f"{name!r} is not the name of a run, at {part!r}")
            if key == "bits":
                text = text.replace("-", "/") if _BITS.fullmatch(text) else text.replace("@", ":")
            arguments[key] = text if key in TEXT_FLAGS else _value(text)
        run = cls.of(problem, **arguments)
        if _DIGEST.search(name):
            raise UsageError(f"{name!r} has only the digest of a flag", hint="read the run from its file")
        return run


FLAGS: Mapping[str, Any] = {
    field.name: field.default for field in dataclasses.fields(Run) if field.name not in ("problem", "settings", "seed")
}
"""Flags of `pintac train` that a run can have, in the order of its name, with their defaults."""

TEXT_FLAGS = tuple(key for key in FLAGS if key != "steps")


def _text(value: Setting) -> str:
    """A value as it is written on the command line and in the name."""
    return value if isinstance(value, str) else repr(value)


def _flag_text(value: Any) -> str:
    """A flag in a name. What is long and full of commas (a pipeline, bits of single tensors) has its digest there."""
    text = _text(value).replace("/", "-").replace(":", "@")  # there are systems without colons in file names
    return text if _FLAG.fullmatch(text) else hashlib.sha256(str(value).encode()).hexdigest()[:8]


def _value(text: str) -> Setting:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (int, float)) else text
