"""What goes wrong with one video stays with it, whatever is raised."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sttm.chat import VideoChat
from sttm.errors import FailedVideoError, WriteError
from sttm.nano.scenes import FIRST_SEED

from .conftest import Run
from .marks import needs_nano

pytestmark = needs_nano
Q = "Which digit appears?"
CRASHES = [ZeroDivisionError("division by zero"), ValueError("mean of empty slice"), KeyError("x")]


@pytest.fixture
def videos(clip: Path, tmp_path: Path) -> Path:
    """Three videos, of which the model fails at one: ``bad.mp4``."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "bad", "c"):
        (folder / f"{name}.mp4").write_bytes(clip.read_bytes())
    return folder


@pytest.fixture(params=CRASHES, ids=lambda error: type(error).__name__)
def crash(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Exception:
    """Let the processor fail at ``bad.mp4``, and at the second scene."""
    error: Exception = request.param
    break_at(monkeypatch, error)
    return error


def break_at(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    original = VideoChat.open
    seen: list[str] = []

    def fail(self: VideoChat, video: Any, *args: Any, **kwargs: Any) -> Any:
        if not video.path:
            seen.append("scene")
        if "bad" in video.path or len(seen) == 2:
            raise error
        return original(self, video, *args, **kwargs)

    monkeypatch.setattr(VideoChat, "open", fail)


def line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def own(videos: Path, tmp_path: Path) -> tuple[object, ...]:
    """A task of one's own about the videos."""
    path = videos.parent / "own.jsonl"
    rows = [
        {"id": name, "video": str(videos / f"{name}.mp4"), "question": Q, "options": ["x", "y"]}
        for name in ("a", "bad", "c")
    ]
    path.write_text("".join(json.dumps({**row, "answer": "A"}) + "\n" for row in rows))
    few = ("--keep", ".3", "--max-frames", 2, "--no-warm-up")
    return ("eval", "run", "--task", "custom", "--data-root", path, *few, "--out", tmp_path / "e")


def test_eval_run(run: Run, videos: Path, tmp_path: Path, crash: Exception) -> None:
    command = own(videos, tmp_path)
    stopped = run(*command)
    assert stopped.exit_code == 2
    assert line(crash) in stopped.stderr
    assert "bad" in stopped.stderr
    result = run(*command, "--on-error", "skip", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["answered"], found["errors"]) == (2, {"failed": 1})


def test_extract(run: Run, videos: Path, tmp_path: Path, crash: Exception) -> None:
    command = ("extract", videos, "--max-frames", 2, "--out", tmp_path / "f", "--json")
    result = run(*command)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [video["video_id"] for video in found["new"]] == ["a", "c"]
    assert found["skipped"] == [{"video_id": "bad", "error": f"bad: {line(crash)}"}]
    assert f"skipped: bad: {line(crash)}" in result.stderr
    assert run(*command, "--on-error", "stop").exit_code == 2


def test_calibrate(run: Run, videos: Path, tmp_path: Path, crash: Exception) -> None:
    command = ("calibrate", videos, "--max-frames", 2, "--out", tmp_path / "t.json", "--json")
    result = run(*command)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert len(found["videos"]) == 2
    assert found["skipped"] == [f"{videos / 'bad.mp4'}: {line(crash)}"]
    stopped = run(*command, "--on-error", "stop")
    assert stopped.exit_code == 2
    assert f"error: {videos / 'bad.mp4'}: {line(crash)}" in stopped.stderr
    assert run("calibrate", videos / "bad.mp4", "--out", tmp_path / "t.json").exit_code == 2


def scenes(tmp_path: Path, count: int, *more: object) -> tuple[object, ...]:
    made = ("--scenes", "frames=2", f"count={count}", "kinds=static")
    return ("eval", "run", "--task", "needle", *more, *made, "--out", tmp_path / "n")


def test_scenes(run: Run, tmp_path: Path, crash: Exception) -> None:
    more = ("--method", "sttm", "random", "--keep", "1", ".3")
    result = run(*scenes(tmp_path, 4, *more), "--on-error", "skip", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["settings"]
    assert [each["videos"] for each in found] == [3, 3, 3]
    assert all(list(each["errors"]) == ["failed"] for each in found)
    answers = (tmp_path / "n" / "all" / "answers.jsonl").read_text().splitlines()[1:]
    failed = [one for one in map(json.loads, answers) if one["error"] == "failed"]
    assert {one["video_id"] for one in failed} == {f"static-2-{FIRST_SEED + 1}"}
    assert all(line(crash) in one["message"] for one in failed)


def test_scenes_stop(run: Run, tmp_path: Path, crash: Exception) -> None:
    stopped = run(*scenes(tmp_path, 2, "--keep", "1", ".3"))
    assert stopped.exit_code == 2
    assert f"error: static-2-{FIRST_SEED + 1}-0: failed: " in stopped.stderr
    assert line(crash) in stopped.stderr


def test_ask_and_show(run: Run, videos: Path, tmp_path: Path, crash: Exception) -> None:
    for command in (
        ("ask", videos / "bad.mp4", Q),
        ("show", videos / "bad.mp4", "--out", tmp_path),
    ):
        result = run(*command)
        assert result.exit_code == 2
        assert f"error: {videos / 'bad.mp4'}: {line(crash)}" in result.stderr
        debugged = run("--debug", *command).exception
        assert isinstance(debugged, FailedVideoError)
        assert debugged.__cause__ is crash


def test_an_interrupt_and_a_full_disk_end_a_run(
    run: Run, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip = ("--on-error", "skip")
    commands = [
        (*own(videos, tmp_path), *skip),
        ("extract", videos, "--out", tmp_path / "f", *skip),
        ("calibrate", videos, "--out", tmp_path / "t.json", *skip),
        (*scenes(tmp_path, 2, "--keep", ".3"), *skip),
    ]
    for error, code in ((KeyboardInterrupt(), 130), (WriteError("the disk is full"), 2)):
        for command in commands:
            with monkeypatch.context() as patch:
                break_at(patch, error)
                result = run(*command)
            shutil.rmtree(tmp_path / "n", ignore_errors=True)  # the second clip is to fail again
            assert result.exit_code == code, (command, result.output)
            assert code == 130 or "error: the disk is full" in result.stderr
