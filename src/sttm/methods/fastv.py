"""FastV: keep the video tokens that the prompt's last token attends to."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.methods.base import Signal, TokenPruner, VideoFeatures
from sttm.methods.registry import register
from sttm.ops.selection import stable_topk


@register
@dataclass(frozen=True)
class FastV(TokenPruner):
    """Keep the tokens that the prompt's last token attends to most, in one decoder layer.

    Under :func:`sttm.attach` that is the layer in front of the reduction: with the default
    ``layer=2``, the second one.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.

    Raises:
        ConfigError: a value out of range.

    Source: FastV, arXiv 2403.06764, section 4. Differs: only video tokens are pruned, not images;
        an exact count per video, where the paper prunes all image tokens of the prompt together.
        Checked against the authors' code, see docs/fairness.md.
    """

    name: ClassVar[str] = "fastv"
    query_aware: ClassVar[bool] = True
    requires: ClassVar[frozenset[Signal]] = frozenset({"prompt_attention"})
    default_layer: ClassVar[int | None] = 2

    def kept(self, video: VideoFeatures, count: int) -> torch.Tensor:
        """Choose the tokens that stay, by their attention."""
        return stable_topk(video.attention("prompt_attention"), count)
