"""Backgrounds that have a name for their colour, their pattern and their pan, and landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sttm.nano.background import value_noise
from sttm.nano.chance import between, pick, shade
from sttm.nano.glyphs import Image, shape_mask, stamp
from sttm.nano.palette import RGB

# Duller than the needles' colours, and with names of their own.
BACKDROP_COLOURS: dict[str, RGB] = {
    "grey": (128, 128, 128),
    "brown": (124, 84, 48),
    "pink": (206, 142, 160),
    "navy": (46, 52, 104),
    "olive": (116, 120, 56),
    "teal": (44, 112, 116),
}
PATTERNS: tuple[str, ...] = ("plain", "stripes", "dots", "checks", "noise")
DIRECTIONS: tuple[str, ...] = ("left", "right", "up", "down")
STEPS: dict[str, tuple[int, int]] = {
    "still": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
PERIOD = 8  # pixels, of stripes, dots and checks: a patch of nano's tower holds one period
WHITE: RGB = (240, 240, 240)


@dataclass(frozen=True)
class Backdrop:
    """The background between two cuts of a scene.

    Attributes:
        start: first frame.
        length: frames.
        colour: a key of BACKDROP_COLOURS.
        pattern: one of PATTERNS.
        amplitude: of the pattern, grey levels.
        direction: where the camera moves: a key of STEPS.
        travel: pixels by which it moves from the first to the last frame.
    """

    start: int
    length: int
    colour: str
    pattern: str
    amplitude: int
    direction: str = "still"
    travel: int = 0

    @property
    def end(self) -> int:
        """The first frame after it."""
        return self.start + self.length

    def camera(self, frame: int) -> tuple[int, int]:
        """Where the camera is in this frame of the clip: pixels (dx, dy) from where it began."""
        gone = self.travel * (frame - self.start) // max(self.length - 1, 1)
        dx, dy = STEPS[self.direction]
        return dx * gone, dy * gone


@dataclass(frozen=True)
class Landmark:
    """A white shape that belongs to the world: it moves against the camera.

    Attributes:
        shape: a name of ``glyphs.SHAPES``.
        start: first frame in which it may be seen.
        length: frames.
        x: left edge in frame ``start``, pixels; may lie outside the frame in a pan.
        y: top edge in frame ``start``, pixels.
        size: width and height, pixels.
    """

    shape: str
    start: int
    length: int
    x: int
    y: int
    size: int


def draw_backdrop(backdrop: Backdrop, size: int, rng: np.random.Generator) -> Image:
    """Render a backdrop alone: uint8 ``(length, size, size, 3)``."""
    across, along = STEPS[backdrop.direction]
    width = size + abs(across) * backdrop.travel
    height = size + abs(along) * backdrop.travel
    base = np.array(shade(BACKDROP_COLOURS[backdrop.colour], rng, 9), dtype=np.int32)
    light = value_noise(height, width, size // 2, 6, rng) + value_noise(height, width, 8, 3, rng)
    light += _pattern(backdrop.pattern, backdrop.amplitude, height, width, rng)
    canvas = np.clip(base + light[:, :, None], 0, 255).astype(np.uint8)
    frames = np.empty((backdrop.length, size, size, 3), dtype=np.uint8)
    for t in range(backdrop.length):
        dx, dy = backdrop.camera(backdrop.start + t)
        left = dx + backdrop.travel * (across < 0)
        top = dy + backdrop.travel * (along < 0)
        frames[t] = canvas[top : top + size, left : left + size]
    return frames


def _pattern(
    name: str, amplitude: int, height: int, width: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Light and dark of a pattern: int32 ``(height, width)`` in [-amplitude, amplitude]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int32)
    phase = between(rng, 0, PERIOD - 1)
    if name == "noise":
        return value_noise(height, width, 3, 2 * amplitude, rng)
    if name == "stripes":
        along = pick(rng, (x, y, x + y, x - y))
        bright = (along + phase) // 4 % 2 == 0
    elif name == "checks":
        bright = ((x + phase) // 4 + y // 4) % 2 == 0
    elif name == "dots":
        u, v = 2 * ((x + phase) % PERIOD) - PERIOD + 1, 2 * (y % PERIOD) - PERIOD + 1
        bright = (u * u + v * v <= 26) ^ (between(rng, 0, 1) == 1)
    else:
        return np.zeros((height, width), dtype=np.int32)
    return np.where(bright, amplitude, -amplitude).astype(np.int32)


def draw_landmark(pixels: Image, landmark: Landmark, backdrop: Backdrop) -> None:
    """Draw a landmark into the frames of the clip, in place."""
    mask = shape_mask(landmark.shape, landmark.size)
    for t in range(landmark.start, landmark.start + landmark.length):
        dx, dy = backdrop.camera(t)
        stamp(pixels[t], mask, WHITE, top=landmark.y - dy, left=landmark.x - dx)
