import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sttm.errors import ConfigError
from sttm.video import Video, passes, read_video
from sttm.video.sampling import llava_indices
from tests.video.video_clips import (
    PERIOD,
    Frames,
    atom,
    corners,
    grey,
    numbered,
    patched,
    seen,
    write_clip,
)


def assert_true_frames(video: Video) -> None:
    assert seen(video.frames) == [index % PERIOD for index in video.indices]


@pytest.fixture(scope="module")
def ten_seconds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered(tmp_path_factory.mktemp("clips") / "ten.mp4", 300)


def test_ten_seconds_at_thirty(ten_seconds: Path) -> None:
    video = read_video(ten_seconds)
    assert video.frames.shape == (11, 48, 64, 3)
    assert video.frames.dtype == np.uint8
    assert video.indices == (0, 30, 60, 90, 120, 150, 180, 210, 240, 270, 299)
    assert video.timestamps == pytest.approx([*range(10), 299 / 30])
    assert (video.fps, video.duration, video.total_frames) == (30.0, 10.0, 300)
    assert (video.path, video.warnings, len(video)) == (str(ten_seconds), (), 11)
    assert_true_frames(video)


def test_rules_caps_and_rates(ten_seconds: Path) -> None:
    qwen = read_video(ten_seconds, rule="qwen")
    assert qwen.indices[-2:] == (299, 299)
    assert len(qwen) == 12
    assert_true_frames(qwen)
    capped = read_video(ten_seconds, max_frames=4)
    assert capped.indices == (0, 99, 199, 299)
    assert_true_frames(capped)
    assert read_video(ten_seconds, rule="uniform", max_frames=3).indices == (0, 149, 299)
    dense = read_video(ten_seconds, fps=45, max_frames=1000)
    assert len(dense) > 300
    assert_true_frames(dense)


def test_bad_arguments_are_told_before_the_file_is_opened() -> None:
    with pytest.raises(ConfigError, match="fps"):
        read_video("missing.mp4", fps=0)
    with pytest.raises(ConfigError, match="Did you mean 'qwen'"):
        read_video("missing.mp4", rule="qwen2")


@pytest.mark.parametrize("name", ["clip.mkv", "clip.ts", "clip.avi", "clip.flv", "clip.mov"])
@pytest.mark.parametrize("b_frames", ["0", "3"])
def test_containers_and_frames_out_of_order(tmp_path: Path, name: str, b_frames: str) -> None:
    clip = numbered(tmp_path / name, 75, rate=25, preset="veryfast", bf=b_frames)
    if name in ("clip.mkv", "clip.ts"):
        with av.open(str(clip)) as container:
            assert container.streams.video[0].frames == 0  # the header does not count them
    video = read_video(clip, fps=2)
    assert (video.total_frames, video.fps, video.warnings) == (75, 25.0, ())
    assert video.duration == pytest.approx(3.0, abs=0.01)
    assert video.indices == llava_indices(75, 25.0, 2.0, 128)
    assert video.timestamps == pytest.approx([index / 25 for index in video.indices], abs=0.001)
    assert_true_frames(video)


def test_millisecond_timestamps_do_not_shift_the_published_frames(tmp_path: Path) -> None:
    # 29.97 frames per second in Matroska: frames over seconds gives 29.9697, not 30000 / 1001
    video = read_video(numbered(tmp_path / "ntsc.mkv", 300, rate=Fraction(30000, 1001)))
    assert video.fps == 30000 / 1001
    assert video.indices == llava_indices(300, 30000 / 1001, 1.0, 128)


@pytest.mark.parametrize("name", ["variable.mp4", "variable.mkv", "variable.ts"])
def test_variable_rate(tmp_path: Path, name: str) -> None:
    gaps = [33 + (37 * number) % 200 for number in range(60)]
    times = [Fraction(sum(gaps[:number]), 1000) for number in range(60)]
    video = read_video(numbered(tmp_path / name, 60, times=times))
    # frame k is the k-th decoded one; the rate is frames over seconds; times are the true ones
    assert video.fps == pytest.approx(60 / video.duration)
    assert video.duration == pytest.approx(float(times[-1]), abs=0.25)
    assert video.indices == llava_indices(60, video.fps, 1.0, 128)
    assert video.timestamps == pytest.approx([float(times[i]) for i in video.indices], abs=0.001)
    assert_true_frames(video)


def test_header_that_counts_hidden_frames(tmp_path: Path) -> None:
    """An edit list that begins between two key frames: the header says 90 frames, 55 show."""
    whole = numbered(tmp_path / "whole.mp4", 90, g="10")
    data = whole.read_bytes()
    start, _ = atom(data, "moov", "trak", "edts", "elst")
    skip = (int.from_bytes(data[start + 12 : start + 16], "big") + 35 * 512).to_bytes(4, "big")
    clip = patched(whole, "edited.mp4", {start + 8: (2000).to_bytes(4, "big"), start + 12: skip})
    with av.open(str(clip)) as container:
        assert container.streams.video[0].frames == 90
    calls: list[tuple[int, int]] = []
    video = read_video(clip, progress=lambda done, total: calls.append((done, total)))
    assert (video.total_frames, video.indices) == (55, (0, 30, 54))
    assert calls == [(number, 55) for number in range(1, 56)]  # seen at once, not after a try
    assert seen(video.frames) == [(index + 35) % PERIOD for index in video.indices]
    assert video.timestamps[0] == 0.0


