"""The path of a budget: from every cell apart to all merged, in steps of one token.

A point of the path is a spatial threshold ``s`` with the temporal threshold ``s - gap`` (the
published settings lie about on such a diagonal). Between two neighbouring cell scores the cut does
not change, so the path has one stretch per cell: at rank ``r`` the ``r`` most uniform cells are
merged, and the temporal threshold may go down to ``score[r] - gap``. An exact count is met from
below: the first stretch that can reach it, and of its links only the most similar. The counts are
no staircase: a merged cell may lose more links than it saves cells.

Source: STTM names exact budgets as future work; this is our own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from sttm.ops.links import CosineCache, Links, find_links
from sttm.ops.profile import cell_counts, emission_spans, linked_counts
from sttm.ops.quadtree import Cut, Quadtree, cut, parts_of

# Reduces links to some that form a forest, so that each of them removes exactly one token.
Forest = Callable[[Links, int], Links]


@dataclass(frozen=True)
class Point:
    """A cut of every video, and the links that are used.

    Args:
        cuts: one per video.
        links: one per video; they form a forest.
        spatial: score of the least uniform cell that is merged; None if none is.
        temporal: cosine of the least similar link between frames; None if there is none.
    """

    cuts: list[Cut]
    links: list[Links]
    spatial: float | None
    temporal: float | None

    @property
    def num_cells(self) -> int:
        """Tokens if no link were used."""
        return sum(cells.num_cells for cells in self.cuts)

    @property
    def num_tokens(self) -> int:
        """Tokens of all videos."""
        return self.num_cells - sum(len(links) for links in self.links)


class BudgetPath:
    """All points between every token and the fewest that links and cells lead to.

    Args:
        trees: the scored pyramids of the videos that share the budget.
        forest: chooses the links that count.
        gap: spatial minus temporal threshold; None: no links between frames.
        parents: whether the forest gives every cell that has links to the frame before one of
            them. Then the counts at all ranks are known at once; otherwise points are tried.
    """

    def __init__(
        self, trees: Sequence[Quadtree], forest: Forest, gap: float | None, *, parents: bool = True
    ) -> None:
        self._trees = trees
        self._forest = forest
        self._gap = gap
        self._parents = parents
        self._memories = [CosineCache(tree) for tree in trees]
        # Equal scores: finer cells first, then by video and place.
        depth = max(tree.num_levels for tree in trees)
        self._places = [
            (number, level)
            for level in range(1, depth)
            for number, tree in enumerate(trees)
            if level < tree.num_levels
        ]
        device = trees[0].scores[0].device
        scores = [_merge_scores(trees[number], level).flatten() for number, level in self._places]
        flat = torch.cat(scores) if scores else torch.empty(0, device=device)
        ordered, index = flat.sort(descending=True, stable=True)
        self._scores: list[float] = ordered.tolist()
        self._order = index
        self._starts = torch.tensor([0, *(len(part) for part in scores)]).cumsum(0).tolist()
        rank = torch.empty_like(index)
        rank[index] = torch.arange(len(index), device=device)
        self._ranked = self._rank_trees(rank)
        floors = torch.cat([ordered.double() - (gap or 0.0), ordered.new_full((1,), -1.0)])
        self._floors = floors.float().clamp(min=-1.0)

    def __len__(self) -> int:
        """Cells that can be merged."""
        return len(self._scores)

    def _rank_trees(self, rank: torch.Tensor) -> list[Quadtree]:
        """Put minus the rank in place of every score, so that `cut` cuts at ranks."""
        levels = [list(tree.scores) for tree in self._trees]
        for (number, level), start in zip(self._places, self._starts):
            like = levels[number][level]
            levels[number][level] = -rank[start : start + like.numel()].view_as(like)
        return [
            replace(tree, scores=scores) for tree, scores in zip(self._trees, levels, strict=True)
        ]

    def _no_links(self) -> list[Links]:
        return [Links.none(tree.scores[0].device) for tree in self._trees]

    def rank_of(self, threshold: float) -> int:
        """Count the cells whose score reaches a threshold."""
        return sum(score >= threshold for score in self._scores)

    def _cuts(self, rank: int) -> list[Cut]:
        return [cut(tree, 1 - rank) for tree in self._ranked]

    def at(self, rank: int) -> Point:
        """Return the end of a stretch: ``rank`` cells merged, and all links that it allows."""
        spatial = self._scores[rank - 1] if rank else None
        cuts = self._cuts(rank)
        if self._gap is None:
            return Point(cuts, self._no_links(), spatial, None)
        floor = float(self._floors[rank])
        links = [
            self._forest(find_links(tree, cells, memory).at_least(floor), cells.num_cells)
            for tree, cells, memory in zip(self._trees, cuts, self._memories, strict=True)
        ]
        return Point(cuts, links, spatial, floor)

    def counts(self) -> torch.Tensor:
        """Return ``(len(self) + 1,)`` int64: the tokens at the end of every stretch."""
        spans = [
            emission_spans(tree, [-scores for scores in ranked.scores[1:]], len(self))
            for tree, ranked in zip(self._trees, self._ranked, strict=True)
        ]
        cells = cell_counts(spans, len(self))
        if self._gap is None:
            return cells
        return cells - linked_counts(self._trees, spans, self._memories, self._floors)

    def reach(self, budget: int, first: int = 0) -> Point | None:
        """Return the point of exactly ``budget`` tokens: in the first stretch that can reach it.

        Args:
            budget: tokens of all videos together.
            first: the path begins here, unless the cut there has fewer cells than the budget.

        Returns:
            None if no stretch has so few tokens.
        """
        if first and sum(cells.num_cells for cells in self._cuts(first)) < budget:
            first = 0
        rank = self._look_up(budget, first) if self._parents else self._bisect(budget, first)
        return None if rank is None else self._trim(self.at(rank), rank, budget)

    def _look_up(self, budget: int, first: int) -> int | None:
        """Return the first rank, from ``first`` on, with at most ``budget`` tokens."""
        few = (self.counts()[first:] <= budget).nonzero()
        return first + int(few[0]) if len(few) else None

    def _bisect(self, budget: int, first: int) -> int | None:
        """Return a rank with at most ``budget`` tokens that is ``first`` or behind one with more.

        Where counts rise again that need not be the first one.
        """
        if self.at(first).num_tokens <= budget:
            return first
        low, high = first, len(self)
        if self.at(high).num_tokens > budget:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self.at(middle).num_tokens <= budget:
                high = middle
            else:
                low = middle
        return high

    def _trim(self, point: Point, rank: int, budget: int) -> Point:
        """Use only as many of the point's links as the budget asks for, most similar first."""
        if point.num_cells < budget:
            return self._open_last(rank, budget)
        sizes = [len(links) for links in point.links]
        cosine = torch.cat([links.cosine for links in point.links])
        strongest = cosine.sort(descending=True, stable=True).indices[: point.num_cells - budget]
        used = torch.zeros_like(cosine, dtype=torch.bool)
        used[strongest] = True
        links = [
            some.select(kept.nonzero().squeeze(1))
            for some, kept in zip(point.links, torch.split(used, sizes), strict=True)
        ]
        weakest = float(cosine[strongest[-1]]) if len(strongest) else None
        return replace(point, links=links, temporal=weakest)

    def _open_last(self, rank: int, budget: int) -> Point:
        """Open the cell that was merged last, but leave so many of its parts together as it takes.

        Those that are most similar to the whole cell stay in it.
        """
        spatial = self._scores[rank - 2] if rank > 1 else None
        cuts = self._cuts(rank - 1)
        links = self._no_links()
        point = Point(cuts, links, spatial, None)
        flat = int(self._order[rank - 1])
        place = next(i for i, end in enumerate(self._starts[1:]) if flat < end)
        number, level = self._places[place]
        part, cosine = parts_of(
            self._trees[number], cuts[number], level, flat - self._starts[place]
        )
        count = point.num_cells - budget + 1
        together = part[cosine.sort(descending=True, stable=True).indices[:count]].sort().values
        links[number] = Links(
            together[:1].expand(count - 1), together[1:], cosine.new_ones(count - 1)
        )
        return point


def _merge_scores(tree: Quadtree, level: int) -> torch.Tensor:
    """Return a level's scores; a cell with one child is as uniform as that child, not uniform.

    Only the first cell can have one child, where both sides of the finer level are odd.
    """
    scores = tree.scores[level]
    height, width = tree.sizes[level - 1]
    if level == 1 or not (height % 2 and width % 2):
        return scores
    return torch.cat([_merge_scores(tree, level - 1)[:, :1], scores[:, 1:]], dim=1)
