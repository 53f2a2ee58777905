"""DyCoke's first stage: frames in groups of four, of which only changed tokens stay."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.grid import VideoGrid
from sttm.methods.registry import register
from sttm.ops.colocated import colocated_cosines
from sttm.ops.selection import apportion, evenly_spaced, kept_groups, stable_topk_per_row
from sttm.plan import MergePlan

_GROUP = 4


@register
@dataclass(frozen=True)
class DyCokeStage1:
    """Keep the first of every four frames, and the least similar tokens of the other three.

    The second frame is compared with the first, the fourth with the third and the third with the
    first, place by place; every one of the three keeps the same number of tokens (or one more).
    The others are dropped.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer. The published rule reaches
            down to a quarter of the tokens; below, the first frames are reduced by the same rule.

    Raises:
        ConfigError: a value out of range.

    Source: DyCoke, arXiv 2411.15024, stage 1 (token temporal merging). Differs: the ratio follows
        from an exact count; counts below the first frames; a last group of fewer frames.
    """

    name: ClassVar[str] = "dycoke1"
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
        kept = _kept_tokens(x, grid, token_budget(self.keep, grid.num_tokens))
        return MergePlan.from_groups(*kept_groups(kept, grid.num_tokens))


def _kept_tokens(x: torch.Tensor, grid: VideoGrid, count: int) -> torch.Tensor:
    """Return ``(count,)`` int64, ascending: the tokens that stay."""
    per_frame = grid.tokens_per_frame
    # Every round keeps first frames only: 1, 4, 16, ... frames apart.
    stride = 1
    while count < _first_frames(grid.frames, stride) * per_frame:
        stride *= _GROUP
        if stride >= grid.frames:
            return evenly_spaced(count, per_frame, x.device)
    frame = torch.arange(0, grid.frames, stride, device=x.device)
    place = torch.arange(frame.shape[0], device=x.device)
    is_first = place % _GROUP == 0
    # The second, third and fourth frame look at the first, first and third.
    later = place[~is_first]
    reference = later - 1 - (later % _GROUP == 2).long()
    similarity = colocated_cosines(x, grid.frames, frame[later], frame[reference])
    kept = is_first[:, None].expand(-1, per_frame).clone()
    left = count - int(is_first.sum()) * per_frame
    room = torch.full(later.shape, per_frame, device=x.device)
    kept[later] = stable_topk_per_row(-similarity, apportion(torch.ones_like(room), left, room))
    token = frame[:, None] * per_frame + torch.arange(per_frame, device=x.device)
    return token[kept]


def _first_frames(frames: int, stride: int) -> int:
    """Count the frames that are the first of their group, among those ``stride`` apart."""
    return -(-frames // (stride * _GROUP))
