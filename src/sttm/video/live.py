"""Read a video once, from its beginning on, while it comes: from a pipe, an address or a file."""

import contextlib
import os
import re
import select
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import floor
from pathlib import Path

import av
from av.container.input import InputContainer
from av.error import ExitError, FFmpegError
from av.video.frame import VideoFrame

from sttm.errors import ConfigError, VideoError
from sttm.video.container import OPEN_OPTIONS, check_file, main_stream
from sttm.video.orientation import Orientation, frame_orientation
from sttm.video.passes import Frames, to_rgb
from sttm.video.sampling import Sampling

STDIN = "-"
# What an address may lead to; none of them opens a local file.
_PROTOCOLS = "http,httpproxy,https,rtmp,rtmps,rtp,rtsp,rtsps,srt,srtp,tcp,tls,udp"
_ADDRESS_OPTIONS = {
    "protocol_whitelist": _PROTOCOLS,
    "rtsp_flags": "prefer_tcp",
    "fpsprobesize": "0",  # else 20 frames are waited for to guess a rate that nobody asks for
}
_ROUNDING = 1e-3  # of a frame's interval: its time is rounded to the container's clock
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """One sampled frame.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, upright; all frames of a source have the first one's size.
        seconds: since the source's first frame.
    """

    image: Frames
    seconds: float


class LiveVideo:
    """Sampled frames of a source, one by one; each is decoded when it is asked for.

    Args:
        source: ``"-"`` for standard input, a named pipe, an address that libav can read
            (``rtsp://``, ``udp://``, ``tcp://``, ``http://``, ...), or a video file.
        fps: frames to keep per second, above 0: the first one of each interval of ``1 / fps``.
        timeout: seconds without data after which a pipe or an address counts as stalled.

    Attributes:
        notes: what was odd, in words.

    Raises:
        ConfigError: a number out of range.
    """

    def __init__(self, source: str, *, fps: float = 1.0, timeout: float = 10.0) -> None:
        if not 0 < timeout < float("inf"):
            raise ConfigError(f"timeout: got {timeout}, expected finite seconds above 0.")
        self._fps = Sampling(fps=fps).fps
        self._source, self._timeout = source, timeout
        self._is_address = _ADDRESS.match(source) is not None
        self._is_pipe = source == STDIN or Path(source).is_fifo()
        # An address may hold a password.
        self.name = re.sub(r"//[^/@]*@", "//...@", source) if self._is_address else source
        self.notes: list[str] = []

    @property
    def is_live(self) -> bool:
        """Whether frames come when they come, and not as fast as they are read."""
        return self._is_pipe or self._is_address

    def __iter__(self) -> Iterator[LiveFrame]:
        """Yield the frames.

        Raises:
            VideoError: the source cannot be opened, holds no frames, stalls or breaks off. The
                frames before that are sound.
        """
        size, orientation, last, scaled = (0, 0), Orientation(), -1, False
        for frame, seconds in _on_one_clock(self._decoded()):
            if last < 0:
                size, orientation = (frame.width, frame.height), frame_orientation(frame)
            if (frame.width, frame.height) != size and not scaled:
                scaled = True
                self.notes.append(
                    f"frames of {frame.width}x{frame.height} from {seconds:.1f} s on, scaled to "
                    f"{size[0]}x{size[1]} as the first"
                )
            tick = floor(seconds * self._fps + _ROUNDING)
            if tick > last:
                last = tick
                yield LiveFrame(orientation.apply(to_rgb(frame, *size)), seconds)
        if last < 0:
            raise VideoError(f"{self.name}: the source ended without a frame. Is it sending video?")

    def _decoded(self) -> Iterator[VideoFrame]:
        """Decode all frames; what cannot be decoded is left out, and noted at the end."""
        errors, mended = list[str](), 0
        with contextlib.ExitStack() as stack:
            pipe = (
                stack.enter_context(_Pipe(self._source, self._timeout)) if self._is_pipe else None
            )
            try:
                container = stack.enter_context(self._open(pipe))
            except FFmpegError as error:
                raise self._error(error, "cannot be opened") from error
            stream = main_stream(container, self.name, None)
            stream.thread_type = "SLICE"  # threads of whole frames would hold frames back
            asked = time.monotonic()
            try:
                for packet in container.demux(stream):
                    # What libav had left when it gave up; it would wait as long for the next.
                    late = self._is_address and time.monotonic() - asked >= self._timeout
                    frames: list[VideoFrame] = []
                    try:
                        frames = packet.decode()
                    except FFmpegError as error:
                        errors.append(str(error.strerror))
                    mended += sum(frame.is_corrupt for frame in frames)
                    yield from frames
                    if late:
                        raise self._stalled()
                    if not packet.size and packet.dts is None:
                        break  # PyAV's end mark
                    asked = time.monotonic()
            except FFmpegError as error:
                raise self._error(error, "broke off") from error
            finally:
                self._note_damage(errors, mended)
            if pipe is not None and pipe.stalled:
                raise self._stalled()

    def _note_damage(self, errors: list[str], mended: int) -> None:
        if errors:
            self.notes.append(
                f"packets that cannot be decoded, and are left out: {len(errors)} "
                f"(the first: {errors[0]})"
            )
        if mended:
            self.notes.append(f"frames that are damaged, and kept as libav mended them: {mended}")

    def _open(self, pipe: "_Pipe | None") -> InputContainer:
        place, options, timeout = pipe or self._source, OPEN_OPTIONS, None
        if self._is_address:
            options, timeout = _ADDRESS_OPTIONS, (self._timeout, self._timeout)
        elif pipe is None:
            place = f"file:{check_file(self._source, 'video')}"
        opened: InputContainer = av.open(place, options=dict(options), timeout=timeout)
        return opened

    def _error(self, error: FFmpegError, what: str) -> VideoError:
        if isinstance(error, ExitError):
            return self._stalled()
        return VideoError(
            f"{self.name}: the source {what} ({error.strerror}). Is it sending video?"
        )

    def _stalled(self) -> VideoError:
        return VideoError(
            f"{self.name}: the source stalled, no data for {self._timeout:g} s. Check that it is "
            "sending, or allow more with timeout."
        )


