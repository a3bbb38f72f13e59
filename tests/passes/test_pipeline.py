"""Pipelines in text: what is read is what was printed, and mistakes are explained."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pintac.passes
import pintac.passes.pipeline
from pintac.errors import PassError
from pintac.ir import Graph
from pintac.passes import (
    PASSES,
    Pass,
    PipelineOptions,
    default_pipeline,
    make_pass,
    options_of,
    parse_pipeline,
    print_pipeline,
)
from pintac.passes.insert_smx import InsertSMX
from pintac.passes.pipeline import option_fields
from pintac.passes.reorder_tt import ReorderTT
from pintac.passes.split_stein import SplitStein
from tests.passes.drawn import passes_of


@dataclass(frozen=True)
class Typed(Pass):
    """A pass with options of every type that there is."""

    name: ClassVar[str] = "typed"

    strength: int = 1
    deep: bool = False
    limit: float = 0.5
    words: str = ""
    how: Literal["a", "b"] = "a"

    def run(self, graph: Graph) -> Graph:
        return graph


def passes() -> st.SearchStrategy[Pass]:
    return st.sampled_from(sorted(PASSES)).flatmap(lambda name: passes_of(PASSES[name]))


@given(st.lists(passes(), max_size=6))
def test_printed_pipelines_are_read_back(pipeline: list) -> None:
    text = print_pipeline(pipeline)
    assert parse_pipeline(text) == tuple(pipeline)
    assert print_pipeline(parse_pipeline(text)) == text


def test_the_example_of_the_documentation() -> None:
    split, reorder, smx = parse_pipeline(" split-stein , reorder-tt{ order = prs },insert-smx{grad=12}")
    assert (split, reorder, smx) == (SplitStein(), ReorderTT("prs"), InsertSMX(grad=12))


@given(passes_of(Typed))
def test_options_of_every_type_are_read_back(pass_: Typed) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pintac.passes.pipeline, "PASSES", {**PASSES, "typed": Typed})
        assert parse_pipeline(print_pipeline([pass_])) == (pass_,)


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_pipeline(text: str) -> None:
    assert parse_pipeline(text) == ()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("split-stien", "unknown pass 'split-stien'", "split-stein"),
        ("reorder-tt{oder=prs}", "no option 'oder'", "order"),
        ("reorder-tt{order=psr}", "the option order cannot be 'psr'", "prs"),
        ("insert-smx{weight=7}", "the option weight cannot be '7'", "known: 4, 8, 12, 16"),
        ("dce{x=1}", "no option 'x'", "takes no options"),
        ("insert-smx{weight}", "is not name=value", "for example"),
        ("insert-smx{weight=8,weight=4}", "given twice", None),
        ("dce,,dce", "cannot read the pipeline at ',dce'", "for example"),
        ("dce,", "its end", "for example"),
        ("dce dce", "cannot read the pipeline", "for example"),
        ("insert-smx{weight=8", "cannot read the pipeline", "for example"),
    ],
)
def test_mistakes_are_explained(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(PassError) as caught:
        parse_pipeline(text)
    assert message in caught.value.message
    assert hint is None or (caught.value.hint is not None and hint in caught.value.hint)


def test_options_are_typed_also_when_given_as_values() -> None:
    assert make_pass("insert-smx", {"weight": 4, "saved": "f32"}) == InsertSMX(weight=4, saved="f32")
    with pytest.raises(PassError, match="cannot be 5"):
        make_pass("insert-smx", {"weight": 5})


def test_every_pass_is_a_frozen_dataclass_in_a_file_of_its_name() -> None:
    folder = Path(pintac.passes.__file__).parent
    for name, pass_type in PASSES.items():
        assert pass_type.name == name
        assert pass_type.__module__ == f"pintac.passes.{name.replace('-', '_')}"
        assert (folder / f"{name.replace('-', '_')}.py").exists()
        instance = pass_type()
        for field in option_fields(pass_type):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(instance, field.name, None)


def test_the_default_pipeline_follows_the_switches() -> None:
    def names(**options: object) -> list[str]:
        return [pass_.name for pass_ in default_pipeline(PipelineOptions(**options))]

    default = [
        *("expand-operators", "split-stein", "reorder-tt", "differentiate", "expand-optimizer", "lower-delta"),
        *("insert-smx", "canonicalize", "dce", "hoist-scale", "fold-accumulate"),
    ]
    assert names() == default == [name for name in PASSES if name in default]
    assert names(quant="even-odd", rows="packed") == [*default, "pack-rows", "canonicalize"]
    assert names(quant="none") == [name for name in default if name != "insert-smx"]
    chosen = default_pipeline(PipelineOptions.from_bits("4/8/12/16", quant="naive", scheme="sequential", saved="f32"))
    assert SplitStein("none") in chosen and ReorderTT("sequential") in chosen
    assert InsertSMX(4, 8, 12, 16, "f32") in chosen


@pytest.mark.parametrize(
    "make",
    [
        lambda: PipelineOptions.from_bits("8/8/8"),
        lambda: PipelineOptions.from_bits("8/8/8/x"),
        lambda: default_pipeline(PipelineOptions.from_bits("8/8/8/9")),
        lambda: default_pipeline(PipelineOptions(quant="dif")),
        lambda: default_pipeline(PipelineOptions(scheme="seq")),
        lambda: default_pipeline(PipelineOptions(rows="pack")),
        lambda: default_pipeline(PipelineOptions(rows="packed")),
    ],
)
def test_switches_that_do_not_exist(make: object) -> None:
    with pytest.raises(PassError) as caught:
        make()  # type: ignore[operator]
    assert caught.value.hint


BITS = ("8/16/8/12", "4/8/12/16,2.delta=4,*.base=12", "auto:0.05", "auto:0.1:energy,0.base=16")


@pytest.mark.parametrize("bits", BITS)
def test_a_pipeline_says_what_it_was_made_of(bits: str) -> None:
    """What results state is read from the passes: for the default pipeline the switches themselves."""
    for quant, scheme, saved, block, rows in itertools.product(
        ("diff", "even-odd", "naive"), ("prs", "sequential", "dense"), ("smx", "f32"), ("4x4", "1x16"),
        ("apart", "packed"),
    ):  # fmt: skip
        if rows == "packed" and quant != "even-odd":
            continue
        options = PipelineOptions.from_bits(bits, quant=quant, scheme=scheme, saved=saved, block=block, rows=rows)
        assert options_of(default_pipeline(options)) == options
        assert options_of(parse_pipeline(print_pipeline(default_pipeline(options)))).bits == options.bits


def test_a_pipeline_without_a_pass_says_so() -> None:
    assert options_of(default_pipeline(PipelineOptions(quant="none"))).quant == "none"
    found = options_of(parse_pipeline("expand-operators,split-stein{form=even-odd},insert-smx{grad=16}"))
    assert (found.quant, found.scheme, found.bits, found.rows) == ("even-odd", "none", "8/16/8/16", "apart")
    assert options_of(()).quant == "none"
