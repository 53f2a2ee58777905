"""Evenly spaced whole frames: what sampling the video more coarsely would have given."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.methods.base import TokenPruner, VideoFeatures
from sttm.methods.registry import register
from sttm.ops.selection import evenly_spaced


@register
@dataclass(frozen=True)
class UniformFrames(TokenPruner):
    """Keep evenly spaced whole frames; drop the others.

    Where the budget is not a whole number of frames, the last of the chosen frames keeps only
    evenly spaced tokens (in raster order), so that the count is exact.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.

    Raises:
        ConfigError: a value out of range.
    """

    name: ClassVar[str] = "uniform"

    def kept(self, video: VideoFeatures, count: int) -> torch.Tensor:
        """Choose the tokens that stay, by their frames. Only their number matters."""
        grid, per_frame = video.grid, video.grid.tokens_per_frame
        first = evenly_spaced(-(-count // per_frame), grid.frames, video.device) * per_frame
        whole = first[:-1, None] + torch.arange(per_frame, device=video.device)
        part = first[-1] + evenly_spaced(count - whole.numel(), per_frame, video.device)
        return torch.cat([whole.flatten(), part])
