"""VidCom2: distinctive frames get more tokens, and keep their most distinctive ones."""

from dataclasses import dataclass, replace
from sys import float_info
from typing import ClassVar

import torch

from sttm.methods.base import TokenPruner, VideoFeatures
from sttm.methods.checks import check_number
from sttm.methods.registry import register
from sttm.ops.assignment import part_of
from sttm.ops.distinctiveness import gaussian_likeness, steady_channels
from sttm.ops.selection import apportion, stable_topk_per_row
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class VidCom2(TokenPruner):
    """Keep the tokens least like the video's and their frame's mean, more in distinctive frames.

    A token's likeness to a mean is a sum of Gaussians of their distance, both of features scaled
    to length 1. A frame's uniqueness is minus the mean likeness of its tokens to the video's mean;
    its share of the budget is ``1 + s - mean(s)``, where ``s`` is the softmax over the frames.
    Within a frame the tokens with the least sum of both likenesses are kept.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.
        temperature: of the softmax over the frames; lower favours the most unique frame more.
        channel_ratio: the part of the channels, those of least variance, that is compared. The
            authors' code, as ported in vLLM, takes 0.5.

    Raises:
        ConfigError: a value out of range.

    Source: VidCom2, arXiv 2505.14454. Differs: exact counts by largest remainders; what a full
        frame cannot take goes to the others in proportion.
    """

    name: ClassVar[str] = "vidcom2"

    temperature: float = 0.01
    channel_ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("temperature", self.temperature, 0.0, float_info.max, above=True)
        check_number("channel_ratio", self.channel_ratio, 0.0, 1.0, above=True)

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan to keep exactly ``floor(keep * N)`` tokens, at least one.

        Returns:
            a plan whose ``info`` has ``frame_tokens``, ``(T,)`` int64.
        """
        plan, grid = super().plan(video), video.grid
        frame = plan.anchor // grid.tokens_per_frame
        return replace(plan, info={"frame_tokens": torch.bincount(frame, minlength=grid.frames)})

    def kept(self, video: VideoFeatures, count: int) -> torch.Tensor:
        """Choose the tokens that stay, by their likeness to both means. Distances in float32."""
        x, grid = video.x, video.grid
        if self.channel_ratio < 1.0:
            x = steady_channels(x, max(1, part_of(x.shape[1], self.channel_ratio)))
        like_video, like_frame = gaussian_likeness(x, grid.frames)
        uniqueness = -like_video.mean(dim=1, dtype=torch.float64)
        lead = torch.softmax(uniqueness / self.temperature, dim=0)
        room = torch.full((grid.frames,), grid.tokens_per_frame, device=x.device)
        frame_tokens = apportion(1.0 + lead - lead.mean(), count, room)
        chosen = stable_topk_per_row(-(like_video + like_frame), frame_tokens)
        return chosen.flatten().nonzero().squeeze(1)
