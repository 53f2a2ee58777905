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
    The others are dropped. As in the authors' code, the third frame of the last group stays whole
    where the frames are a multiple of four, and the last of an odd number of frames is dropped
    (both where the budget allows it).

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer. The published rule reaches
            down to a quarter of the tokens; below, the first frames are reduced by the same rule.

    Raises:
        ConfigError: a value out of range.

    Source: DyCoke, arXiv 2411.15024, stage 1 (token temporal merging). Differs: the ratio follows
        from an exact count; counts below the frames that stay whole. Checked against the authors'
        code, see docs/fairness.md.
    """

    name: ClassVar[str] = "dycoke1"
    default_layer: ClassVar[int | None] = 0

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
        whole, last = _roles(len(place), count // per_frame if stride == 1 else 0)
        # The second, third and fourth frame look at the first, first and third.
        reference = (place - 1 - (place % _GROUP == 2).long()).clamp(min=0)
        unlike = torch.ones(len(place), per_frame, device=video.device)
        unlike[1:] = -colocated_cosines(video.x, frames, frame[1:], frame[reference[1:]])
        counts = torch.where(whole, per_frame, 0).to(video.device)
        for part in (~whole & ~last, last):
            room = torch.where(part, per_frame, 0).to(video.device)
            left = min(count - int(counts.sum()), int(room.sum()))
            counts += apportion(part.to(video.device), left, room)
        token = frame[:, None] * per_frame + torch.arange(per_frame, device=video.device)
        return token[stable_topk_per_row(unlike, counts)]


def _roles(frames: int, room: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mark the frames that stay whole, and those that are left out before any other loses more.

    The authors' code never comes to the last group's third frame, nor to the last frame of an odd
    number.

    Args:
        frames: how many there are.
        room: whole frames that the budget has room for.
    """
    place = torch.arange(frames)
    last = (place == frames - 1) & (frames % 2 == 1) & (frames > 1) & (room > 0)
    whole = (place % _GROUP == 0) & ~last
    third = (place == frames - 2) & (frames % _GROUP == 0)
    if int((whole | third).sum()) <= room:
        whole = whole | third
    return whole, last


def _first_frames(frames: int, stride: int) -> int:
    """Count the frames that are the first of their group, among those ``stride`` apart.

    Next to each other, a group of the last frame alone does not count: see `_roles`.
    """
    groups = -(-frames // (stride * _GROUP))
    alone = stride == 1 and frames > 1 and frames % _GROUP == 1
    return groups - 1 if alone else groups
