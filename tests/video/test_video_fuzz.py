"""Subtitles of any text, and files whose clocks start, run and jump at random."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.errors import VideoError
from sttm.video import Subtitle, read_subtitles, read_video
from tests.video.video_clips import PERIOD, seen, write_scene

PIECES = st.sampled_from(
    [
        *("\n", "\r\n", "\r", "\n\n", " ", "\t", "\0", "\ufeff", "1", "23", "0", "-->", " --> "),
        *("00:00:01,000", "00:02.5", "1:2:3.4", "00:00:03;000", "WEBVTT", "NOTE", "STYLE", "<i>"),
        *("</i>", "{\\an8}", "&amp;", "&#", "99999999", ";", "hello", "８:３０", "é", "\U0001f600"),
        "00:00:01,000 --> 00:00:02,000\n",
    ]
)
QUICK = settings(max_examples=200, deadline=None, derandomize=True)
SLOW = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read(folder: Path, content: bytes) -> tuple[Subtitle, ...] | None:
    file = folder / "a.srt"
    file.write_bytes(content)
    try:
        return read_subtitles(file)
    except VideoError:
        return None


def check(cues: tuple[Subtitle, ...] | None) -> None:
    for cue in cues or ():
        assert 0 <= cue.start <= cue.end
        assert cue.text == "\n".join(line.strip() for line in cue.text.split("\n"))
        assert all(cue.text.split("\n"))


@QUICK
@given(st.lists(PIECES, max_size=30))
def test_any_text_gives_cues_or_our_error(folder: Path, pieces: list[str]) -> None:
    check(read(folder, "".join(pieces).encode("utf-8")))


@QUICK
@given(st.binary(max_size=100))
def test_any_bytes_give_cues_or_our_error(folder: Path, content: bytes) -> None:
    check(read(folder, content))
    check(read(folder, b"1\n00:00:01,000 --> 00:00:02,000\n" + content))


WORDS = st.from_regex(r"[A-Za-z0-9é?!,:.'>-][A-Za-z0-9é ?!,:.'>-]{0,12}", fullmatch=True)
LINES = WORDS.map(str.strip).filter(lambda line: line != "" and ":" not in line)
TEXTS = st.lists(LINES, min_size=1, max_size=3)


def clock(seconds: float, mark: str) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}{mark}{thousandths:03d}"


@QUICK
@given(
    cues=st.lists(
        st.tuples(st.integers(0, 10**7), st.integers(0, 9999), TEXTS), min_size=1, max_size=5
    ),
    numbers=st.booleans(),
    gap=st.sampled_from(["", "\n", "\n\n", "  \n"]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    is_vtt=st.booleans(),
)
def test_written_cues_come_back(
    folder: Path,
    cues: list[tuple[int, int, list[str]]],
    numbers: bool,
    gap: str,
    newline: str,
    is_vtt: bool,
) -> None:
    """With and without numbers and empty lines; text may be numbers, too."""
    mark, text = ("." if is_vtt else ","), ("WEBVTT\n\n" if is_vtt else "")
    wanted = []
    for number, (start, length, lines) in enumerate(cues, start=1):
        cue = Subtitle(start / 1000, (start + length) / 1000, "\n".join(lines))
        wanted.append(cue)
        text += f"{number}\n" if numbers else ""
        text += f"{clock(cue.start, mark)} --> {clock(cue.end, mark)}\n{cue.text}\n{gap}"
    assert read(folder, text.replace("\n", newline).encode()) == tuple(wanted)


CLOCKS = {
    "start": st.sampled_from([0.0, 0.4, 7.0, 3000.0]),
    "step": st.integers(20, 1000),
    "frames": st.integers(12, 30),  # libav knows no transport stream of a few packets
    "fps": st.floats(0.2, 4.0),
}


@SLOW
@given(
    name=st.sampled_from(["a.mp4", "a.mkv", "a.ts", "a.webm", "a.flv"]),
    waits=st.lists(st.integers(1, 50), max_size=3),
    sound=st.sampled_from([None, 0.0, 0.5, 4.0]),
    **CLOCKS,
)
def test_whole_files_have_true_times_and_no_warning(
    name: str,
    waits: list[int],
    sound: float | None,
    start: float,
    step: int,
    frames: int,
    fps: float,
) -> None:
    """Any start, any rate, pictures that show for up to 50 steps, and sound ahead of them."""
    steps = np.full(frames - 1, step)
    steps[: len(waits)] *= np.array(waits[: frames - 1], dtype=int)
    shown = np.concatenate([[0], np.cumsum(steps)]) / 1000
    lead = min(sound, start) if sound is not None and name != "a.webm" else 0.0
    codec = "libvpx" if name == "a.webm" else "libx264"
    heard = (start - lead, start + 1) if lead else None
    with tempfile.TemporaryDirectory() as folder:
        times = [start + float(time) for time in shown]
        video = read_video(
            write_scene(Path(folder) / name, times, sound=heard, codec=codec), fps=fps
        )
    assert video.warnings == ()
    assert video.total_frames == frames
    assert video.timestamps == pytest.approx([lead + shown[i] for i in video.indices], abs=0.06)
    assert list(video.timestamps) == sorted(video.timestamps)
    assert 0 <= video.duration - shown[-1] <= max(1.1 * steps.max() / 1000, 0.11)
    assert seen(video.frames) == [index % PERIOD for index in video.indices]
    if fps < video.fps:
        assert len(set(video.indices)) == len(video.indices)


@SLOW
@given(
    jumps=st.lists(st.tuples(st.integers(1, 29), st.integers(20, 80000)), min_size=1, max_size=3),
    **CLOCKS,
)
def test_jumps_of_a_transport_stream_are_taken_out(
    jumps: list[tuple[int, int]], start: float, step: int, frames: int, fps: float
) -> None:
    steps = np.full(frames + 8, min(step, 100)) / 1000
    for place, seconds in jumps:
        steps[place % 8] = seconds
    times = start + np.concatenate([[0], np.cumsum(steps)])
    with tempfile.TemporaryDirectory() as folder:
        clip = write_scene(Path(folder) / "a.ts", times.tolist())
        video = read_video(clip, fps=fps, warn=False)
    usual = min(step, 100) / 1000
    assert any("clock jumps" in warning for warning in video.warnings)
    assert video.duration == pytest.approx(len(times) * usual, abs=0.12)
    assert video.timestamps == pytest.approx([index * usual for index in video.indices], abs=0.002)
    if fps < video.fps:
        assert len(set(video.indices)) == len(video.indices)
