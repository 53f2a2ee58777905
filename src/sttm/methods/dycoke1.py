"""DyCoke's first stage: frames in groups of four, of which only changed tokens stay."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sttm.methods.base import TokenPruner, VideoFeatures
from sttm.methods.registry import register
from sttm.ops.colocated import colocated_cosines
from sttm.ops.selection import apportion, evenly_spaced, stable_topk_per_row

_GROUP = 4


@register
@dataclass(frozen=True)
class DyCokeStage1(TokenPruner):
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

    def kept(self, video: VideoFeatures, count: int) -> torch.Tensor:
        """Choose the tokens that stay, group by group. Similarity in float32."""
        frames, per_frame = video.grid.frames, video.grid.tokens_per_frame
        # Every round keeps first frames only: 1, 4, 16, ... frames apart.
        stride = 1
        while count < _first_frames(frames, stride) * per_frame:
            stride *= _GROUP
            if stride >= frames:
                return evenly_spaced(count, per_frame, video.device)
        frame = torch.arange(0, frames, stride, device=video.device)
        place = torch.arange(frame.shape[0], device=video.device)
        is_first = place % _GROUP == 0
        # The second, third and fourth frame look at the first, first and third.
        later = place[~is_first]
        reference = later - 1 - (later % _GROUP == 2).long()
        similarity = colocated_cosines(video.x, frames, frame[later], frame[reference])
        kept = is_first[:, None].expand(-1, per_frame).clone()
        left = count - int(is_first.sum()) * per_frame
        room = torch.full(later.shape, per_frame, device=video.device)
        chosen = apportion(torch.ones_like(room), left, room)
        kept[later] = stable_topk_per_row(-similarity, chosen)
        token = frame[:, None] * per_frame + torch.arange(per_frame, device=video.device)
        return token[kept]


def _first_frames(frames: int, stride: int) -> int:
    """Count the frames that are the first of their group, among those ``stride`` apart."""
    return -(-frames // (stride * _GROUP))
