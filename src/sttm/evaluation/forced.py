"""A method whose count is the budget's, whatever the features are: to time it on random weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sttm.budget import token_budget
from sttm.evaluation.specs import Keep
from sttm.methods import DecodePruning, Method, VideoFeatures
from sttm.plan import MergePlan


@dataclass(frozen=True)
class Forced(Method):
    """Plans with a method for its cost, and sees to it that the count is the budget's.

    Random weights make all features alike or none, so that a rule that follows the content keeps
    next to nothing or everything. Where the method gives the exact count, its own plan is used;
    else evenly spread groups of neighbours.

    Args:
        inner: the method.
        keep: the count or share to force.
    """

    inner: Method
    keep: Keep

    name: ClassVar[str] = "forced"

    def __post_init__(self) -> None:
        # Of the method, and so of this object alone.
        object.__setattr__(self, "requires", self.inner.requires)
        object.__setattr__(self, "query_aware", self.inner.query_aware)

    @property
    def decode_pruning(self) -> DecodePruning | None:
        """As the method."""
        return self.inner.decode_pruning

    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan with the method; see `sttm.Method.plan`."""
        return self.plan_batch([video])[0]

    def plan_batch(self, videos: Sequence[VideoFeatures]) -> list[MergePlan]:
        """Plan with the method; see `sttm.Method.plan_batch`."""
        plans = self.inner.plan_batch(videos)
        return [self._forced(video, plan) for video, plan in zip(videos, plans, strict=True)]

    def _forced(self, video: VideoFeatures, plan: MergePlan) -> MergePlan:
        total = video.grid.num_tokens
        count = token_budget(self.keep, total)
        if plan.num_out == count:
            return plan
        index = torch.arange(total, device=video.device)
        forced = MergePlan.from_labels(index * count // total)
        return replace(forced, info={"forced": plan.num_out})
