"""Values, names and places that nobody plans for: one line and exit code 2, and no long work."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sttm.errors import ConfigError, WriteError
from sttm.files import make_folder

from .conftest import Run
from .marks import needs_nano

Q = "Which digit appears?"
MAIN = ["-c", "from sttm.cli import main; main()"]
SCENES = ("eval", "run", "--task", "needle", "--scenes")
NUMBERS = ["1e400", "1e999999999", "-0", "nan", "inf", "\u0663", "1_0", "9" * 40, "-" + "9" * 40]


def refused(result: Any, told: str) -> None:
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert len(result.stderr) < 600


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize(
    "command",
    [
        ("ask", "clip.mp4", Q, "--keep"),
        ("ask", "clip.mp4", Q, "--max-tokens"),
        ("show", "clip.mp4", "--keep"),
        ("calibrate", "clip.mp4", "--keep"),
        ("compare", "clip.mp4", "--keep"),
        ("bench", "speed", "--keep"),
        ("eval", "run", "--task", "needle", "--keep"),
    ],
    ids=lambda command: " ".join(command[:2] + command[-1:]),
)
def test_budgets(run: Run, command: tuple[str, ...], value: str) -> None:
    refused(run(*command[:-1], f"{command[-1]}={value}"), f"{command[-1]}: got ")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ((*SCENES, f"count={10**12}"), "count: Input should be less than or equal to 1000000"),
        ((*SCENES, f"frames={2**31}"), "frames: Input should be less than or equal to 100000"),
        ((*SCENES, f"frames=4,{10**20}"), "frames: Input should be less than or equal to 100000"),
        ((*SCENES, f"seed={10**30}"), "seed: Input should be less than"),
        (("bench", "speed", "--threads", 2**31, "--shape", "nano"), "--threads: got"),
        (("bench", "speed", "--repeats", 10**20), "repeats: got"),
        (("eval", "run", "--task", "needle", "--seed", 2**63), "seed: got"),
    ],
    ids=str,
)
def test_counts(run: Run, tmp_path: Path, command: tuple[object, ...], told: str) -> None:
    refused(run(*command, "--out", tmp_path), told)


def test_text_that_is_not_utf_8(run: Run, clip: Path) -> None:
    refused(run("ask", clip, "What?", "Who\udcff?"), "QUESTION...: got 'Who\\udcff?', whose char")
    refused(run("ask", clip, Q, "--method", "st\udcfftm"), "--method: got")


@pytest.fixture
def odd(clip: Path, tmp_path: Path) -> Path:
    """A clip whose name is in no encoding."""
    path = tmp_path / os.fsdecode(b"cl\xffip.mp4")
    try:
        path.write_bytes(clip.read_bytes())
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes only names in Unicode")
    return path


@needs_nano
def test_names_in_no_encoding(run: Run, odd: Path, tmp_path: Path) -> None:
    few = ("--max-frames", 2)
    out = tmp_path / os.fsdecode(b"o\xfeut")
    shown = run("show", odd, "--out", out, *few)
    assert shown.exit_code == 0, shown.output
    assert "cl\N{REPLACEMENT CHARACTER}ip-merged.png" in shown.stdout
    assert len(list(out.iterdir())) == 3
    found = json.loads(run("show", odd, "--out", out, "--json", *few).stdout)
    assert found["video"] == str(odd)
    saved = tmp_path / "x.sttm"
    assert run("ask", odd, Q, "--save", saved, *few).exit_code == 0
    assert run("ask", saved, Q).exit_code == 0
    assert run("calibrate", odd, "--out", out / "th.json", *few).exit_code == 0
    for _ in range(2):
        assert run("extract", odd, "--out", out / "features", *few).exit_code == 0
    assert run("extract", "--verify", "--out", out / "features").exit_code == 0


@needs_nano
def test_names_of_two_lines(run: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "a\nb.mp4").write_bytes(clip.read_bytes())
    result = run("show", tmp_path / "a\nb.mp4", "--out", tmp_path, "--max-frames", 2)
    assert result.exit_code == 0, result.output


@needs_nano
def test_a_terminal_that_knows_little(odd: Path, tmp_path: Path) -> None:
    command = [sys.executable, *MAIN, "show", str(odd), "--png", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"cl\\ufffdip-merged.png" in done.stdout


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="no devices here")
def test_devices_and_other_places_for_files(
    run: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.sttm").mkdir()
    for place in ("/dev/null", "/dev/null/x", tmp_path / "file"):
        refused(run("show", clip, "--out", place), "--out: got")
        refused(run("extract", clip, "--out", place), "--out: got")
        refused(run("eval", "run", "--task", "needle", "--out", place), "--out: got")
    refused(run("calibrate", clip, "--out", "/dev/null"), "a device or pipe")
    refused(run("ask", clip, Q, "--save", tmp_path / "folder.sttm"), "which is no file")
    assert Path("/dev/null").is_char_device()

    def unwritable(**_: object) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", unwritable)
    with pytest.raises(ConfigError, match=r"no file can be written \(Permission denied\)"):
        make_folder(tmp_path)
    refused(run("ask", clip, Q, "--save", tmp_path / "x.sttm"), "--save: got")
    refused(run("calibrate", clip, "--out", tmp_path / "x.json"), "--out: got")


@needs_nano
def test_pictures_replace_files_only(run: Run, clip: Path, tmp_path: Path) -> None:
    for kind in ("png", "mp4", "html"):
        os.mkfifo(tmp_path / f"clip-merged.{kind}")
        result = run("show", clip, "--out", tmp_path, f"--{kind}", "--max-frames", 2)
        assert result.exit_code == 2
        assert "got a device or pipe" in result.stderr


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@needs_nano
@pytest.mark.parametrize("kind", ["OSError", "SafetensorError"])
def test_a_full_disk(
    run: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from safetensors import SafetensorError

    def refuse(*_: object, **__: object) -> Any:
        if kind == "OSError":
            full()
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("sttm.chat.saved_video.save_file", refuse)
    result = run("ask", clip, Q, "--save", tmp_path / "x.sttm", "--max-frames", 2)
    assert result.exit_code == 2
    assert "x.sttm: cannot be written" in result.stderr
    assert "No space left" in result.stderr
    assert "Make room" in result.stderr
    debugged = run("--debug", "ask", clip, Q, "--save", tmp_path / "x.sttm", "--max-frames", 2)
    assert isinstance(debugged.exception, WriteError)


def test_what_the_operating_system_refuses_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sttm.methods.list_methods", full)
    refused(run("methods"), "No space left on device")
    assert isinstance(run("--debug", "methods").exception, OSError)


@needs_nano
def test_sheets_of_long_videos_are_bounded(run: Run, tmp_path: Path) -> None:
    import av
    import numpy as np

    from sttm.video import write_video

    for name, (height, width) in {"wide": (16, 4096), "tall": (4096, 16)}.items():
        frames = np.zeros((2, height, width, 3), dtype=np.uint8)
        video = write_video(frames, tmp_path / f"{name}.mp4", 1.0)
        result = run("show", video, "--out", tmp_path)
        assert result.exit_code == 0, result.output
        picture = Image.open(tmp_path / f"{name}-merged.png")
        assert max(picture.size) < 2500
        with av.open(str(tmp_path / f"{name}-merged.mp4")) as container:
            stream = container.streams.video[0]
            assert max(stream.width, stream.height) <= 1920 + 34
            assert min(stream.width, stream.height) >= 64
