"""No reduction: every token stays. The baseline called "full" in tables."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.methods.base import Method, VideoFeatures
from sttm.methods.registry import register
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class Identity(Method):
    """Keep every token: the unreduced baseline."""

    name: ClassVar[str] = "identity"

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan to keep all ``N`` tokens."""
        return MergePlan.identity(video.grid.num_tokens, video.device)
