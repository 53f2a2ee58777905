"""A 5x7 bitmap font and a few shapes, as numpy masks: no font file is needed.

Everything is integer arithmetic, so a mask is the same on every platform.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sttm.nano.palette import RGB

Mask = NDArray[np.bool_]
Image = NDArray[np.uint8]

GLYPH_ROWS = 7
GLYPH_COLUMNS = 5

DIGITS: dict[str, str] = {
    "0": ".###. #...# #...# #...# #...# #...# .###.",
    "1": "..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###.",
    "2": ".###. #...# ....# ...#. ..#.. .#... #####",
    "3": "#####  ...#. ..#.. ...#. ....# #...# .###.",
    "4": "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "5": "##### #.... ####. ....# ....# #...# .###.",
    "6": "..##. .#... #.... ####. #...# #...# .###.",
    "7": "##### ....# ...#. ..#.. .#... .#... .#...",
    "8": ".###. #...# #...# .###. #...# #...# .###.",
    "9": ".###. #...# #...# .#### ....# ...#. .##..",
}
# Letters that look like a digit (B, D, G, I, O, Q, S, Z) are left out on purpose.
LETTERS: dict[str, str] = {
    "A": ".###. #...# #...# ##### #...# #...# #...#",
    "E": "##### #.... #.... ####. #.... #.... #####",
    "F": "##### #.... #.... ####. #.... #.... #....",
    "H": "#...# #...# #...# ##### #...# #...# #...#",
    "K": "#...# #..#. #.#.. ##... #.#.. #..#. #...#",
    "L": "#.... #.... #.... #.... #.... #.... #####",
    "M": "#...# ##.## #.#.# #.#.# #...# #...# #...#",
    "N": "#...# ##..# #.#.# #..## #...# #...# #...#",
    "P": "####. #...# #...# ####. #.... #.... #....",
    "T": "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..",
    "U": "#...# #...# #...# #...# #...# #...# .###.",
    "V": "#...# #...# #...# #...# #...# .#.#. ..#..",
    "X": "#...# #...# .#.#. ..#.. .#.#. #...# #...#",
    "Y": "#...# #...# .#.#. ..#.. ..#.. ..#.. ..#..",
}
SHAPES: tuple[str, ...] = ("disk", "ring", "square", "triangle", "cross")

_FONT: dict[str, Mask] = {
    name: np.array([[c == "#" for c in row] for row in rows.split()], dtype=np.bool_)
    for name, rows in {**DIGITS, **LETTERS}.items()
}


def glyph_width(height: int) -> int:
    """Width in pixels of a glyph of this height: 5/7 of it, rounded, at least 1."""
    return max(1, (2 * height * GLYPH_COLUMNS + GLYPH_ROWS) // (2 * GLYPH_ROWS))


def glyph_mask(name: str, height: int) -> Mask:
    """One character of the font, enlarged to ``height`` pixels.

    Args:
        name: a key of DIGITS or LETTERS.
        height: pixels, at least 7; the width is ``glyph_width(height)``.

    Returns:
        bool ``(height, width)``, True where there is ink.
    """
    rows = np.arange(height) * GLYPH_ROWS // height
    width = glyph_width(height)
    columns = np.arange(width) * GLYPH_COLUMNS // width
    return _FONT[name][rows][:, columns]


def shape_mask(name: str, height: int) -> Mask:
    """One of SHAPES in a square of ``height`` pixels: bool ``(height, height)``."""
    y, x = np.mgrid[0:height, 0:height] * 2 - (height - 1)  # doubled, so the centre is whole
    radius = height
    if name == "disk":
        return np.asarray(x * x + y * y <= radius * radius)
    if name == "ring":
        square = x * x + y * y
        return np.asarray((square <= radius * radius) & (4 * square >= radius * radius))
    if name == "square":
        return np.ones((height, height), dtype=np.bool_)
    if name == "triangle":
        return np.asarray(2 * np.abs(x) <= y + radius)
    return np.asarray((3 * np.abs(x) <= radius) | (3 * np.abs(y) <= radius))


def stamp(frame: Image, mask: Mask, colour: RGB, *, top: int, left: int) -> None:
    """Draw a mask with a dark outline one pixel wide into ``frame``, in place.

    Args:
        frame: uint8 ``(H, W, 3)``, written to; parts outside it are cut off.
        mask: bool ``(h, w)``.
        colour: the ink.
        top: row of the mask's corner, pixels; may be negative.
        left: its column.
    """
    ink = np.pad(mask, 1)
    outline = ink.copy()
    outline[1:] |= ink[:-1]
    outline[:-1] |= ink[1:]
    outline[:, 1:] |= ink[:, :-1]
    outline[:, :-1] |= ink[:, 1:]
    y, x = top - 1, left - 1
    rows = slice(max(y, 0), max(min(y + ink.shape[0], frame.shape[0]), 0))
    columns = slice(max(x, 0), max(min(x + ink.shape[1], frame.shape[1]), 0))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    inner = (
        slice(rows.start - y, rows.stop - y),
        slice(columns.start - x, columns.stop - x),
    )
    region = frame[rows, columns]
    region[outline[inner]] = 16
    region[ink[inner]] = colour
