"""VisionZip: dominant tokens by the tower's attention, and contextual tokens of all others."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.methods.base import Method, Signal, VideoFeatures
from sttm.methods.checks import check_number
from sttm.methods.registry import register
from sttm.ops.assignment import even_counts, most_similar, part_of
from sttm.ops.selection import evenly_spaced, stable_topk_per_row
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class VisionZip(Method):
    """Keep each frame's most attended tokens, and merge the others into a few contextual ones.

    Every frame gets the same number of tokens (or one more): most are dominant, the ones that
    receive the most attention in the vision tower. Of the other tokens some, evenly spaced, are
    targets; each of the rest joins the most similar target, and a group becomes its mean.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.
        contextual: the part of a frame's tokens, rounded down, that is contextual, in [0, 1]. The
            paper has 54 dominant tokens and 10 contextual ones.

    Raises:
        ConfigError: a value out of range.

    Source: VisionZip, arXiv 2412.04467, section 3. Differs: similarity of the features that come
        to the decoder layer, where the paper takes the tower's keys; tokens as pooled for the
        language model, where the paper takes the tower's own; exact counts per video.
    """

    name: ClassVar[str] = "visionzip"
    requires: ClassVar[frozenset[Signal]] = frozenset({"tower_attention"})

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
        contexts = torch.tensor([part_of(count, self.contextual) for count in counts.tolist()])
        dominants = (counts - contexts).to(x.device)
        dominant = stable_topk_per_row(attention.view(grid.frames, -1), dominants)
        label = torch.arange(grid.num_tokens, device=x.device)
        label[~dominant.flatten()] = -1
        for frame, count in enumerate(contexts.tolist()):
            rest = (~dominant[frame]).nonzero().squeeze(1) + frame * per_frame
            if count == 0 or rest.shape[0] == 0:
                continue
            target = rest[evenly_spaced(count, rest.shape[0], x.device)]
            label[rest] = target[most_similar(x[rest], x[target])]
            label[target] = target
        return MergePlan.from_anchors(label)
