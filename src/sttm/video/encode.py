"""Write frames to an MP4 that every player opens."""

import os
import uuid
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.video.frame import VideoFrame

from sttm.errors import ConfigError, VideoError

ENCODER = "libx264"
MAX_CRF = 51
RATE_DENOMINATOR = 1001  # writes 29.97 as 30000/1001


def write_video(
    frames: npt.NDArray[np.uint8],
    path: str | os.PathLike[str],
    fps: float,
    *,
    crf: int = 18,
) -> Path:
    """Encode frames as H.264 in an MP4.

    The file appears under its name only when it is complete: it is written beside it first.
    H.264 in this form needs even sides, so an odd one grows by a copy of its last row or column.

    Args:
        frames: ``(T, H, W, 3)`` uint8 RGB, T, H and W at least 1. Not modified.
        path: where to; must end in ``.mp4``; an existing file is replaced.
        fps: frames per second to play, at least 0.001.
        crf: quality in [0, 51]; lower is better and larger, 18 looks like the source.

    Returns:
        the path.

    Raises:
        ConfigError: frames of another shape or dtype, or a number out of its range.
        VideoError: the directory does not exist, or the file cannot be written.
    """
    target = Path(path)
    _check(frames, target, fps, crf)
    partial = target.with_name(f".sttm-{uuid.uuid4().hex}.mp4")
    try:
        _encode(frames, partial, Fraction(fps).limit_denominator(RATE_DENOMINATOR), crf)
        partial.replace(target)
    except (FFmpegError, OSError) as error:
        raise VideoError(
            f"{target}: cannot be written ({error.strerror}). Check space and permissions."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _encode(frames: npt.NDArray[np.uint8], path: Path, rate: Fraction, crf: int) -> None:
    height, width = frames.shape[1:3]
    with av.open(f"file:{path}", "w", format="mp4") as container:
        stream = container.add_stream(ENCODER, rate=rate, options={"crf": str(crf)})
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode(None))


def _check(frames: npt.NDArray[np.uint8], target: Path, fps: float, crf: int) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ConfigError(
            f"got frames {frames.shape} of {frames.dtype}, expected (T, H, W, 3) of uint8 with "
            "at least one frame."
        )
    if not 1 / RATE_DENOMINATOR < fps < float("inf"):
        raise ConfigError(f"got fps={fps}, expected a finite number of at least 0.001.")
    if not 0 <= crf <= MAX_CRF:
        raise ConfigError(f"got crf={crf}, expected 0 (lossless) to {MAX_CRF} (worst).")
    if target.suffix.lower() != ".mp4":
        raise ConfigError(f"got {target.name!r}, expected a name that ends in .mp4.")
    if ENCODER not in av.codecs_available:
        raise VideoError(f"this build of PyAV has no {ENCODER}. Install the wheel from PyPI.")
    if not target.parent.is_dir():
        raise VideoError(f"{target.parent}: no such directory. Create it first.")
