"""Generated "needle in a video" clips: coloured digits over a moving background.

A clip is a pure function of its seed and arguments (PCG64, whole numbers only), so accuracy
on "held-out seeds 10000 to 10099" means the same clips on every machine.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from sttm.nano.backdrop import Backdrop, Landmark
from sttm.nano.background import TEXTURES, Shot, draw_shot
from sttm.nano.chance import add_noise, between, pick, shade
from sttm.nano.glyphs import (
    LETTERS,
    SHAPES,
    Image,
    glyph_mask,
    glyph_width,
    shape_mask,
    stamp,
)
from sttm.nano.mp4 import write_clip
from sttm.nano.palette import COLOUR_NAMES, COLOURS, RGB

__all__ = ["COLOUR_NAMES", "QUADRANTS", "Clip", "Distractor", "Needle", "make_clip", "write_clip"]

QUADRANTS: tuple[str, ...] = ("top left", "top right", "bottom left", "bottom right")
NEEDLE_SIZES: tuple[int, ...] = (21, 24, 28)  # heights in a frame of 128 pixels
MAX_NEEDLES = 4  # one per quadrant, so that needles shown together never overlap


@dataclass(frozen=True)
class Needle:
    """A digit that stands still inside one quadrant: for one or two frames, in scenes also longer.

    Attributes:
        digit: 0 to 9.
        colour: one of COLOUR_NAMES.
        start: first frame in which it is visible.
        length: frames for which it is visible.
        x: left edge of the glyph, pixels.
        y: top edge of the glyph, pixels.
        size: height of the glyph, pixels; its width is 5/7 of that.
        canvas: side of the square frame, pixels.
    """

    digit: int
    colour: str
    start: int
    length: int
    x: int
    y: int
    size: int
    canvas: int = 128

    @property
    def quadrant(self) -> str:
        """The quarter of the frame that holds the glyph's centre: one of QUADRANTS."""
        right = 2 * self.x + glyph_width(self.size) > self.canvas
        bottom = 2 * self.y + self.size > self.canvas
        return QUADRANTS[2 * bottom + right]

    @property
    def end(self) -> int:
        """The first frame in which it is no longer visible."""
        return self.start + self.length


@dataclass(frozen=True)
class Distractor:
    """A coloured shape or a letter: anything that is not a digit.

    Attributes:
        kind: a name of ``glyphs.SHAPES`` or a capital letter of ``glyphs.LETTERS``.
        colour: one of COLOUR_NAMES.
        start, length: frames in which it may be seen.
        x, y: left and top edge in frame ``start``, pixels; may lie outside the frame.
        size: height, pixels.
        step: pixels (dx, dy) it moves per frame.
    """

    kind: str
    colour: str
    start: int
    length: int
    x: int
    y: int
    size: int
    step: tuple[int, int]


@dataclass(frozen=True)
class Clip:
    """A generated video and everything that is true about it.

    Attributes:
        frames: uint8 RGB ``(T, H, W, 3)``.
        needles: by first frame.
        fps: frames per second at which it is meant to be played.
        seed: the seed that made it.
        shots: backgrounds in order; ``cuts`` follows from them.
        distractors: what else is drawn, below the needles.
        noise: amplitude of the sensor noise, grey levels.
        kind: a name of ``scenes.SCENE_KINDS``; empty for clips of ``make_clip``.
        backdrops: of a scene, instead of ``shots``: backgrounds that have names.
        landmarks: of a scene: at most one white shape in each backdrop.
    """

    frames: Image = field(repr=False)
    needles: tuple[Needle, ...]
    fps: float
    seed: int
    shots: tuple[Shot, ...] = ()
    distractors: tuple[Distractor, ...] = ()
    noise: int = 0
    kind: str = ""
    backdrops: tuple[Backdrop, ...] = ()
    landmarks: tuple[Landmark, ...] = ()

    @property
    def cuts(self) -> tuple[int, ...]:
        """Frames at which a new background begins (the first one does not count)."""
        return tuple(part.start for part in (self.shots or self.backdrops)[1:])


