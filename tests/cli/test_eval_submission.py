import json
from pathlib import Path

from sttm.evaluation.run.records import RUN
from sttm.evaluation.tasks import Item, get_task
from tests.evaluation.run import small

from .conftest import Run


def _run_folder(folder: Path, task: str) -> Path:
    options = ("a", "b", "c", "d", "e")
    items = [Item(task, name, name, None, "Why?", options) for name in ("x", "y")]
    answers = [small.answer(items[0], "E"), small.answer(items[1], "")]
    return small.store(folder, get_task(task), answers)


def test_answers_are_written_for_the_server(run: Run, tmp_path: Path) -> None:
    folder, out = _run_folder(tmp_path / "run", "egoschema"), tmp_path / "mine.csv"
    (folder / RUN).write_text(json.dumps({"questions": 5}))
    result = run("eval", "submission", folder, "--out", out)
    assert result.exit_code == 0
    assert out.read_text() == "q_uid,answer\nx,4\ny,-1\n"
    assert "2 answers; hand them in at https://www.kaggle.com/" in result.stdout
    assert "1 questions have no answer" in result.stderr
    assert "3 questions have not been asked yet" in result.stderr
    told = json.loads(run("eval", "submission", folder, "--out", out, "--json").stdout)
    assert told == {"file": str(out), "answers": 2, "without": 1, "left": 3}


def test_a_benchmark_that_is_scored_here_has_none(run: Run, tmp_path: Path) -> None:
    folder = _run_folder(tmp_path / "run", "nextqa")
    result = run("eval", "submission", folder, "--out", tmp_path / "mine.csv")
    assert result.exit_code == 2
    assert "scored here" in result.stderr
    assert not (tmp_path / "mine.csv").exists()
