import json
from dataclasses import replace
from pathlib import Path

import pytest

from sttm.evaluation.record import RUN, failed
from sttm.evaluation.tasks import Item, Task, get_task
from tests.evaluation import small

from .conftest import Run

ITEMS = [
    Item("egoschema", name, name, None, "Why?", ("a", "b", "c", "d", "e"))
    for name in ("x", "y", "z", "w")
]


def _task(name: str, questions: int) -> Task:
    task = get_task(name)
    expected = task.expected.model_copy(update={"questions": questions})
    return task.model_copy(update={"expected": expected})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of five questions four were asked: one said nothing, and one ended in an error."""
    answers = [
        small.answer(ITEMS[0], "E"),
        small.answer(ITEMS[1], ""),
        failed(ITEMS[2], "missing video", "no such file"),
        replace(small.answer(ITEMS[3], "?"), parsed=None),
    ]
    folder = small.store(tmp_path / "run", _task("egoschema", 5), answers)
    # As `--limit 4` leaves it: all that it was to ask is asked.
    (folder / RUN).write_text(json.dumps({"questions": 4}))
    return folder


def test_an_incomplete_run_is_handed_in_only_on_demand(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.csv"
    given = ("eval", "submission", folder, "--out", out)
    result = run(*given)
    assert result.exit_code == 2
    assert "3 answers to the 5 questions of egoschema" in result.stderr
    assert "(1 ended in an error, 1 not asked)" in result.stderr
    assert not out.exists()

    result = run(*given, "--incomplete")
    assert result.exit_code == 0
    # What the model said nothing to is wrong; what it was not asked is not there.
    assert out.read_text() == "q_uid,answer\nx,4\ny,-1\nw,-1\n"
    assert "3 answers; hand them in at https://www.kaggle.com/" in result.stdout
    assert "2 answers name no option" in result.stderr
    assert "incomplete: 1 of 5 questions ended in an error, 1 were not asked" in result.stderr
    told = json.loads(run(*given, "--incomplete", "--json").stdout)
    assert told == {"file": str(out), "answers": 3, "without": 2, "errors": 1, "left": 1}


def test_answers_are_written_for_the_server(run: Run, tmp_path: Path) -> None:
    answers = [small.answer(item, "B") for item in ITEMS]
    folder = small.store(tmp_path / "run", _task("egoschema", 4), answers)
    result = run("eval", "submission", folder, "--out", tmp_path / "mine.csv")
    assert result.exit_code == 0
    assert (tmp_path / "mine.csv").read_text() == "q_uid,answer\nx,1\ny,1\nz,1\nw,1\n"
    assert "incomplete" not in result.stderr


def test_a_benchmark_that_is_scored_here_has_none(run: Run, tmp_path: Path) -> None:
    folder = small.store(tmp_path / "run", get_task("nextqa"), [])
    result = run("eval", "submission", folder, "--out", tmp_path / "mine.csv")
    assert result.exit_code == 2
    assert "scored here" in result.stderr
    assert not (tmp_path / "mine.csv").exists()
