"""Efficient Video Sampling: the first frame, and the tokens that changed most."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.grid import VideoGrid
from sttm.methods.registry import register
from sttm.ops.colocated import colocated_cosines
from sttm.ops.selection import evenly_spaced, kept_groups, stable_topk
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class EVS:
    """Keep the first frame and the tokens that changed most since the frame before; drop the rest.

    Change is 1 - cosine between a token and the token at the same place of the previous frame.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer. Below one frame only evenly
            spaced tokens of the first frame are kept.

    Raises:
        ConfigError: a value out of range.

    Source: Efficient Video Sampling (NVIDIA), as in vLLM. Differs: budgets below one frame, which
        vLLM raises to one frame; similarity in float32.
    """

    name: ClassVar[str] = "evs"
    query_aware: ClassVar[bool] = False

    keep: float | int

    def __post_init__(self) -> None:
        check_keep(self.keep)

    @torch.no_grad()
    def plan(self, x: torch.Tensor, grid: VideoGrid) -> MergePlan:
        """Plan to keep exactly ``floor(keep * N)`` tokens, at least one.

        Args:
            x: ``(N, C)`` floating, order t, y, x. Not modified. Similarity in float32.
            grid: the video's shape in tokens.

        Raises:
            ConfigError: ``x`` does not fit the grid or is not finite.
        """
        grid.check(x)
        count, per_frame = token_budget(self.keep, grid.num_tokens), grid.tokens_per_frame
        if count <= per_frame:
            kept = evenly_spaced(count, per_frame, x.device)
        else:
            frame = torch.arange(grid.frames, device=x.device)
            change = 1.0 - colocated_cosines(x, grid.frames, frame[1:], frame[:-1]).flatten()
            later = stable_topk(change, count - per_frame) + per_frame
            kept = torch.cat([torch.arange(per_frame, device=x.device), later])
        return MergePlan.from_groups(*kept_groups(kept, grid.num_tokens))
