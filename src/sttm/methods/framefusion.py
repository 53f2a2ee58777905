"""FrameFusion: merge what repeats the frame before, then prune what is not attended to."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.grid import VideoGrid
from sttm.methods.base import Method, Signal, VideoFeatures
from sttm.methods.checks import check_number
from sttm.methods.registry import register
from sttm.ops.colocated import colocated_cosines
from sttm.ops.selection import stable_topk
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class FrameFusion(Method):
    """Merge tokens that resemble the same place one frame earlier, then keep the most attended.

    A token whose cosine with the token before it, at the same place, reaches the threshold joins
    it; chains become one token, their mean. Where that would merge more than the budget asks for,
    only the most similar pairs merge. Of what is left, the least attended tokens are dropped.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.
        threshold: least cosine in [-1, 1] at which a token joins the one before.

    Raises:
        ConfigError: a value out of range.

    Source: FrameFusion, arXiv 2501.01986, section 4. Differs: both stages happen at once, in front
        of one layer. The paper merges in the first layers, one after another, until few similar
        tokens are left, and prunes in the layer after, by attention cumulated until there. Here the
        importance is the attention of the prompt's last token in one layer, of a merged token the
        mean over its parts.
    """

    name: ClassVar[str] = "framefusion"
    query_aware: ClassVar[bool] = True
    requires: ClassVar[frozenset[Signal]] = frozenset({"prompt_attention"})

    keep: float | int
    threshold: float = 0.6

    def __post_init__(self) -> None:
        check_keep(self.keep)
        check_number("threshold", self.threshold, -1.0, 1.0)

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan to leave exactly ``floor(keep * N)`` tokens, at least one.

        Similarity in float32.

        Returns:
            a plan whose ``info`` has ``merged`` and ``pruned``, tokens that went either way.
        """
        x, grid = video.x, video.grid
        attention = video.attention("prompt_attention")
        count = token_budget(self.keep, grid.num_tokens)
        label = self._merged(x, grid, count)
        merged = MergePlan.from_anchors(label)
        group, anchor = merged.group, merged.anchor
        size = torch.bincount(group, minlength=anchor.shape[0])
        # Not by index_add in float32: its order differs from run to run on a GPU.
        total = torch.zeros(anchor.shape[0], dtype=torch.float64, device=x.device)
        total.index_add_(0, group, attention.double())
        kept = torch.zeros(anchor.shape[0], dtype=torch.bool, device=x.device)
        kept[stable_topk((total / size).float(), count)] = True
        label = torch.where(kept[group], label, -1)
        plan = MergePlan.from_anchors(label)
        pruned = int((label < 0).sum())
        info = {"merged": grid.num_tokens - pruned - count, "pruned": pruned}
        return replace(plan, info=info)

    def _merged(self, x: torch.Tensor, grid: VideoGrid, count: int) -> torch.Tensor:
        """Return ``(N,)`` int64: the first token of every token's chain."""
        label = torch.arange(grid.num_tokens, device=x.device).view(grid.frames, -1)
        if grid.frames == 1:
            return label.flatten()
        later = torch.arange(1, grid.frames, device=x.device)
        cosine = colocated_cosines(x, grid.frames, later, later - 1)
        similar = cosine >= self.threshold
        limit = min(int(similar.sum()), grid.num_tokens - count)
        joins = torch.zeros_like(similar)
        most_similar = stable_topk(torch.where(similar, cosine, -torch.inf).flatten(), limit)
        joins.view(-1)[most_similar] = True
        for frame in range(1, grid.frames):
            label[frame] = torch.where(joins[frame - 1], label[frame - 1], label[frame])
        return label.flatten()
