"""Generated scenes: needles of many sizes and lengths over backgrounds that can be named.

``make_clip`` hides brief needles in a background that means nothing. A scene asks more: a needle
may be small and stand still from the first frame to the last, or be large and gone at once, and the
background is part of the questions (its colour and pattern at the start and at the end, the
pan, the side of a white landmark on which a needle stands). No single idea of what matters in a
video, such as "what changes" or "what is rare", finds all of it.
"""

from __future__ import annotations

import itertools

import numpy as np

from sttm.nano.backdrop import (
    BACKDROP_COLOURS,
    DIRECTIONS,
    PATTERNS,
    Backdrop,
    Landmark,
    draw_backdrop,
    draw_landmark,
)
from sttm.nano.chance import add_noise, between, pick
from sttm.nano.clips import (
    COLOUR_NAMES,
    NEEDLE_SIZES,
    QUADRANTS,
    Clip,
    Distractor,
    Needle,
    draw_distractors,
    draw_needles,
)
from sttm.nano.glyphs import LETTERS, SHAPES, glyph_width

FIRST_SEED = 50_000_000  # scenes from here on are in no training of nano and no report of it
SCENE_KINDS: tuple[str, ...] = ("static", "pan", "texture", "cut")
LARGE_SIZES: tuple[int, ...] = (40, 48)  # heights of large needles in a frame of 128 pixels
TEMPOS: tuple[str, ...] = ("brief", "long", "whole", "mixed")
TRIES = 40  # to find a place for a landmark beside the needles

Box = tuple[int, int, int, int]  # left, top, width, height
Span = tuple[int, int]  # first frame, frames


def make_scene(seed: int, frames: int, *, kind: str | None = None) -> Clip:
    """Make a scene of ``frames`` frames of 128 x 128 pixels, one frame per second.

    Args:
        seed: any non-negative integer; the same seed and arguments give the same bytes.
        frames: length of the clip, at least 1.
        kind: one of SCENE_KINDS; None draws one. "static": nothing moves but needles and
            distractors. "pan": the camera moves steadily in one of four directions. "texture":
            a pattern of strong contrast under strong sensor noise. "cut": two or three
            backgrounds, some of them panned over.

    Returns:
        the clip; ``kind``, ``backdrops``, ``landmarks`` and ``needles`` say what it shows.

    Raises:
        ValueError: an argument is out of range.
    """
    if seed < 0:
        raise ValueError(f"got seed={seed}, expected an integer >= 0; pass a non-negative seed")
    if frames < 1:
        raise ValueError(f"got frames={frames}, expected at least 1; ask for one frame or more")
    if kind is not None and kind not in SCENE_KINDS:
        known = ", ".join(SCENE_KINDS)
        raise ValueError(f"got kind={kind!r}, expected one of {known}; or None to draw one")
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = pick(rng, SCENE_KINDS)
    kind = kind or drawn
    size = 128
    backdrops = _plan_backdrops(rng, frames, kind)
    needles = _place_needles(rng, frames, size)
    landmarks = _place_landmarks(rng, backdrops, needles, size)
    distractors = _place_distractors(rng, frames, size)
    noise = pick(rng, (5, 8)) if kind == "texture" else pick(rng, (0, 0, 3, 5))
    pixels = np.concatenate([draw_backdrop(backdrop, size, rng) for backdrop in backdrops])
    draw_distractors(pixels, distractors, rng)
    for landmark in landmarks:
        home = next(b for b in backdrops if b.start == landmark.start)
        draw_landmark(pixels, landmark, home)
    if noise:
        add_noise(pixels, noise, rng)
    draw_needles(pixels, needles, rng)
    return Clip(
        pixels,
        needles,
        1.0,
        seed,
        distractors=distractors,
        noise=noise,
        kind=kind,
        backdrops=backdrops,
        landmarks=landmarks,
    )


