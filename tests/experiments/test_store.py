"""Files of finished runs: format, damage, the committed ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pintac.errors import ResultsError
from pintac.experiments.runs import Run
from pintac.experiments.store import Store
from tests.experiments.support import DAY, keep, result

RUN = Run.of("poisson2d", K=4, quant="even-odd", seed=3)


def test_a_run_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.load(RUN) is None and RUN not in store
    keep(store, RUN, 0.003)
    back = store.load(RUN)
    assert back is not None and RUN in store
    assert (back.run, back.command, back.date) == (RUN, RUN.command, DAY)
    assert back.result == result(RUN, 0.003)
    assert [done.run for done in store] == [RUN]
    assert [path.name for path in store.folder.iterdir()] == [RUN.name + ".json"], "no temporary file is left"


def test_the_file_is_read_by_people(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keep(store, RUN, 0.003)
    text = store.path(RUN).read_text()
    assert text.startswith(f'{{\n "command": "{RUN.command}",\n "date": "{DAY}",\n "result": {{\n')
    assert '  "history": [[20, 3.0, 0.5], [40, 2.0, 0.02], [1000, 1.0, 0.003]],\n' in text
    assert list(json.loads(text)) == ["command", "date", "result", "run"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda text: "", "cannot be read"),
        (lambda text: "[]", "expected the keys"),
        (lambda text: json.dumps({**json.loads(text), "more": 1}), "expected the keys"),
        (lambda text: text.replace('"K": 4', '"K": 8'), "holds the run poisson2d,K=8"),
        (lambda text: text.replace('"poisson2d"', '"poison"'), "does not say which run"),
        (lambda text: text.replace('"l2_rel"', '"l3"'), "has no l2_rel"),
        (lambda text: text.replace('"interrupted": false', '"interrupted": true'), "was interrupted"),
        (lambda text: text.replace('"seed": 3,\n  "sim', '"seed": 4,\n  "sim'), "of seed 4"),
        (lambda text: text.replace('"l2_rel": 0.003', '"l2_rel": "0.003"'), "l2_rel is '0.003'"),
        (lambda text: text.replace('"l2_rel": 0.003', '"l2_rel": -0.003'), "l2_rel is -0.003, below 0"),
        (lambda text: text.replace('"l2_rel": 0.003', '"l2_rel": NaN'), "l2_rel is nan"),
        (lambda text: text.replace('"steps": 1000', '"steps": [1000]'), "steps is"),
        (lambda text: text.replace('"cycles_per_step": 200', '"cycles_per_step": "200"'), "cycles_per_step is '200'"),
        (lambda text: text.replace("[[20, 3.0, 0.5], ", "[20, "), r"history\[0\] is 20"),
        (lambda text: text.replace("[20, 3.0, 0.5]", "[20, 3.0]"), r"history\[0\] is .*not a list of 3"),
        (lambda text: text.replace("[20, 3.0, 0.5]", '[20, 3.0, "0.5"]'), r"history\[0\]\[2\] is '0.5'"),
    ],
)
def test_damaged_files_are_one_clear_error(tmp_path: Path, damage, message: str) -> None:
    store = Store(tmp_path)
    keep(store, RUN, 0.003)
    path = store.path(RUN)
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(ResultsError, match=message) as error:
        store.load(RUN)
    assert str(path) in str(error.value) and len(str(error.value).splitlines()) <= 2


def test_what_is_no_finished_run_is_not_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for wrong in ({"interrupted": True}, {"seed": 9}):
        with pytest.raises(ResultsError):
            store.save(RUN, {**result(RUN, 0.1), **wrong}, DAY)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    with pytest.raises(ResultsError, match="cannot write"):
        keep(Store(tmp_path), RUN, 0.003)


def test_the_committed_runs_are_whole() -> None:
    store = Store(Path(__file__).parents[2] / "docs/results")
    count = 0
    for done in store:
        count += 1
        assert done.command == done.run.command
        assert done.result["steps"] == (done.run.steps or done.result["history"][-1][0])
    assert count >= 21
