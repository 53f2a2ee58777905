"""HoliTom without its part inside the language model: the best segments, then space."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.grid import VideoGrid
from sttm.methods.base import Method, Signal, VideoFeatures
from sttm.methods.checks import check_count, check_number
from sttm.methods.registry import register
from sttm.ops.clustering import cluster_centres
from sttm.ops.colocated import colocated_cosines
from sttm.ops.selection import by_one_ratio, stable_topk, stable_topk_per_row
from sttm.plan import MergePlan


@dataclass(frozen=True, eq=False)
class _Merged:
    """A video after merging over time.

    Args:
        starts: the segments' first frames, ascending, from 0.
        still: ``(T, P)`` bool: places that are one token over their whole segment.
        first: ``(T, P)`` bool: tokens that are left, a segment's still ones in its first frame.
        cosine: ``(T, P)`` float32 with the same place one frame earlier; infinite in frame 0.
    """

    starts: list[int]
    still: torch.Tensor
    first: torch.Tensor
    cosine: torch.Tensor


@register
@dataclass(frozen=True)
class HoliTom(Method):
    """Cut the video into segments that let the most tokens merge over time, then merge in space.

    A place is still in a segment if its tokens in all neighbouring frames are more alike than
    ``threshold``; it becomes one token, their mean. The segments are those that merge away the most
    tokens of all, found by dynamic programming. What is left is reduced to the budget, every set in
    proportion to its size: the still tokens of each segment by clustering (DPC-KNN, means), the
    other tokens of each frame by keeping those that receive the most attention in the vision tower.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.
        threshold: cosine in [-1, 1] that tokens of a still place exceed.
        neighbours: points that a density is measured on, each point itself included; at most as
            many as there are clusters.
        centre_weight: the weight of a cluster's centre in its token, in (0, 1]; the others share
            the rest.

    Raises:
        ConfigError: a value out of range.

    Source: HoliTom, arXiv 2505.21334, section 3, "without M": no merging inside the language model.
        Differs: exact counts (the authors' are up to 5 tokens above, or below where more merges
        over time: here the least similar tokens then stay by themselves); ties by index. Checked
        against the authors' code, see docs/fairness.md.
    """

    name: ClassVar[str] = "holitom"
    requires: ClassVar[frozenset[Signal]] = frozenset({"tower_attention"})
    default_layer: ClassVar[int | None] = 0

    keep: float | int
    threshold: float = 0.8
    neighbours: int = 7
    centre_weight: float = 0.6

    def __post_init__(self) -> None:
        check_keep(self.keep)
        check_number("threshold", self.threshold, -1.0, 1.0)
        check_count("neighbours", self.neighbours)
        check_number("centre_weight", self.centre_weight, 0.0, 1.0, above=True)

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan to leave exactly ``floor(keep * N)`` tokens, at least one.

        Similarity in float32.

        Returns:
            a plan whose ``info`` has ``segments`` ``(S,)`` int64 (first frames) and
            ``merged_over_time``, the tokens that the segments could merge away.
        """
        x, grid = video.x, video.grid
        attention = video.attention("tower_attention").view(grid.frames, -1)
        budget = token_budget(self.keep, grid.num_tokens)
        merged = self._over_time(x, grid)
        left = int(merged.first.sum())
        weight = torch.ones_like(attention)
        if left <= budget:
            label = _with_singles(merged, budget - left)
        else:
            label, weight = self._in_space(x, grid, merged, attention, budget)
        info = {
            "segments": torch.tensor(merged.starts, device=x.device),
            "merged_over_time": grid.num_tokens - left,
        }
        return replace(MergePlan.from_anchors(label.flatten(), weight.flatten()), info=info)

    def _over_time(self, x: torch.Tensor, grid: VideoGrid) -> _Merged:
        shape = (grid.frames, grid.tokens_per_frame)
        later = torch.arange(1, grid.frames, device=x.device)
        cosine = torch.full(shape, torch.inf, device=x.device)
        if grid.frames > 1:
            cosine[1:] = colocated_cosines(x, grid.frames, later, later - 1)
        alike = cosine > self.threshold
        starts = best_segments(alike)
        still = torch.zeros(shape, dtype=torch.bool, device=x.device)
        first = torch.ones_like(still)
        for start, end in zip(starts, [*starts[1:], grid.frames]):
            if end - start > 1:
                still[start:end] = alike[start + 1 : end].all(dim=0)
                first[start + 1 : end] = ~still[start + 1 : end]
        return _Merged(starts, still, first, cosine)

    def _in_space(
        self,
        x: torch.Tensor,
        grid: VideoGrid,
        merged: _Merged,
        attention: torch.Tensor,
        budget: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(T, P)`` labels of exactly ``budget`` groups, and weights."""
        starts = torch.tensor(merged.starts, device=x.device)
        clusters, moving = _counts(
            merged.still[starts].sum(dim=1), (~merged.still).sum(dim=1), budget
        )
        token = torch.arange(grid.num_tokens, device=x.device).view(grid.frames, -1)
        # Still tokens are below every other one, and never counted in.
        score = torch.where(merged.still, -1.0, attention)
        label = torch.where(stable_topk_per_row(score, moving), token, -1)
        weight = torch.ones_like(attention)
        field = x.view(*token.shape, -1)
        ends = [*merged.starts[1:], grid.frames]
        for start, end, count in zip(merged.starts, ends, clusters.tolist()):
            place = merged.still[start].nonzero().squeeze(1)
            if count == 0:
                continue
            mean = field[start:end, place].mean(dim=0, dtype=torch.float32)
            centre = cluster_centres(mean[None], min(self.neighbours, count), [count])[0]
            label[start:end, place] = token[start, place[centre]]
            others = torch.bincount(centre, minlength=place.shape[0])[centre] - 1
            is_centre = centre == torch.arange(place.shape[0], device=x.device)
            share = torch.where(is_centre, self.centre_weight, (1 - self.centre_weight) / others)
            weight[start:end, place] = torch.where(others > 0, share, 1.0)
        return label, weight


def _counts(
    still: torch.Tensor, moving: torch.Tensor, total: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split ``total`` in proportion: clusters of the still tokens, and tokens of each frame.

    With one ratio ``r`` for all, a set of ``n`` gets ``round(n * r)`` clusters or ``ceil(n * r)``
    tokens. Where no ratio gives the total, the first of the sets that grow next grow.

    Args:
        still: ``(S,)`` int64, still tokens of each segment.
        moving: ``(T,)`` int64, other tokens of each frame.
        total: in [1, sum of both].
    """
    sizes = torch.cat([still, moving]).double().cpu()

    def counts(ratio: float) -> torch.Tensor:
        wanted = (sizes * ratio).round(decimals=9)
        return torch.cat([wanted[: len(still)].round(), wanted[len(still) :].ceil()]).long()

    found = by_one_ratio(counts, total).to(still.device)
    return found[: len(still)], found[len(still) :]


def best_segments(alike: torch.Tensor) -> list[int]:
    """Cut a video so that the most tokens merge into the same place of their segment's start.

    A segment of ``n`` frames merges away ``n - 1`` tokens for each place that is alike all through.

    Args:
        alike: ``(T, P)`` bool: the token resembles the same place one frame earlier; frame 0 is not
            read.

    Returns:
        the first frames of the segments, ascending, from 0; of equally good cuts the one whose last
        segments start latest.
    """
    frames = alike.shape[0]
    gain = torch.zeros(frames, frames, dtype=torch.int64)
    for start in range(frames - 1):
        count = alike[start + 1 :].long().cumprod(dim=0).sum(dim=1).cpu()
        gain[start, start + 1 :] = count * torch.arange(1, frames - start)
    total = torch.zeros(frames + 1, dtype=torch.int64)
    origin = [0] * frames
    for end in range(frames):
        options = total[: end + 1] + gain[: end + 1, end]
        total[end + 1] = options.max()
        origin[end] = int((options == total[end + 1]).nonzero()[-1])
    starts, end = [], frames
    while end > 0:
        end = origin[end - 1]
        starts.append(end)
    return starts[::-1]


def _with_singles(merged: _Merged, count: int) -> torch.Tensor:
    """Return ``(T, P)`` labels of the merge over time, in which ``count`` tokens stay single.

    Those least like the token before them.
    """
    frames, per_frame = merged.first.shape
    token = torch.arange(frames * per_frame, device=merged.first.device).view(frames, -1)
    label = token.clone()
    for start, end in zip(merged.starts, [*merged.starts[1:], frames]):
        label[start:end] = torch.where(merged.still[start:end], token[start], token[start:end])
    score = torch.where(merged.first, -torch.inf, -merged.cosine).flatten()
    single = stable_topk(score, count)
    label.view(-1)[single] = single
    return label
