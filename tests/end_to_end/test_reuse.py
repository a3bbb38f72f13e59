"""Programs of earlier starts are found again, and only where the backend would make the same bytes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pintac.api import reuse, sources
from pintac.api.lowering import Lowered, lower
from pintac.machine import Machine
from tests.end_to_end.test_bits import Case

CASE = Case(points=(2,), K=4)
MACHINE = Machine.default()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pintac" / "programs"


@pytest.fixture(scope="module")
def lowered() -> Lowered:
    return lower(CASE.step(), CASE.options())


def test_the_second_start_schedules_nothing(folder: Path, lowered: Lowered, monkeypatch: pytest.MonkeyPatch) -> None:
    first = reuse.emit_or_reuse(lowered, MACHINE)
    monkeypatch.setattr(reuse, "emit", None)  # would fail if it were called
    again = reuse.emit_or_reuse(lower(CASE.step(), CASE.options()), MACHINE)
    assert again.to_bytes() == first.to_bytes()


def test_a_damaged_program_is_made_again(folder: Path, lowered: Lowered) -> None:
    first = reuse.emit_or_reuse(lowered, MACHINE)
    (file,) = folder.iterdir()
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    assert reuse.emit_or_reuse(lowered, MACHINE).to_bytes() == first.to_bytes()
    assert file.read_bytes() == first.to_bytes()


def test_everything_a_program_is_scheduled_from_is_in_its_key(
    lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [lower(Case(points=(2,), K=6).step(), CASE.options()), lower(CASE.step(), Case(saved="f32").options())]
    keys = {reuse._key(one, MACHINE) for one in (lowered, *others)}
    keys.add(reuse._key(lowered, MACHINE.replace(sram_kib=192)))
    keys.add(reuse._key(replace(lowered, param_table=lowered.param_table[:-1]), MACHINE))
    keys.add(reuse._key(replace(lowered, data={"more": np.ones(4, np.float32)}), MACHINE))
    keys.add(reuse._key(lowered, MACHINE, 2.0))
    assert reuse._key(lowered, MACHINE, 1) == reuse._key(lowered, MACHINE)
    monkeypatch.setattr(reuse, "sources", lambda: "edited")
    keys.add(reuse._key(lowered, MACHINE))
    assert len(keys) == 8


def test_an_effort_has_a_program_of_its_own(
    folder: Path, lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit, efforts = reuse.emit, []
    monkeypatch.setattr(reuse, "emit", lambda *a, effort: (efforts.append(effort), emit(*a, effort=effort))[1])
    for effort in (0.0, 1.0, 0.0):
        reuse.emit_or_reuse(lowered, MACHINE, effort)
    assert efforts == [0.0, 1.0] and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("package", ["numpy", "numba", "llvmlite", "networkx"])
def test_other_versions_of_what_decides_find_nothing(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here, version = sources.sources.__wrapped__(), sources.metadata.version
    monkeypatch.setattr(sources.metadata, "version", lambda name: "0.0.1" if name == package else version(name))
    assert sources.sources.__wrapped__() != here


def test_seeds_and_start_values_share_a_schedule(
    folder: Path, lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded = lower(CASE.step(), CASE.options(), seed=1)
    other = {name: value + np.float32(1) for name, value in lowered.init.items()}
    started = replace(lowered, init=other)
    fresh = [reuse.emit(one, MACHINE).to_bytes() for one in (seeded, started)]
    reuse.emit_or_reuse(lowered, MACHINE)
    monkeypatch.setattr(reuse, "emit", None)
    assert [reuse.emit_or_reuse(one, MACHINE).to_bytes() for one in (seeded, started)] == fresh


def test_old_programs_go(folder: Path, lowered: Lowered, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [MACHINE.replace(sram_kib=kib) for kib in (200, 220, 240)]
    size = len(reuse.emit_or_reuse(lowered, machines[0]).to_bytes())
    monkeypatch.setattr(reuse, "KEPT_BYTES", 2.5 * size)
    for machine in machines[1:]:
        reuse.emit_or_reuse(lowered, machine)
    assert len(list(folder.iterdir())) == 2
    monkeypatch.setattr(reuse, "emit", None)
    for machine in machines[1:]:
        reuse.emit_or_reuse(lowered, machine)


def test_without_a_cache(tmp_path: Path, lowered: Lowered, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert reuse.emit_or_reuse(lowered, MACHINE).entries
