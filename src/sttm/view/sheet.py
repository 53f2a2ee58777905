"""One picture with every frame of a merged video."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from sttm.grid import VideoGrid
from sttm.plan import MergePlan
from sttm.view.cells import check_frames, find_cells
from sttm.view.drawing import (
    PAPER,
    TOKEN_SIDE,
    caption,
    fitting_size,
    paint,
    printable,
    scale,
    shorten,
    summary,
    text_width,
    write,
)

MAX_TILES = 48
TILE_AREA = 232 * 232  # pixels of one frame on the sheet
MAX_SIDE = 1024  # pixels of a frame's longer side on the sheet
MAX_AREA = 2**24  # pixels of all frames on the sheet
_TITLE_WIDTH = 2400  # pixels; longer titles are cut
_SHAPE = 1.7  # width / height that a sheet aims at
_MARGIN, _GAP, _CAPTION, _HEADER = 24, 12, 24, 72

LEGEND = "pale = part of a token of an earlier frame;  dark = dropped"


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

    Returns:
        an RGB picture of at most 48 time steps, evenly spaced if there are more; its frames have 17
        million pixels together at most, and take memory one by one.

    Raises:
        ConfigError: frames, plan, grid and timestamps do not fit together.
    """
    cells = find_cells(plan, grid)
    first = check_frames(frames, grid, timestamps)
    shown = np.linspace(0, grid.frames - 1, min(grid.frames, MAX_TILES)).round().astype(int)
    width, height = _tile_size(frames.shape[2], frames.shape[1], grid, len(shown))
    captions = [caption(cells, step, timestamps[first[step]]) for step in shown]
    pitch = _GAP + max(width, *(text_width(text, 14) for text in captions))
    columns = _columns(len(shown), pitch, height)
    rows = math.ceil(len(shown) / columns)
    line = height + _CAPTION + _GAP
    title = shorten(printable(title), 22, _TITLE_WIDTH)
    heading = "   ".join(filter(None, [title, summary(cells)]))
    legend = LEGEND if len(shown) == grid.frames else f"{LEGEND};  {len(shown)} of {grid.frames}"
    inner = max(columns * pitch - _GAP, text_width(heading, 22), text_width(legend, 14))
    size = (2 * _MARGIN + inner, _HEADER + rows * line + _MARGIN - _GAP)
    canvas = Image.new("RGB", size, PAPER)
    write(canvas, (_MARGIN, 28), heading, 22)
    write(canvas, (_MARGIN, 54), legend, 14, faint=True)
    for place, step in enumerate(shown):
        left = _MARGIN + place % columns * pitch
        top = _HEADER + place // columns * line
        tile = paint(scale(frames[first[step]], width, height), cells, step)
        canvas.paste(Image.fromarray(tile), (left, top))
        write(canvas, (left, top + height + _CAPTION // 2), captions[place], 14)
    return canvas


def _tile_size(width: int, height: int, grid: VideoGrid, tiles: int) -> tuple[int, int]:
    """Choose the size of a frame: about one area for all, and at least 8 pixels per token.

    However large or long the frames are, all of them together stay below ``MAX_AREA``.
    """
    factor = math.sqrt(TILE_AREA / (width * height))
    factor = max(factor, TOKEN_SIDE * grid.width / width, TOKEN_SIDE * grid.height / height)
    wide, high = fitting_size(width, height, grid, factor=factor, most=MAX_SIDE)
    shrink = min(1.0, math.sqrt(MAX_AREA / (wide * high * tiles)))
    return max(1, int(wide * shrink)), max(1, int(high * shrink))


def _columns(tiles: int, pitch: int, height: int) -> int:
    ideal = math.sqrt(_SHAPE * tiles * (height + _CAPTION + _GAP) / pitch)
    return max(1, min(tiles, round(ideal)))
