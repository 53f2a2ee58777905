"""When frames show: clocks that start late, jump, turn back or wait, and the sound beside them."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from sttm.errors import VideoError
from sttm.video import Subtitle, VideoWarning, read_subtitles, read_video, subtitles_at
from sttm.video.lengths import joined_videos, lacks_bytes
from tests.video.video_clips import (
    PERIOD,
    corners,
    grey,
    numbered,
    patched,
    seen,
    write_clip,
    write_scene,
)

CONTAINERS = ("clip.mp4", "clip.mov", "clip.mkv", "clip.ts", "clip.flv")
STEADY = tuple(number / 10 for number in range(40))


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("start", [0.0, 10.2, 700.0])
def test_a_whole_file_whose_clock_starts_late_is_whole(
    tmp_path: Path, name: str, start: float
) -> None:
    video = read_video(write_scene(tmp_path / name, [start + time for time in STEADY]))
    assert video.warnings == ()
    assert (video.total_frames, video.indices) == (40, (0, 10, 20, 30, 39))
    assert video.duration == pytest.approx(4.0, abs=0.11)
    assert video.timestamps == pytest.approx((0, 1, 2, 3, 3.9), abs=0.002)


@pytest.mark.parametrize("name", ["late.mkv", "late.flv"])
@pytest.mark.parametrize("start", [2, 10])
def test_a_late_file_that_is_cut_is_told(tmp_path: Path, name: str, start: int) -> None:
    data = write_scene(tmp_path / name, [start + time for time in STEADY]).read_bytes()
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(data[: len(data) * 6 // 10])
    video = read_video(cut, warn=False)
    assert video.total_frames < 30
    assert any("cut short" in warning for warning in video.warnings)


def test_matroska_may_count_its_length_from_its_first_frame(tmp_path: Path) -> None:
    """The header's 14 s, patched to the 4 s that the frames last, as other programs write."""
    clip = write_scene(tmp_path / "late.mkv", [10 + time for time in STEADY])
    place = clip.read_bytes().index(b"\x44\x89\x88") + 3
    spans = patched(clip, "span.mkv", {place: struct.pack(">d", 4000.0)})
    assert read_video(spans).warnings == ()
    data = spans.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    with pytest.warns(VideoWarning, match=r"cut short: the header promises 4\.0 s, the data ends"):
        read_video(tmp_path / "cut.mkv")


@pytest.mark.parametrize(
    ("head", "short"),
    [
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x84abcd", False),
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x84abc", True),
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x40\x04abc", True),
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\xff", False),  # as long as it comes
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67", False),
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x68\x84", False),
        (b"\x1a\x45\xdf\xa3\xff", False),
        (b"\0\0\0\0", False),
        (b"", False),
        (b"FLV12345\x09\0\0\x01abcdefgx\0\0\0\x0c", False),
        (b"FLV12345\x09\0\0\x01abcdefgx\0\0\0", True),
        (b"FLV12345\x09\0\0\x02abcdefgx\0\0\0\x0c", True),
        (b"FLV\0\0\0\x0c", True),
        (b"FLV", True),
    ],
)
def test_bytes_that_a_segment_lacks(tmp_path: Path, head: bytes, short: bool) -> None:
    (tmp_path / "a.mkv").write_bytes(head)
    assert lacks_bytes(tmp_path / "a.mkv") is short


@pytest.mark.parametrize("jump", [60.0, 3600.0, 26 * 3600.0])
def test_a_clock_that_jumps_in_a_transport_stream(tmp_path: Path, jump: float) -> None:
    clip = write_scene(tmp_path / "a.ts", [*STEADY, *(jump + 4 + time for time in STEADY)])
    with pytest.warns(VideoWarning, match=r"the clock jumps .* \(times: 1, by up to .* 0\.1 s is"):
        video = read_video(clip)
    assert (video.fps, video.duration) == pytest.approx((10.0, 8.0))
    assert video.indices == (0, 10, 20, 30, 40, 50, 60, 70, 79)
    assert video.timestamps == pytest.approx([index / 10 for index in video.indices])
    assert seen(video.frames) == [index % PERIOD for index in video.indices]


