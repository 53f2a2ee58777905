"""The frames of a merged video with their cells drawn, for ``sttm.video.write_video``."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sttm.grid import VideoGrid
from sttm.plan import MergePlan
from sttm.view.cells import check_frames, find_cells, step_of_frame
from sttm.view.drawing import FAINT, INK, PAPER, caption, fitting_size, paint, scale, write

SHORT_SIDE = 480  # pixels; smaller frames are enlarged, so that borders and text stay thin
MAX_SIDE = 1920  # pixels; larger frames are reduced
_STRIP = 34
_METER = 160  # pixels of the meter that compares tokens kept with all tokens so far


def overlay(
    frames: npt.NDArray[np.uint8],
    plan: MergePlan,
    grid: VideoGrid,
    timestamps: Sequence[float],
) -> npt.NDArray[np.uint8]:
    """Draw the merged cells on every frame, and below it the tokens that it adds.

    Args:
        frames: ``(n, H, W, 3)`` uint8 RGB, the frames that the model was given.
        plan: the merge.
        grid: the video's shape in tokens.
        timestamps: seconds, one per frame.

    Returns:
        ``(n, H', W', 3)`` uint8 with even sides: the shorter of a frame has at least 480 pixels
        where the longer one stays within 1920 then.

    Raises:
        ConfigError: frames, plan, grid and timestamps do not fit together.
    """
    cells = find_cells(plan, grid)
    check_frames(frames, grid, timestamps)
    factor = max(1.0, SHORT_SIDE / min(frames.shape[1:3]))
    size = fitting_size(frames.shape[2], frames.shape[1], grid, factor=factor, most=MAX_SIDE)
    width, height = (side + side % 2 for side in size)
    kept = cells.new_tokens.cumsum()
    drawn = np.empty((len(frames), height + _STRIP, width, 3), dtype=np.uint8)
    for index, step in enumerate(step_of_frame(len(frames), grid.frames)):
        drawn[index, :height] = paint(scale(frames[index], width, height), cells, step)
        text = caption(cells, step, timestamps[index])
        share = kept[step] / (grid.tokens_per_frame * (step + 1))
        drawn[index, height:] = _strip(width, text, float(share))
    return drawn


def _strip(width: int, text: str, share: float) -> npt.NDArray[np.uint8]:
    """Draw the line below a frame: its caption, and the share of tokens kept so far."""
    strip = Image.new("RGB", (width, _STRIP), PAPER)
    write(strip, (10, _STRIP // 2), text, 16)
    left, top, bottom = width - _METER - 70, _STRIP // 2 - 4, _STRIP // 2 + 4
    draw = ImageDraw.Draw(strip)
    draw.rectangle((left, top, left + _METER, bottom), outline=FAINT)
    draw.rectangle((left, top, left + round(_METER * share), bottom), fill=INK)
    write(strip, (width - 60, _STRIP // 2), f"{100 * share:.1f} %", 16)
    return np.asarray(strip)
