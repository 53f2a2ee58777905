"""One picture with every frame of a merged video."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from sttm.grid import VideoGrid
from sttm.plan import MergePlan
from sttm.view.cells import check_frames, find_cells
from sttm.view.drawing import PAPER, caption, paint, scale, summary, text_width, write

MAX_TILES = 48
TILE_AREA = 232 * 232  # pixels of one frame on the sheet
_SHAPE = 1.7  # width / height that a sheet aims at
_MARGIN, _GAP, _CAPTION, _HEADER = 24, 12, 24, 72

LEGEND = "same colour = same token through time;  no tint = a token of this frame only"


def sheet(
    frames: npt.NDArray[np.uint8],
    plan: MergePlan,
    grid: VideoGrid,
    timestamps: Sequence[float],
    *,
    title: str = "",
) -> Image.Image:
    """Draw the merged cells of every time step, side by side.

    Args:
        frames: ``(n, H, W, 3)`` uint8 RGB, the frames that the model was given; a time step of
            several frames shows its first one.
        plan: the merge.
        grid: the video's shape in tokens.
        timestamps: seconds, one per frame.
        title: put before the token counts.
    Returns: an RGB picture of at most 48 time steps, evenly spaced if there are more.
    Raises: ConfigError: frames, plan, grid and timestamps do not fit together.
    """
    cells = find_cells(plan, grid)
    first = check_frames(frames, grid, timestamps)
    shown = np.linspace(0, grid.frames - 1, min(grid.frames, MAX_TILES)).round().astype(int)
    width, height = _tile_size(frames.shape[2], frames.shape[1], grid)
    columns = _columns(len(shown), width, height)
    rows = math.ceil(len(shown) / columns)
    line = height + _CAPTION + _GAP
    heading = "   ".join(filter(None, [title, summary(cells)]))
    legend = LEGEND if len(shown) == grid.frames else f"{LEGEND};  {len(shown)} of {grid.frames}"
    inner = max(columns * (width + _GAP) - _GAP, text_width(heading, 22), text_width(legend, 14))
    size = (2 * _MARGIN + inner, _HEADER + rows * line + _MARGIN - _GAP)
    canvas = Image.new("RGB", size, PAPER)
    write(canvas, (_MARGIN, 28), heading, 22)
    write(canvas, (_MARGIN, 54), legend, 14, faint=True)
    for place, step in enumerate(shown):
        left = _MARGIN + place % columns * (width + _GAP)
        top = _HEADER + place // columns * line
        tile = paint(scale(frames[first[step]], width, height), cells, step)
        canvas.paste(Image.fromarray(tile), (left, top))
        text = caption(cells, step, timestamps[first[step]])
        write(canvas, (left, top + height + _CAPTION // 2), text, 14)
    return canvas


def _tile_size(width: int, height: int, grid: VideoGrid) -> tuple[int, int]:
    """Choose the size of a frame: about one area for all, and at least 8 pixels per token."""
    factor = math.sqrt(TILE_AREA / (width * height))
    factor = max(factor, 8 * grid.width / width, 8 * grid.height / height)
    return round(width * factor), round(height * factor)


def _columns(tiles: int, width: int, height: int) -> int:
    ideal = math.sqrt(_SHAPE * tiles * (height + _CAPTION + _GAP) / (width + _GAP))
    return max(1, min(tiles, round(ideal)))