@pytest.mark.parametrize("starts", [(0, 60), (60, 0), (50000, 0), (0, 3600, 1800), (5, 5, 5)])
def test_transport_streams_joined_end_to_end(tmp_path: Path, starts: tuple[int, ...]) -> None:
    """Forwards, back, over the 33 bits of the clock, and each again from the same time."""
    parts = []
    for number, start in enumerate(starts):
        times = [start + time for time in STEADY]
        parts.append(write_scene(tmp_path / f"{number}.ts", times, sound=(start, start + 4)))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.warns(VideoWarning, match=rf"the clock jumps .* \(times: {len(parts) - 1}, by"):
        video = read_video(joined)
    assert video.total_frames == 40 * len(parts)
    assert video.duration == pytest.approx(4 * len(parts), abs=0.2)
    assert len(set(video.indices)) == len(video.indices)
    assert np.diff(video.timestamps).max() < 1.2


@pytest.mark.parametrize("name", ["a.mkv", "a.flv", "a.ts"])
def test_files_of_other_formats_joined_end_to_end(tmp_path: Path, name: str) -> None:
    data = write_scene(tmp_path / name, STEADY).read_bytes()
    (tmp_path / name).write_bytes(data + (data[13:] if name == "a.flv" else data))
    with pytest.warns(VideoWarning, match=r"the clock jumps .* by up to 3\.9 s"):
        video = read_video(tmp_path / name)
    assert (video.total_frames, video.indices[-1]) == (80, 79)
    assert video.timestamps == pytest.approx([index / 10 for index in video.indices])


def test_joined_mp4_files_are_told(tmp_path: Path) -> None:
    """Players and libav stop at the end of the first, which looks whole."""
    data = write_scene(tmp_path / "a.mp4", STEADY).read_bytes()
    (tmp_path / "a.mp4").write_bytes(data * 3)
    with pytest.warns(VideoWarning, match="3 MP4 files joined end to end, of which only the first"):
        assert read_video(tmp_path / "a.mp4").total_frames == 40


