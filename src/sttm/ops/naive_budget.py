"""The literal slow twin of exact budgets: plain loops, in float64, rounded to float32 cosines.

It shares the definitions of `sttm.ops.naive`, and no code with `sttm.ops.budget_search`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from sttm.ops.naive import (
    Cell,
    Link,
    Settings,
    cosine,
    find_links,
    forest_roots,
    parents,
    pyramid,
    score,
)


def rounded(value: float) -> float:
    """Round to float32, as the fast path stores cosines."""
    return float(torch.tensor(value, dtype=torch.float32))


@dataclass(eq=False)
class Ranked:
    """A cell that can be merged.

    Args:
        cell: the cell.
        score: as in `uniformity`.
        level: 1 for the finest that has children.
        video: which video it belongs to.
    """

    cell: Cell
    score: float
    level: int
    video: int


@dataclass(frozen=True)
class Reached:
    """What `within` found.

    Args:
        groups: per video the output token of every input token.
        close: the smallest distance between two numbers whose order decided something, but not 0.
    """

    groups: list[list[int]]
    close: float


@dataclass
class Search:
    """The videos that share a budget, as cells.

    Args:
        roots: per video the root cells of all frames.
        settings: see `Settings`; thresholds are not read.
        gap: spatial minus temporal threshold; None: no links.
    """

    roots: list[list[Cell]]
    settings: Settings
    gap: float | None
    ranked: list[Ranked] = field(default_factory=list)
    close: float = 1.0

    def __post_init__(self) -> None:
        for video, roots in enumerate(self.roots):
            for cell in roots:
                self._collect(cell, video)
        self.ranked.sort(key=lambda r: (-r.score, r.level, r.video, r.cell.box[:3]))
        for a in self.ranked:
            for b in self.ranked:
                self._watch(a.score, b.score)

    def _watch(self, a: float, b: float) -> None:
        if a != b:
            self.close = min(self.close, abs(a - b))

    def _collect(self, cell: Cell, video: int) -> int:
        children = [child for child in cell.slots if child is not None]
        levels = [self._collect(child, video) for child in children]
        if not children:
            return 0
        self.ranked.append(Ranked(cell, self.uniformity(cell), 1 + max(levels), video))
        return 1 + max(levels)

    def uniformity(self, cell: Cell) -> float:
        """Return the score; that of its child for a cell with one child."""
        children = [child for child in cell.slots if child is not None]
        if len(children) == 1 and children[0].slots:
            return self.uniformity(children[0])
        return rounded(score(cell, self.settings))

    def emit(self, cell: Cell, merged: set[int]) -> list[Cell]:
        """Return the cell if it is finest or merged, otherwise its parts."""
        if not cell.slots or id(cell) in merged:
            return [cell]
        children = [child for child in cell.slots if child is not None]
        return [found for child in children for found in self.emit(child, merged)]

    def cells(self, rank: int) -> list[list[Cell]]:
        """Return the cells of every video with ``rank`` cells merged."""
        merged = {id(r.cell) for r in self.ranked[:rank]}
        return [
            sorted(
                (found for cell in roots for found in self.emit(cell, merged)),
                key=lambda cell: cell.box[:3],
            )
            for roots in self.roots
        ]

    def parent_links(self, rank: int, cells: list[list[Cell]]) -> list[tuple[int, Link]]:
        """List (video, link) of the links from cells to their parents."""
        if self.gap is None:
            return []
        floor = self.ranked[rank].score - self.gap if rank < len(self.ranked) else -1.0
        found: list[tuple[int, Link]] = []
        for video, emitted in enumerate(cells):
            links = [
                (a, b, rounded(value)) for a, b, value in find_links(emitted, self.settings.heads)
            ]
            for _, _, value in links:
                self.close = min(self.close, abs(value - floor))
            links = [link for link in links if link[2] >= floor]
            chosen = self._choose(links, len(emitted))
            found += [(video, link) for link in chosen]
        return found

    def _choose(self, links: list[Link], num_cells: int) -> list[Link]:
        for a in links:
            for b in links:
                self._watch(a[2], b[2])
        parent = parents(links, num_cells, self.settings.parent == "top_left")
        chosen = [link for link in links if parent[link[1]] == link[0]]
        return sorted(chosen, key=lambda link: link[1])

    def tokens(self, rank: int) -> int:
        """Count the tokens at a rank."""
        cells = self.cells(rank)
        return sum(len(c) for c in cells) - len(self.parent_links(rank, cells))

    def reach(self, budget: int) -> list[list[int]] | None:
        """Return the groups of every video, as cells' representatives painted on tokens."""
        ranks = range(len(self.ranked) + 1)
        high = next((rank for rank in ranks if self.tokens(rank) <= budget), None)
        if high is None:
            return None
        cells = self.cells(high)
        surplus = sum(len(c) for c in cells) - budget
        if surplus < 0:
            cells, links = self.open_last(high, budget)
        else:
            links = self.parent_links(high, cells)
            links = sorted(links, key=lambda item: (-item[1][2], item[0]))[:surplus]
        return [
            self.paint(emitted, [link for v, link in links if v == video])
            for video, emitted in enumerate(cells)
        ]

    def open_last(self, rank: int, budget: int) -> tuple[list[list[Cell]], list[tuple[int, Link]]]:
        """Open the cell merged last, and link those of its parts that are most similar to it."""
        last = self.ranked[rank - 1]
        cells = self.cells(rank - 1)
        emitted = cells[last.video]
        inside = [
            (-rounded(cosine(last.cell.feature, cell.feature, self.settings.heads)), i)
            for i, cell in enumerate(emitted)
            if cell.box[0] == last.cell.box[0] and last.cell.contains(cell)
        ]
        for a, _ in inside:
            for b, _ in inside:
                self._watch(a, b)
        count = sum(len(c) for c in cells) - budget + 1
        together = sorted(i for _, i in sorted(inside)[:count])
        return cells, [(last.video, (together[0], i, 1.0)) for i in together[1:]]

    def paint(self, cells: list[Cell], links: Sequence[Link]) -> list[int]:
        """Give every token of a video its output."""
        parent = list(range(len(cells)))
        for a, b, _ in links:
            parent[b] = a
        root = forest_roots(parent)
        output = {r: i for i, r in enumerate(sorted(set(root)))}
        painted: dict[tuple[int, int, int], int] = {}
        for cell, r in zip(cells, root, strict=True):
            t, y0, x0, y1, x1 = cell.box
            for y in range(y0, y1):
                for x in range(x0, x1):
                    painted[t, y, x] = output[r]
        return [painted[place] for place in sorted(painted)]


def within(
    videos: Sequence[tuple[torch.Tensor, tuple[int, int, int]]],
    settings: Settings,
    budget: int,
    gap: float | None,
) -> Reached | None:
    """Merge videos to exactly ``budget`` tokens together.

    Args:
        videos: features ``(N, C)`` and ``(frames, height, width)`` of each.
        settings: see `Settings`; thresholds are not read, except None for no spatial step.
        budget: tokens.
        gap: spatial minus temporal threshold; None: no links.

    Returns:
        None if the root cells are too many.
    """
    roots = [
        [
            cell
            for t, frame in enumerate(x.double().reshape(*shape, -1))
            for cell in pyramid(frame, t, settings, torch.float64)
        ]
        for x, shape in videos
    ]
    search = Search(roots, settings, gap)
    groups = search.reach(budget)
    return None if groups is None else Reached(groups, search.close)
