"""The number of tokens at every rank of a merge order, for all ranks at once.

A cell is emitted from the rank at which it merges until a cell around it merges: an interval of
ranks. A link is usable from the rank at which the floor drops to its similarity, as long as both
its cells are emitted. Every cell with a usable link to the previous frame merges into one cell
there. Hence tokens(rank) = cells(rank) - cells with a usable link to the previous frame(rank).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sttm.ops.links import CellPairs
from sttm.ops.merge_order import MergeOrder
from sttm.ops.quadtree import Quadtree, cell_rows, parent_cells


@dataclass(frozen=True)
class Spans:
    """The ranks at which every cell of a tree is emitted: from ``start`` on, before ``end``.

    Args:
        start: per level ``(T*h*w,)`` int64; 0 at the finest level.
        end: per level ``(T*h*w,)`` int64; at or before the start for a cell that is never emitted.
    """

    start: list[torch.Tensor]
    end: list[torch.Tensor]


def token_counts(trees: Sequence[Quadtree], order: MergeOrder) -> torch.Tensor:
    """Return ``(R + 1,)`` int64: the tokens of all videos together at every rank.

    Args:
        trees: the pyramids of the videos.
        order: the order in which they merge.
    """
    spans = [
        emission_spans(tree, rank, order.last)
        for tree, rank in zip(trees, order.cell_rank, strict=True)
    ]
    return cell_counts(spans, order.last) - linked_counts(trees, spans, order)


def emission_spans(tree: Quadtree, rank: Sequence[torch.Tensor], last: int) -> Spans:
    """Find the ranks at which every cell is emitted.

    Args:
        tree: the pyramid.
        rank: per level but the finest ``(T, h*w)`` int64: how many cells merge before this one.
        last: the last rank, at which everything is merged.
    """
    device = tree.scores[0].device
    start = [torch.zeros_like(tree.scores[0], dtype=torch.int64), *(r + 1 for r in rank)]
    end = [torch.full_like(start[-1], last + 1)]
    for level in range(tree.num_levels - 2, -1, -1):
        around = torch.minimum(start[level + 1], end[0])
        end.insert(0, around[:, parent_cells(tree.sizes[level]).to(device)])
    return Spans([s.flatten() for s in start], [e.flatten() for e in end])


def cell_counts(spans: Sequence[Spans], last: int) -> torch.Tensor:
    """Return ``(last + 1,)`` int64: the emitted cells of all trees at every rank."""
    start = torch.cat([s for tree in spans for s in tree.start])
    end = torch.cat([e for tree in spans for e in tree.end])
    emitted = start < end
    return _count_intervals(start[emitted], end[emitted], last)


def linked_counts(
    trees: Sequence[Quadtree], spans: Sequence[Spans], order: MergeOrder
) -> torch.Tensor:
    """Return ``(R + 1,)`` int64: cells with a usable link to the previous frame at every rank.

    Args:
        trees: the pyramids.
        spans: those of each tree.
        order: the order in which they merge.
    """
    last, floor, first_cell = order.last, order.link_floor, 0
    parts = [(order.score.new_empty(0, dtype=torch.int64),) * 3]
    for tree, span in zip(trees, spans, strict=True):
        if floor is None:
            break
        level_cells = torch.tensor([0, *(len(level) for level in span.start)]).cumsum(0).tolist()
        for pairs, cell, start, end in _pairs(tree, span, level_cells):
            similarity = order.similarity(tree, pairs)
            start = torch.maximum(start, torch.searchsorted(-floor, -similarity))
            usable = (start < end).nonzero().squeeze(1)
            parts.append((first_cell + cell[usable], start[usable], end[usable]))
        first_cell += level_cells[-1]
    cell, start, end = (torch.cat(kind) for kind in zip(*parts, strict=True))
    return _count_covered(cell, start, end, last)


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
    # interval of a cell covers is cut off the later one.
    start, end = start + cell * (last + 2), end + cell * (last + 2)
    start, order = start.sort()
    end = end[order]
    covered = torch.cat([end.new_zeros(1), end.cummax(0).values[:-1]]) if len(end) else end
    start = torch.maximum(start, covered)
    new = start < end
    return _count_intervals(start[new] % (last + 2), end[new] % (last + 2), last)


def _pairs(
    tree: Quadtree, spans: Spans, level_cells: Sequence[int]
) -> Iterator[tuple[CellPairs, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield overlapping cells of neighbouring frames that are emitted at some common rank.

    Yields:
        the pairs; ``(E,)`` int64 numbers of their later cells among all cells; ``(E,)`` int64 the
        first rank at which both are emitted, and the rank behind the last one.
    """
    device = spans.start[0].device
    patch = torch.arange(tree.patches_per_frame, device=device)
    frame = torch.arange(tree.frames, device=device)[:, None] * tree.patches_per_frame
    for level in range(tree.num_levels):
        anchor = frame + (tree.tables.first[level] == patch).nonzero().squeeze(1)
        for offset in (-tree.patches_per_frame, tree.patches_per_frame):
            token = (anchor[1:] if offset < 0 else anchor[:-1]).flatten()
            row = cell_rows(tree, token, level)
            # The finer cell comes first; of equal ones the later.
            for other_level in range(level + (offset > 0), tree.num_levels):
                other = cell_rows(tree, token + offset, other_level)
                start = torch.maximum(spans.start[level][row], spans.start[other_level][other])
                end = torch.minimum(spans.end[level][row], spans.end[other_level][other])
                met = (start < end).nonzero().squeeze(1)
                chosen = token[met]
                pairs = CellPairs(
                    token=chosen,
                    level=torch.full_like(chosen, level),
                    other_token=chosen + offset,
                    other_level=torch.full_like(chosen, other_level),
                )
                later = level_cells[level] + row if offset < 0 else level_cells[other_level] + other
                yield pairs, later[met], start[met], end[met]


def _count_intervals(start: torch.Tensor, end: torch.Tensor, last: int) -> torch.Tensor:
    """Return ``(last + 1,)`` int64: how many intervals hold each rank."""
    size = last + 2
    change = torch.bincount(start, minlength=size) - torch.bincount(end, minlength=size)
    return change.cumsum(0)[:-1]
