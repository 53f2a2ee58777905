"""Files with something wrong: the right frames and a warning, or an error that says what to do."""

from __future__ import annotations

import shutil
import struct
import tracemalloc
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.container.input import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from sttm.errors import SttmError, VideoError
from sttm.video import VideoWarning, read_video
from sttm.video.container import VideoSource
from sttm.video.passes import Survey, Take, take
from tests.video.video_clips import PERIOD, atom, numbered, packets, patched, seen, write_sound


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def cut(clip: Path, start: float, end: float) -> Path:
    data = clip.read_bytes()
    target = clip.with_name(f"cut-{clip.name}")
    target.write_bytes(data[int(start * len(data)) : int(end * len(data))])
    return target


def test_missing_file_suggests_a_neighbour(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").write_bytes(b"x")
    with pytest.raises(VideoError, match=r"no such video file. Did you mean 'holiday.mp4'"):
        read_video(tmp_path / "holidays.mp4")
    with pytest.raises(VideoError, match=r"directory .* does not exist either"):
        read_video(tmp_path / "nowhere" / "clip.mp4")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="got a directory, expected one video file"):
        read_video(tmp_path)


def test_device() -> None:
    with pytest.raises(VideoError, match="device or pipe"):
        read_video("/dev/null")


def test_empty_file(tmp_path: Path) -> None:
    clip = tmp_path / "empty.mp4"
    clip.touch()
    with pytest.raises(VideoError, match="empty \\(0 bytes\\)"):
        read_video(clip)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.mp4", b"this is not a video\n" * 50),
        ("text.txt", b"this is not a video\n" * 50),
        ("zeros.mp4", bytes(5000)),
        ("noise.mkv", np.random.default_rng(0).bytes(5000)),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:9.0,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"),
    ],
)
def test_not_a_video(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=rf"{name}: (not a video|got a text file)"):
        read_video(tmp_path / name)


