"""VidCom2: distinctive frames get more tokens, and keep their most distinctive ones."""

from dataclasses import dataclass, replace
from sys import float_info
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.grid import VideoGrid
from sttm.methods.checks import check_number
from sttm.methods.registry import register
from sttm.ops.assignment import part_of
from sttm.ops.distinctiveness import gaussian_likeness, steady_channels
from sttm.ops.selection import apportion, kept_groups, stable_topk_per_row
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class VidCom2:
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
    query_aware: ClassVar[bool] = False

    keep: float | int
    temperature: float = 0.01
    channel_ratio: float = 1.0

    def __post_init__(self) -> None:
        check_keep(self.keep)
        check_number("temperature", self.temperature, 0.0, float_info.max, above=True)
        check_number("channel_ratio", self.channel_ratio, 0.0, 1.0, above=True)

    @torch.no_grad()
    def plan(self, x: torch.Tensor, grid: VideoGrid) -> MergePlan:
        """Plan to keep exactly ``floor(keep * N)`` tokens, at least one.

        Args:
            x: ``(N, C)`` floating, order t, y, x. Not modified. Distances in float32.
            grid: the video's shape in tokens.

        Returns:
            a plan whose ``info`` has ``frame_tokens``, ``(T,)`` int64.

        Raises:
            ConfigError: ``x`` does not fit the grid or is not finite.
        """
        grid.check(x)
        count, per_frame = token_budget(self.keep, grid.num_tokens), grid.tokens_per_frame
        if self.channel_ratio < 1.0:
            x = steady_channels(x, max(1, part_of(x.shape[1], self.channel_ratio)))
        like_video, like_frame = gaussian_likeness(x, grid.frames)
        uniqueness = -like_video.mean(dim=1, dtype=torch.float64)
        lead = torch.softmax(uniqueness / self.temperature, dim=0)
        room = torch.full((grid.frames,), per_frame, device=x.device)
        frame_tokens = apportion(1.0 + lead - lead.mean(), count, room)
        kept = (
            stable_topk_per_row(-(like_video + like_frame), frame_tokens)
            .flatten()
            .nonzero()
            .squeeze(1)
        )
        plan = MergePlan.from_groups(*kept_groups(kept, grid.num_tokens))
        return replace(plan, info={"frame_tokens": frame_tokens})
