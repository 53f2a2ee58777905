"""What a reduction method is: a frozen dataclass that turns features into a plan."""

from typing import ClassVar, Protocol, runtime_checkable

import torch

from sttm.grid import VideoGrid
from sttm.plan import MergePlan


@runtime_checkable
class Method(Protocol):
    """Decides which video tokens become one; pure, without a model and without state.

    Attributes:
        name: the name in the registry.
        query_aware: whether the plan depends on the question; such a plan cannot be shared by
            several questions about one video.
    """

    name: ClassVar[str]
    query_aware: ClassVar[bool]

    def plan(self, x: torch.Tensor, grid: VideoGrid) -> MergePlan:
        """Plan the reduction of one video.

        Args:
            x: ``(N, C)`` floating features in the order t, y, x. Not modified.
            grid: the video's shape in tokens, ``grid.num_tokens == N``.
        Raises: ConfigError: ``x`` does not fit the grid or is not finite.
        """
        ...
