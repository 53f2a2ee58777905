import json
from pathlib import Path

import pytest

from .conftest import Run
from .marks import needs_nano


@needs_nano
def test_thresholds_for_a_folder_and_their_use(run: Run, clip: Path, tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "thresholds.json"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(clip.read_bytes())
    (videos / "b.mp4").write_text("this is no video")
    result = run("calibrate", videos, "--keep", "30%", "--max-frames", 4, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert "skipped" in result.stderr
    assert "b.mp4" in found["skipped"][0]
    (row,) = found["videos"]
    assert (row["frames"], row["tokens_in"]) == (4, 256)
    assert row["tokens_out"] / 256 == pytest.approx(found["mean_retention"], abs=1e-6)
    assert found["mean_retention"] == pytest.approx(0.3, abs=0.05)
    assert json.loads(out.read_text())["spatial_threshold"] == found["spatial_threshold"]
    given = ("Which digit appears?", "--thresholds", out, "--max-frames", 4, "--json")
    asked = run("ask", videos / "a.mp4", *given)
    assert json.loads(asked.stdout)["tokens_out"] == row["tokens_out"]
    assert "calibrated for" not in asked.stderr
    elsewhere = run("ask", videos / "a.mp4", *given, "--layer", 3)
    assert "calibrated for nano (bundled), layer 0" in elsewhere.stderr


@needs_nano
def test_the_table(run: Run, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "thresholds.json"
    shown = run("calibrate", clip, clip, "--max-frames", 2, "--keep", "0.5", "--out", out).stdout
    assert "clip.mp4" in shown
    assert "on average over 1 videos (wanted 50.0 %)" in shown
    assert "use it with --thresholds" in shown


@needs_nano
def test_no_video_can_be_read(run: Run, tmp_path: Path) -> None:
    text, none, out = tmp_path / "text.mp4", tmp_path / "none.mp4", tmp_path / "thresholds.json"
    text.write_text("this is no video")
    result = run("calibrate", text, none, "--out", out)
    assert result.exit_code == 2
    assert "none can be read" in result.stderr
    assert result.stderr.count(str(text)) == result.stderr.count(str(none)) == 1
    assert not out.exists()
    alone = run("calibrate", none, "--out", out)
    assert alone.exit_code == 2
    assert alone.stderr.count(str(none)) == 1
    assert "skipped" not in alone.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--keep", "0"), "a share such as 0.3"),
        (("--keep", "512"), "a share such as 0.3"),
        (("--keep", "lots"), "a share such as 0.3"),
        (("--out", "nowhere/thresholds.json"), "does not exist"),
        (("--out", "."), "a folder, expected a file"),
        (("--diagonal", "-1"), "diagonal"),
        (("--diagonal", "nan"), "diagonal"),
    ],
)
def test_bad_options_show_before_anything_is_loaded(
    run: Run, clip: Path, options: tuple[str, ...], told: str
) -> None:
    result = run("calibrate", clip, *options)
    assert result.exit_code == 2
    assert told in result.stderr
    assert "nano" not in result.stderr


def test_an_empty_folder(run: Run, tmp_path: Path) -> None:
    result = run("calibrate", tmp_path)
    assert result.exit_code == 2
    assert "a folder without video files" in result.stderr
