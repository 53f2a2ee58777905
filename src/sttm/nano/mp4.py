"""Write a generated clip as an H.264 file."""

from __future__ import annotations

from fractions import Fraction
from os import PathLike
from typing import IO, TYPE_CHECKING, Protocol

from sttm.extras import require

if TYPE_CHECKING:
    from sttm.nano.glyphs import Image


class Frames(Protocol):
    """What ``write_clip`` needs of a clip: ``frames`` and ``fps``."""

    @property
    def frames(self) -> Image:
        """uint8 RGB ``(T, H, W, 3)``."""

    @property
    def fps(self) -> float:
        """Frames per second."""


def write_clip(
    clip: Frames, path: str | PathLike[str] | IO[bytes], *, crf: int = 20, preset: str = "veryfast"
) -> None:
    """Write a clip as mp4 (libx264, yuv420p), one video frame per clip frame.

    Args:
        clip: frames uint8 ``(T, H, W, 3)`` with even sides, and fps.
        path: file to write, or a binary file object.
        crf: quality of libx264, 0 (lossless) to 51; up to 28 the needles stay readable.
        preset: speed of libx264.

    Raises:
        MissingExtraError: the extra ``video`` is not installed.
        ValueError: a side of the frames is odd (yuv420p halves both sides).
    """
    require(("video",), "sttm.nano.write_clip")
    import av

    height, width = clip.frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"got frames of {width}x{height}, expected even sides; use an even size")
    target = path if hasattr(path, "write") else str(path)
    with av.open(target, mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(clip.fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(crf), "preset": preset}
        stream.thread_count = 1
        for pixels in clip.frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
