"""Whole random numbers for the clip generators: the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from sttm.nano.glyphs import Image
from sttm.nano.palette import RGB

Option = TypeVar("Option")


def pick(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    """One of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def between(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number in [low, high]."""
    return int(rng.integers(low, high + 1))


def shade(colour: RGB, rng: np.random.Generator, spread: int = 18) -> RGB:
    """A colour near this one: each channel moves by at most ``spread``."""
    red, green, blue = (min(max(c + between(rng, -spread, spread), 0), 255) for c in colour)
    return red, green, blue


def add_noise(pixels: Image, amplitude: int, rng: np.random.Generator) -> None:
    """Add sensor noise of at most ``amplitude`` grey levels to ``(T, H, W, 3)``, in place."""
    frames, height, width, _ = pixels.shape
    shape = (height + 32, width + 32)
    plane = rng.integers(-amplitude, amplitude + 1, size=shape, dtype=np.int16)
    shifts = rng.integers(0, 33, size=(frames, 2))
    for frame, (dy, dx) in zip(pixels, shifts, strict=True):
        grain = plane[dy : dy + height, dx : dx + width, None]
        np.copyto(frame, np.clip(frame + grain, 0, 255).astype(np.uint8))