@pytest.mark.parametrize(
    ("boxes", "count"),
    [
        (["ftyp", "moov", "mdat"], 1),
        (["ftyp", "mdat", "moov", "free", "moov"], 1),  # the second is a copy
        (["ftyp", "mdat", "moov", "ftyp", "moov", "mdat"], 2),
        (["ftyp", "moov", "moof", "mdat", "ftyp", "moov", "moof", "mdat"], 1),
        (["mdat", "ftyp", "moov", "ftyp", "moov"], 1),
        ([], 1),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_count_of_joined_files(tmp_path: Path, boxes: list[str], count: int, large: bool) -> None:
    content = b"".join(
        struct.pack(">I4sQ", 1, box.encode(), 20) + bytes(4)
        if large
        else struct.pack(">I4sI", 12, box.encode(), 0)
        for box in boxes
    )
    (tmp_path / "a.mp4").write_bytes(content)
    assert joined_videos(tmp_path / "a.mp4") == count
    (tmp_path / "a.mp4").write_bytes(content + bytes(20))  # a box without a size is the last
    assert joined_videos(tmp_path / "a.mp4") == count


def test_an_avi_has_no_times_that_could_differ(tmp_path: Path) -> None:
    """libav makes up that its pictures show one frame late, but not its sound."""
    video = read_video(write_scene(tmp_path / "a.avi", STEADY, sound=(0, 4)))
    assert (video.timestamps[0], video.warnings) == (0.0, ())


@pytest.mark.parametrize("start", [-3.0, -1.5])
def test_a_clock_that_wraps_in_the_middle(tmp_path: Path, start: float) -> None:
    wrap = 2**33 / 90000
    clip = write_scene(tmp_path / "a.ts", [wrap + start + time for time in STEADY])
    video = read_video(clip)
    assert video.warnings == ()
    assert video.timestamps == pytest.approx((0, 1, 2, 3, 3.9), abs=0.001)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.flv"])
def test_hours_without_anything_are_a_jump_anywhere(tmp_path: Path, name: str) -> None:
    clip = write_scene(tmp_path / name, [*STEADY, *(7200 + time for time in STEADY)])
    with pytest.warns(VideoWarning, match="the clock jumps"):
        video = read_video(clip)
    assert video.duration == pytest.approx(8.0, abs=0.1)
    assert len(set(video.indices)) == len(video.indices)


@pytest.mark.parametrize("name", CONTAINERS)
def test_pictures_that_show_for_long_keep_their_times(tmp_path: Path, name: str) -> None:
    times = [0.0, 9.0, 21.0, 30.0, 44.0, 45.0, 59.0]
    video = read_video(write_scene(tmp_path / name, times), rule="uniform")
    assert video.warnings == ()
    assert video.timestamps == pytest.approx(times, abs=0.002)


@pytest.mark.parametrize("name", ["still.mkv", "still.mp4"])
def test_still_pictures_before_moving_ones_keep_their_times(tmp_path: Path, name: str) -> None:
    times = [0.0, 30.0, 90.0, 120.0, *(120.1 + time for time in STEADY)]
    video = read_video(write_scene(tmp_path / name, times), rule="uniform")
    assert video.warnings == ()
    assert video.timestamps == pytest.approx(times, abs=0.002)


def test_a_picture_that_shows_while_the_sound_goes_on_keeps_its_time(tmp_path: Path) -> None:
    times = [*STEADY, *(24 + time for time in STEADY)]
    video = read_video(write_scene(tmp_path / "a.ts", times, sound=(0, 28)), rule="uniform")
    assert video.warnings == ()
    assert video.timestamps == pytest.approx(times, abs=0.03)


@pytest.mark.parametrize("name", ["late.mp4", "late.mov", "late.mkv", "late.ts", "late.flv"])
@pytest.mark.parametrize("start", [0.0, 100.0])
def test_times_count_from_the_sound_that_comes_first(
    tmp_path: Path, name: str, start: float
) -> None:
    times = [start + 5 + time for time in STEADY]
    clip = write_scene(tmp_path / name, times, sound=(start, start + 9))
    video = read_video(clip)
    assert video.warnings == ()
    assert video.duration == pytest.approx(4.0, abs=0.1)
    assert video.timestamps == pytest.approx((5, 6, 7, 8, 8.9), abs=0.06)
    said = subtitles_at([Subtitle(5.9, 6.5, "now")], video.timestamps, unique=False)
    assert said == ["", "now", "", "", ""]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "aac"), ("a.ts", "aac"), ("a.webm", "libopus")]
)
def test_sound_that_only_primes_its_decoder_is_no_start(
    tmp_path: Path, name: str, codec: str
) -> None:
    picture = "libvpx" if name.endswith("webm") else "libx264"
    clip = write_scene(tmp_path / name, STEADY, sound=(0, 4), sound_codec=codec, codec=picture)
    times = read_video(clip).timestamps
    assert times == pytest.approx((0, 1, 2, 3, 3.9), abs=0.025)
    if name != "a.ts":  # where nothing says that the sound is cut
        assert times[0] == 0.0


def test_sound_that_comes_later_changes_nothing(tmp_path: Path) -> None:
    video = read_video(write_scene(tmp_path / "a.mkv", STEADY, sound=(2, 4)))
    assert video.timestamps == pytest.approx((0, 1, 2, 3, 3.9), abs=0.002)


@pytest.mark.parametrize("name", ["still.mp4", "still.mkv"])
def test_the_track_that_moves_is_the_video(tmp_path: Path, name: str) -> None:
    clip = write_scene(tmp_path / name, STEADY, still=True)
    with av.open(str(clip)) as container:
        assert container.streams.best("video") is container.streams.video[0]
    video = read_video(clip)
    assert (video.total_frames, video.warnings) == (40, ())
    assert video.frames.shape == (5, 48, 64, 3)
    assert video.timestamps == pytest.approx((0, 1, 2, 3, 3.9), abs=0.002)
    only = read_video(write_scene(tmp_path / f"only-{name}", [], still=True))
    assert only.frames.shape == (1, 64, 96, 3)