def make_clip(
    seed: int,
    frames: int = 32,
    *,
    size: int = 128,
    fps: float = 1.0,
    num_needles: int | None = None,
) -> Clip:
    """Make a clip of ``frames`` square frames.

    Args:
        seed: any non-negative integer; the same seed and arguments give the same bytes.
        frames: length of the clip, at least 1.
        size: side of a frame in pixels, at least 64. nano was trained at 128.
        fps: playing speed, written into the clip and used by ``write_clip``.
        num_needles: 0 to 4; None draws 1 to 3. Digits and colours in a clip are all different.

    Returns:
        the clip with its needles sorted by first frame.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(seed, frames, size, num_needles)
    rng = np.random.Generator(np.random.PCG64(seed))
    if num_needles is None:
        num_needles = int(pick(rng, (1, 1, 2, 2, 2, 3, 3, 3)))
    needles = _place_needles(rng, frames, size, num_needles)
    shots = _plan_shots(rng, frames)
    distractors = _place_distractors(rng, frames, size)
    noise = int(pick(rng, (0, 0, 3, 6)))
    pixels = np.concatenate([draw_shot(shot, size, rng) for shot in shots])
    draw_distractors(pixels, distractors, rng)
    if noise:
        add_noise(pixels, noise, rng)
    draw_needles(pixels, needles, rng)
    return Clip(pixels, needles, fps, seed, shots, distractors, noise)


def _check(seed: int, frames: int, size: int, num_needles: int | None) -> None:
    if seed < 0:
        raise ValueError(f"got seed={seed}, expected an integer >= 0; pass a non-negative seed")
    if frames < 1:
        raise ValueError(f"got frames={frames}, expected at least 1; ask for one frame or more")
    if size < 64:
        raise ValueError(f"got size={size}, expected at least 64 pixels; nano reads size=128")
    if num_needles is not None and not 0 <= num_needles <= MAX_NEEDLES:
        raise ValueError(
            f"got num_needles={num_needles}, expected 0 to {MAX_NEEDLES}; "
            "pass None for a random number"
        )


def _place_needles(
    rng: np.random.Generator, frames: int, size: int, count: int
) -> tuple[Needle, ...]:
    digits = rng.permutation(10)[:count]
    colours = rng.permutation(len(COLOUR_NAMES))[:count]
    spans = []
    for _ in range(count):
        length = between(rng, 1, min(2, frames))
        spans.append((between(rng, 0, frames - length), length))
    needles: list[Needle] = []
    for digit, colour, (start, length) in zip(digits, colours, sorted(spans), strict=True):
        together = {n.quadrant for n in needles if n.start < start + length and start < n.end}
        quadrant = pick(rng, [q for q in QUADRANTS if q not in together])
        height = size * pick(rng, NEEDLE_SIZES) // 128
        half, margin = size // 2, 2
        x = between(rng, margin, half - margin - glyph_width(height))
        y = between(rng, margin, half - margin - height)
        x += half * quadrant.endswith("right")
        y += half * quadrant.startswith("bottom")
        name = COLOUR_NAMES[int(colour)]
        needles.append(Needle(int(digit), name, start, length, x, y, height, size))
    return tuple(needles)


def _plan_shots(rng: np.random.Generator, frames: int) -> tuple[Shot, ...]:
    cuts = {0}
    for _ in range(between(rng, 0, min(3, frames // 4))):
        cuts.add(between(rng, 1, frames - 1))
    starts = [*sorted(cuts), frames]
    shots = []
    for start, end in itertools.pairwise(starts):
        grey = between(rng, 50, 190)
        near = _muted(rng, grey)
        far = _muted(rng, min(max(grey + between(rng, -40, 40), 40), 200))
        still = between(rng, 0, 9) < 4
        pan = (0, 0) if still else (between(rng, -4, 4), between(rng, -3, 3))
        texture = pick(rng, tuple(TEXTURES))
        shots.append(Shot(start, end - start, near, far, texture, pan))
    return tuple(shots)


def _muted(rng: np.random.Generator, grey: int) -> RGB:
    red, green, blue = (grey + between(rng, -26, 26) for _ in range(3))
    return red, green, blue


def _place_distractors(rng: np.random.Generator, frames: int, size: int) -> tuple[Distractor, ...]:
    found = []
    for _ in range(between(rng, 0, 2)):  # shapes: long, moving
        length = between(rng, 1, frames)
        step = (between(rng, -3, 3), between(rng, -3, 3))
        kind = pick(rng, SHAPES)
        found.append(_distractor(rng, kind, frames, length, size, step))
    for _ in range(between(rng, 0, 1 + min(2, frames // 8))):  # letters: as brief as needles
        length = between(rng, 1, min(3, frames))
        step = (between(rng, -1, 1), between(rng, -1, 1))
        kind = pick(rng, tuple(LETTERS))
        found.append(_distractor(rng, kind, frames, length, size, step))
    return tuple(found)


def _distractor(
    rng: np.random.Generator, kind: str, frames: int, length: int, size: int, step: tuple[int, int]
) -> Distractor:
    return Distractor(
        kind=kind,
        colour=pick(rng, COLOUR_NAMES),
        start=between(rng, 0, frames - length),
        length=length,
        x=between(rng, -8, size - 8),
        y=between(rng, -8, size - 8),
        size=between(rng, size * 12 // 128, size * 30 // 128),
        step=step,
    )


def draw_needles(pixels: Image, needles: tuple[Needle, ...], rng: np.random.Generator) -> None:
    """Draw needles into the frames, in place, on top of everything that is there."""
    for needle in needles:
        mask = glyph_mask(str(needle.digit), needle.size)
        ink = shade(COLOURS[needle.colour], rng)
        for frame in pixels[needle.start : needle.end]:
            stamp(frame, mask, ink, top=needle.y, left=needle.x)


def draw_distractors(
    pixels: Image, distractors: tuple[Distractor, ...], rng: np.random.Generator
) -> None:
    """Draw distractors into the frames, in place."""
    for item in distractors:
        make = glyph_mask if item.kind in LETTERS else shape_mask
        mask, ink = make(item.kind, item.size), shade(COLOURS[item.colour], rng)
        for t, frame in enumerate(pixels[item.start : item.start + item.length]):
            dx, dy = item.step
            stamp(frame, mask, ink, top=item.y + dy * t, left=item.x + dx * t)
