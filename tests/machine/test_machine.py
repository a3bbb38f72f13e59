"""Machine files: what is accepted, what is refused and where the message points."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pintac.errors import MachineError
from pintac.machine import KEYS, TAGS, Machine
from pintac.timeline import program_machine


def test_pinta_has_the_published_and_the_assumed_values() -> None:
    m = Machine.default()
    assert (m.bmes, m.sram_bytes, m.vpu_lanes, m.psum_bytes) == (64, 384 * 1024, 32, 32 * 1024)
    assert [m.product_cycles(a, b) for a, b in ((4, 4), (8, 8), (8, 12), (12, 12), (16, 8))] == [1, 4, 6, 9, 8]
    assert m.dram_bytes_per_cycle == 25.6
    assert m.dram_latency_cycles == 100
    assert m.seconds(2_000_000_000) == 2.0


@pytest.mark.parametrize("name", Machine.names())
def test_shipped_machines_round_trip_and_name_their_sources(name: str, tmp_path: Path) -> None:
    m = Machine.load(name)
    path = tmp_path / "copy.toml"
    path.write_text(m.to_toml())
    again = Machine.load(path)
    assert again == m
    assert again.to_toml() == m.to_toml()
    assert Machine.from_dict(json.loads(json.dumps(m.to_dict()))).hash == m.hash
    assert all(m.provenance[key].tag in TAGS and m.provenance[key].source for key in KEYS)


def test_a_program_of_other_keys_is_compiled_again() -> None:
    """Its description was made by pintac, so nobody can have forgotten a key."""
    described = Machine.default().to_dict()
    fewer = {key: entry for key, entry in described.items() if key != "semaphores"}
    for other in (fewer, {**described, "caches": 3}):
        with pytest.raises(MachineError, match=r"semaphores|caches") as error:
            program_machine(SimpleNamespace(meta={"machine": other}))  # type: ignore[arg-type]
        assert error.value.hint is not None and "compile it again" in error.value.hint
    with pytest.raises(MachineError) as error:
        Machine.from_dict(fewer)
    assert error.value.hint is not None and 'base = "pinta"' in error.value.hint


def test_keys_are_the_attributes() -> None:
    assert [f.name for f in dataclasses.fields(Machine)][:-2] == list(KEYS)


def test_hash_is_about_values_only() -> None:
    m = Machine.default()
    assert m.replace(name="other").hash == m.hash
    assert m.replace(sram_kib=192).hash != m.hash
    numbers = [key for key, about in KEYS.items() if about.kind is float]
    halved = {m.replace(**{key: getattr(m, key) / 2}).hash for key in numbers}
    assert len(halved) == len(numbers) > 10 and m.hash not in halved  # each its own
    assert m.override(["sram_kib=192", "array_foldable=false"]) == m.replace(sram_kib=192, array_foldable=False)


def test_a_users_file_may_change_a_few_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "pinta"\nsram_kib = 768\nclock_ghz = { value = 2, tag = "derived", source = "a guess" }\n')
    m = Machine.load(path)
    assert (m.name, m.sram_kib, m.clock_ghz, m.bme_rows) == ("mine", 768, 2.0, 8)
    assert m.provenance["clock_ghz"].tag == "derived"
    assert "mine.toml" in m.provenance["sram_kib"].source
    assert m.dram_bytes_per_cycle == 12.8
    assert m.dram_latency_cycles == 200


BAD = [
    ("\n\nsram_kb = 384\n", 4, "unknown machine key 'sram_kb'", "did you mean 'sram_kib'"),
    ("sram_kib = 1.5\n", 2, "not a whole number", ""),
    ("\nvpu_philox = 1\n", 3, "not true or false", ""),
    ("bme_rows = true\n", 2, "not a whole number", ""),
    ("bme_rows = 0\n", 2, "must be between 1 and 256", "rows of block-matrix"),
    ("clock_ghz = -1.0\n", 2, "impossible", ""),
    ("clock_ghz = nan\n", 2, "impossible", ""),
    ("vpu_lanes = 24\n", 2, "multiple of 16", ""),
    ("sram_banks = 33\n", 2, "power of two", ""),
    ("sram_banks = 4\n", 2, "the banks deliver 128 bytes", ""),
    ("sram_kib = 1\nsram_banks = 64\n", 3, "do not divide", ""),
    ("vpu_max_micro_ops = 9\n", 2, "between 1 and 8", ""),
    ("clock_ghz = { value = 1.0, tag = 'guess' }\n", 2, "unknown tag 'guess'", "paper, derived, assumed"),
    ("clock_ghz = { value = 1.0, unit = 'GHz' }\n", 2, "unknown entry 'unit'", ""),
    ("clock_ghz = { tag = 'paper' }\n", 2, "no value", ""),
    ("clock_ghz = \n", 2, "not a TOML file", ""),
    ("name = 3\n", 2, "name must be a string", ""),
]


@pytest.mark.parametrize(("text", "line", "message", "hint"), BAD)
def test_bad_keys_are_refused_with_their_line(text: str, line: int, message: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('base = "pinta"\n' + text)
    with pytest.raises(MachineError) as error:
        Machine.load(path)
    assert message in error.value.message
    assert hint in (error.value.hint or "")
    assert error.value.location is not None
    assert (Path(error.value.location.file).name, error.value.location.line) == ("bad.toml", line)


def test_missing_files_bases_and_keys(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="did you mean 'pinta'"):
        Machine.load("pint")
    with pytest.raises(MachineError, match="base machine 'pantone'"):
        Machine.from_dict({"base": "pantone"})
    with pytest.raises(MachineError, match="lacks clock_ghz"):
        Machine.from_dict({"bme_rows": 8})
    with pytest.raises(MachineError, match="not key=value"):
        Machine.default().override(["sram_kib"])
    with pytest.raises(MachineError, match="base is no key") as error:
        Machine.default().override(["base=tiny"])
    assert error.value.hint == "--machine tiny"
    with pytest.raises(MachineError, match=r"'192\\nsram_banks=64' is no value"):
        Machine.default().override(["sram_kib=192\nsram_banks=64"])
    with pytest.raises(MachineError, match="one line of text"):
        Machine.from_dict({"base": "pinta", "name": "two\nlines"})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MachineError, match="cannot read"):
        Machine.load(tmp_path / "binary.toml")
