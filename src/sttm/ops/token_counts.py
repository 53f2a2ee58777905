"""The number of tokens at every rank of a merge order, for all ranks at once.

A cell is emitted from the rank at which it merges until a cell around it merges: an interval of
ranks. A link is usable from the rank at which the floor drops to its similarity, as long as both
its cells are emitted. Every cell with a usable link to the previous frame merges into one cell
there. Hence tokens(rank) = cells(rank) - cells with a usable link to the previous frame(rank).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sttm.ops.links import Links
from sttm.ops.merge_order import MergeOrder
from sttm.ops.pyramid import neighbour_tables
from sttm.ops.quadtree import Quadtree
from sttm.ops.similarity import wanted_index

# Pairs of cells looked at together: 32 MiB of int64.
_PIECE = 2**22


@dataclass(frozen=True)
class Spans:
    """Intervals of ranks, from ``start`` on, before ``end``; empty where ``end`` is not larger.

    Args:
        start: int64.
        end: int64, of the same shape.
    """

    start: torch.Tensor
    end: torch.Tensor

    def hold(self, rank: torch.Tensor) -> torch.Tensor:
        """Return bool: the intervals that a rank, a scalar, is in."""
        return (self.start <= rank) & (rank < self.end)


@dataclass(frozen=True)
class SpannedLinks:
    """All links of a video that are usable at some rank.

    Args:
        links: the links.
        spans: ``(E,)``, the ranks at which each is usable.
    """

    links: Links
    spans: Spans

    def at(self, rank: torch.Tensor) -> Links:
        """Return the links that are usable at a rank, a scalar."""
        return self.links.only(self.spans.hold(rank))


def emission_spans(tree: Quadtree, rank: torch.Tensor, last: int) -> Spans:
    """Find the ranks at which every cell is emitted.

    Args:
        tree: the pyramid.
        rank: ``(T, K)`` int64: how many cells merge before this one.
        last: the last rank, at which everything is merged.

    Returns:
        spans ``(T, P)``, by places.
    """
    start = torch.cat([rank.new_zeros(tree.frames, tree.patches_per_frame), rank + 1], dim=1)
    starts = torch.split(start, [tree.patches_per_frame, *tree.coarse_sizes], dim=1)
    ends = [torch.full_like(starts[-1], last + 1)]
    for level in range(tree.num_levels - 2, -1, -1):
        around = torch.minimum(starts[level + 1], ends[0])
        ends.insert(0, around[:, tree.tables.parent[level]])
    return Spans(start, torch.cat(ends, dim=1))


def spanned_links(tree: Quadtree, emitted: Spans, order: MergeOrder) -> SpannedLinks:
    """Find all links between neighbouring frames and the ranks at which each is usable.

    Args:
        tree: the pyramid.
        emitted: those of its cells, from `emission_spans`.
        order: the order in which cells and links merge; its ``link_floor`` is not None.
    """
    pairs = neighbour_tables(tree.sizes, tree.device)
    step = max(1, _PIECE // pairs.earlier.shape[0])
    frames = torch.arange(1, tree.frames, device=tree.device)
    pieces = [_spanned_piece(tree, emitted, order, some) for some in torch.split(frames, step)]
    kinds = [torch.cat(kind) for kind in zip(*pieces, strict=True)]
    return SpannedLinks(Links(*kinds[:3]), Spans(*kinds[3:]))


def _spanned_piece(
    tree: Quadtree, emitted: Spans, order: MergeOrder, frames: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return the links from some frames to those before them, and their spans."""
    pairs = neighbour_tables(tree.sizes, tree.device)
    earlier = (frames[:, None] - 1, pairs.earlier)
    later = (frames[:, None], pairs.later)
    start = torch.maximum(emitted.start[earlier], emitted.start[later]).flatten()
    end = torch.minimum(emitted.end[earlier], emitted.end[later]).flatten()
    index = wanted_index(start < end)
    start, end = start[index], end[index]
    later_is_finer = torch.arange(pairs.later.shape[0], device=tree.device) < pairs.split
    rows = tree.rows[earlier], tree.rows[later]
    finer = torch.where(later_is_finer, rows[1], rows[0]).flatten()[index]
    other = torch.where(later_is_finer, rows[0], rows[1]).flatten()[index]
    similarity = order.similarity(tree, finer, other, start < end)
    assert order.link_floor is not None
    start = torch.maximum(start, torch.searchsorted(-order.link_floor, -similarity))
    anchors = [
        (tree.tables.first[place] + frame * tree.patches_per_frame).flatten()[index]
        for frame, place in (earlier, later)
    ]
    return (*anchors, similarity, start, end)


def cell_counts(emitted: Sequence[Spans], last: int) -> torch.Tensor:
    """Return ``(last + 1,)`` int64: the emitted cells of all trees at every rank."""
    start = torch.cat([spans.start.flatten() for spans in emitted])
    end = torch.cat([spans.end.flatten() for spans in emitted])
    return _count_intervals(start, end, last)


def linked_counts(links: Sequence[SpannedLinks], tokens: Sequence[int], last: int) -> torch.Tensor:
    """Return ``(last + 1,)`` int64: cells with a usable link to the previous frame at every rank.

    Args:
        links: those of each tree.
        tokens: each tree's number of tokens.
        last: the last rank.
    """
    offsets = [sum(tokens[:video]) for video in range(len(tokens))]
    # At every rank at most one cell with a given anchor is emitted: anchors stand for cells.
    cell = torch.cat([own.links.later + at for own, at in zip(links, offsets, strict=True)])
    start = torch.cat([own.spans.start for own in links])
    end = torch.cat([own.spans.end for own in links])
    index = wanted_index(start < end)
    return _count_covered(cell[index], start[index], end[index], last)


def _count_covered(
    cell: torch.Tensor, start: torch.Tensor, end: torch.Tensor, last: int
) -> torch.Tensor:
    """Return ``(last + 1,)`` int64: at every rank the cells that an interval of theirs covers.

    Args:
        cell: ``(E,)`` int64, the cell that each interval belongs to.
        start: ``(E,)`` int64, the first rank of each interval.
        end: ``(E,)`` int64, the rank behind its last one.
        last: the last rank.
    """
    # The cells' axes are laid end to end, so that one sort serves all of them. What an earlier
    # interval of a cell covers is cut off the later one; an empty one covers nothing.
    axis = cell * (last + 2)
    start, order = (start + axis).sort()
    end, axis = torch.maximum((end + axis)[order], start), axis[order]
    covered = torch.cat([end.new_zeros(1), end.cummax(0).values])[:-1]
    start = torch.maximum(start, covered)
    return _count_intervals(start - axis, end - axis, last)


def _count_intervals(start: torch.Tensor, end: torch.Tensor, last: int) -> torch.Tensor:
    """Return ``(last + 1,)`` int64: how many of the intervals that are not empty hold each rank."""
    real = (start < end).long()
    change = real.new_zeros(last + 2)
    change.scatter_add_(0, torch.where(real > 0, start, 0), real)
    change.scatter_add_(0, torch.where(real > 0, end, 0), -real)
    return change.cumsum(0)[:-1]
