"""Per-cell labels of a clip, for the linear heads that are trained with the tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sttm.nano.clips import COLOUR_NAMES, QUADRANTS, Clip, Needle
from sttm.nano.glyphs import glyph_width
from training.model import GRID

IGNORE = -100
NO_DIGIT = 10
NO_COLOUR = 6

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class CellBatch:
    """frames uint8 ``(B, T, H, W, 3)`` and labels int64 ``(B, T, 64, 3)``."""

    frames: Tensor
    labels: Tensor


def cell_batch(clips: Sequence[Clip]) -> CellBatch:
    """The clips of one length with the labels of their cells."""
    return CellBatch(
        torch.from_numpy(np.stack([clip.frames for clip in clips])),
        torch.from_numpy(np.stack([cell_labels(clip) for clip in clips])),
    )


def cell_labels(clip: Clip) -> Labels:
    """Labels of every cell of every frame.

    A cell that holds the largest part of a needle, or at least 35 % of it, carries its label;
    other cells that it touches are ignored; all others hold nothing.

    Returns: int64 ``(T, GRID * GRID, 3)``: digit (10 = none), colour (6 = none), quadrant
        (IGNORE where there is no needle).
    """
    frames, side = clip.frames.shape[:2]
    labels = np.empty((frames, GRID, GRID, 3), dtype=np.int64)
    labels[...] = (NO_DIGIT, NO_COLOUR, IGNORE)
    for needle in clip.needles:
        share = _overlap(needle, side // GRID)
        colour = COLOUR_NAMES.index(needle.colour)
        facts = (needle.digit, colour, QUADRANTS.index(needle.quadrant))
        for t in range(needle.start, needle.end):
            labels[t][share > 0] = IGNORE
            labels[t][share >= min(0.35, share.max())] = facts
    return labels.reshape(frames, GRID * GRID, 3)


def _overlap(needle: Needle, cell: int) -> NDArray[np.float64]:
    """Share of the glyph's box in each cell: float64 ``(GRID, GRID)``, sums to 1."""
    edges = np.arange(GRID + 1) * cell

    def part(low: int, length: int) -> NDArray[np.float64]:
        covered = np.clip(edges, low, low + length)
        return np.diff(covered) / length

    return np.outer(part(needle.y, needle.size), part(needle.x, glyph_width(needle.size)))
