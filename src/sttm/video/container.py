"""Open video files, and say what is wrong with those that cannot be."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.codec.context import CodecContext
from av.container.input import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sttm.errors import VideoError
from sttm.video.clock import Background, Clock, Coverage
from sttm.video.pictures import picture_advice, picture_format

LIBAV_TIME_BASE = Fraction(1, av.time_base)
# "file:" keeps names such as "12:30.mp4" from being read as a protocol.
OPEN_OPTIONS = {"protocol_whitelist": "file"}
# Longer steps between two frames may be jumps of the clock: in formats where that is usual (MPEG
# streams; ffmpeg takes the same number), and in those whose times are the player's.
JUMP_SECONDS = {True: Fraction(10), False: Fraction(1800)}
TIMELESS = {"avi"}  # holds no times: sound and pictures start together, whatever libav makes up
DECLARES_LENGTH = {"avi", "flv", "matroska", "mov"}  # elsewhere libav estimates the duration


def check_file(path: str | os.PathLike[str], kind: str) -> Path:
    """Make sure that ``path`` is a file with something in it.

    Args:
        path: what the user gave.
        kind: what the file should be, for the message: ``"video"``.

    Raises:
        VideoError: missing (with the nearest name beside it), a directory, or empty.
    """
    found = Path(path)
    if not found.exists():
        raise VideoError(f"{found}: no such {kind} file.{_nearest(found)} Check the path.")
    if found.is_dir():
        raise VideoError(f"{found}: got a directory, expected one {kind} file. Name a file in it.")
    if not found.is_file():
        raise VideoError(f"{found}: got a device or pipe, expected a {kind} file. Save it first.")
    if found.stat().st_size == 0:
        raise VideoError(f"{found}: the file is empty (0 bytes). Download or record it again.")
    return found


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The directory {path.parent} does not exist either."
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    close = get_close_matches(path.name, names, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


@contextmanager
def open_video(
    path: Path,
    threads: bool = True,
    track: int | None = None,
    background: Background | None = None,
) -> Iterator["VideoSource"]:
    """Open a video stream of a file; only local files are read, whatever it refers to.

    Args:
        path: a file that :func:`check_file` accepted.
        threads: decode on all cores; on one otherwise, for an order of work that never varies.
        track: the stream's place in the file; by default the one that the file or libav prefers.
        background: what the file's other streams say about its clock, if known.

    Raises:
        VideoError: not a video, no video stream, or a codec that PyAV does not know.
    """
    try:
        container = av.open(f"file:{path}", options=dict(OPEN_OPTIONS), metadata_errors="replace")
    except FFmpegError as error:
        raise VideoError(_unreadable(path, error)) from error
    with container:
        stream = main_stream(container, path, track)
        stream.thread_type = "AUTO" if threads else "NONE"
        stream.codec_context.thread_count = 0 if threads else 1
        yield VideoSource(container, stream, background)


def main_stream(container: InputContainer, path: Path | str, track: int | None) -> VideoStream:
    """Choose a container's video stream.

    Args:
        container: that was opened.
        path: what it was opened from, for messages.
        track: its place; None for the one that the file or libav prefers.

    Raises:
        VideoError: there is none, or none that can be read.
    """
    if container.format.name == "tty":  # libav plays plain text as a screen of characters
        raise VideoError(f"{path}: got a text file, expected a video.")
    streams = _tracks(container)
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        cover = " and a cover picture" if container.streams.video else ""
        raise VideoError(
            f"{path}: no video stream; the file holds {kinds}{cover}. "
            "Give a file with moving pictures."
        )
    best = container.streams.best("video") if track is None else container.streams[track]
    stream = next((stream for stream in streams if stream is best), streams[0])
    if stream.disposition & Disposition.dependent:
        raise VideoError(
            f"{path}: got a picture that is stored in tiles (HEIC or AVIF), expected a video. "
            "Save it as JPEG or PNG."
        )
    if not _is_known(stream):
        raise VideoError(
            f"{path}: the video's codec is unknown to this build of PyAV. "
            "Convert it to H.264, for example with ffmpeg."
        )
    return stream


def _tracks(container: InputContainer) -> list[VideoStream]:
    """List the video streams that are not a cover."""
    streams = container.streams.video
    return [s for s in streams if not s.disposition & Disposition.attached_pic]


def _is_known(stream: VideoStream) -> bool:
    return cast(CodecContext | None, stream.codec_context) is not None


def _unreadable(path: Path, error: FFmpegError) -> str:
    picture = picture_format(path)
    if picture:
        return f"{path}: {picture_advice(picture)}"
    with path.open("rb") as file:
        is_mp4 = file.read(8)[4:] == b"ftyp"
    if is_mp4:
        return (
            f"{path}: damaged MP4 ({error.strerror}); its index (moov) is missing or broken, as "
            "when a recording or download stops early. Download or record it again."
        )
    return (
        f"{path}: not a video that libav can read ({error.strerror}). Expected a file such as "
        "MP4, MKV, WebM, MOV or AVI. Check that the download is complete."
    )


class VideoSource:
    """One open video stream, read once from its start to its end.

    Attributes:
        stream: the stream that is read; `count_packets` may choose another one.
        clock: the times of everything read so far.
        errors: messages of libav about data that it could not read or decode.
        reached: seconds at which the data of any stream, sound too, ends on the file's clock.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        background: Background | None = None,
    ) -> None:
        self.stream = stream
        self.clock = self._new_clock(stream, background)
        self.errors: list[str] = []
        self.reached = Fraction(0)
        self._container = container

    @staticmethod
    def _new_clock(stream: VideoStream, background: Background | None = None) -> Clock:
        return Clock(stream.time_base or LIBAV_TIME_BASE, background)

    @property
    def promised(self) -> Fraction:
        """Seconds that the header says the file lasts; 0 where libav would only guess.

        Some programs count them from 0, others from `start`.
        """
        if self._format not in DECLARES_LENGTH:
            return Fraction(0)
        return (self._container.duration or 0) * LIBAV_TIME_BASE

    @property
    def start(self) -> Fraction:
        """Seconds at which the file's clock starts."""
        return (cast(int | None, self._container.start_time) or 0) * LIBAV_TIME_BASE

    @property
    def _format(self) -> str:
        return self._container.format.name.split(",")[0]

    def count_packets(self) -> None:
        """Read all compressed data, noting the times of the video packets that will be shown.

        A track of one picture is left for one with more, whatever the file prefers.
        """
        tracks = [stream for stream in _tracks(self._container) if _is_known(stream)]
        clocks = {stream.index: self._new_clock(stream) for stream in tracks}
        ends: dict[int, int] = {}
        bases: dict[int, Fraction] = {}
        others: dict[int, Coverage] = {}
        for packet in self._packets(*self._container.streams):
            stream, time = packet.stream, packet.dts if packet.pts is None else packet.pts
            index, length = stream.index, packet.duration or 0
            if time is not None:
                ends[index] = max(ends.get(index, 0), time + length)
                bases[index] = packet.time_base
            if packet.is_discard:
                continue
            if index in clocks:
                clocks[index].add(time, length)
            if time is None or (index not in clocks and stream.type != "audio"):
                continue
            begin = time
            if index not in others:
                others[index] = Coverage(packet.time_base)
                if stream.start_time is not None:
                    begin = stream.start_time  # without what decoders skip
            others[index].add(begin, time + length)
        self.reached = max((end * bases[i] for i, end in ends.items()), default=Fraction(0))
        longest = max(tracks, key=lambda stream: clocks[stream.index].count)
        if clocks[self.stream.index].count <= 1 < clocks[longest.index].count:
            self.stream = longest
        others.pop(self.stream.index, None)
        if self._format in TIMELESS:
            others.clear()
        discontinuous = bool(self._container.format.flags & cast(int, Flags.ts_discont.value))
        self.clock = clocks[self.stream.index]
        self.clock.background = Background(tuple(others.values()), JUMP_SECONDS[discontinuous])

    def frames(self) -> Iterator[VideoFrame]:
        """Decode every frame in the order of showing; what cannot be decoded is left out."""
        for packet in self._packets(self.stream):
            yield from self._decode(packet)
        yield from self._decode(None)  # the decoder still holds the last frames

    def _packets(self, *streams: Stream) -> "Iterator[Packet[Stream]]":
        try:
            for packet in self._container.demux(*streams):
                if packet.size:
                    yield packet
                elif packet.dts is None:
                    # PyAV's end mark; reading past it fails when streams appeared on the way
                    return
        except FFmpegError as error:
            self.errors.append(str(error.strerror))

    def _decode(self, packet: "Packet[Stream] | None") -> Iterator[VideoFrame]:
        try:
            frames = self.stream.decode(packet)
        except FFmpegError as error:
            self.errors.append(str(error.strerror))
            return
        for frame in frames:
            self.clock.add(frame.pts, frame.duration)
            yield frame
