"""ToMe over a whole video: bipartite soft matching until the count is met."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.methods.base import Method, VideoFeatures
from sttm.methods.registry import register
from sttm.ops.bipartite import best_partners
from sttm.ops.selection import stable_topk
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class ToMe(Method):
    """Merge the most similar tokens of the whole video, wherever they stand.

    A round: tokens alternate between the sets A and B, every token of A finds its most similar
    token of B, and the most similar pairs merge, weighted by how many tokens each stands for. Up
    to half of the tokens go in a round; the results stand in the order of their first tokens.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.

    Raises:
        ConfigError: a value out of range.

    Source: ToMe, arXiv 2210.09461, over all tokens of a video as in STTM's comparison. Differs:
        features are compared instead of attention keys; all rounds in front of one layer.
    """

    name: ClassVar[str] = "tome"

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
        x, grid = video.x, video.grid
        count, rounds = token_budget(self.keep, grid.num_tokens), 0
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        plan = MergePlan.identity(grid.num_tokens, x.device)
        while plan.num_out > count:
            merged = _next_groups(plan.apply(wide), plan.num_out - count)
            plan = MergePlan.from_labels(merged[plan.group])
            rounds += 1
        return replace(plan, info={"rounds": rounds})


def _next_groups(x: torch.Tensor, surplus: int) -> torch.Tensor:
    """Return ``(n,)`` int64: the token that each token is part of after one more round."""
    partner, similarity = best_partners(x)
    merging = stable_topk(similarity, min(surplus, x.shape[0] // 2))
    group = torch.arange(x.shape[0], device=x.device)
    group[2 * merging] = partner[merging]
    return group
