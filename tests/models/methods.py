"""Small methods whose plans are plain to see; they stand in for the real ones."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.methods import Method, VideoFeatures
from sttm.plan import MergePlan


def keep_only(num_tokens: int, kept: torch.Tensor) -> MergePlan:
    """Plan that keeps the tokens ``kept`` (ascending) as they are and drops the rest."""
    group = torch.full((num_tokens,), -1)
    group[kept] = torch.arange(len(kept))
    return MergePlan.from_groups(group=group, anchor=kept)


@dataclass(frozen=True)
class KeepAll(Method):
    """Changes nothing."""

    name: ClassVar[str] = "keep_all"

    def plan(self, video: VideoFeatures) -> MergePlan:
        return MergePlan.identity(video.grid.num_tokens)


@dataclass(frozen=True)
class KeepEvery(Method):
    """Keeps every ``step``-th token from ``first`` on."""

    step: int = 2
    first: int = 1

    name: ClassVar[str] = "keep_every"

    def plan(self, video: VideoFeatures) -> MergePlan:
        count = video.grid.num_tokens
        return keep_only(count, torch.arange(self.first, count, self.step))


@dataclass(frozen=True)
class PairMerge(Method):
    """Merges tokens 2i and 2i+1, the second with three times the weight of the first."""

    name: ClassVar[str] = "pair_merge"

    def plan(self, video: VideoFeatures) -> MergePlan:
        index = torch.arange(video.grid.num_tokens)
        weight = torch.where(index % 2 == 0, 1.0, 3.0)
        return MergePlan.from_groups(group=index // 2, anchor=index[::2], weight=weight)


@dataclass(frozen=True)
class FrameMerge(Method):
    """Merges every token into the one at the same place two time steps earlier, if there is one.

    Groups reach over the other tokens between them, and over the text between frames.
    """

    name: ClassVar[str] = "frame_merge"

    def plan(self, video: VideoFeatures) -> MergePlan:
        index = torch.arange(video.grid.num_tokens)
        period = 2 * video.grid.tokens_per_frame
        kept = min(period, len(index))
        return MergePlan.from_groups(
            group=index % period, anchor=index[:kept], weight=1.0 + index / len(index)
        )


@dataclass(frozen=True)
class ContentMerge(Method):
    """Merges token i into i-1 where they differ from the mean alike: counts differ per video."""

    name: ClassVar[str] = "content_merge"

    def plan(self, video: VideoFeatures) -> MergePlan:
        centred = video.x.float() - video.x.float().mean(0)
        alike = torch.cosine_similarity(centred[1:], centred[:-1], dim=-1) > 0
        starts = torch.cat([torch.ones(1, dtype=torch.bool), ~alike])
        return MergePlan.from_groups(
            group=starts.long().cumsum(0) - 1, anchor=starts.nonzero().flatten()
        )


@dataclass(frozen=True)
class DropMost(Method):
    """Keeps one token in the middle, so that whole frames vanish."""

    name: ClassVar[str] = "drop_most"

    def plan(self, video: VideoFeatures) -> MergePlan:
        count = video.grid.num_tokens
        return keep_only(count, torch.tensor([count // 2]))
