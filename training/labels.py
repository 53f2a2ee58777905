"""Per-cell labels of a clip, for the linear heads that are trained with the tower."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sttm.nano.backdrop import BACKDROP_COLOURS, PATTERNS, Landmark
from sttm.nano.clips import COLOUR_NAMES, QUADRANTS, Clip
from sttm.nano.glyphs import glyph_width
from sttm.nano.scenes import relation
from training.model import GRID
from training.text import SIDES

IGNORE = -100
NO_DIGIT = 10
NO_COLOUR = 6
BACKGROUND, TEXTURE, LANDMARK, RELATION, COLUMNS = 3, 4, 5, 6, 7

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class CellBatch:
    """frames, see ``model.video_tokens``, and labels int64 ``(B, T, 64, columns)``."""

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

    Returns: int64 ``(T, GRID * GRID, 7)``: digit (10 = none), colour (6 = none), quadrant, and of
        scenes colour and pattern of the background, landmark (1 = yes), side of the landmark on
        which the needle is. IGNORE where there is nothing to say.
    """
    frames, side = clip.frames.shape[:2]
    labels = np.empty((frames, GRID, GRID, COLUMNS), dtype=np.int64)
    labels[...] = (NO_DIGIT, NO_COLOUR, IGNORE, IGNORE, IGNORE, 0, IGNORE)
    here: dict[int, Landmark] = {}
    for backdrop in clip.backdrops:
        shown = labels[backdrop.start : backdrop.end]
        shown[..., BACKGROUND] = tuple(BACKDROP_COLOURS).index(backdrop.colour)
        shown[..., TEXTURE] = PATTERNS.index(backdrop.pattern)
    for landmark, t, place in _landmark_places(clip):
        here[t] = dataclasses.replace(landmark, x=place[0], y=place[1])
        box = (place[1], landmark.size, place[0], landmark.size)
        share = overlap(*box, side // GRID) * (landmark.size * GRID / side) ** 2
        labels[t][share > 0, TEXTURE:RELATION] = IGNORE
        labels[t][share > 0.5, LANDMARK] = 1
    for needle in clip.needles:
        box = (needle.y, needle.size, needle.x, glyph_width(needle.size))
        share = overlap(*box, side // GRID)
        colour = COLOUR_NAMES.index(needle.colour)
        facts = (needle.digit, colour, QUADRANTS.index(needle.quadrant))
        for t in range(needle.start, needle.end):
            labels[t][share > 0] = IGNORE
            core = share >= min(0.35, share.max())
            labels[t][core, :3] = facts
            where = relation(needle, here[t]) if t in here else None
            if where is not None:
                labels[t][core, RELATION] = SIDES.index(where)
    return labels.reshape(frames, GRID * GRID, COLUMNS)


def _landmark_places(clip: Clip) -> Iterator[tuple[Landmark, int, tuple[int, int]]]:
    """Landmark, frame and where its left and top edges are in that frame."""
    for landmark in clip.landmarks:
        home = next(b for b in clip.backdrops if b.start == landmark.start)
        for t in range(landmark.start, landmark.start + landmark.length):
            dx, dy = home.camera(t)
            yield landmark, t, (landmark.x - dx, landmark.y - dy)


def overlap(top: int, height: int, left: int, width: int, cell: int) -> NDArray[np.float64]:
    """Share of a box in each cell: float64 ``(GRID, GRID)``, sums to 1 inside the frame."""
    edges = np.arange(GRID + 1) * cell

    def part(low: int, length: int) -> NDArray[np.float64]:
        covered = np.clip(edges, low, low + length)
        return np.diff(covered) / length

    return np.outer(part(top, height), part(left, width))
