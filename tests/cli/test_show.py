import json
import re
from pathlib import Path

import av
import pytest
from PIL import Image

from .conftest import Run
from .marks import needs_nano


@needs_nano
def test_three_pictures(run: Run, clip: Path, tmp_path: Path) -> None:
    result = run("show", clip, "--out", tmp_path / "new" / "folder", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    files = [Path(file) for file in found["files"]]
    assert [file.name for file in files] == [f"clip-merged.{k}" for k in ("png", "mp4", "html")]
    assert Image.open(files[0]).width > 400
    with av.open(str(files[1])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8
        assert container.streams.video[0].average_rate == 1
    html = files[2].read_text(encoding="utf-8")
    assert re.findall(r"(?i)https?:|<link|@import|\burl\(", html) == []
    assert sum(step["new_tokens"] for step in found["steps"]) == found["tokens_out"]
    assert found["steps"][-1]["retention_so_far"] == found["retention"]
    assert found["grid"] == [8, 8, 8]


@needs_nano
@pytest.mark.parametrize("kind", ["png", "mp4", "html"])
def test_one_picture(run: Run, clip: Path, tmp_path: Path, kind: str) -> None:
    result = run("show", clip, "--out", tmp_path, f"--{kind}", "--max-frames", 3)
    assert result.exit_code == 0, result.stderr
    assert [file.name for file in tmp_path.iterdir()] == [f"clip-merged.{kind}"]
    assert f"clip-merged.{kind}" in result.stdout


@needs_nano
def test_the_video_itself_is_never_replaced(run: Run, clip: Path, tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.write_bytes(clip.read_bytes())
    assert run("show", video, "--out", tmp_path, "--mp4", "--max-frames", 2).exit_code == 0
    assert video.read_bytes() == clip.read_bytes()


@needs_nano
def test_all_tokens_can_be_shown(run: Run, clip: Path, tmp_path: Path) -> None:
    result = run("show", clip, "--keep", 1, "--out", tmp_path, "--png", "--json")
    assert json.loads(result.stdout)["retention"] == 1


@needs_nano
def test_a_folder_that_is_a_file(run: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("show", clip, "--out", tmp_path / "file", "--max-frames", 2)
    assert result.exit_code == 2
    assert "--out" in result.stderr


def test_no_such_video(run: Run, tmp_path: Path) -> None:
    assert run("show", tmp_path / "none.mp4").exit_code == 2
