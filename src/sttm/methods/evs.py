"""Efficient Video Sampling: the first frame, and the tokens that changed most."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.methods.base import TokenPruner, VideoFeatures
from sttm.methods.registry import register
from sttm.ops.colocated import colocated_cosines
from sttm.ops.selection import evenly_spaced, stable_topk


@register
@dataclass(frozen=True)
class EVS(TokenPruner):
    """Keep the first frame and the tokens that changed most since the frame before; drop the rest.

    Change is 1 - cosine between a token and the token at the same place of the previous frame.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer. Below one frame only evenly
            spaced tokens of the first frame are kept.

    Raises:
        ConfigError: a value out of range.

    Source: Efficient Video Sampling (NVIDIA), as in vLLM. Differs: budgets below one frame, which
        vLLM raises to one frame; similarity in float32. Checked against vLLM's code, see
        docs/fairness.md.
    """

    name: ClassVar[str] = "evs"
    default_layer: ClassVar[int | None] = 0

    def kept(self, video: VideoFeatures, count: int) -> torch.Tensor:
        """Choose the tokens that stay, by their change. Similarity in float32."""
        per_frame = video.grid.tokens_per_frame
        if count <= per_frame:
            return evenly_spaced(count, per_frame, video.device)
        frame = torch.arange(video.grid.frames, device=video.device)
        change = 1.0 - colocated_cosines(video.x, len(frame), frame[1:], frame[:-1]).flatten()
        later = stable_topk(change, count - per_frame) + per_frame
        return torch.cat([torch.arange(per_frame, device=video.device), later])
