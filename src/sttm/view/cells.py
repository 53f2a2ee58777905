"""Where every output token of a plan lives: in which frames and in which cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.plan import MergePlan


@dataclass(frozen=True, eq=False)
class Cells:
    """A plan laid out on its grid, as arrays.

    Attributes:
        label: ``(T, h, w)`` int64, the output token of every input token; -1 where it was dropped.
        first: ``(M,)`` int64, the time step of each output token's anchor.
    """

    label: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]

    @property
    def new_tokens(self) -> npt.NDArray[np.int64]:
        """``(T,)``: output tokens whose anchor is in each time step; their sum is ``M``."""
        return np.bincount(self.first, minlength=len(self.label))

    @property
    def num_in(self) -> int:
        """Input tokens."""
        return self.label.size

    @property
    def num_out(self) -> int:
        """Output tokens."""
        return len(self.first)


def find_cells(plan: MergePlan, grid: VideoGrid) -> Cells:
    """Lay out a plan on the grid that it was made for.

    Args:
        plan: of one video, for every token of the grid.
        grid: the video's shape in tokens.

    Raises:
        ConfigError: the plan has not one input token per token of the grid.
    """
    if plan.num_in != grid.num_tokens:
        raise ConfigError(
            f"plan: got {plan.num_in} input tokens, expected {grid.num_tokens} for {grid}. "
            "Only whole videos can be drawn, not those of models that drop tokens themselves."
        )
    return Cells(
        label=plan.group.cpu().reshape(grid.frames, grid.height, grid.width).numpy(),
        first=(plan.anchor.cpu() // grid.tokens_per_frame).numpy(),
    )


def step_of_frame(num_frames: int, steps: int) -> npt.NDArray[np.int64]:
    """Return which time step of the grid every frame belongs to.

    Several frames share one step in models with temporal patches.

    Returns:
        ``(num_frames,)`` int64 in [0, steps), ascending, every step at least once.

    Raises:
        ConfigError: fewer frames than steps.
    """
    if num_frames < steps:
        raise ConfigError(
            f"frames: got {num_frames}, expected at least {steps}, one per time step of the grid. "
            "Pass the frames that the model was given."
        )
    return np.arange(num_frames) * steps // num_frames


def check_frames(
    frames: npt.NDArray[np.uint8], grid: VideoGrid, timestamps: Sequence[float] | None = None
) -> npt.NDArray[np.int64]:
    """Check what is to be drawn, and return the first frame of every time step.

    Raises:
        ConfigError: frames that are not ``(T, H, W, 3)`` uint8, too few of them or too small, or
            another number of timestamps.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ConfigError(
            f"frames: got {frames.shape} of {frames.dtype}, expected (T, H, W, 3) of uint8."
        )
    if frames.shape[1] < grid.height or frames.shape[2] < grid.width:
        raise ConfigError(
            f"frames: got {frames.shape[2]}x{frames.shape[1]} pixels, expected at least one per "
            f"token of {grid}. Draw on the frames as decoded, not on thumbnails."
        )
    if timestamps is not None and len(timestamps) != len(frames):
        raise ConfigError(
            f"timestamps: got {len(timestamps)} for {len(frames)} frames, expected one for each."
        )
    return np.searchsorted(step_of_frame(len(frames), grid.frames), np.arange(grid.frames))
