"""Random tokens: the baseline that every method has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.methods.base import TokenPruner, VideoFeatures
from sttm.methods.checks import check_count
from sttm.methods.registry import register


@register
@dataclass(frozen=True)
class RandomTokens(TokenPruner):
    """Keep a seeded random subset of exactly the budgeted size; drop the rest.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.
        seed: the same seed and number of tokens give the same subset on every device.

    Raises:
        ConfigError: a value out of range.
    """

    name: ClassVar[str] = "random"

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("seed", self.seed, least=0)

    def kept(self, video: VideoFeatures, count: int) -> torch.Tensor:
        """Choose the tokens that stay, by chance. Only their number matters."""
        # Drawn on the CPU, so that every device sees the same tokens.
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(video.grid.num_tokens, generator=generator)[:count].sort().values
