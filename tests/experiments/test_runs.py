"""Names of runs: canonical, unique, read back; command lines; float twins."""

from __future__ import annotations

import itertools

import pytest

from pintac.cli.arguments import build_parser
from pintac.errors import UsageError
from pintac.experiments.catalogue import EXPERIMENTS, load_experiment
from pintac.experiments.rows import Seeds
from pintac.experiments.runs import DEFAULTS, Run

NAMES = {
    "poisson2d,seed=0": Run("poisson2d"),
    "poisson2d,quant=none,seed=0": Run.of("poisson2d", quant="none"),
    "poisson2d,bits=8-8-8-12,seed=1": Run.of("poisson2d", bits="8/8/8/12", seed=1),
    "poisson2d,K=4,estimator=orthonormal,lr=0.003,quant=even-odd,seed=3": Run.of(
        "poisson2d", quant="even-odd", lr=3e-3, estimator="orthonormal", K=4, seed=3
    ),
    "poisson2d,rank=8,scheme=sequential,seed=0": Run.of("poisson2d", scheme="sequential", rank=8),
    "heat100,quant=none,scheme=dense,derivatives=autograd,seed=0": Run.of(
        "heat100", quant="none", scheme="dense", derivatives="autograd"
    ),
    "heat100,bits=8-8-8-12,steps=1,seed=0": Run.of("heat100", bits="8/8/8/12", steps=1),
    "examples.allen_cahn_1d,seed=2": Run("examples/allen_cahn_1d.py:step", seed=2),
    "examples.allen_cahn_1d@make,tt_rank=4,seed=0": Run.of("examples/allen_cahn_1d.py:make", tt_rank=4),
    "poisson2d,bits=auto@0.05@energy,seed=0": Run.of("poisson2d", bits="auto:0.05:energy"),
    "poisson2d,block=1x16,seed=0": Run.of("poisson2d", block="1x16"),
}


def every_run() -> list[Run]:
    """Runs of all tables."""
    experiments = [load_experiment(name) for name in EXPERIMENTS]
    runs = [run for e, quick in itertools.product(experiments, (False, True)) for run in e.runs(Seeds(), quick)]
    return list(dict.fromkeys(runs))


@pytest.mark.parametrize("name", NAMES)
def test_name(name: str) -> None:
    run = NAMES[name]
    assert run.name == name
    assert Run.from_name(name) == run
    assert Run.from_dict(run.as_dict()) == run


def test_names_of_the_tables_are_unique_and_come_back() -> None:
    runs = every_run()
    assert len(runs) > 500
    assert len({run.name for run in runs}) == len(runs)
    for run in runs:
        assert Run.from_dict(run.as_dict()) == run
        assert len(run.name) < 200 and not set("/:*") & set(run.name)
        if "," not in run.bits:  # else the name has a digest
            assert Run.from_name(run.name) == run


def test_what_is_default_or_means_nothing_is_left_out() -> None:
    plain = Run("poisson2d")
    assert Run.of("poisson2d", K=512, lr=1e-3, bits="8/16/8/12", steps=1000) == plain
    assert Run.of("poisson2d", schedule_steps=50, steps=50).steps is None
    fp32 = Run.of("poisson2d", quant="none")
    assert Run.of("poisson2d", quant="none", bits="4/4/4/4", saved="f32", scheme="sequential") == fp32
    assert Run.of("poisson2d", quant="none", scheme="dense") != fp32, "that is another network"


def test_defaults_are_those_of_the_problems() -> None:
    from pintac.frontend.problems import BUILTIN, options_of

    assert set(DEFAULTS) == set(BUILTIN)
    for name, known in DEFAULTS.items():
        options = options_of(name)
        assert options.pop("scheme") == "prs"
        assert options == dict(known)


def test_the_command_line_is_understood_and_says_the_same() -> None:
    parser = build_parser()
    for run in [*every_run(), *NAMES.values()]:
        options = parser.parse_args(run.arguments)
        assert options.spec == run.problem and dict(options.set) == dict(run.settings)
        for flag in ("quant", "scheme", "bits", "saved", "derivatives", "passes", "block", "steps", "seed"):
            assert getattr(options, flag) == getattr(run, flag), run.name
        assert options.engine == ("evaluator" if run.block != "4x4" else "jit")
    assert NAMES["poisson2d,bits=8-8-8-12,seed=1"].command == "pintac train poisson2d --bits 8/8/8/12 --seed 1"


def test_twin() -> None:
    run = Run.of("poisson2d", K=4, quant="even-odd", bits="8/16/4/12", saved="f32", scheme="sequential", seed=7)
    assert run.twin == Run.of("poisson2d", K=4, quant="none", seed=7)
    assert run.twin.twin is None, "it is its own measure"
    dense = Run.of("poisson2d", scheme="dense").twin
    assert dense is not None and dense.scheme == "dense"


def test_bits_of_single_tensors_have_digests_for_names() -> None:
    run = Run.of("poisson2d", bits="8/16/8/12,*.base=8")
    assert run.name.startswith("poisson2d,bits=") and run.name.count(",") == 2 and "*" not in run.name
    assert Run.from_dict(run.as_dict()) == run and build_parser().parse_args(run.arguments).bits == run.bits
    with pytest.raises(UsageError, match="digest"):
        Run.from_name(run.name)


def test_pipelines_have_digests_for_names() -> None:
    one, other = (Run.of("poisson2d", passes=f"split-stein,insert-smx{{grad={bits}}}") for bits in (8, 12))
    assert one.name != other.name and "{" not in one.name and one.name.count(",") == 2
    assert Run.from_dict(one.as_dict()) == one
    with pytest.raises(UsageError, match="digest"):
        Run.from_name(one.name)


WRONG = [
    ("unknown problem", lambda: Run("poison2d")),
    ("no option widht", lambda: Run.of("poisson2d", widht=3)),
    ("is fp32", lambda: Run.of("poisson2d", derivatives="autograd")),
    ("draws no samples", lambda: Run.of("poisson2d", derivatives="autograd", quant="none", K=4)),
    ("makes no file name", lambda: Run("../up.py:step")),
    ("makes no file name", lambda: Run("/abs/x.py:step")),
    ("makes no file name", lambda: Run.of("my.py:step", note="a,b")),
    ("seed", lambda: Run("poisson2d", seed=-1)),
    ("not the name of a run", lambda: Run.from_name("poisson2d,K4")),
    ("not the name of a run", lambda: Run.from_name("poisson2d,K=4,K=8")),
    ("not the description", lambda: Run.from_dict({"problem": "poisson2d", "seed": 0})),
    ("not the description", lambda: Run.from_dict({"problem": "poisson2d", "settings": {}, "colour": 1, "seed": 0})),
    ("without its seed", lambda: Run.from_dict({"problem": "poisson2d", "settings": {}})),
]


@pytest.mark.parametrize(("message", "make"), WRONG, ids=range(len(WRONG)))
def test_refused(message: str, make) -> None:
    with pytest.raises(UsageError, match=message):
        make()