class _Pipe:
    """A pipe that is read as libav asks for it; when nothing comes for long, it ends.

    Args:
        source: ``"-"`` or the pipe's path.
        timeout: seconds.

    Attributes:
        stalled: whether it ended because nothing came.
    """

    def __init__(self, source: str, timeout: float) -> None:
        self._source, self._timeout, self.stalled = source, timeout, False
        self._interrupt: KeyboardInterrupt | None = None  # that PyAV would swallow

    def __enter__(self) -> "_Pipe":
        is_stdin = self._source == STDIN
        self._file = sys.stdin.fileno() if is_stdin else os.open(self._source, os.O_RDONLY)
        return self

    def __exit__(self, *error: object) -> None:
        if self._source != STDIN:
            os.close(self._file)
        if self._interrupt is not None:
            raise self._interrupt

    def read(self, count: int) -> bytes:
        """Return up to ``count`` bytes, none at the end, which an interrupt is, too."""
        try:
            if not (self.stalled or self._interrupt):  # libav may ask again
                self.stalled = not select.select([self._file], [], [], self._timeout)[0]
                return b"" if self.stalled else os.read(self._file, count)
        except KeyboardInterrupt as interrupt:
            self._interrupt = interrupt
        return b""


def _on_one_clock(frames: Iterator[VideoFrame]) -> Iterator[tuple[VideoFrame, float]]:
    """Tell each frame's seconds since the first; a clock that jumps back goes on from where it was.

    A frame without a time comes with the one before it.
    """
    start: float | None = None
    last = 0.0
    for frame in frames:
        seconds: float | None = frame.time
        if seconds is None:
            seconds = (start or 0.0) + last
        if start is None:
            start = seconds
        if seconds - start < last:
            start = seconds - last
        last = seconds - start
        yield frame, last
