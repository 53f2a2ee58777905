import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from sttm.cli.eval_tasks import tasks, validate
from sttm.evaluation.tasks import list_tasks

from ..evaluation.tasks import published

app = typer.Typer()
app.command()(tasks)
app.command()(validate)

CLIP = {"video": "clip.mp4", "question": "Which?", "options": ["yes", "no"], "answer": "A"}


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    (tmp_path / "clip.mp4").write_bytes(b"")
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(CLIP) + "\n")
    return path


def test_tasks_are_listed() -> None:
    found = json.loads(_run("tasks", "--json").stdout)
    assert [task["name"] for task in found] == list(list_tasks())
    vnbench = next(task for task in found if task["name"] == "vnbench")
    assert (vnbench["questions"], vnbench["max_frames"]) == (5400, 180)
    assert list(vnbench["metrics"]) == ["micro", "all_tries"]
    shown = _run("tasks").stdout
    assert "longvideobench" in shown
    assert "8564" in shown


def test_sound_files_exit_with_0(questions: Path) -> None:
    result = _run("validate", "custom", "--data-root", questions)
    assert result.exit_code == 0
    assert "1 sound questions about 1 videos, 1 with their file" in result.stdout
    assert "nothing is wrong" in result.stdout


def test_wrong_files_exit_with_1(questions: Path) -> None:
    lines = [json.dumps({**CLIP, "video": f"{i}.mp4"}) for i in range(8)]
    questions.write_text("\n".join([*lines, "{"]))
    result = _run("validate", "custom", "--data-root", questions)
    assert result.exit_code == 1
    assert "malformed rows: 1\n  mine.jsonl, row 9: got '{'" in result.stdout
    assert "videos without a file: 8\n  mine.jsonl, row 1: got no file" in result.stdout
    assert "and 3 more; --json lists all" in result.stdout
    assert "problems in all: 9" in result.stdout
    found = json.loads(_run("validate", "custom", "--data-root", questions, "--json").stdout)
    assert len(found["problems"]) == 9
    assert found["ok"] is False
    without = _run("validate", "custom", "--data-root", questions, "--no-videos")
    assert "videos without" not in without.stdout


def test_a_wrong_folder_tells_how_to_get_the_files(tmp_path: Path) -> None:
    result = _run("validate", "mlvu", "--data-root", tmp_path)
    assert result.exit_code == 1
    assert "files missing or unreadable: 7" in result.stdout
    command = f"hf download MLVU/MVLU --repo-type dataset --local-dir {tmp_path}/mlvu"
    assert command in result.stdout


def test_a_part_of_a_benchmark_is_sound(tmp_path: Path) -> None:
    published.vnbench(tmp_path)
    result = _run("validate", "vnbench", "--data-root", tmp_path)
    assert result.exit_code == 0
    assert "other numbers than published: 2\n  8 questions, the published are 5400" in result.stdout
    assert "hf download" not in result.stdout
    assert "nothing is wrong" in result.stdout
    found = json.loads(_run("validate", "vnbench", "--data-root", tmp_path, "--json").stdout)
    assert (found["ok"], len(found["differences"]), found["problems"]) == (True, 2, [])


def test_a_made_task_needs_no_folder() -> None:
    result = _run("validate", "needle")
    assert result.exit_code == 0
    assert "with their file" not in result.stdout
