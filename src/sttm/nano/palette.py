"""The six colours of needles and distractors."""

from __future__ import annotations

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (222, 40, 40),
    "green": (40, 182, 58),
    "blue": (48, 80, 230),
    "yellow": (236, 216, 48),
    "purple": (172, 48, 204),
    "cyan": (40, 204, 218),
}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
