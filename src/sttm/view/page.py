"""A page to look around in a merged video: one HTML file that needs nothing else."""

import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from PIL import Image

from sttm.grid import VideoGrid
from sttm.plan import MergePlan
from sttm.view.cells import check_frames, find_cells, step_of_frame
from sttm.view.drawing import DROPPED, LINE, PALE, PAPER, fitting_size, printable, scale

MAX_SIDE = 960  # pixels; larger frames are reduced
SCRIPT = "cells.js"  # draws cells: a module that other pages share
_QUALITY = 85


def page(
    frames: npt.NDArray[np.uint8],
    plan: MergePlan,
    grid: VideoGrid,
    timestamps: Sequence[float],
    *,
    title: str = "",
    note: str = "",
) -> str:
    """Make an HTML page with a frame slider, tokens per frame and the retention curve.

    Pointing at a cell shows the life of its token. The page loads nothing: frames, the map of
    tokens, style and code are all inside.

    Args:
        frames: ``(n, H, W, 3)`` uint8 RGB, the frames that the model was given; a time step of
            several frames shows its first one.
        plan: the merge.
        grid: the video's shape in tokens.
        timestamps: seconds, one per frame.
        title: a heading, e.g. the name of the video; any characters.
        note: a line below it, e.g. model and thresholds; any characters.

    Raises:
        ConfigError: frames, plan, grid and timestamps do not fit together.
    """
    first = check_frames(frames, grid, timestamps)
    pictures = [base64.b64encode(jpeg(frames[index], grid)).decode() for index in first]
    data = {
        **page_data(plan, grid, timestamps),
        "frames": [f"data:image/jpeg;base64,{picture}" for picture in pictures],
    }
    html = Environment(autoescape=True, undefined=StrictUndefined).from_string(_text("page.html"))
    return html.render(
        title=printable(title or "Merged video"),
        note=printable(note),
        data=data,
        script=_text(SCRIPT),
    )


def page_data(plan: MergePlan, grid: VideoGrid, timestamps: Sequence[float]) -> dict[str, Any]:
    """Return what the page's code needs to draw a plan, for JSON; the frames go beside it.

    Args:
        plan: the merge.
        grid: the video's shape in tokens.
        timestamps: seconds, one per frame; a time step has those of its first one.

    Raises:
        ConfigError: plan, grid and timestamps do not fit together.
    """
    cells = find_cells(plan, grid)
    steps = step_of_frame(len(timestamps), grid.frames)
    first = np.searchsorted(steps, np.arange(grid.frames)).tolist()
    return {
        "steps": grid.frames,
        "rows": grid.height,
        "columns": grid.width,
        "tokensIn": cells.num_in,
        "tokensOut": cells.num_out,
        "label": base64.b64encode(cells.label.astype("<i4").tobytes()).decode(),
        "first": cells.first.tolist(),
        "times": [round(timestamps[index], 3) for index in first],
        "frameOfStep": first,
        "pale": PALE,
        "paper": f"rgb{PAPER}",
        "dropped": 1 - DROPPED,
        "line": LINE,
    }


def _text(name: str) -> str:
    return files("sttm.view").joinpath(name).read_text(encoding="utf-8")


def jpeg(frame: npt.NDArray[np.uint8], grid: VideoGrid) -> bytes:
    """Encode a frame for a page; a large one is reduced.

    Args:
        frame: ``(H, W, 3)`` uint8 RGB.
        grid: the video's shape in tokens, which stay visible.
    """
    height, width = frame.shape[:2]
    picture = frame
    if max(width, height) > MAX_SIDE:
        picture = scale(frame, *fitting_size(width, height, grid, factor=1.0, most=MAX_SIDE))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
