"""FastV: keep the video tokens that the prompt's last token attends to."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.grid import VideoGrid
from sttm.methods.base import Evidence, Need, required
from sttm.methods.registry import register
from sttm.ops.selection import kept_groups, stable_topk
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class FastV:
    """Keep the tokens that the prompt's last token attends to most, in one decoder layer.

    Under :func:`sttm.attach` that is the layer in front of the reduction: with the default
    ``layer=2``, the second one.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.

    Raises:
        ConfigError: a value out of range.

    Source: FastV, arXiv 2403.06764, section 4. Differs: only video tokens are pruned, not images;
        an exact count per video, where the paper prunes all image tokens of the prompt together.
    """

    name: ClassVar[str] = "fastv"
    query_aware: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt_attention"})

    keep: float | int

    def __post_init__(self) -> None:
        check_keep(self.keep)

    @torch.no_grad()
    def plan(self, x: torch.Tensor, grid: VideoGrid, evidence: Evidence | None = None) -> MergePlan:
        """Plan to keep exactly ``floor(keep * N)`` tokens, at least one.

        Args:
            x: ``(N, C)`` floating, order t, y, x. Not modified; only its length matters.
            grid: the video's shape in tokens.
            evidence: with ``prompt_attention``.

        Raises:
            ConfigError: ``x`` or the evidence does not fit the grid, or is not finite.
        """
        grid.check(x)
        attention = required(evidence, "prompt_attention", grid, x.device)
        kept = stable_topk(attention, token_budget(self.keep, grid.num_tokens))
        return MergePlan.from_groups(*kept_groups(kept, grid.num_tokens))
