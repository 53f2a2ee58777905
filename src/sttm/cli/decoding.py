"""Decode the video file that a command is given."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sttm.cli.output import note
from sttm.cli.progress import Tell

if TYPE_CHECKING:
    from sttm.video import Video


@dataclass(frozen=True)
class Decoded:
    """A decoded video, and the seconds that it took."""

    video: "Video"
    seconds: float


def decode(path: Path, fps: float, max_frames: int, tell: Tell) -> Decoded:
    """Decode the sampled frames; what is wrong with the file becomes a note."""
    from sttm.video import read_video

    start = time.perf_counter()
    video = read_video(
        path,
        fps=fps,
        max_frames=max_frames,
        progress=lambda i, n: tell("decode", i, n),
        warn=False,
    )
    seconds = time.perf_counter() - start
    for warning in video.warnings:
        note(f"{path.name}: {warning}")
    return Decoded(video, seconds)