def _plan_backdrops(rng: np.random.Generator, frames: int, kind: str) -> tuple[Backdrop, ...]:
    colours = rng.permutation(len(BACKDROP_COLOURS))
    patterns = rng.permutation(len(PATTERNS))
    if kind == "texture":
        patterns = patterns[patterns != PATTERNS.index("plain")]
    edges = [0, frames]
    if kind == "cut" and frames > 1:
        parts = between(rng, 2, 3 if frames >= 6 else 2)
        least = max(1, frames // 6)  # frames of each part
        spare = sorted(between(rng, 0, frames - parts * least) for _ in range(parts - 1))
        edges[1:1] = [least * (i + 1) + extra for i, extra in enumerate(spare)]
    backdrops = []
    for i, (start, end) in enumerate(itertools.pairwise(edges)):
        moves = kind == "pan" or (kind == "cut" and between(rng, 0, 2) == 0)
        direction = pick(rng, DIRECTIONS) if moves and end - start > 1 else "still"
        travel = 0 if direction == "still" else between(rng, 40, 64)
        amplitude = between(rng, 30, 42) if kind == "texture" else between(rng, 18, 28)
        colour = tuple(BACKDROP_COLOURS)[int(colours[i])]
        pattern = PATTERNS[int(patterns[i])]
        backdrops.append(
            Backdrop(start, end - start, colour, pattern, amplitude, direction, travel)
        )
    return tuple(backdrops)


def _place_needles(rng: np.random.Generator, frames: int, size: int) -> tuple[Needle, ...]:
    """One to three needles, all brief, all long, all there from start to end, or mixed."""
    count = between(rng, 1, 3)
    tempo = pick(rng, TEMPOS)
    spans = _spans(rng, frames, count, tempo)
    digits = rng.permutation(10)[:count]
    colours = rng.permutation(len(COLOUR_NAMES))[:count]
    needles: list[Needle] = []
    for digit, colour, (start, length) in zip(digits, colours, spans, strict=True):
        together = {n.quadrant for n in needles if n.start < start + length and start < n.end}
        quadrant = pick(rng, [q for q in QUADRANTS if q not in together])
        brief = length <= 2
        height = pick(rng, NEEDLE_SIZES + LARGE_SIZES if brief else NEEDLE_SIZES)
        half, margin = size // 2, 2
        x = between(rng, margin, half - margin - glyph_width(height))
        y = between(rng, margin, half - margin - height)
        x += half * quadrant.endswith("right")
        y += half * quadrant.startswith("bottom")
        name = COLOUR_NAMES[int(colour)]
        needles.append(Needle(int(digit), name, start, length, x, y, height, size))
    return tuple(needles)


def _spans(rng: np.random.Generator, frames: int, count: int, tempo: str) -> list[Span]:
    """When the needles are visible, by first frame."""
    spans: list[Span] = []
    in_turn = tempo == "long" and count <= frames and between(rng, 0, 1) == 1
    for i in range(count):
        own = pick(rng, TEMPOS[:3]) if tempo == "mixed" else tempo
        first, end = (i * frames // count, (i + 1) * frames // count) if in_turn else (0, frames)
        room = end - first
        if own == "whole":
            spans.append((0, frames))
            continue
        if own == "brief":
            length = between(rng, 1, min(2, room))
        elif in_turn:
            length = between(rng, (room + 1) // 2, room)
        else:
            length = between(rng, max(1, room // 4), max(1, room // 2))
        spans.append((first + between(rng, 0, room - length), length))
    return sorted(spans)


def _place_landmarks(
    rng: np.random.Generator,
    backdrops: tuple[Backdrop, ...],
    needles: tuple[Needle, ...],
    size: int,
) -> tuple[Landmark, ...]:
    """A landmark for each backdrop, clear of the needles where the camera stands still."""
    found = []
    for backdrop in backdrops:
        shown = [n for n in needles if n.start < backdrop.end and backdrop.start < n.end]
        boxes = [(n.x, n.y, glyph_width(n.size), n.size) for n in shown]
        for _ in range(TRIES):
            side = between(rng, 34, 42)
            x, y = between(rng, 2, size - 2 - side), between(rng, 2, size - 2 - side)
            dx, dy = backdrop.camera(backdrop.end - 1)
            x, y = x + dx // 2, y + dy // 2
            box = (x, y, side, side)
            if backdrop.travel or not any(_touch(box, other, 4) for other in boxes):
                shape = pick(rng, SHAPES)
                found.append(Landmark(shape, backdrop.start, backdrop.length, x, y, side))
                break
    return tuple(found)


def _touch(one: Box, other: Box, gap: int) -> bool:
    across = one[0] < other[0] + other[2] + gap and other[0] < one[0] + one[2] + gap
    return across and one[1] < other[1] + other[3] + gap and other[1] < one[1] + one[3] + gap


def _place_distractors(rng: np.random.Generator, frames: int, size: int) -> tuple[Distractor, ...]:
    """Up to two letters, brief or there for long, and sometimes a moving shape."""
    found = []
    for _ in range(between(rng, 0, 2)):
        brief = between(rng, 0, 1) == 1
        length = between(rng, 1, min(2, frames)) if brief else between(rng, 1, frames)
        found.append(_distractor(rng, pick(rng, tuple(LETTERS)), frames, length, size, (0, 0)))
    if between(rng, 0, 3) == 0:
        step = (between(rng, -3, 3), between(rng, -3, 3))
        length = between(rng, 1, frames)
        found.append(_distractor(rng, pick(rng, SHAPES), frames, length, size, step))
    return tuple(found)


def _distractor(
    rng: np.random.Generator, kind: str, frames: int, length: int, size: int, step: tuple[int, int]
) -> Distractor:
    return Distractor(
        kind=kind,
        colour=pick(rng, COLOUR_NAMES),
        start=between(rng, 0, frames - length),
        length=length,
        x=between(rng, 0, size - 20),
        y=between(rng, 0, size - 28),
        size=between(rng, 18, 28),
        step=step,
    )


def relation(needle: Needle, landmark: Landmark) -> str | None:
    """On which side of a landmark a needle stands.

    Returns:
        "left", "right", "above" or "below"; None where two of them fit about as well: the longer of
        the two distances between the centres must be 3/2 of the shorter.
    """
    dx = 2 * needle.x + glyph_width(needle.size) - 2 * landmark.x - landmark.size
    dy = 2 * needle.y + needle.size - 2 * landmark.y - landmark.size
    if 2 * abs(dx) >= 3 * abs(dy) and dx:
        return "right" if dx > 0 else "left"
    if 2 * abs(dy) >= 3 * abs(dx) and dy:
        return "below" if dy > 0 else "above"
    return None
