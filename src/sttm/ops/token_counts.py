"""The number of tokens at every rank of a merge order, for all ranks at once.

A cell is emitted from the rank at which it merges until a cell around it merges: an interval of
ranks. A link is usable from the rank at which the floor drops to its similarity, as long as both
its cells are emitted. Every cell with a usable link to the previous frame merges into one cell
there. Hence tokens(rank) = cells(rank) - cells with a usable link to the previous frame(rank).
"""

from dataclasses import dataclass
from functools import cached_property, reduce

import torch

from sttm.ops.links import Links
from sttm.ops.merge_order import MergeOrder
from sttm.ops.pyramid import neighbour_tables
from sttm.ops.quadtree import Quadtree
from sttm.ops.similarity import joined, wanted_index

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

    @cached_property
    def exist(self) -> torch.Tensor:
        """Bool: the intervals that are not empty."""
        return self.start < self.end

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
    patch = rank.new_zeros(tree.frames, tree.patches_per_frame)
    never = rank.new_full((tree.frames, 1), last + 1)
    start = torch.cat([patch, rank + 1, never], dim=1)
    # On a CPU amin() takes eight times as long.
    end = reduce(torch.minimum, start[:, tree.tables.around].unbind(1))
    return Spans(start[:, :-1], end)


def spanned_links(tree: Quadtree, emitted: Spans, order: MergeOrder) -> SpannedLinks:
    """Find all links between neighbouring frames and the ranks at which each is usable.

    Args:
        tree: the pyramid.
        emitted: those of its cells, from `emission_spans`.
        order: the order in which cells and links merge; its ``link_floor`` is not None.
    """
    pairs = neighbour_tables(tree.sizes, tree.device)
    step = max(1, _PIECE // pairs.earlier.shape[0])
    pieces = [
        _spanned_piece(tree, emitted, order, first, min(first + step, tree.frames - 1))
        for first in range(0, max(1, tree.frames - 1), step)
    ]
    kinds = [joined(kind) for kind in zip(*pieces, strict=True)]
    return SpannedLinks(Links(*kinds[:3]), Spans(*kinds[3:]))


def _spanned_piece(
    tree: Quadtree, emitted: Spans, order: MergeOrder, first: int, end: int
) -> tuple[torch.Tensor, ...]:
    """Return the links from the frames ``first`` to ``end`` to the next ones, and their spans."""
    pairs = neighbour_tables(tree.sizes, tree.device)

    def both(cells: torch.Tensor) -> list[torch.Tensor]:
        earlier, later = cells[first:end], cells[first + 1 : end + 1]
        chosen = earlier.index_select(1, pairs.earlier), later.index_select(1, pairs.later)
        return [values.flatten() for values in chosen]

    spans = Spans(torch.maximum(*both(emitted.start)), torch.minimum(*both(emitted.end)))
    index = wanted_index(spans.exist)
    spans = Spans(spans.start[index], spans.end[index])
    row, other = (row[index] for row in both(tree.rows))
    similarity = order.similarity(tree, row, other, spans.exist)
    assert order.link_floor is not None
    start = torch.maximum(spans.start, torch.searchsorted(-order.link_floor, -similarity))
    anchors = (anchor[index] for anchor in both(tree.anchors))
    return (*anchors, similarity, start, spans.end)


def cell_counts(emitted: Spans, last: int) -> torch.Tensor:
    """Return ``(last + 1,)`` int64: the emitted cells of a tree at every rank."""
    return _count_intervals(emitted.start.flatten(), emitted.end.flatten(), last)


def linked_counts(links: SpannedLinks, last: int) -> torch.Tensor:
    """Return ``(last + 1,)`` int64: cells with a usable link to the previous frame at every rank.

    Args:
        links: those of a tree.
        last: the last rank.
    """
    # At every rank at most one cell with a given anchor is emitted: anchors stand for cells.
    spans = links.spans
    index = wanted_index(spans.exist)
    return _count_covered(links.links.later[index], spans.start[index], spans.end[index], last)


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
    start[1:] = torch.maximum(start[1:], end.cummax(0).values[:-1])
    return _count_intervals(start - axis, end - axis, last)


def _count_intervals(start: torch.Tensor, end: torch.Tensor, last: int) -> torch.Tensor:
    """Return ``(last + 1,)`` int64: how many of the intervals that are not empty hold each rank."""
    one = start.new_ones(()).expand(start.shape)
    change = start.new_zeros(last + 2).index_add_(0, start, one)
    # An empty interval ends where it starts, and so takes back what it added.
    change.index_add_(0, torch.maximum(start, end), one, alpha=-1)
    return change.cumsum(0)[:-1]
