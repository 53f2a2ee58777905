"""Moving, textured backgrounds, in integer arithmetic (the same bytes on every platform)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sttm.nano.glyphs import Image
from sttm.nano.palette import RGB

# name -> amplitudes (grey levels) of the noise octaves with cells of size/4, size/16, size/32
TEXTURES: dict[str, tuple[int, int, int]] = {
    "flat": (3, 0, 0),
    "soft": (34, 0, 0),
    "rough": (28, 22, 0),
    "heavy": (22, 30, 26),
}


@dataclass(frozen=True)
class Shot:
    """The background between two cuts.

    Attributes:
        start: first frame.
        length: frames.
        colour: mean colour of the left edge; muted, so that needles stand out.
        far_colour: mean colour of the right edge (a horizontal gradient leads there).
        texture: a key of TEXTURES.
        pan: pixels per frame (dx, dy) by which the camera moves; (0, 0) is a static shot.
    """

    start: int
    length: int
    colour: RGB
    far_colour: RGB
    texture: str
    pan: tuple[int, int]

    @property
    def direction(self) -> str:
        """Where the camera moves: "still", "left", "right", "up" or "down" (the longer axis)."""
        dx, dy = self.pan
        if dx == 0 and dy == 0:
            return "still"
        if abs(dx) >= abs(dy):
            return "right" if dx > 0 else "left"
        return "down" if dy > 0 else "up"


def draw_shot(shot: Shot, size: int, rng: np.random.Generator) -> Image:
    """Render a shot without needles: uint8 ``(length, size, size, 3)``."""
    dx, dy = shot.pan
    height = size + abs(dy) * (shot.length - 1)
    width = size + abs(dx) * (shot.length - 1)
    canvas = _canvas(shot, height, width, size, rng)
    frames = np.empty((shot.length, size, size, 3), dtype=np.uint8)
    for t in range(shot.length):
        top = dy * t if dy >= 0 else -dy * (shot.length - 1 - t)
        left = dx * t if dx >= 0 else -dx * (shot.length - 1 - t)
        frames[t] = canvas[top : top + size, left : left + size]
    return frames


def _canvas(shot: Shot, height: int, width: int, size: int, rng: np.random.Generator) -> Image:
    ramp = np.arange(width, dtype=np.int32)[None, :, None]
    near = np.array(shot.colour, dtype=np.int32)
    far = np.array(shot.far_colour, dtype=np.int32)
    colour = near + (far - near) * ramp // max(width - 1, 1)
    grey = np.zeros((height, width), dtype=np.int32)
    for amplitude, parts in zip(TEXTURES[shot.texture], (4, 16, 32), strict=True):
        if amplitude:
            grey += value_noise(height, width, max(size // parts, 1), amplitude, rng)
    return np.clip(colour + grey[:, :, None], 0, 255).astype(np.uint8)


def value_noise(
    height: int, width: int, cell: int, amplitude: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Smooth noise: random grid points every ``cell`` pixels, linear between them.

    Returns:
        int32 ``(height, width)`` in [-amplitude, amplitude].
    """
    shape = (height // cell + 2, width // cell + 2)
    grid = rng.integers(-amplitude, amplitude + 1, size=shape, dtype=np.int32)
    row, dy = np.divmod(np.arange(height, dtype=np.int32), cell)
    column, dx = np.divmod(np.arange(width, dtype=np.int32), cell)
    lines = grid[row] * (cell - dy)[:, None] + grid[row + 1] * dy[:, None]
    mixed = lines[:, column] * (cell - dx) + lines[:, column + 1] * dx
    return np.asarray(mixed // (cell * cell), dtype=np.int32)
