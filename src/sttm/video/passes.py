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
from sttm.video.lengths import joined_videos, lacks_bytes
from sttm.video.orientation import Orientation, frame_orientation

Frames = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]
Receive = Callable[[int, Frames, int], bool]  # see `Album`

PIECE = 32  # frames that are handed over at once

MISSING_SECONDS = Fraction(1, 2)  # a file is called cut short when more than this, and more than
MISSING_SHARE = Fraction(1, 20)  # this share of what its header promises, is not there


@dataclass(frozen=True)
class Survey:
    """What a file says of itself without decoding.

    Attributes:
        path: the file.
        track: the place of the video stream in the file.
        clock: the times of the video packets that will be shown.
        claimed_rate: average frames per second in the header, None if absent.
        notes: what is wrong with the file, in words.
    """

    path: Path
    track: int
    clock: Clock
    claimed_rate: Fraction | None
    notes: tuple[str, ...]

    def rate(self) -> Rate | None:
        """Estimate the rate from the packets, None if they carry no time."""
        return measure(self.clock, self.claimed_rate, ordered=False)


def survey(path: Path) -> Survey:
    """Count the packets of the main video stream.

    Raises:
        VideoError: see :func:`sttm.video.container.open_video`.
    """
    with open_video(path) as source:
        source.count_packets()
        stream = source.stream
        notes = (*_cut_short(source, path), *_joined(path))
        return Survey(path, stream.index, source.clock, stream.average_rate, notes)


def _cut_short(source: VideoSource, path: Path) -> tuple[str, ...]:
    # A header may count from the file's first moment or from 0. What it means is told by what is
    # possible, and by whether bytes are missing at the end; otherwise it is believed.
    ends = (source.reached - source.start, source.reached)
    from_start = source.start >= source.promised or lacks_bytes(path)
    reached = min(ends) if from_start else max(ends)
    missing = source.promised - reached
    if missing <= max(MISSING_SECONDS, MISSING_SHARE * source.promised):
        return ()
    return (
        f"cut short: the header promises {float(source.promised):.1f} s, "
        f"the data ends at {float(reached):.1f} s",
    )


def _joined(path: Path) -> tuple[str, ...]:
    videos = joined_videos(path)
    if videos == 1:
        return ()
    return (f"{videos} MP4 files joined end to end, of which only the first is read",)


@dataclass(frozen=True)
class Take:
    """What one decoding of a file gave.

    Attributes:
        frames: ``(T, H, W, 3)`` uint8 RGB, the wanted frames as far as they exist.
        clock: the times of all frames.
        errors: messages of libav about data that it could not read or decode.
        damaged: how many of all frames libav had to mend.
        notes: what is odd about the frames, in words.
    """

    frames: Frames
    clock: Clock
    errors: tuple[str, ...]
    damaged: int
    notes: tuple[str, ...]


def take(
    found: Survey,
    wanted: Sequence[int],
    expected: int,
    threads: bool,
    progress: Progress | None,
    receive: Receive | None = None,
) -> Take:
    """Decode a whole file and keep some of its frames.

    Args:
        found: the file, and what was counted in it.
        wanted: frame numbers to keep, ascending, repeats allowed; numbers past the end of the
            file are left out.
        expected: how many frames the file probably has, for ``progress`` only.
        threads: decode on all cores.
        progress: called with (frames decoded, frames expected) after each frame.
        receive: takes the frames as they come, see `Album`.

    Raises:
        VideoError: see :func:`sttm.video.container.open_video`.
    """
    album = Album(wanted, receive)
    with open_video(found.path, threads, found.track, found.clock.background) as source:
        for number, frame in enumerate(source.frames()):
            album.offer(number, frame)
            if progress is not None:
                progress(number + 1, max(expected, number + 1))
        return album.close(source)


class Album:
    """Collects the wanted frames of a video while all of them are decoded.

    Args:
        wanted: frame numbers to keep, ascending, repeats allowed.
        receive: called with (place of the first, frames, how many are wanted) for each piece of at
            most `PIECE` frames, which it owns then; place 0 begins anew. If it returns False for
            the first piece, all frames are kept as if there were none to receive them.
    """

    def __init__(self, wanted: Sequence[int], receive: Receive | None = None) -> None:
        self._wanted = wanted
        self._receive = receive
        self._frames: Frames = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self._kept = self._given = 0
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
        for index in self._wanted[self._kept :]:
            if index != number:
                break
            repeats += 1
        if repeats:
            self._keep(to_rgb(frame, *self._size), repeats)

    def _keep(self, image: Frames, repeats: int) -> None:
        image = self._orientation.apply(image)
        if not self._kept:
            self._frames = self._room(image)
        for _ in range(repeats):
            if self._kept - self._given == len(self._frames):
                self._hand_over()
            self._frames[self._kept - self._given] = image
            self._kept += 1

    def _room(self, image: Frames) -> Frames:
        left = len(self._wanted) - self._given
        count = left if self._receive is None else min(PIECE, left)
        return np.empty((count, *image.shape), dtype=np.uint8)

    def _hand_over(self) -> None:
        """Give away the frames that are held; if they are not wanted, make room for all."""
        held = self._frames[: self._kept - self._given]
        receive = self._receive
        if receive is not None and (receive(self._given, held, len(self._wanted)) or self._given):
            self._given = self._kept
            self._frames = self._room(held[0])
            return
        self._receive = None
        self._frames = self._room(held[0])
        self._frames[: len(held)] = held

    def close(self, source: VideoSource) -> Take:
        """Hand out what was kept: frames that were given away are black, and take no memory."""
        frames = self._frames[: self._kept - self._given]
        if self._receive is not None and self._kept:
            self._hand_over()
            frames = self._frames[: self._kept - self._given]
            if self._given:
                frames = np.broadcast_to(np.uint8(0), (self._given, *frames.shape[1:]))
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
            frames=frames,
            clock=source.clock,
            errors=tuple(source.errors),
            damaged=self._damaged,
            notes=tuple(notes),
        )


def to_rgb(frame: VideoFrame, width: int, height: int) -> Frames:
    """Convert one decoded frame to ``(height, width, 3)`` uint8 RGB."""
    return cast(Frames, frame.to_ndarray(format="rgb24", width=width, height=height))
