"""What an attachment tells of the videos that passed through it."""

from dataclasses import dataclass, field

from sttm.grid import VideoGrid
from sttm.models.adapter import Positions
from sttm.plan import MergePlan


@dataclass(frozen=True)
class VideoReport:
    """What was done to one video.

    Args:
        grid: its shape in tokens.
        tokens_in: its tokens in front of the layer.
        tokens_out: its tokens behind.
        layer: the decoder layer in front of which it was reduced.
        positions: the position policy.
        milliseconds: wall-clock time to decide on the plan, masks and positions; a video's share of
            its batch's.
        plan: the plan itself.
    """

    grid: VideoGrid
    tokens_in: int
    tokens_out: int
    layer: int
    positions: Positions
    milliseconds: float
    plan: MergePlan = field(repr=False, compare=False)

    @property
    def retention(self) -> float:
        """Tokens out / tokens in."""
        return self.tokens_out / self.tokens_in
