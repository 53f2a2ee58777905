"""PruneVid's merging of spatial-temporal tokens, without its pruning inside the language model."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods.base import Method, VideoFeatures
from sttm.methods.checks import check_count, check_number
from sttm.methods.registry import register
from sttm.ops.assignment import part_of
from sttm.ops.clustering import cluster_centres
from sttm.ops.segments import fewer_segments, frame_means, more_segments, segment_starts, stillness
from sttm.ops.selection import apportion, by_one_ratio, descending_rank
from sttm.plan import MergePlan

_SMALL = 14  # sets of at most so many tokens stay as they are, if the budget allows it


@dataclass(frozen=True)
class _Split:
    """A video in segments, each with its still places.

    Args:
        starts: ``(S,)`` int64, the segments' first frames.
        lengths: ``(S,)`` int64, frames per segment.
        still: ``(S, P)`` bool: places that are averaged over the segment's frames.
    """

    starts: torch.Tensor
    lengths: torch.Tensor
    still: torch.Tensor

    @property
    def sets(self) -> torch.Tensor:
        """``(S, 2)`` int64: tokens in a segment's still set, and in each frame's moving set."""
        still = self.still.sum(dim=1)
        return torch.stack([still, self.still.shape[1] - still], dim=1)

    @property
    def copies(self) -> torch.Tensor:
        """``(S, 2)`` int64: how many sets of each kind there are."""
        return torch.stack([torch.ones_like(self.lengths), self.lengths], dim=1)


@register
@dataclass(frozen=True)
class PruneVidMerge(Method):
    """Merge by PruneVid's first stage only: still places over time, then clusters of places.

    Frames are clustered by their mean features into segments, lasting runs of a cluster. Places
    whose mean cosine over a segment's frames exceeds ``still_threshold`` are averaged over it. Then
    the still tokens of each segment, and the other tokens of each frame, are clustered by their
    features (DPC-KNN) and each cluster becomes its mean; sets of at most 14 tokens stay as they
    are. The paper's second stage, which prunes by the question's attention inside the language
    model, is not part of this.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer, met exactly by the numbers of
            clusters.
        cluster_ratio: clusters per token of a set, in (0, 1]; None: 0.5, or what ``keep`` leads to.
        still_threshold: mean cosine in [-1, 1] that a still place exceeds.
        segment_ratio: clusters of frames per frame, in (0, 1].
        neighbours: points that a density is measured on, each point itself included.

    Raises:
        ConfigError: a value out of range, or ``keep`` together with ``cluster_ratio``.

    Source: PruneVid, arXiv 2412.16117, section 3.2. Differs: exact counts; ties by
        index. Checked against the authors' code, see docs/fairness.md.
    """

    name: ClassVar[str] = "prunevid"
    default_layer: ClassVar[int | None] = 0

    keep: float | int | None = None
    cluster_ratio: float | None = None
    still_threshold: float = 0.8
    segment_ratio: float = 0.25
    neighbours: int = 7

    def __post_init__(self) -> None:
        if self.keep is not None:
            check_keep(self.keep)
        if self.keep is not None and self.cluster_ratio is not None:
            raise ConfigError(
                f"cluster_ratio: got {self.cluster_ratio!r} together with keep={self.keep!r}, "
                "expected one or the other: a budget decides the numbers of clusters."
            )
        if self.cluster_ratio is not None:
            check_number("cluster_ratio", self.cluster_ratio, 0.0, 1.0, above=True)
        check_number("segment_ratio", self.segment_ratio, 0.0, 1.0, above=True)
        check_number("still_threshold", self.still_threshold, -1.0, 1.0)
        check_count("neighbours", self.neighbours)

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan the merge of one video.

        Distances in float64.

        Returns:
            with ``keep`` a plan of exactly ``floor(keep * N)`` tokens, at least one. Its ``info``:
            ``segments`` ``(S,)`` int64 (first frames), ``still`` ``(S,)`` int64 (still places of
            each).
        """
        x, grid = video.x, video.grid
        budget = None if self.keep is None else token_budget(self.keep, grid.num_tokens)
        split = self._split(x, grid, budget)
        label = self._labels(x, grid, split, _cluster_counts(split, budget, self.cluster_ratio))
        info = {"segments": split.starts, "still": split.still.sum(dim=1)}
        return replace(MergePlan.from_labels(label), info=info)

    def _split(self, x: torch.Tensor, grid: VideoGrid, budget: int | None) -> _Split:
        """Cut the video into segments with still places, so that the budget can be met."""
        means = frame_means(x, grid.frames)
        clusters = token_budget(self.segment_ratio, grid.frames)
        starts = segment_starts(means, clusters, self.neighbours)
        likeness = stillness(x, grid.frames, starts)
        split = _Split(starts, _lengths(starts, grid.frames), likeness > self.still_threshold)
        if budget is None:
            return split
        split = _Split(starts, split.lengths, _still_within(split, likeness, budget))
        if int((split.copies * (split.sets > 0)).sum()) <= budget:
            return split
        # Not even one token for every set: average whole segments, as many as the budget allows.
        least = -(-budget // grid.tokens_per_frame)
        if starts.shape[0] > budget:
            starts = fewer_segments(means, starts, budget)
        elif starts.shape[0] < least:
            starts = more_segments(means, starts, least)
        everything = split.still.new_ones(starts.shape[0], grid.tokens_per_frame)
        return _Split(starts, _lengths(starts, grid.frames), everything)

    def _labels(
        self, x: torch.Tensor, grid: VideoGrid, split: _Split, counts: list[list[int]]
    ) -> torch.Tensor:
        """Return ``(N,)`` int64: the token at the centre of every token's cluster."""
        field = x.reshape(grid.frames, grid.tokens_per_frame, -1)
        token = torch.arange(grid.num_tokens, device=x.device).reshape(grid.frames, -1)
        label = token.clone()
        spans = zip(split.starts.tolist(), split.lengths.tolist(), strict=True)
        for (start, length), still, numbers in zip(spans, split.still, counts, strict=True):
            frames = slice(start, start + length)
            place = still.nonzero().squeeze(1)
            if place.shape[0] > 0:
                mean = field[frames, place].mean(dim=0, dtype=torch.float64)
                centre = cluster_centres(mean[None], self.neighbours, numbers[:1])
                label[frames, place] = token[start, place[centre[0]]]
            place = (~still).nonzero().squeeze(1)
            if place.shape[0] > 0:
                centre = cluster_centres(field[frames, place], self.neighbours, numbers[1:])
                label[frames, place] = token[frames, place].gather(1, centre)
        return label.flatten()


def _lengths(starts: torch.Tensor, frames: int) -> torch.Tensor:
    return torch.cat([starts[1:], starts.new_full((1,), frames)]) - starts


def _still_within(split: _Split, likeness: torch.Tensor, budget: int) -> torch.Tensor:
    """Return the still places, only the most alike of them where all would leave too few tokens."""
    gain = (split.lengths - 1)[:, None] * split.still
    order = descending_rank(torch.where(gain > 0, likeness, -2.0).flatten())
    sorted_gain = torch.empty_like(order).scatter_(0, order, gain.flatten())
    num_tokens = int(split.lengths.sum()) * likeness.shape[1]
    fits = num_tokens - sorted_gain.cumsum(0) >= budget
    return fits[order].reshape(likeness.shape) & split.still


def _cluster_counts(split: _Split, budget: int | None, ratio: float | None) -> list[list[int]]:
    """Return the clusters of every segment's still set, and of each of its frames' moving sets."""
    copies = split.copies.flatten()
    sizes = split.sets.flatten().repeat_interleave(copies).cpu()

    def counts(part: float) -> torch.Tensor:
        wanted = [part_of(n, part) for n in sizes.tolist()]
        return torch.where(sizes <= _SMALL, sizes, torch.tensor(wanted).clamp(min=1))

    if budget is None:
        clusters = counts(0.5 if ratio is None else ratio)
    elif int(counts(0.0).sum()) <= budget:
        clusters = by_one_ratio(counts, budget)
    else:
        # One for every set, the others in proportion.
        least = sizes.clamp(max=1)
        clusters = least + apportion(sizes - least, budget - int(least.sum()), sizes - least)
    per_segment = copies.reshape(-1, 2).sum(dim=1).tolist()
    return [part.tolist() for part in torch.split(clusters, per_segment)]
