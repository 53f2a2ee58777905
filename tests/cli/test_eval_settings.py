"""What `sttm eval run` is set to, and what it makes of bad answers, videos and disks."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from sttm.errors import WriteError
from sttm.evaluation.evaluator import Evaluator
from sttm.evaluation.record import TimedAnswer
from tests.checkpoints.original import write_original
from tests.evaluation.tasks import published
from tests.video.video_clips import numbered

from .conftest import Run
from .marks import needs_nano

SMALL = ("--max-new-tokens", 4)


@pytest.fixture
def data(tmp_path: Path, clip: Path) -> Path:
    """A user's own questions: two about each of two videos."""
    path = tmp_path / "own.jsonl"
    (tmp_path / "other.mp4").write_bytes(clip.read_bytes())
    lines = [
        {"id": f"{name}{i}", "video": video, "question": f"Which {i}?", "options": ["x", "y"]}
        for name, video in (("a", str(clip)), ("b", "other.mp4"))
        for i in range(2)
    ]
    path.write_text("".join(json.dumps({**line, "answer": "A"}) + "\n" for line in lines))
    return path


def ask(run: Run, data: Path, out: Path, *more: object) -> Any:
    given = ("--task", "custom", "--data-root", data, *SMALL, "--keep", "0.3")
    return run("eval", "run", *given, *more, "--out", out)


def settings(out: Path) -> dict[str, Any]:
    with (out / "answers.jsonl").open() as file:
        found: dict[str, Any] = json.loads(file.readline())["settings"]
    return found