def save(path: Path, count: int, **options: Any) -> Path:
    first, *others = (Image.fromarray(grey(number)) for number in range(0, 4 * count, 4))
    if others:
        options |= {"save_all": True, "append_images": others, "duration": 100}
    first.save(path, **options)
    return path


def test_moving_webp_says_how_to_convert_it(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"a\.webp: got a WebP picture .* Convert it to GIF"):
        read_video(save(tmp_path / "a.webp", 3))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"RIFF\x20\0\0\0WEBPVP8X", "WebP"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\xff\x0a\0\0", "JPEG XL"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a").write_bytes(content + bytes(200))
    with pytest.raises(VideoError, match=f"got an? {kind} picture|no frames|no video stream"):
        read_video(tmp_path / "a")


def test_pictures_in_tiles_are_not_taken_for_one_tile() -> None:
    tile = SimpleNamespace(disposition=Disposition.dependent, codec_context=object())
    streams = SimpleNamespace(video=[tile, tile], best=lambda _: tile)
    container = SimpleNamespace(format=SimpleNamespace(name="mov"), streams=streams)
    from sttm.video.container import main_stream

    with pytest.raises(VideoError, match="a picture that is stored in tiles"):
        main_stream(cast(Any, container), Path("a.heic"), None)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.tiff", "a.jpg", "a.webp", "a.bmp", "a.ico"])
def test_pictures_that_libav_reads(tmp_path: Path, name: str) -> None:
    video = read_video(save(tmp_path / name, 1))
    assert (video.timestamps, video.warnings) == ((0.0,), ())
    moving = name in ("a.gif", "a.png")
    assert not moving or read_video(save(tmp_path / name, 3)).total_frames == 3


@pytest.mark.parametrize(("number", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_photographs_are_upright(tmp_path: Path, number: int, turns: int) -> None:
    """PyAV has no name for EXIF, and then hides the display matrix too."""
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(corners(), -turns)))
    exif = Image.Exif()
    exif[0x0112] = number
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    picture = read_video(tmp_path / "a.jpg").frames[0].astype(int)
    assert picture.shape == corners().shape
    assert np.abs(picture[6, 6] - corners()[6, 6]).max() < 20
    assert np.abs(picture[6, -6] - corners()[6, -6]).max() < 20


def test_a_late_first_picture_of_a_transport_stream(tmp_path: Path) -> None:
    """A quarter of a minute of sound comes first; its picture is still found and counted."""
    times = [15 + time for time in STEADY]
    video = read_video(write_scene(tmp_path / "a.ts", times, sound=(0, 19)))
    assert (video.total_frames, video.warnings) == (40, ())
    assert video.timestamps[0] == pytest.approx(15.0, abs=0.03)


def test_a_group_of_pictures_as_long_as_the_file(tmp_path: Path) -> None:
    video = read_video(numbered(tmp_path / "a.mkv", 900, g="9999"), fps=0.1)
    assert (video.indices, video.warnings) == ((0, 300, 600, 899), ())
    assert seen(video.frames) == [index % PERIOD for index in video.indices]


def test_names_that_are_not_text_can_be_printed(tmp_path: Path) -> None:
    name = os.fsdecode(b"bad\xff.mp4")
    clip = write_clip(tmp_path / "a.mp4", [grey(number) for number in range(30)])
    (tmp_path / name).write_bytes(clip.read_bytes())
    assert read_video(tmp_path / name).total_frames == 30
    data = numbered(tmp_path / "a.mkv", 90).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_video(tmp_path / name)
    messages = [str(warning.message) for warning in caught]
    missing, empty = os.fsdecode(b"bad\xfe.mp4"), os.fsdecode(b"none\xff.srt")
    (tmp_path / empty).touch()
    for read in (read_video, read_subtitles):
        for wrong in (missing, empty, name, "."):
            with pytest.raises(VideoError) as error:
                read(tmp_path / wrong) if read is read_subtitles or wrong != name else read(
                    "\udcff"
                )
            messages.append(str(error.value))
    assert len(messages) == 9
    for message in messages:
        message.encode("utf-8")
    assert "bad\\udcff.mp4" in messages[0]