def test_subtitles_renamed_to_a_video(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n\n" * 20, encoding="utf-8")
    with pytest.raises(VideoError, match="no video stream; the file holds subtitle"):
        read_video(clip)


def test_sound_only(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"no video stream; the file holds audio\."):
        read_video(write_sound(tmp_path / "sound.mp4"))


def test_sound_with_a_cover(tmp_path: Path) -> None:
    song = write_sound(tmp_path / "song.mp3", codec="libmp3lame", cover=True)
    with pytest.raises(VideoError, match="and a cover picture"):
        read_video(song)


def test_mp4_without_its_index(clips: Path) -> None:
    with pytest.raises(VideoError, match=r"index \(moov\) is missing or broken"):
        read_video(cut(numbered(clips / "plain.mp4", 90), 0, 0.5))


@pytest.mark.parametrize(
    ("name", "muxer"),
    [("a.mkv", {}), ("a.flv", {}), ("a.mp4", {"movflags": "faststart"})],
)
def test_cut_short(clips: Path, name: str, muxer: dict[str, str]) -> None:
    clip = cut(numbered(clips / name, 300, muxer=muxer), 0, 0.6)
    with pytest.warns(VideoWarning, match=r"cut short: the header promises 10\.0 s"):
        video = read_video(clip)
    assert 120 < video.total_frames < 240
    assert video.indices[-1] == video.total_frames - 1
    assert seen(video.frames[:-1]) == [index % PERIOD for index in video.indices[:-1]]
    assert video.duration == pytest.approx(video.total_frames / 30, abs=0.05)
    assert len(video.warnings) >= 1


@pytest.mark.parametrize(("name", "start", "end"), [("b.ts", 0, 0.6), ("c.ts", 0.25, 1)])
def test_transport_stream_is_whole_wherever_it_is_cut(
    clips: Path, name: str, start: float, end: float
) -> None:
    """No header says how long it should be; what is there is read from the first key frame."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)  # the cut may go through a frame
        video = read_video(cut(numbered(clips / name, 300, g="10"), start, end))
    assert 100 < video.total_frames < 290
    assert video.timestamps[0] == 0.0
    steps = np.diff(seen(video.frames[:-1])) % PERIOD
    assert set(steps.tolist()) == {30}


def test_frames_lost_in_the_middle(clips: Path) -> None:
    clip = numbered(clips / "intra.mp4", 90, g="1")
    place, size = packets(clip)[45]
    damaged = patched(clip, "lost.mp4", {place: bytes(size)})
    calls: list[int] = []
    with pytest.warns(VideoWarning, match="damaged: 89 of 90 frames can be decoded"):
        video = read_video(damaged, fps=30, progress=lambda done, _: calls.append(done))
    assert seen(video.frames) == [number % PERIOD for number in range(90) if number != 45]
    assert video.timestamps[45] == pytest.approx(46 / 30)
    assert (video.total_frames, video.duration, video.fps) == (89, 3.0, 30.0)
    assert calls == [*range(1, 90), *range(1, 90)]  # read again, on one thread


@pytest.mark.parametrize("change", [{"damaged": 1}, {"errors": ("bad",)}, {}])
def test_any_sign_of_damage_makes_it_read_on_one_thread(
    clips: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    threaded = []

    def strange_take(found: Survey, wanted: Any, expected: int, threads: bool, *_: Any) -> Take:
        threaded.append(threads)
        return replace(take(found, wanted, expected, threads, None), **change)

    monkeypatch.setattr("sttm.video.decode.take", strange_take)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        read_video(numbered(clips / "strange.mp4", 10))
    assert threaded == ([True, False] if change else [True])


def test_reading_again_does_not_hold_two_copies(clips: Path) -> None:
    clip = numbered(clips / "again.mp4", 90, g="1")
    place, size = packets(clip)[45]
    damaged = patched(clip, "half.mp4", {place: bytes(size)})
    tracemalloc.start()
    with pytest.warns(VideoWarning, match="damaged"):
        video = read_video(damaged, fps=30)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * video.frames.nbytes


def test_streams_that_appear_on_the_way_do_no_harm(clips: Path) -> None:
    """PyAV 18 fails after its end marks when damage made libav believe in a new stream."""

    class Growing:
        def __init__(self, container: InputContainer) -> None:
            self.container = container

        def demux(self, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
            yield from self.container.demux(stream)
            raise IndexError("list index out of range")

    clip = numbered(clips / "grown.ts", 30)
    with av.open(str(clip)) as container:
        growing = cast(InputContainer, Growing(container))
        source = VideoSource(growing, container.streams.video[0])
        assert len(list(source.frames())) == 30
        assert source.errors == []


def test_nothing_can_be_decoded(clips: Path) -> None:
    clip = numbered(clips / "ruined.mp4", 30)
    ruined = patched(clip, "ruin.mp4", {place: bytes(size) for place, size in packets(clip)})
    with pytest.raises(VideoError, match="none of its 30 frames can be decoded"):
        read_video(ruined)


def test_zero_duration(clips: Path) -> None:
    """All frames at one moment: their times and every length in the header are set to 0."""
    clip = numbered(clips / "still.mp4", 30)
    data = clip.read_bytes()
    table = ("moov", "trak", "mdia", "minf", "stbl", "stts")
    start, _ = atom(data, *table)
    changes = {start + 12: bytes(4)}
    for box, place in ((("mvhd",), 16), (("trak", "tkhd"), 20), (("trak", "mdia", "mdhd"), 16)):
        changes[atom(data, "moov", *box)[0] + place] = bytes(4)
    with pytest.raises(VideoError, match="lasts 0 seconds: its 30 frames have no times"):
        read_video(patched(clip, "zero.mp4", changes))


def test_no_frames_at_all(clips: Path) -> None:
    """A fragmented MP4 that holds its header and no fragment."""
    clip = numbered(clips / "parts.mp4", 30, muxer={"movflags": "frag_keyframe+empty_moov"})
    data = clip.read_bytes()
    header = clip.with_name("header.mp4")
    header.write_bytes(data[: data.index(b"moof") - 4])
    with pytest.raises(VideoError, match="holds no frames"):
        read_video(header)


def test_unknown_codec(clips: Path) -> None:
    clip = numbered(clips / "known.mp4", 5)
    strange = patched(clip, "strange.mp4", {clip.read_bytes().index(b"avc1", 200): b"zzzz"})
    with pytest.raises(VideoError, match="codec is unknown"):
        read_video(strange)


@pytest.mark.parametrize("name", ["noisy.mp4", "noisy.mkv", "noisy.ts", "noisy.avi"])
@pytest.mark.parametrize("seed", range(5))
def test_random_damage_gives_frames_or_our_error(clips: Path, name: str, seed: int) -> None:
    clip = clips / name
    if not clip.exists():
        numbered(clip, 120, g="12")
    random = np.random.default_rng(seed)
    size = clip.stat().st_size
    places = random.integers(0 if seed == 0 else size // 4, size, 30).tolist()
    broken = patched(clip, f"broken-{name}", {int(place): random.bytes(1) for place in places})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        try:
            video = read_video(broken)
            again = read_video(broken)
        except SttmError:
            return
    assert 1 <= len(video) == len(video.timestamps) == len(video.indices)
    assert video.indices == again.indices
    assert np.array_equal(video.frames, again.frames)


def test_unreadable_name_is_in_every_message(tmp_path: Path) -> None:
    shutil.copy(numbered(tmp_path / "a.mp4", 3), tmp_path / "b.mp4")
    (tmp_path / "b.mp4").write_bytes(struct.pack(">I", 8) + b"ftyp")
    with pytest.raises(VideoError, match=r"b\.mp4"):
        read_video(tmp_path / "b.mp4")
