"""What ``ask`` and ``show`` have in common: read a file, then let a model watch it."""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sttm.cli.options import Reduction
from sttm.cli.output import note
from sttm.cli.progress import Tell

if TYPE_CHECKING:
    from sttm.chat import VideoChat, WatchedVideo
    from sttm.video import Video


@dataclass(frozen=True)
class Decoded:
    """A decoded video, and the seconds that it took."""

    video: "Video"
    seconds: float


def decode(path: Path, fps: float, max_frames: int, tell: Tell) -> Decoded:
    """Read the sampled frames; what is wrong with the file becomes a note."""
    from sttm.video import VideoWarning, read_video

    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        video = read_video(
            path, fps=fps, max_frames=max_frames, progress=lambda i, n: tell("decode", i, n)
        )
    seconds = time.perf_counter() - start
    for warning in video.warnings:
        note(f"{path.name}: {warning}")
    return Decoded(video, seconds)


def watch(
    chat: "VideoChat", decoded: Decoded, reduction: Reduction, tell: Tell, *, context: str = ""
) -> "WatchedVideo":
    """Encode and prefill a decoded video; say so where a budget was not met exactly."""
    watched = chat.watch(decoded.video, context=context, progress=tell)
    for report in watched.reports:
        shortfall = reduction.unused_budget(report.plan)
        if shortfall:
            note(shortfall)
    return watched
