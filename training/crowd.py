"""Frames full of digits: one frame teaches the tower as much as six ordinary ones."""

from __future__ import annotations

import dataclasses

import numpy as np

from sttm.nano.clips import COLOUR_NAMES, NEEDLE_SIZES, Clip, Needle
from sttm.nano.glyphs import LETTERS, glyph_mask, glyph_width, stamp
from sttm.nano.palette import COLOURS


def crowd(
    clip: Clip,
    rng: np.random.Generator,
    side: int = 3,
    sizes: tuple[int, ...] = NEEDLE_SIZES,
) -> Clip:
    """Fill every frame with up to nine digits, so that one frame teaches more.

    Each of the ``side * side`` parts of a frame holds a digit (75 %), a letter (15 %) or nothing.
    """
    frames, canvas = clip.frames.copy(), clip.frames.shape[1]
    part = canvas // side
    needles = []
    for t, y, x in np.ndindex(len(frames), side, side):
        kind = rng.random()
        if kind > 0.9:
            continue
        size = sizes[int(rng.integers(len(sizes)))]
        left = x * part + int(rng.integers(part - glyph_width(size)))
        top = y * part + int(rng.integers(part - size))
        colour = COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]
        red, green, blue = (c + int(rng.integers(-18, 19)) for c in COLOURS[colour])
        shade = (min(max(red, 0), 255), min(max(green, 0), 255), min(max(blue, 0), 255))
        digit = int(rng.integers(10))
        name = str(digit) if kind < 0.75 else sorted(LETTERS)[int(rng.integers(len(LETTERS)))]
        stamp(frames[t], glyph_mask(name, size), shade, top=top, left=left)
        if kind < 0.75:
            needles.append(Needle(digit, colour, t, 1, left, top, size, canvas))
    return dataclasses.replace(clip, frames=frames, needles=tuple(needles))