def test_header_that_counts_too_many(tmp_path: Path) -> None:
    clip = numbered(tmp_path / "clip.avi", 90)
    length = clip.read_bytes().index(b"strh") + 8 + 32
    wrong = patched(clip, "wrong.avi", {length: (9999).to_bytes(4, "little")})
    with pytest.warns(UserWarning, match="header promises 333.3 s, the data ends at 3.0 s"):
        video = read_video(wrong)
    assert (video.total_frames, video.indices, video.fps) == (90, (0, 30, 60, 89), 30.0)
    assert_true_frames(video)


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("name", ["turned.mp4", "turned.mov", "turned.mkv"])
def test_rotated_clips_come_out_upright(tmp_path: Path, degrees: int, name: str) -> None:
    # the header asks for a counterclockwise turn, so the stored picture is turned clockwise
    stored = np.ascontiguousarray(np.rot90(corners(), -degrees // 90))
    video = read_video(write_clip(tmp_path / name, [stored] * 3, rotation=degrees))
    assert video.frames.shape == (2, 48, 64, 3)
    assert_corners(video.frames[0])


def test_mirrored_clip_comes_out_right(tmp_path: Path) -> None:
    def mirror(stream: av.VideoStream) -> None:
        stream.set_display_rotation(0, hflip=True)

    stored = np.ascontiguousarray(corners()[:, ::-1])
    video = read_video(write_clip(tmp_path / "mirror.mp4", [stored] * 3, prepare=mirror))
    assert_corners(video.frames[0])


def test_slanted_clip_is_left_alone_and_told(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "slanted.mp4", [corners()] * 3, rotation=45)
    with pytest.warns(UserWarning, match="no multiple of 90 degrees"):
        assert_corners(read_video(clip).frames[0])


def assert_corners(picture: Frames) -> None:
    expected = corners().astype(int)
    for row, column in ((6, 6), (6, -6), (-6, 6), (-6, -6)):
        assert np.abs(picture[row, column] - expected[row, column]).max() < 12


def test_size_that_changes_midway(tmp_path: Path) -> None:
    small = numbered(tmp_path / "small.ts", 30)
    large = write_clip(tmp_path / "large.ts", [grey(number, 96, 64) for number in range(30)])
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.warns(
        UserWarning, match="another size than the first, and scaled to it: 30"
    ) as caught:
        video = read_video(both)
    assert video.frames.shape == (3, 48, 64, 3)
    assert seen(video.frames) == [0, 0, 29]  # two clips of 30: frames 0, 30 and 59
    assert "no usable timestamps" in str(caught[0].message)  # they start again in the middle
    assert video.timestamps == pytest.approx([0, 1, 59 / 30])


def test_stream_without_timestamps(tmp_path: Path) -> None:
    clip = numbered(tmp_path / "raw.h264", 60)
    with pytest.warns(UserWarning, match="a constant 25 frames per second is assumed"):
        video = read_video(clip)
    assert (video.total_frames, video.fps, video.duration) == (60, 25.0, 2.4)
    assert_true_frames(video)


@pytest.mark.parametrize("name", ["one.mp4", "one.mkv", "one.ts", "one.gif"])
def test_single_frame(tmp_path: Path, name: str) -> None:
    codec = {"codec": "gif", "pix_fmt": "rgb8"} if name.endswith("gif") else {}
    video = read_video(numbered(tmp_path / name, 1, **codec))
    assert (video.total_frames, video.indices, video.timestamps) == (1, (0,), (0.0,))
    assert video.frames.shape == (1, 48, 64, 3)
    assert video.duration > 0


def test_name_that_looks_like_a_protocol(
    ten_seconds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ten_seconds.parent)
    for name in ("12:30 50%d.mp4", "concat:a.mp4"):
        Path(name).write_bytes(ten_seconds.read_bytes())
        assert len(read_video(name)) == 11


def test_progress_reaches_the_end(ten_seconds: Path) -> None:
    calls: list[tuple[int, int]] = []
    read_video(ten_seconds, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(number, 300) for number in range(1, 301)]


def test_only_sampled_frames_are_converted(
    ten_seconds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = count_calls(monkeypatch, "to_rgb")
    read_video(ten_seconds, rule="qwen")
    assert len(converted) == 11  # 12 frames, the last one twice


def test_memory_is_bounded_by_the_sampled_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "long.mp4", [grey(0, 320, 240)] * 900)
    alive: list[int] = []

    def count_frames(done: int, total: int) -> None:
        if done in (total // 2, total):
            alive.append(sum(type(thing) is av.VideoFrame for thing in gc.get_objects()))

    read_video(clip, max_frames=20, progress=count_frames)
    # Read again to measure: the list of all objects above is itself large in a long test run.
    tracemalloc.start()
    video = read_video(clip, max_frames=20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert video.total_frames == 900
    assert max(alive) < 100  # what the decoder hands out at once, not what it handed out so far
    assert peak < 1.5 * video.frames.nbytes + 2**20


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    calls: list[str] = []
    original: Callable[..., Frames] = getattr(passes, name)

    def counted(*args: object) -> Frames:
        calls.append(name)
        return original(*args)

    monkeypatch.setattr(passes, name, counted)
    return calls


def test_importing_does_not_load_the_models() -> None:
    """Of sttm.video itself: what ``import sttm`` loads besides is left out."""
    code = (
        "import sys, types; sttm = sys.modules['sttm'] = types.ModuleType('sttm');"
        "sttm.__path__ = [sys.argv[1]]; import sttm.video;"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    package = Path(passes.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, package], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
