"""Random tokens: the baseline that every method has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.grid import VideoGrid
from sttm.methods.checks import check_count
from sttm.methods.registry import register
from sttm.ops.selection import kept_groups
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class RandomTokens:
    """Keep a seeded random subset of exactly the budgeted size; drop the rest.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.
        seed: the same seed and number of tokens give the same subset on every device.

    Raises:
        ConfigError: a value out of range.
    """

    name: ClassVar[str] = "random"
    query_aware: ClassVar[bool] = False

    keep: float | int
    seed: int = 0

    def __post_init__(self) -> None:
        check_keep(self.keep)
        check_count("seed", self.seed, least=0)

    def plan(self, x: torch.Tensor, grid: VideoGrid) -> MergePlan:
        """Plan to keep exactly ``floor(keep * N)`` tokens, at least one.

        Args:
            x: ``(N, C)`` floating, order t, y, x. Not modified; only its length matters.
            grid: the video's shape in tokens.

        Raises:
            ConfigError: ``x`` does not fit the grid or is not finite.
        """
        grid.check(x)
        # Drawn on the CPU, so that every device sees the same tokens.
        generator = torch.Generator().manual_seed(self.seed)
        count = token_budget(self.keep, grid.num_tokens)
        chosen = torch.randperm(grid.num_tokens, generator=generator)[:count].sort().values
        return MergePlan.from_groups(*kept_groups(chosen, grid.num_tokens)).to(x.device)
