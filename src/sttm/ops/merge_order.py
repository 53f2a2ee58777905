"""Merge orders: the criterion by which a budget decides what merges first.

An order ranks all cells of all videos. At rank ``r`` the first ``r`` cells are merged, and links
between frames may be used if they are similar enough for that rank. A criterion is one function
that returns a `MergeOrder`; counting tokens and meeting budgets is the same for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sttm.ops.links import Similarity
from sttm.ops.quadtree import Quadtree


@dataclass(frozen=True, eq=False)
class MergeOrder:
    """The order in which cells and links merge, for several videos together.

    Args:
        cell_rank: per video ``(T, K)`` int64: the number of cells that merge before this coarser
            cell.
        score: ``(R,)`` float32, descending: the score of every cell, from the first that merges to
            the last.
        link_floor: ``(R + 1,)`` float32, descending: the similarity that a link needs at every
            rank. None: frames are never linked.
        similarity: compares two overlapping cells; the highest value merges first. Any scale.
    """

    cell_rank: list[torch.Tensor]
    score: torch.Tensor
    link_floor: torch.Tensor | None
    similarity: Similarity

    @property
    def last(self) -> int:
        """The last rank ``R``, at which all cells are merged."""
        return self.score.shape[0]

    def rank_of(self, threshold: float) -> torch.Tensor:
        """Return how many cells have a score of at least ``threshold``, an int64 scalar."""
        return (self.score.double() >= threshold).sum()


def cosine_order(trees: Sequence[Quadtree], gap: float | None) -> MergeOrder:
    """Order cells by their least cosine with a child, and links by the cosine of their cells.

    The two thresholds come down together, ``gap`` apart, as the published settings do.

    Args:
        trees: the pyramids of the videos.
        gap: spatial minus temporal threshold. None: frames are never linked.
    """
    cell_rank, score = rank_cells(trees, [_uniformity(tree) for tree in trees])
    link_floor = None
    if gap is not None:
        floor = torch.cat([score.double() - gap, score.new_full((1,), -1.0)])
        link_floor = floor.float().clamp(min=-1.0)
    return MergeOrder(cell_rank, score, link_floor, Quadtree.cosines)


def rank_cells(
    trees: Sequence[Quadtree], scores: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Rank all cells: highest score first; equal scores by level (finest first), video and place.

    Args:
        trees: the pyramids of the videos.
        scores: per video ``(T, K)`` float32.

    Returns:
        ``cell_rank`` and ``score`` of a `MergeOrder`.
    """
    levels = [
        torch.split(own, tree.coarse_sizes, dim=1) for tree, own in zip(trees, scores, strict=True)
    ]
    depth = max(len(own) for own in levels)
    order = [(v, n) for n in range(depth) for v, own in enumerate(levels) if n < len(own)]
    none = scores[0].new_empty(0)
    score, cell = torch.cat([none, *(levels[v][n].flatten() for v, n in order)]).sort(
        descending=True, stable=True
    )
    rank = torch.empty_like(cell)
    rank[cell] = torch.arange(cell.shape[0], device=cell.device)
    parts = torch.split(rank, [levels[v][n].numel() for v, n in order])
    ranks = [[own.new_empty((own.shape[0], 0), dtype=torch.int64)] for own in scores]
    for (video, level), part in zip(order, parts, strict=True):
        ranks[video].append(part.view_as(levels[video][level]))
    return [torch.cat(own, dim=1) for own in ranks], score


def _uniformity(tree: Quadtree) -> torch.Tensor:
    """Return the ``(T, K)`` scores; a cell with one child has its child's score.

    By the rule of the spatial step such a cell would score 1 and merge first, whatever it shows.
    Only the first cell of a frame can have one child, where both sides of the finer level are odd.
    """
    levels: list[torch.Tensor] = []
    for (height, width), scores in zip(
        tree.sizes, torch.split(tree.scores, tree.coarse_sizes, dim=1), strict=False
    ):
        if levels and height % 2 and width % 2:
            scores = torch.cat([levels[-1][:, :1], scores[:, 1:]], dim=1)
        levels.append(scores)
    return torch.cat(levels, dim=1) if levels else tree.scores
