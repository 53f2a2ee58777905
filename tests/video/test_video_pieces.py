"""Frames that are handed over piece by piece while a file is decoded."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from sttm.video import Video, VideoWarning, read_video
from sttm.video.passes import PIECE, Frames

from .video_clips import numbered, packets, patched


def read_in_pieces(path: Path, takes: bool = True, **sampling: float) -> tuple[Video, list[Frames]]:
    """Read a file, and return the pieces since the last beginning."""
    pieces: list[Frames] = []

    def receive(first: int, frames: Frames, total: int) -> bool:
        if first == 0:
            pieces.clear()
        assert first == sum(map(len, pieces))
        assert first + len(frames) <= total
        pieces.append(frames)
        return takes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        return read_video(path, receive=receive, **sampling), pieces  # type: ignore[arg-type]


def read_whole(path: Path, **sampling: float) -> Video:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        return read_video(path, **sampling)  # type: ignore[arg-type]


@pytest.mark.parametrize(("fps", "frames"), [(1, 4), (10, 32), (10, 33), (30, 90), (60, 90)])
def test_pieces_are_the_frames_of_the_whole(tmp_path: Path, fps: int, frames: int) -> None:
    clip = numbered(tmp_path / "clip.mp4", frames)
    video, pieces = read_in_pieces(clip, fps=fps)
    whole = read_whole(clip, fps=fps)
    assert np.array_equal(np.concatenate(pieces), whole.frames)
    assert max(map(len, pieces)) <= PIECE
    assert video.frames.shape == whole.frames.shape
    assert (video.timestamps, video.indices) == (whole.timestamps, whole.indices)


def test_frames_that_were_handed_over_are_not_kept(tmp_path: Path) -> None:
    video, _ = read_in_pieces(numbered(tmp_path / "clip.mp4", 90), fps=30)
    assert set(video.frames.strides) == {0}
    assert not video.frames.any()


def test_frames_that_are_refused_are_kept(tmp_path: Path) -> None:
    clip = numbered(tmp_path / "clip.mp4", 90)
    video, pieces = read_in_pieces(clip, takes=False, fps=30)
    assert np.array_equal(video.frames, read_whole(clip, fps=30).frames)
    assert [len(piece) for piece in pieces] == [PIECE]


def test_a_file_that_is_read_again_begins_anew(tmp_path: Path) -> None:
    clip = numbered(tmp_path / "intra.mp4", 90, g="1")
    place, size = packets(clip)[45]
    damaged = patched(clip, "lost.mp4", {place: bytes(size)})
    video, pieces = read_in_pieces(damaged, fps=30)
    assert np.array_equal(np.concatenate(pieces), read_whole(damaged, fps=30).frames)
    assert len(video) == 89
