"""FrameFusion: merge what repeats the frame before, then prune what is not attended to."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.methods.base import Method, Signal, VideoFeatures
from sttm.methods.checks import check_number
from sttm.methods.registry import register
from sttm.ops.selection import stable_topk
from sttm.ops.similarity import paired_cosines
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class FrameFusion(Method):
    """Merge tokens that resemble the same place one frame earlier, then keep the most attended.

    In rounds: a token whose cosine with the one before it, at the same place, reaches the threshold
    joins it; chains become one token, the mean of what they were. Where that would merge more than
    the budget asks for, only the most similar pairs merge, and it is done. Where a round merges
    less than ``least_merged`` of the tokens, it was the last, and the least attended tokens go.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.
        threshold: least cosine in [-1, 1] at which a token joins the one before.
        least_merged: the share of the tokens, in [0, 1], that a round must merge for another one.

    Raises:
        ConfigError: a value out of range.

    Source: FrameFusion, arXiv 2501.01986, section 4, and its authors' code. Differs: all rounds
        happen in front of one layer, on features that stay as they are; the authors merge in front
        of one layer after another, from the first on, and prune behind the next one's attention. So
        a merged token's importance is the attention that its first token gets, where the authors
        measure it after merging. An exact count replaces their cost: of 28 layers at a mean cost
        ``c``, what is reduced in front of layer ``l`` keeps ``(28 * c - l) / (28 - l)``.
        Checked against the authors' code, see docs/fairness.md.
    """

    name: ClassVar[str] = "framefusion"
    query_aware: ClassVar[bool] = True
    requires: ClassVar[frozenset[Signal]] = frozenset({"prompt_attention"})
    default_layer: ClassVar[int | None] = 1  # importance is the attention of layer 0

    keep: float | int
    threshold: float = 0.6
    least_merged: float = 0.1

    def __post_init__(self) -> None:
        check_keep(self.keep)
        check_number("threshold", self.threshold, -1.0, 1.0)
        check_number("least_merged", self.least_merged, 0.0, 1.0)

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan to leave exactly ``floor(keep * N)`` tokens, at least one. Similarity in float32.

        Returns:
            a plan whose ``info`` has ``merged`` and ``pruned``, tokens that went either way.
        """
        attention = video.attention("prompt_attention")
        count = token_budget(self.keep, video.grid.num_tokens)
        label = torch.arange(video.grid.num_tokens, device=video.device)
        plan, share = MergePlan.from_anchors(label), 1.0
        while plan.num_out > count and share >= max(self.least_merged, 1e-9):
            moved = self._round(video, plan, count)
            merged = MergePlan.from_anchors(moved[plan.anchor[plan.group]], _means(plan, moved))
            share = (plan.num_out - merged.num_out) / plan.num_out
            plan = merged
        kept = torch.zeros_like(plan.anchor, dtype=torch.bool)
        kept[stable_topk(attention[plan.anchor], count)] = True
        label = torch.where(kept[plan.group], plan.anchor[plan.group], -1)
        pruned = int((label < 0).sum())
        info = {"merged": video.grid.num_tokens - pruned - count, "pruned": pruned}
        return replace(MergePlan.from_anchors(label, plan.weight), info=info)

    def _round(self, video: VideoFeatures, plan: MergePlan, count: int) -> torch.Tensor:
        """Return ``(N,)`` int64: for every token that is left, the first token of its chain."""
        place = plan.anchor % video.grid.tokens_per_frame
        order = place.sort(stable=True).indices
        token, place = plan.anchor[order], place[order]
        later = ((place[1:] == place[:-1]).nonzero().squeeze(1)) + 1
        x = plan.apply(video.x)
        cosine = paired_cosines(x, order[later], order[later - 1])
        similar = cosine >= self.threshold
        limit = min(int(similar.sum()), plan.num_out - count)
        joins = torch.zeros_like(place, dtype=torch.bool)
        # Of equal ones the first in time, as everywhere.
        by_time = token[later].argsort()
        score = torch.where(similar, cosine, -torch.inf)[by_time]
        joins[later[by_time[stable_topk(score, limit)]]] = True
        moved = torch.arange(video.grid.num_tokens, device=video.device)
        moved[token] = token[~joins][(~joins).cumsum(0) - 1]
        return moved


def _means(plan: MergePlan, moved: torch.Tensor) -> torch.Tensor:
    """Return weights ``(N,)`` with which every chain is the plain mean of the tokens in it."""
    head = moved[plan.anchor]
    size = torch.bincount(head)[head].float()
    return plan.weight / size[plan.group]
