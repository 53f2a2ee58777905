from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from sttm.errors import ConfigError, VideoError
from sttm.video import encode, read_video, write_video
from tests.video.video_clips import corners, grey, seen


def numbers(count: int) -> npt.NDArray[np.uint8]:
    return np.stack([grey(number) for number in range(count)])


def test_frames_come_back(tmp_path: Path) -> None:
    path = write_video(numbers(20), tmp_path / "clip.mp4", fps=10)
    video = read_video(path, fps=10)
    assert (video.fps, video.duration, video.total_frames) == (10.0, 2.0, 20)
    assert seen(video.frames) == list(range(20))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")


def test_quality_follows_crf(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    fine, coarse = (write_video(frames, tmp_path / f"{c}.mp4", 5, crf=c) for c in (10, 40))
    assert fine.stat().st_size > 2 * coarse.stat().st_size


@pytest.mark.parametrize(("height", "width"), [(47, 63), (48, 63), (47, 64), (1, 1)])
def test_odd_sizes_grow_by_one(tmp_path: Path, height: int, width: int) -> None:
    frames = np.stack([corners()[:height, :width]] * 3)
    video = read_video(write_video(frames, tmp_path / "odd.mp4", fps=30000 / 1001))
    assert video.frames.shape[1:] == (height + height % 2, width + width % 2, 3)
    assert video.fps == 30000 / 1001
    last = video.frames[0, -1, -1].astype(int)
    assert np.abs(last - corners()[height - 1, width - 1]).max() < 12


def test_failure_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "clip.mp4"
    target.write_bytes(b"old")

    def fail(frames: object, path: Path, *rest: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encode, "_encode", fail)
    with pytest.raises(VideoError, match="cannot be written \\(No space left"):
        write_video(numbers(2), target, fps=1)
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_existing_file_is_replaced_with_usual_permissions(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    target.write_bytes(b"old")
    usual = target.stat().st_mode
    write_video(numbers(2), target, fps=1)
    assert target.stat().st_mode == usual
    assert len(read_video(target)) == 2


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 4), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((2, 0, 4, 3), np.uint8),
    ],
)
def test_wrong_frames(tmp_path: Path, frames: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ConfigError, match=r"expected \(T, H, W, 3\) of uint8"):
        write_video(frames, tmp_path / "clip.mp4", fps=1)


def test_wrong_numbers_and_names(tmp_path: Path) -> None:
    for fps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="fps"):
            write_video(numbers(1), tmp_path / "clip.mp4", fps=fps)
    with pytest.raises(ConfigError, match="crf=52"):
        write_video(numbers(1), tmp_path / "clip.mp4", fps=1, crf=52)
    with pytest.raises(ConfigError, match=r"ends in \.mp4"):
        write_video(numbers(1), tmp_path / "clip.gif", fps=1)
    with pytest.raises(VideoError, match="no such directory"):
        write_video(numbers(1), tmp_path / "nowhere" / "clip.mp4", fps=1)
