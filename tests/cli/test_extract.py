import json
from pathlib import Path

import pytest

from .conftest import Run
from .marks import needs_nano


@pytest.fixture
def videos(clip: Path, tmp_path: Path) -> Path:
    """A folder with two videos, of which one cannot be read."""
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(clip.read_bytes())
    (folder / "b.mp4").write_text("this is no video")
    return folder


@needs_nano
def test_a_folder_of_videos(run: Run, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    command = ("extract", videos, "--max-frames", 4, "--out", out)
    first = run(*command, "--json")
    assert first.exit_code == 0, first.stderr
    found = json.loads(first.stdout)
    (new,) = found["new"]
    assert (new["video_id"], new["frames"], found["known"]) == ("a", 4, 0)
    assert (out / new["file"]).stat().st_size == new["bytes"] == found["bytes"]
    (skipped,) = found["skipped"]
    assert skipped["video_id"] == "b"
    assert "skipped: " in first.stderr
    again = run(*command)
    assert again.exit_code == 0, again.stderr
    assert "has 1 of these videos already" in again.stderr
    assert "0 videos extracted" in again.stdout
    assert f"sttm eval run --features {out}" in again.stdout
    checked = run("extract", "--verify", "--out", out)
    assert checked.exit_code == 0, checked.stderr
    assert "1 videos, 0 with problems" in checked.stdout
    other = run("extract", videos, "--max-frames", 5, "--out", out)
    assert other.exit_code == 2
    assert "max_frames 4, but this run has 5" in other.stderr


@needs_nano
def test_the_table_and_other_options(run: Run, clip: Path, tmp_path: Path) -> None:
    result = run(
        *("extract", clip, "--out", tmp_path, "--max-frames", 2, "--rule", "uniform"),
        *("--dtype", "bfloat16", "--with-attention", "--on-error", "stop"),
    )
    assert result.exit_code == 0, result.stderr
    assert "1 videos extracted" in result.stdout
    settings = json.loads((tmp_path / "manifest.jsonl").read_text().splitlines()[0])["settings"]
    assert (settings["rule"], settings["dtype"]) == ("uniform", "bfloat16")
    assert settings["tower_attention"] is True


@needs_nano
def test_damage_is_found(run: Run, clip: Path, tmp_path: Path) -> None:
    run("extract", clip, "--out", tmp_path, "--max-frames", 2)
    (file,) = (tmp_path / "videos").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = run("extract", "--verify", "--out", tmp_path, "--json")
    assert result.exit_code == 2
    assert "1 damaged or missing files of 1" in result.stderr
    (problem,) = json.loads(result.stdout)["problems"]
    assert "damaged file" in problem


@needs_nano
def test_unreadable_videos_stop_if_asked(run: Run, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    result = run("extract", videos, "--out", out, "--max-frames", 2, "--on-error", "stop")
    assert result.exit_code == 2
    assert "--on-error skip goes on without it" in result.stderr
    assert len(list((out / "videos").iterdir())) == 1
    none = run("extract", videos / "b.mp4", "--out", tmp_path / "none")
    assert none.exit_code == 2
    assert "none can be read" in none.stderr


@needs_nano
def test_videos_of_a_task(run: Run, clip: Path, tmp_path: Path) -> None:
    rows = [
        {"video": clip.name, "question": f"Digit {i}?", "options": ["1", "2"], "answer": "A"}
        for i in range(2)
    ]
    data = clip.parent / "custom.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(
        *("extract", "--task", "custom", "--data-root", data, "--max-frames", 2),
        *("--out", tmp_path, "--json"),
    )
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["new"]) == 1


@needs_nano
def test_bad_rows_of_a_task(run: Run, clip: Path, tmp_path: Path) -> None:
    good = {"video": clip.name, "question": "Digit?", "options": ["1", "2"], "answer": "A"}
    rows = [{**good, "answer": "x"}, {**good, "option": []}, good, {**good, "video": "no.mp4"}]
    data = clip.parent / "bad rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("extract", "--task", "custom", "--data-root", data, "--max-frames", 2, "--out")
    stopped = run(*command, tmp_path / "stop", "--on-error", "stop")
    assert stopped.exit_code == 2
    assert "row 1: got the answer 'x'" in " ".join(stopped.stderr.split())
    result = run(*command, tmp_path / "skip", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (len(found["new"]), found["left_out"]) == (1, {"answer": 1, "row": 1})
    assert [failure["video_id"] for failure in found["skipped"]] == ["no"]
    assert "left out: bad rows.jsonl, row 2" in result.stderr
    again = run(*command, tmp_path / "skip")
    assert "1 rows of the data set left out: answer" in again.stderr
    data.write_text("\n")
    empty = run(*command, tmp_path / "empty")
    assert empty.exit_code == 2
    assert "got no questions at all" in " ".join(empty.stderr.split())


@needs_nano
def test_one_file_with_several_names(
    run: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clip.parent)
    names = (clip.name, f"../{clip.parent.name}/{clip.name}", clip)
    result = run("extract", *names, "--max-frames", 2, "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["new"]) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "neither videos nor --task"),
        (("clip.mp4", "--task", "needle"), "videos and --task"),
        (("clip.mp4", "--data-root", "."), "--data-root without --task"),
        (("clip.mp4", "--fps", "0"), "fps=0"),
        (("clip.mp4", "--max-frames", "0"), "max_frames=0"),
        (("clip.mp4", "--rule", "odd"), "--rule"),
        (("clip.mp4", "--dtype", "int8"), "--dtype"),
        (("clip.mp4", "--on-error", "cry"), "--on-error"),
        (("--task", "nedle"), "Did you mean 'needle'"),
        (("--task", "vnbench"), "sttm eval validate"),
        (("--verify",), "manifest.jsonl"),
        (("clip.mp4", "--ray", "--processes", "2"), "--ray and --processes"),
    ],
)
def test_bad_options(run: Run, tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    result = run("extract", *options, "--out", tmp_path / "features")
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert not (tmp_path / "features").exists()
