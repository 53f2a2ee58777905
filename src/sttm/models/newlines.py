"""Where LLaVA puts its newline token among the tokens of a video."""

import torch

from sttm.grid import VideoGrid

NEWLINES = ("no_token", "one_token", "frame", "grid")


def newline_marks(mode: str, grid: VideoGrid) -> torch.Tensor:
    """Mark the newline tokens in the run of one video.

    Args:
        mode: ``"no_token"`` none at all, ``"one_token"`` behind the video, ``"frame"`` behind every
            frame, ``"grid"`` behind every row of every frame.
        grid: the video's shape in tokens.

    Returns:
        ``(n,)`` bool; the places that are False are the grid's tokens in order t, y, x.
    """
    marks = torch.zeros(grid.frames, grid.height, grid.width, dtype=torch.bool)
    if mode == "grid":
        marks = _end_with_newline(marks)
    marks = marks.flatten(1)
    if mode == "frame":
        marks = _end_with_newline(marks)
    marks = marks.flatten()
    return _end_with_newline(marks) if mode == "one_token" else marks


def _end_with_newline(marks: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(marks, (0, 1), value=True)
