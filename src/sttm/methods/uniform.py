"""Evenly spaced whole frames: what sampling the video more coarsely would have given."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.grid import VideoGrid
from sttm.methods.registry import register
from sttm.ops.selection import evenly_spaced, kept_groups
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class UniformFrames:
    """Keep evenly spaced whole frames; drop the others.

    Where the budget is not a whole number of frames, the last of the chosen frames keeps only
    evenly spaced tokens (in raster order), so that the count is exact.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.

    Raises:
        ConfigError: a value out of range.
    """

    name: ClassVar[str] = "uniform"
    query_aware: ClassVar[bool] = False

    keep: float | int

    def __post_init__(self) -> None:
        check_keep(self.keep)

    def plan(self, x: torch.Tensor, grid: VideoGrid) -> MergePlan:
        """Plan to keep exactly ``floor(keep * N)`` tokens, at least one.

        Args:
            x: ``(N, C)`` floating, order t, y, x. Not modified; only its length matters.
            grid: the video's shape in tokens.

        Raises:
            ConfigError: ``x`` does not fit the grid or is not finite.
        """
        grid.check(x)
        count, per_frame = token_budget(self.keep, grid.num_tokens), grid.tokens_per_frame
        first = evenly_spaced(-(-count // per_frame), grid.frames, x.device) * per_frame
        whole = first[:-1, None] + torch.arange(per_frame, device=x.device)
        part = first[-1] + evenly_spaced(count - whole.numel(), per_frame, x.device)
        kept = torch.cat([whole.flatten(), part])
        return MergePlan.from_groups(*kept_groups(kept, grid.num_tokens))
