"""The two ways to go through a file: count its packets (fast), decode its frames (slow)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from sttm.video.clock import Clock, Rate, measure
from sttm.video.container import VideoSource, open_video
from sttm.video.orientation import Orientation, frame_orientation

Frames = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]

MISSING_SECONDS = Fraction(1, 2)  # a file is called cut short when more than this, and more than
MISSING_SHARE = Fraction(1, 20)  # this share of what its header promises, is not there


@dataclass(frozen=True)
class Survey:
    """What a file says of itself without decoding.

    Attributes:
        clock: the times of the video packets that will be shown.
        claimed_rate: average frames per second in the header, None if absent.
        notes: what is wrong with the file, in words.
    """

    clock: Clock
    claimed_rate: Fraction | None
    notes: tuple[str, ...]

    def rate(self) -> Rate | None:
        """Estimate the rate from the packets, None if they carry no time."""
        return measure(self.clock, self.claimed_rate, ordered=False)


def survey(path: Path) -> Survey:
    """Count the packets of the main video stream.

    Raises: VideoError: see :func:`sttm.video.container.open_video`.
    """
    with open_video(path) as source:
        source.count_packets()
        notes = []
        missing = source.promised - source.reached
        if missing > max(MISSING_SECONDS, MISSING_SHARE * source.promised):
            notes.append(
                f"cut short: the header promises {float(source.promised):.1f} s, "
                f"the data ends at {float(source.reached):.1f} s"
            )
        return Survey(source.clock, source.stream.average_rate, tuple(notes))


@dataclass(frozen=True)
class Take:
    """What one decoding of a file gave.

    Attributes:
        frames: ``(T, H, W, 3)`` uint8 RGB, the wanted frames as far as they exist.
        pts: their times in units of ``clock.time_base``, None where the file has none.
        clock: the times of all frames.
        errors: messages of libav about data that it could not read or decode.
        damaged: how many of all frames libav had to mend.
        notes: what is odd about the frames, in words.
    """

    frames: Frames
    pts: tuple[int | None, ...]
    clock: Clock
    errors: tuple[str, ...]
    damaged: int
    notes: tuple[str, ...]


def take(
    path: Path, wanted: Sequence[int], expected: int, threads: bool, progress: Progress | None
) -> Take:
    """Decode a whole file and keep some of its frames.

    Args:
        path: the file.
        wanted: frame numbers to keep, ascending, repeats allowed; numbers past the end of the
            file are left out.
        expected: how many frames the file probably has, for ``progress`` only.
        threads: decode on all cores.
        progress: called with (frames decoded, frames expected) after each frame.

    Raises: VideoError: see :func:`sttm.video.container.open_video`.
    """
    album = Album(wanted)
    with open_video(path, threads=threads) as source:
        for number, frame in enumerate(source.frames()):
            album.offer(number, frame)
            if progress is not None:
                progress(number + 1, max(expected, number + 1))
        return album.close(source)


class Album:
    """Room for the wanted frames of a video, filled while the others pass by.

    Args:
        wanted: frame numbers to keep, ascending, repeats allowed.
    """

    def __init__(self, wanted: Sequence[int]) -> None:
        self._wanted = wanted
        self._frames: Frames = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self._pts: list[int | None] = []
        self._size = (0, 0)
        self._orientation = Orientation()
        self._damaged = 0
        self._resized = 0

    def offer(self, number: int, frame: VideoFrame) -> None:
        """Keep a decoded frame if it is wanted, as often as it is."""
        self._damaged += frame.is_corrupt
        if number == 0:
            self._size = (frame.width, frame.height)
            self._orientation = frame_orientation(frame)
        self._resized += (frame.width, frame.height) != self._size
        repeats = 0
        for index in self._wanted[len(self._pts) :]:
            if index != number:
                break
            repeats += 1
        if repeats:
            self._keep(to_rgb(frame, *self._size), frame.pts, repeats)

    def _keep(self, image: Frames, pts: int | None, repeats: int) -> None:
        image = self._orientation.apply(image)
        if not self._pts:
            self._frames = np.empty((len(self._wanted), *image.shape), dtype=np.uint8)
        self._frames[len(self._pts) : len(self._pts) + repeats] = image
        self._pts += [pts] * repeats

    def close(self, source: VideoSource) -> Take:
        """Hand out what was kept."""
        notes = []
        if self._damaged:
            notes.append(f"frames that are damaged, and kept as libav mended them: {self._damaged}")
        if self._resized:
            notes.append(
                f"frames that are of another size than the first, and scaled to it: {self._resized}"
            )
        if not self._orientation.exact:
            notes.append("the rotation is no multiple of 90 degrees, and not applied")
        return Take(
            frames=self._frames[: len(self._pts)],
            pts=tuple(self._pts),
            clock=source.clock,
            errors=tuple(source.errors),
            damaged=self._damaged,
            notes=tuple(notes),
        )


def to_rgb(frame: VideoFrame, width: int, height: int) -> Frames:
    """Convert one decoded frame to ``(height, width, 3)`` uint8 RGB."""
    return cast(Frames, frame.to_ndarray(format="rgb24", width=width, height=height))
