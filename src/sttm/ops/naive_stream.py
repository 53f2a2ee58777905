"""Literal slow twin of `sttm.StreamingSTTM`: one frame after the other, one cell after the other.

Every frame's cells are compared with all cells of the frame before, in float64.
"""

from dataclasses import dataclass, field

import torch

from sttm.ops.naive import Cell, Settings, find_links, parents, pyramid, visit


@dataclass(eq=False)
class Group:
    """What becomes one token.

    Args:
        born: the frame of its first cell.
        cells: in order.
    """

    born: int
    cells: list[Cell] = field(default_factory=list)

    def mean(self, weighted: bool) -> torch.Tensor:
        """Return the ``(C,)`` float64 mean over its cells, or over their patches."""
        amounts = [cell.patches if weighted else 1 for cell in self.cells]
        total = torch.zeros_like(self.cells[0].feature)
        for cell, amount in zip(self.cells, amounts, strict=True):
            total += cell.feature * amount
        return total / sum(amounts)


class Stream:
    """Takes frames one by one.

    Args:
        settings: see `sttm.ops.naive.Settings`.
        window: most frames of a group; None: any number.

    Attributes:
        groups: all so far, in the order of their first cells.
        closed: how many of the first of them no later frame can join; these are emitted.
    """

    def __init__(self, settings: Settings, window: int | None) -> None:
        self.settings = settings
        self.window = window
        self.groups: list[Group] = []
        self.closed = 0
        self._frames = 0
        self._last: list[tuple[Cell, Group]] = []

    def push(self, frame: torch.Tensor) -> None:
        """Take the next frame, ``(H, W, C)``."""
        settings, time = self.settings, self._frames
        roots = pyramid(frame.double(), time, settings, torch.float64)
        found = [cell for root in roots for cell in visit(root, settings, [])]
        found.sort(key=lambda cell: cell.box[:3])
        before = [cell for cell, _ in self._last]
        links = find_links([*before, *found], settings.heads)
        limit = settings.temporal_threshold
        links = [link for link in links if limit is not None and link[2] >= limit]
        parent = parents(links, len(before) + len(found), settings.parent == "top_left")
        current = []
        for index, cell in enumerate(found, start=len(before)):
            group = self._last[parent[index]][1] if parent[index] < len(before) else None
            if group is None or not self._may_grow(group, time):
                group = Group(time)
                self.groups.append(group)
            group.cells.append(cell)
            current.append((cell, group))
        self._frames, self._last = time + 1, current
        growing = [group for _, group in current if self._may_grow(group, time + 1)]
        while self.closed < len(self.groups) and self.groups[self.closed] not in growing:
            self.closed += 1

    def _may_grow(self, group: Group, time: int) -> bool:
        return self.window is None or time - group.born < self.window
