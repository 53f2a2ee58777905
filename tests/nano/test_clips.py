from __future__ import annotations

import hashlib
import io
import json

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.nano.clips import COLOUR_NAMES, QUADRANTS, Clip, Needle, make_clip, write_clip
from sttm.nano.glyphs import DIGITS, LETTERS, SHAPES, glyph_mask, glyph_width, shape_mask, stamp
from sttm.nano.palette import COLOURS


def digest(clip: Clip) -> str:
    facts = repr((clip.needles, clip.shots, clip.distractors, clip.noise)).encode()
    return hashlib.sha256(clip.frames.tobytes() + facts).hexdigest()[:16]


# Changing the generator changes what every published accuracy was measured on: new numbers are
# needed then, not only new hashes.
PINNED: dict[tuple[int, int], str] = {
    (0, 1): "67b141e8c8c27cea",
    (1, 8): "56c000dc4e0fae7d",
    (2, 32): "652ba789e5f296a2",
    (20_000_000, 16): "8bbc04c694ea4293",
}


@pytest.mark.parametrize(("seed", "frames"), sorted(PINNED))
def test_bytes_of_a_seed_are_pinned(seed: int, frames: int) -> None:
    assert digest(make_clip(seed, frames)) == PINNED[seed, frames]


def test_same_arguments_same_clip_and_other_seed_other_clip() -> None:
    assert digest(make_clip(5, 4)) == digest(make_clip(5, 4))
    assert digest(make_clip(5, 4)) != digest(make_clip(6, 4))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    frames=st.integers(1, 20),
    size=st.sampled_from([64, 100, 128]),
    needles=st.sampled_from([None, 0, 1, 2, 3, 4]),
)
def test_needles_lie_in_one_quadrant_and_differ(
    seed: int, frames: int, size: int, needles: int | None
) -> None:
    clip = make_clip(seed, frames, size=size, num_needles=needles)
    assert clip.frames.shape == (frames, size, size, 3)
    assert clip.frames.dtype == np.uint8
    if needles is not None:
        assert len(clip.needles) == needles
    assert len({n.digit for n in clip.needles}) == len(clip.needles)
    assert len({n.colour for n in clip.needles}) == len(clip.needles)
    assert [n.start for n in clip.needles] == sorted(n.start for n in clip.needles)
    for n in clip.needles:
        assert n.length in (1, 2)
        assert 0 <= n.start < n.end <= frames
        assert n.x >= 0
        assert n.x + glyph_width(n.size) <= size
        assert n.y >= 0
        assert n.y + n.size <= size
        halves = {2 * n.x >= size, 2 * (n.x + glyph_width(n.size)) > size}
        assert len(halves) == 1, "the glyph crosses the middle"
        assert n.quadrant in QUADRANTS
    shown = [(t, n.quadrant) for n in clip.needles for t in range(n.start, n.end)]
    assert len(shown) == len(set(shown)), "two needles in one quadrant of one frame"


def test_needle_pixels_are_drawn_in_their_colour() -> None:
    clip = make_clip(11, 12, num_needles=4)
    for n in clip.needles:
        mask = glyph_mask(str(n.digit), n.size)
        box = clip.frames[n.start, n.y : n.y + n.size, n.x : n.x + glyph_width(n.size)]
        ink = np.median(box[mask].astype(int), axis=0)
        assert np.abs(ink - COLOURS[n.colour]).max() <= 18


def test_context_is_recorded() -> None:
    clip = make_clip(3, 32)
    assert sum(shot.length for shot in clip.shots) == 32
    assert clip.shots[0].start == 0
    assert clip.cuts == tuple(shot.start for shot in clip.shots[1:])
    kinds = {shot.direction for s in range(30) for shot in make_clip(s, 8).shots}
    assert kinds >= {"still", "left", "right"}
    textures = {shot.texture for s in range(30) for shot in make_clip(s, 8).shots}
    assert textures == {"flat", "soft", "rough", "heavy"}


def test_a_panning_shot_moves_and_a_still_one_does_not() -> None:
    clips = [make_clip(s, 6, size=64, num_needles=0) for s in range(300)]
    quiet = [c for c in clips if not c.distractors and not c.noise and len(c.shots) == 1]
    still = [c for c in quiet if c.shots[0].direction == "still"]
    moving = [c for c in quiet if c.shots[0].direction != "still"]
    assert still
    assert moving
    assert all(np.array_equal(c.frames[0], c.frames[-1]) for c in still)
    assert all(not np.array_equal(c.frames[0], c.frames[-1]) for c in moving)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0, "frames": 0}, "frames=0"),
        ({"seed": 0, "size": 32}, "size=32"),
        ({"seed": 0, "num_needles": 5}, "num_needles=5"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_clip(**arguments)


def decoded(file: io.BytesIO) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    file.seek(0)
    with av.open(file) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize("fps", [1.0, 2.0, 29.97])
def test_an_mp4_holds_every_frame_nearly_unchanged(fps: float) -> None:
    clip = make_clip(4, 9, fps=fps)
    file = io.BytesIO()
    write_clip(clip, file)
    frames = decoded(file)
    assert frames.shape == clip.frames.shape
    assert np.abs(frames.astype(int) - clip.frames).mean() < 8
    file.seek(0)
    with av.open(file) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate or 0) == pytest.approx(fps, rel=1e-3)


def test_an_mp4_is_written_to_a_path(tmp_path: object) -> None:
    path = f"{tmp_path}/clip.mp4"
    write_clip(make_clip(4, 3), path)
    with open(path, "rb") as file:  # noqa: PTH123
        assert decoded(io.BytesIO(file.read())).shape == (3, 128, 128, 3)


def test_odd_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        write_clip(make_clip(0, 2, size=65), io.BytesIO())


def test_quadrants_of_the_four_corners() -> None:
    corners = [Needle(1, "red", 0, 1, x, y, 20) for y in (5, 100) for x in (5, 100)]
    assert tuple(n.quadrant for n in corners) == QUADRANTS


def test_glyphs_are_all_different_and_no_letter_is_a_digit() -> None:
    masks = {name: glyph_mask(name, 7).tobytes() for name in (*DIGITS, *LETTERS)}
    assert len(set(masks.values())) == len(masks)
    assert all(shape_mask(name, 15).any() for name in SHAPES)
    assert not set("BDGIOQSZ") & set(LETTERS)


def test_stamp_is_cut_off_at_the_border_and_keeps_outside_frames() -> None:
    frame = np.zeros((20, 20, 3), dtype=np.uint8)
    stamp(frame, np.ones((6, 6), dtype=np.bool_), (200, 100, 50), top=-3, left=17)
    assert frame.any()
    before = frame.copy()
    stamp(frame, np.ones((6, 6), dtype=np.bool_), (200, 100, 50), top=40, left=-30)
    assert np.array_equal(frame, before)


def test_metadata_is_plain_data() -> None:
    clip = make_clip(9, 8)
    facts = [n.__dict__ for n in clip.needles] + [d.__dict__ for d in clip.distractors]
    assert json.loads(json.dumps(facts))
    assert all(d.colour in COLOUR_NAMES for d in clip.distractors)
