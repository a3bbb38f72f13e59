"""`pintac compare`: which variants there are, what is said of each, the front, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pintac.errors import UsageError
from pintac.experiments import compare as comparing
from pintac.experiments.comparison import Comparison, Costs, Row
from pintac.experiments.variants import Variant, axes, variants
from tests.cli.support import Cli

BASE = Variant("poisson2d")


def test_names_and_values() -> None:
    assert axes(["sram_kib=192, 384", "quant=diff", "sram_kib=768"]) == {
        "sram_kib": ["192", "384", "768"],
        "quant": ["diff"],
    }
    bits = ["8/8/8/12", "8/16/8/12,*.base=8,2.delta.0=4", "8/16/8/8"]
    assert axes([f"bits={','.join(bits)}"]) == {"bits": bits}, "a part with = belongs to the part before it"


@pytest.mark.parametrize("text", ["sram_kib", "sram_kib=", "=3", "K=4,,8", "K=4,4"])
def test_values_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        axes([text])


def test_every_combination_the_last_name_fastest() -> None:
    found = variants(BASE, {"sram_kib": ["192", "384"], "bits": ["8/8/8/12", "8/8/8/8"], "K": ["4"]})
    assert [dict(v.values) for v in found] == [
        {"sram_kib": kib, "bits": bits, "K": "4"} for kib in ("192", "384") for bits in ("8/8/8/12", "8/8/8/8")
    ]
    assert [v.built_machine().sram_kib for v in found] == [192, 192, 384, 384]
    assert [v.options().grad for v in found] == [12, 8, 12, 8]
    assert all(v.settings == (("K", 4),) and v.spec == "poisson2d" for v in found)
    changed = variants(Variant("poisson2d", machine_keys=("sram_kib=200",)), {"sram_kib": ["300"]})
    assert changed[0].built_machine().sram_kib == 300, "what varies counts"


@pytest.mark.parametrize(
    ("varied", "message"),
    [
        ({"sram": ["3"]}, "did you mean 'sram_kib'"),
        ({"quant": ["none"]}, "runs no program"),
        ({"quant": ["int8"]}, "int8"),
        ({"bits": ["8/8"]}, "W/B/D/G"),
        ({"machine": ["nowhere"]}, "nowhere"),
        ({"sram_kib": ["-3"]}, "sram_kib"),
        ({"sram_kib": ["many"]}, "many"),
        ({}, "what shall be compared"),
        ({"K": [str(k) for k in range(40)], "sram_kib": [str(k) for k in range(40)]}, "more than"),
    ],
)
def test_variants_that_cannot_be(varied: dict[str, list[str]], message: str) -> None:
    with pytest.raises(Exception, match=message):
        variants(BASE, varied)


def test_rows_are_what_compile_says(cli: Cli, tiny: str) -> None:
    """Costs of `compile` on each machine; ratios over the first row; a machine that is too small is a row, too."""
    varied = ("--vary", "vpu_lanes=32,16", "--vary", "sram_kib=2,64")
    done = cli("compare", tiny, *varied, "--jobs", "1", "--json", "c.json")
    assert done.code == 0, done.err
    assert done.err.count("\n") == 4 and "[4/4] vpu_lanes=16, sram_kib=64: " in done.err
    found = json.loads(Path("c.json").read_text())
    rows = {(row["values"]["vpu_lanes"], row["values"]["sram_kib"]): row for row in found["rows"]}
    for lanes in ("32", "16"):
        small = rows[lanes, "2"]
        assert small["costs"] is None and small["note"].startswith("does not fit: ") and not small["failed"]
        keys = ("--machine-key", f"vpu_lanes={lanes}", "--machine-key", "sram_kib=64")
        alone = json.loads(cli("compile", tiny, *keys, "-o", "p.pinta", "--json", "-").out)
        costs = rows[lanes, "64"]["costs"]
        assert costs["cycles"] == alone["cycles_per_step"] and costs["joules"] == alone["energy_j_per_step"]
        assert costs["bound"] == alone["lower_bound_cycles"] and costs["seconds"] == costs["cycles"] * 1e-9
    table = [line.split() for line in done.out.splitlines()]
    first, second = rows["32", "64"]["costs"], rows["16", "64"]["costs"]
    assert ["32", "64", f"{first['cycles']:,}", "1.000"] in [line[:4] for line in table]
    ratio = f"{second['cycles'] / first['cycles']:.3f}"
    assert ["16", "64", f"{second['cycles']:,}", ratio] in [line[:4] for line in table]
    assert "vpu_lanes" not in done.out.split("\n\n")[0] and f"problem   {tiny}" in done.out


def test_one_that_fails_takes_no_other_with_it(cli: Cli, tiny: str) -> None:
    factory = tiny.replace(":step", ":make")
    done = cli("compare", factory, "--vary", "tt_rank=2,0", "--jobs", "1", "--json", "-")
    assert done.code == 1, done.err
    good, bad = json.loads(done.out)["rows"]
    assert good["costs"]["cycles"] > 0 and not good["failed"]
    assert bad["costs"] is None and bad["failed"] and "rank" in bad["note"]


def test_several_at_a_time(cli: Cli, tiny: str) -> None:
    """Other processes make the same rows; a plot is drawn of them."""
    arguments = ("compare", tiny, "--vary", "bits=8/8/8/12,8/16/8/12", "--json", "-")
    one, two = (json.loads(cli(*arguments, *more).out) for more in (("--jobs", "1"), ("--jobs", "2")))
    assert one == two and all(row["costs"] for row in one["rows"])
    pytest.importorskip("matplotlib")
    assert cli(*arguments, "--jobs", "1", "--plot", "c.svg").code == 0
    assert "<svg" in Path("c.svg").read_text()


def test_an_interrupted_one_keeps_its_rows(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = comparing.row_of
    asked: list[Variant] = []

    def row_of(variant: Variant) -> Row:
        asked.append(variant)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return made(variant)

    monkeypatch.setattr(comparing, "row_of", row_of)
    done = cli("compare", tiny, "--vary", "vpu_lanes=16,32,64", "--jobs", "1", "--json", "-")
    assert done.code == 130
    found = json.loads(done.out)
    assert [row["note"] for row in found["rows"]] == ["", "interrupted", "interrupted"] and found["interrupted"]
    assert found["rows"][0]["costs"]["cycles"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["poisson2d"], "--vary"),
        (["--vary", "K=4"], "what shall be compared"),
        (["poisson2d", "--vary", "sram_kbi=3"], "did you mean 'sram_kib'"),
        (["poisson2d", "--vary", "K=4", "--block", "8x8"], "4x4 blocks"),
        (["poisson2d", "--vary", "K=4", "--quant", "none"], "runs no program"),
        (["poisson2d", "--vary", "K=4", "--plot", "-"], "a figure is a file"),
        (["nothing", "--vary", "K=4"], "unknown problem"),
        (["poisson2d", "--vary", "K=4", "--jobs", "0"], "positive whole number"),
    ],
)
def test_refusals(cli: Cli, arguments: list[str], message: str) -> None:
    done = cli("compare", *arguments)
    assert done.code in (1, 2) and message in done.err and done.out == "", done.err
    assert len(done.err.strip().splitlines()) <= 2


def _costs(seconds: float, joules: float) -> Costs:
    return Costs(100, 50, seconds, joules, dict.fromkeys(("load", "store", "tcu", "vpu"), 0.5), 1, 1, 1)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=12))
def test_the_front(pairs: list[tuple[int, int]]) -> None:
    """Exactly those that no other beats: in sorted order those that lower the least energy so far, and their equals."""
    rows = tuple(Row({"k": str(i)}, _costs(*pair)) for i, pair in enumerate(pairs))
    front = Comparison(BASE, rows).front()
    least, best = float("inf"), set()
    for pair in sorted(set(pairs)):
        if pair[1] < least:
            least = pair[1]
            best.add(pair)
    assert [row for row, pair in zip(rows, pairs, strict=True) if pair in best] == front
