"""FastVID: segments of a video, in which dense tokens absorb the others and salient ones stay."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.methods.base import Method, Signal, VideoFeatures
from sttm.methods.checks import check_count, check_number
from sttm.methods.registry import register
from sttm.ops.assignment import even_counts, most_similar, part_of
from sttm.ops.clustering import density_and_separation, peak_rank, squared_distances
from sttm.ops.segments import frame_means
from sttm.ops.selection import apportion, stable_topk, stable_topk_per_row
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class FastVID(Method):
    """Cut the video where it changes; in each segment keep salient tokens and merge around others.

    Segments end where neighbouring frames' mean features are least alike, and wherever their
    cosine is below ``similarity``. A segment's tokens are in proportion to its frames. Most are
    salient: the ones of each frame that receive the most attention in the vision tower. The others
    are anchors: the density peaks of every ``interval``-th frame, counted back from the segment's
    last. All tokens that are neither join the most similar anchor of their segment.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.
        segments: least number of segments (frames permitting).
        similarity: cosine in [-1, 1] of neighbouring frames below which a segment ends.
        density: the part of a frame's tokens, rounded down, that is anchors, in [0, 1]; a segment's
            anchors are shared evenly by its anchor frames.
        interval: frames from one frame with anchors to the next.
        anchor_weight: an anchor's own weight in its group, in (0, 1]; the tokens that joined it
            have the rest in equal shares.
        neighbours: points that a density is measured on, each point itself included.

    Raises:
        ConfigError: a value out of range.

    Source: FastVID, arXiv 2503.11187, section 3. Differs: attention as `VideoFeatures` has it (the
        paper takes that of SigLIP's pooling head where there is no class token), and means of
        frames where that head's output is compared; exact counts; ties by index. In a segment
        longer than ``interval`` the authors let a token join an anchor of each anchor frame; a plan
        puts a token into one group, that of the most similar of those. Checked against the authors'
        code, see docs/fairness.md.
    """

    name: ClassVar[str] = "fastvid"
    requires: ClassVar[frozenset[Signal]] = frozenset({"tower_attention"})
    default_layer: ClassVar[int | None] = 0

    keep: float | int
    segments: int = 8
    similarity: float = 0.9
    density: float = 0.4
    interval: int = 4
    anchor_weight: float = 0.6
    neighbours: int = 4

    def __post_init__(self) -> None:
        check_keep(self.keep)
        check_count("segments", self.segments)
        check_number("similarity", self.similarity, -1.0, 1.0)
        check_number("density", self.density, 0.0, 1.0)
        check_count("interval", self.interval)
        check_number("anchor_weight", self.anchor_weight, 0.0, 1.0, above=True)
        check_count("neighbours", self.neighbours)

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan to leave exactly ``floor(keep * N)`` tokens, at least one.

        Similarity in float64.

        Returns:
            a plan whose ``info`` has ``segments`` ``(S,)`` int64, their first frames.
        """
        x, grid = video.x, video.grid
        attention = video.attention("tower_attention").view(grid.frames, -1)
        starts = self._starts(frame_means(x, grid.frames))
        lengths = torch.cat([starts, starts.new_tensor([grid.frames])]).diff()
        budget, per_frame = token_budget(self.keep, grid.num_tokens), grid.tokens_per_frame
        anchors, counts = self._shares(lengths, budget, per_frame)
        field = x.view(grid.frames, per_frame, -1)
        labels, weights = [], []
        spans = zip(starts.tolist(), lengths.tolist(), counts.tolist(), anchors.tolist())
        for start, length, count, each in spans:
            part = slice(start, start + length)
            label, weight = self._segment(field[part], attention[part], count, each)
            labels.append(torch.where(label >= 0, label + start * per_frame, -1))
            weights.append(weight)
        plan = MergePlan.from_anchors(torch.cat(labels), torch.cat(weights))
        return replace(plan, info={"segments": starts})

    def _starts(self, means: torch.Tensor) -> torch.Tensor:
        """Return the segments' first frames."""
        unit = torch.nn.functional.normalize(means.double(), dim=1)
        alike = (unit[1:] * unit[:-1]).sum(dim=1).float()
        ends = alike < self.similarity
        ends[stable_topk(-alike, min(self.segments - 1, alike.shape[0]))] = True
        return torch.cat([ends.new_ones(1), ends]).nonzero().squeeze(1)

    def _shares(
        self, lengths: torch.Tensor, budget: int, per_frame: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return every segment's anchors per anchor frame, and its tokens: ``(S,)`` int64 each.

        Of ``m`` tokens per frame ``floor(density * m)`` are anchors. The anchor frames of a segment
        share them equally, and lose what is left over: a total just below ``T * m`` is that of
        ``m``, too. What another budget has beyond is in proportion to the segments' frames.
        """
        sampled, least = -(-lengths // self.interval), budget // int(lengths.sum())
        for tokens in (least + 1, least):
            dense = part_of(tokens, self.density)
            anchors = dense * lengths // sampled
            counts = (tokens - dense) * lengths + anchors * sampled
            if int(counts.sum()) == budget:
                break
        more = apportion(lengths, budget - int(counts.sum()), lengths * per_frame - counts)
        return anchors, counts + more

    def _segment(
        self, field: torch.Tensor, attention: torch.Tensor, count: int, each: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(P * n,)`` labels within the segment, and weights; ``each``: see `_anchors`."""
        frames = attention.shape[0]
        salient = stable_topk_per_row(
            attention,
            even_counts(count - each * -(-frames // self.interval), frames, field.device),
        )
        is_anchor = self._anchors(field, ~salient, each).flatten()
        # What could not be placed among the tokens that are not salient.
        short = count - int(is_anchor.sum() + salient.sum())
        if short > 0:
            left = torch.where(is_anchor | salient.flatten(), -1.0, attention.flatten())
            salient.view(-1)[stable_topk(left, short)] = True
        single = is_anchor | salient.flatten()
        token = torch.arange(single.shape[0], device=field.device)
        label = torch.where(single, token, -1)
        weight = torch.ones(single.shape[0], device=field.device)
        rest, anchor = (~single).nonzero().squeeze(1), is_anchor.nonzero().squeeze(1)
        if anchor.shape[0] > 0:
            flat = field.flatten(0, 1)
            chosen = anchor.new_empty(0)
            if rest.shape[0] > 0:
                chosen = most_similar(flat[rest], flat[anchor])
            size = torch.bincount(chosen, minlength=anchor.shape[0]).float() + 1.0
            label[rest] = anchor[chosen]
            weight[rest] = (1.0 - self.anchor_weight) / size[chosen]
            weight[anchor] = self.anchor_weight + (1.0 - self.anchor_weight) / size
        return label, weight

    def _anchors(self, field: torch.Tensor, free: torch.Tensor, each: int) -> torch.Tensor:
        """Mark ``each`` density peaks among the free tokens of every anchor frame, ``(P, n)`` bool.

        Anchor frames are the segment's last frame and those ``interval``, ``2 * interval``, ...
        before it.
        """
        chosen = torch.zeros_like(free)
        for frame in range(free.shape[0] - 1, -1, -self.interval):
            place = free[frame].nonzero().squeeze(1)
            if each == 0 or place.shape[0] == 0:
                continue
            square = squared_distances(field[frame, place])
            rank = peak_rank(*density_and_separation(square, self.neighbours))
            chosen[frame, place[rank < each]] = True
        return chosen