def answers(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()[1:]]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that say nothing to second questions."""
    original = Evaluator.answers

    def some(
        self: Evaluator, encoded: Any, setting: Any, questions: Sequence[str]
    ) -> Iterator[TimedAnswer]:
        for question, found in zip(questions, original(self, encoded, setting, questions)):
            yield replace(found, text=" \n" if "Which 1?" in question else "A")

    monkeypatch.setattr(Evaluator, "answers", some)


@needs_nano
@pytest.mark.usefixtures("silent")
def test_an_empty_answer_stops_or_is_skipped(run: Run, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = ask(run, data, out)
    assert result.exit_code == 2
    assert "a1: empty answer: the model wrote nothing; not scored." in result.stderr
    assert len(answers(out)) == 2

    result = ask(run, data, out, "--on-error", "skip")
    assert result.exit_code == 0
    assert "2 not scored: empty answer" in result.stderr
    assert "100.0 % of 2 questions" in result.stdout
    found = json.loads(ask(run, data, out, "--on-error", "skip", "--json").stdout)
    assert (found["answered"], found["empty"], found["empty_scored"]) == (2, 2, 0)
    assert found["metrics"]["micro"] == {"value": 1.0, "n": 2, "missing": 2, "unit": "questions"}
    report = run("eval", "report", out, "--out", tmp_path / "report")
    assert "with empty answers counted as wrong the accuracy is 50.0" in report.stderr


@needs_nano
@pytest.mark.usefixtures("silent")
def test_the_published_rule_has_empty_answers_wrong(run: Run, data: Path, tmp_path: Path) -> None:
    given = ("--parser", "published", "--on-error", "skip")
    result = ask(run, data, tmp_path / "run", *given, "--json")
    found = json.loads(result.stdout)
    assert (found["errors"], found["empty_scored"]) == ({"empty answer": 2}, 2)
    assert found["metrics"]["micro"]["value"] == 0.5


@needs_nano
def test_a_run_without_an_answer_is_no_success(run: Run, data: Path, tmp_path: Path) -> None:
    (tmp_path / "other.mp4").unlink()
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join(line for line in lines if "other.mp4" in line))
    (tmp_path / "other.mp4").write_bytes(b"no video" * 99)
    result = ask(run, data, tmp_path / "run", "--on-error", "skip", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["errors"] == {"unreadable video": 2}
    assert "no answer to any of 2 questions (2 unreadable video)" in result.stderr


@needs_nano
def test_a_full_disk_stops_whatever_is_skipped(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def full(video: Path, **_: Any) -> None:
        raise WriteError(f"{video}: cannot be written (No space left on device). Make room.")

    with monkeypatch.context() as patched:
        patched.setattr("sttm.evaluation.evaluator.read_video", full)
        result = ask(run, data, out, "--on-error", "skip")
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert answers(out) == []
    assert ask(run, data, out, "--on-error", "skip").exit_code == 0
    assert [answer["error"] for answer in answers(out)] == [None] * 4


@needs_nano
@pytest.mark.filterwarnings("error::sttm.video.VideoWarning")
def test_damaged_videos_are_told(run: Run, data: Path, tmp_path: Path) -> None:
    whole = numbered(tmp_path / "whole.mkv", 90).read_bytes()
    (tmp_path / "other.mp4").write_bytes(whole[: 2 * len(whole) // 3])
    out = tmp_path / "run"
    result = ask(run, data, out)
    assert result.exit_code == 0, result.stderr
    told = "2 answered about damaged videos (1), of which only some frames could be decoded"
    assert told in result.stderr
    assert [bool(answer["warnings"]) for answer in answers(out)] == [False, False, True, True]
    assert told in run("eval", "report", out, "--out", tmp_path / "report").stderr

    # Features keep what was wrong with the video that they are of.
    data_options = ("--task", "custom", "--data-root", data)
    assert run("extract", *data_options, "--out", tmp_path / "features").exit_code == 0
    out = tmp_path / "featured"
    assert ask(run, data, out, "--features", tmp_path / "features").exit_code == 0
    assert [bool(answer["warnings"]) for answer in answers(out)] == [False, False, True, True]


@needs_nano
def test_other_features_are_another_setting(run: Run, data: Path, tmp_path: Path) -> None:
    options = ("--task", "custom", "--data-root", data)
    for name, more in (("one", ()), ("more", ("--with-attention",))):
        made = run("extract", *options, *more, "--out", tmp_path / name)
        assert made.exit_code == 0, made.stderr
    out = tmp_path / "run"
    assert ask(run, data, out, "--features", tmp_path / "one").exit_code == 0
    for given in (("--features", tmp_path / "more"), ()):
        result = ask(run, data, out, *given)
        assert result.exit_code == 2
        assert "another setting: features " in result.stderr
    result = ask(run, data, tmp_path / "no", "--features", tmp_path)
    assert "got a folder without features" in result.stderr


@needs_nano
def test_features_of_another_sampling_rule(run: Run, data: Path, tmp_path: Path) -> None:
    options = ("--task", "custom", "--data-root", data, "--rule", "uniform")
    made = run("extract", *options, "--out", tmp_path / "features")
    assert made.exit_code == 0, made.stderr
    given = ("--features", tmp_path / "features")
    assert ask(run, data, tmp_path / "no", *given).exit_code == 2
    result = ask(run, data, tmp_path / "run", *given, "--rule", "uniform")
    assert result.exit_code == 0, result.stderr
    assert settings(tmp_path / "run")["sampling"]["rule"] == "uniform"


def test_a_preset_is_set_up(run: Run, clip: Path, tmp_path: Path) -> None:
    model = write_original(tmp_path / "checkpoint").folder
    published.nextqa(tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.zip"):
        with ZipFile(path) as archive:
            names = archive.namelist()
        path.unlink()
        for name in names:
            (path.parent / Path(name).name).write_bytes(clip.read_bytes())
    given = ("--data-root", tmp_path / "data", "--model", model, *SMALL, "--on-error", "skip")
    for name, more in (
        ("100/newline-grid", ()),
        ("30", ("--layer", 1, "--parser", "clean", "--newline", "one_token")),
    ):
        preset = f"sttm-paper/llava-video-7b/nextqa/{name}"
        out = tmp_path / name.replace("/", "-")
        result = run("eval", "run", "--preset", preset, *given, *more, "--out", out)
        assert result.exit_code == 0, result.stderr
    grid = settings(tmp_path / "100-newline-grid")
    assert (grid["newline"], grid["parser"], grid["spec"]) == ("grid", "published", "all")
    other = settings(tmp_path / "30")
    assert (other["newline"], other["parser"], other["layer"]) == ("one_token", "clean", 1)
    assert other["options"]["linking"] == "published"

    runs = (tmp_path / "100-newline-grid", tmp_path / "30")
    report = run("eval", "report", *runs, "--out", tmp_path / "report", "--json")
    found = json.loads(report.stdout)["runs"]
    assert [row["published"]["accuracy"] for row in found] == [0.822, 0.82]
    assert "layer 1 instead of 2" in found[1]["published_differs"]
    assert "parser clean instead of published" in found[1]["published_differs"]
    assert "table 10 (differs)" in (tmp_path / "report" / "report.md").read_text()


def test_newlines_are_for_models_that_have_them(run: Run, data: Path, tmp_path: Path) -> None:
    result = ask(run, data, tmp_path / "run", "--newline", "grid")
    assert result.exit_code == 2
    assert "got --newline with nano (no --model)" in result.stderr


def test_made_videos_have_no_rule(run: Run, tmp_path: Path) -> None:
    result = run("eval", "run", "--task", "needle", "--rule", "qwen", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "frame by frame" in result.stderr
