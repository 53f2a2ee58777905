"""VisionZip: dominant tokens by the tower's attention, and contextual tokens of all others."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.methods.base import Method, Signal, VideoFeatures
from sttm.methods.checks import check_number
from sttm.methods.registry import register
from sttm.ops.assignment import even_counts, most_similar, part_of
from sttm.ops.selection import stable_topk_per_row
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class VisionZip(Method):
    """Keep each frame's most attended tokens, and merge the others into a few contextual ones.

    Every frame gets the same number of tokens (or one more): most are dominant, the ones that
    receive the most attention in the vision tower. Of the other tokens every so many-th is a
    target; each of the rest joins the most similar target. A group becomes the mean of its target
    and of the mean of those that joined it.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.
        contextual: the part of a frame's tokens, rounded down but to 1 at least, that is
            contextual, in [0, 1]. The paper has 54 dominant tokens, of which one is the class
            token, and 10 contextual ones.

    Raises:
        ConfigError: a value out of range.

    Source: VisionZip, arXiv 2412.04467, section 3. Differs: similarity of the features that come
        to the decoder layer, where the authors take the tower's keys; tokens as pooled for the
        language model, where they take the tower's own; exact counts per video. The authors add
        the mean to the target, so that contextual tokens are nearly twice as long as others; a
        plan's weights sum to 1, so that here they are half of that.
        Checked against the authors' code, see docs/fairness.md.
    """

    name: ClassVar[str] = "visionzip"
    requires: ClassVar[frozenset[Signal]] = frozenset({"tower_attention"})
    default_layer: ClassVar[int | None] = 0

    keep: float | int
    contextual: float = 10 / 64

    def __post_init__(self) -> None:
        check_keep(self.keep)
        check_number("contextual", self.contextual, 0.0, 1.0)

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan to leave exactly ``floor(keep * N)`` tokens, at least one. Similarity in float64."""
        x, grid = video.x, video.grid
        attention = video.attention("tower_attention")
        budget, per_frame = token_budget(self.keep, grid.num_tokens), grid.tokens_per_frame
        counts = even_counts(budget, grid.frames)
        contexts = torch.tensor([self._num_contextual(count) for count in counts.tolist()])
        dominants = (counts - contexts).to(x.device)
        dominant = stable_topk_per_row(attention.view(grid.frames, -1), dominants)
        label = torch.arange(grid.num_tokens, device=x.device)
        label[~dominant.flatten()] = -1
        weight = torch.ones(grid.num_tokens, device=x.device)
        for frame, count in enumerate(contexts.tolist()):
            rest = (~dominant[frame]).nonzero().squeeze(1) + frame * per_frame
            if count == 0 or rest.shape[0] == 0:
                continue
            is_target = torch.zeros_like(rest, dtype=torch.bool)
            is_target[:: max(1, rest.shape[0] // count)] = True
            is_target &= is_target.cumsum(0) <= count
            target, others = rest[is_target], rest[~is_target]
            label[target] = target
            if others.shape[0]:
                chosen = most_similar(x[others], x[target])
                label[others] = target[chosen]
                # The target itself counts as much as the mean of those that join it.
                joined = torch.bincount(chosen, minlength=count)
                weight[others] = 1.0 / joined[chosen].float()
        return MergePlan.from_anchors(label, weight)

    def _num_contextual(self, count: int) -> int:
        """Count the contextual tokens among ``count`` of a frame: one at least, beside another."""
        part = part_of(count, self.contextual)
        return max(1, part) if count > 1 and self.contextual > 0 else part
