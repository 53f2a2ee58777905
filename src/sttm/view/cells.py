"""Where every output token of a plan lives: in which frames, in which cells, in which colour."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.plan import MergePlan

# Steps of the golden section keep any number of neighbouring hues far apart.
_GOLDEN = 0.6180339887498949
_SHADES = ((0.62, 1.0), (0.9, 0.95), (0.75, 0.75))  # saturation and value, in turn


@dataclass(frozen=True, eq=False)
class Cells:
    """A plan laid out on its grid, as arrays.

    Attributes:
        label: ``(T, h, w)`` int64, the output token of every input token; -1 where it was dropped.
        first: ``(M,)`` int64, the time step of each output token's anchor.
        lifetime: ``(M,)`` int64, time steps in which each output token has input tokens.
        size: ``(M,)`` int64, input tokens merged into each output token.
        colour: ``(M, 3)`` uint8 RGB, one well-spread colour per token that lasts.
    """

    label: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    lifetime: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    colour: npt.NDArray[np.uint8]

    @property
    def lasting(self) -> npt.NDArray[np.bool_]:
        """``(M,)``: whether a token lives in more than one time step."""
        return self.lifetime > 1

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
    label = plan.group.cpu().reshape(grid.frames, grid.tokens_per_frame)
    seen = torch.zeros(grid.frames, plan.num_out + 1, dtype=torch.bool)
    seen.scatter_(1, label + 1, True)
    lifetime = seen[:, 1:].sum(0).numpy()
    return Cells(
        label=label.view(grid.frames, grid.height, grid.width).numpy(),
        first=(plan.anchor.cpu() // grid.tokens_per_frame).numpy(),
        lifetime=lifetime,
        size=plan.sizes.cpu().numpy(),
        colour=_colours(lifetime > 1),
    )


def step_of_frame(num_frames: int, steps: int) -> npt.NDArray[np.int64]:
    """Tell which time step of the grid every frame belongs to.

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


def _colours(lasting: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Give every lasting token its colour, by its rank among them; grey to the others."""
    colour = np.full((len(lasting), 3), 128, dtype=np.uint8)
    for rank, token in enumerate(np.flatnonzero(lasting)):
        saturation, value = _SHADES[rank % len(_SHADES)]
        shade = colorsys.hsv_to_rgb(rank * _GOLDEN % 1.0, saturation, value)
        colour[token] = [round(255 * part) for part in shade]
    return colour
