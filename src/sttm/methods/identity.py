"""No reduction: every token stays. The baseline called "full" in tables."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.grid import VideoGrid
from sttm.methods.registry import register
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class Identity:
    """Keep every token: the unreduced baseline."""

    name: ClassVar[str] = "identity"
    query_aware: ClassVar[bool] = False

    def plan(self, x: torch.Tensor, grid: VideoGrid) -> MergePlan:
        """Plan to keep all ``N`` tokens.

        Args:
            x: ``(N, C)`` floating, order t, y, x. Not modified.
            grid: the video's shape in tokens.

        Raises:
            ConfigError: ``x`` does not fit the grid or is not finite.
        """
        grid.check(x)
        return MergePlan.identity(grid.num_tokens, x.device)
