"""ToMe over a whole video: bipartite soft matching until the count is met."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.methods.base import Method, VideoFeatures
from sttm.methods.registry import register
from sttm.ops.bipartite import best_partners
from sttm.ops.selection import descending_rank
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class ToMe(Method):
    """Merge the most similar tokens of the whole video, wherever they stand.

    A round: tokens alternate between the sets A and B, every token of A finds its most similar
    token of B, and the most similar pairs merge, weighted by how many tokens each stands for. Up
    to half of the tokens go in a round. A merged token stands at its token of B. The next round
    begins with what is left of A, the most similar tokens first, and goes on with B.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.

    Raises:
        ConfigError: a value out of range.

    Source: ToMe, arXiv 2210.09461, over all tokens of a video as in STTM's comparison. Differs:
        features are compared instead of attention keys; all rounds in front of one
        layer; STTM counts ``ceil(keep * N)``. Checked against the code published with STTM, see
        docs/fairness.md.
    """

    name: ClassVar[str] = "tome"
    default_layer: ClassVar[int | None] = 2

    keep: float | int

    def __post_init__(self) -> None:
        check_keep(self.keep)

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan to merge into exactly ``floor(keep * N)`` tokens, at least one.

        Similarity in float32.

        Returns:
            a plan whose ``info`` has ``rounds``.
        """
        x, count, rounds = video.x, token_budget(self.keep, video.grid.num_tokens), 0
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        label = torch.arange(video.grid.num_tokens, device=x.device)
        plan, order = MergePlan.from_anchors(label), label
        while plan.num_out > count:
            rows = plan.apply(wide)[torch.searchsorted(plan.anchor, order)]
            order, moved = _next_round(rows, order, plan.num_out - count)
            label = moved[label]
            plan, rounds = MergePlan.from_anchors(label), rounds + 1
        return replace(plan, info={"rounds": rounds})


def _next_round(
    x: torch.Tensor, order: torch.Tensor, surplus: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge once.

    Args:
        x: ``(n, C)``, the tokens as they are compared.
        order: ``(n,)`` int64, the place of each in the video.
        surplus: tokens to be rid of, at least 1.

    Returns:
        the order of the tokens that are left, ``(m,)``: first those of set A, the most similar
        ones first, then set B. And for every place ``(N,)`` the one where its token is now.
    """
    partner, similarity = best_partners(x)
    rank = descending_rank(similarity)
    merging = rank < min(surplus, x.shape[0] // 2)
    left = torch.empty_like(rank).scatter_(0, rank, torch.arange(len(rank), device=rank.device))
    left = left[int(merging.sum()) :]
    moved = torch.arange(int(order.max()) + 1, device=order.device)
    moved[order[::2][merging]] = order[partner[merging]]
    return torch.cat([order[::2][left], order[1::2]]), moved
