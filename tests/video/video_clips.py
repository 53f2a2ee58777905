"""Clips for the tests of sttm.video: frame k is a grey of brightness shade(k), told by seen()."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container.output import OutputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

Frames = npt.NDArray[np.uint8]

PERIOD = 40  # shades before they repeat; 5 apart, so that H.264 cannot confuse them


def shade(number: int) -> int:
    return 25 + 5 * (number % PERIOD)


def grey(number: int, width: int = 64, height: int = 48) -> Frames:
    return np.full((height, width, 3), shade(number), dtype=np.uint8)


def seen(frames: Frames) -> list[int]:
    """Tell which frame each picture is, modulo PERIOD, from its brightness."""
    levels = frames.reshape(len(frames), -1).mean(axis=1)
    return [round((float(level) - 25) / 5) % PERIOD for level in levels]


def corners(width: int = 64, height: int = 48) -> Frames:
    """Give a picture whose four quarters differ: red, green, blue, white."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    middle_row, middle_column = height // 2, width // 2
    picture[:middle_row, :middle_column] = (220, 30, 30)
    picture[:middle_row, middle_column:] = (30, 220, 30)
    picture[middle_row:, :middle_column] = (30, 30, 220)
    picture[middle_row:, middle_column:] = (220, 220, 220)
    return picture


def add_stream(
    container: OutputContainer, width: int, height: int, rate: Fraction, **options: Any
) -> VideoStream:
    codec = options.pop("codec", "libx264")
    stream = container.add_stream(codec, rate=rate)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = width, height
    stream.pix_fmt = options.pop("pix_fmt", "yuv420p")
    if codec == "libx264":
        stream.options = {"preset": "ultrafast", "crf": "10", **options}
        stream.codec_context.thread_count = 1
    return stream


def write_clip(
    path: Path,
    frames: Sequence[Frames],
    *,
    rate: Fraction | int = 30,
    times: Sequence[Fraction] | None = None,
    rotation: float = 0.0,
    prepare: Callable[[VideoStream], None] | None = None,
    muxer: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    """Write frames at a constant rate, or at ``times`` seconds each."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = add_stream(container, width, height, Fraction(rate), **options)
        if rotation:
            stream.set_display_rotation(rotation)
        if prepare:
            prepare(stream)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.time_base = Fraction(1, 1000)
                frame.pts = round(times[number] * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered(path: Path, count: int, **options: Any) -> Path:
    """Write a clip of ``count`` grey frames that tell their number."""
    return write_clip(path, [grey(number) for number in range(count)], **options)


def write_sound(path: Path, codec: str = "aac", cover: bool = False) -> Path:
    """Write one second of silence and no moving picture, perhaps with a cover picture."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream(codec, rate=16000, layout="mono")
        assert isinstance(sound, AudioStream)
        if cover:
            art = add_stream(container, 64, 48, Fraction(1), codec="png", pix_fmt="rgb24")
            art.disposition = Disposition.attached_pic
            container.mux(art.encode(av.VideoFrame.from_ndarray(grey(0), format="rgb24")))
        for start in range(0, 16000, 1000):
            samples = np.zeros((1, 1000), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
        if cover:
            container.mux(art.encode(None))
    return path


def packets(path: Path) -> list[tuple[int, int]]:
    """Find the compressed frames of a file: (place in bytes, size in bytes)."""
    with av.open(str(path)) as container:
        found = container.demux(container.streams.video[0])
        return [(packet.pos or 0, packet.size) for packet in found if packet.size]


def patched(source: Path, name: str, changes: dict[int, bytes]) -> Path:
    """Copy a file beside itself with some of its bytes replaced."""
    data = bytearray(source.read_bytes())
    for place, new in changes.items():
        data[place : place + len(new)] = new
    target = source.with_name(name)
    target.write_bytes(data)
    return target


def atom(data: bytes, *names: str) -> tuple[int, int]:
    """Find a nested box of an MP4: (start of its content, its end)."""
    start, end = 0, len(data)
    for name in names:
        place = start
        while True:
            size, kind = struct.unpack(">I4s", data[place : place + 8])
            if kind == name.encode():
                break
            place += size
            assert place < end, f"no box {name}"
        start, end = place + 8, place + size
    return start, end


def write_scene(
    path: Path,
    times: Sequence[float],
    *,
    sound: tuple[float, float] | None = None,
    still: bool = False,
    sound_codec: str = "aac",
    codec: str = "libx264",
) -> Path:
    """Write numbered frames at ``times`` seconds, with more tracks beside them.

    Args:
        path: where to; its ending names the container.
        times: seconds, one per frame.
        sound: when a track of silence starts and ends, in seconds; none by default.
        still: a track of one white picture comes first, and is the file's default.
        sound_codec: of the silence.
        codec: of the frames.
    """
    with av.open(str(path), "w") as container:
        if still:
            cover = add_stream(container, 96, 64, Fraction(1))
            cover.disposition = Disposition.default
        video = add_stream(container, 64, 48, Fraction(10), codec=codec)
        video.codec_context.time_base = Fraction(1, 1000)
        if still:
            video.disposition = Disposition(0)
        track = container.add_stream(sound_codec, rate=48000, layout="mono") if sound else None
        parts: list[tuple[float, Any, Any]] = []
        if still:
            parts.append((0.0, cover, av.VideoFrame.from_ndarray(grey(30, 96, 64))))
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(grey(number), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            parts.append((time, video, frame))
        begin, end = (round(time * 48000) for time in sound or (0, 0))
        for start in range(begin, end, 960):
            silence = np.zeros((1, 960), dtype=np.float32)
            heard = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 48000, start, Fraction(1, 48000)
            parts.append((start / 48000, track, heard))
        for _, stream, made in sorted(parts, key=lambda part: part[0]):
            container.mux(stream.encode(made))
        for stream in container.streams:
            container.mux(stream.encode(None))
    return path
