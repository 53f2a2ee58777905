"""How many tokens every point of a budget's path has, all points at once.

Along the path a cell is emitted from the rank at which it is merged until a cell around it is: an
interval of ranks. So is the life of a link: from the rank whose temporal threshold its cosine
reaches, while both of its cells are emitted. Every cell that has a link to the frame before follows
one of them and costs no token, so a point has as many tokens as cells without such a link.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sttm.ops.links import CellPairs, CosineCache
from sttm.ops.quadtree import Quadtree, cell_rows, parent_cells


@dataclass(frozen=True)
class Spans:
    """The ranks at which every cell of a tree is emitted: from ``start`` on, before ``end``.

    Args:
        start: per level ``(T*h*w,)`` int64; 0 at the finest level.
        end: per level ``(T*h*w,)`` int64; at or before the start for a cell that never is.
    """

    start: list[torch.Tensor]
    end: list[torch.Tensor]


def emission_spans(tree: Quadtree, rank: Sequence[torch.Tensor], last: int) -> Spans:
    """Find when every cell is emitted.

    Args:
        tree: the pyramid.
        rank: per level but the finest ``(T, h*w)`` int64: how many cells merge before this one.
        last: the path's last rank, at which everything is merged.
    """
    device = tree.scores[0].device
    start = [torch.zeros_like(tree.scores[0], dtype=torch.int64), *(r + 1 for r in rank)]
    end = [torch.full_like(start[-1], last + 1)]
    for level in range(tree.num_levels - 2, -1, -1):
        around = torch.minimum(start[level + 1], end[0])
        end.insert(0, around[:, parent_cells(tree.sizes[level]).to(device)])
    return Spans([s.flatten() for s in start], [e.flatten() for e in end])


def cell_counts(spans: Sequence[Spans], last: int) -> torch.Tensor:
    """Return ``(last + 1,)`` int64: cells that are emitted at every rank, of all trees."""
    start = torch.cat([s for tree in spans for s in tree.start])
    end = torch.cat([e for tree in spans for e in tree.end])
    emitted = start < end
    return _alive(start[emitted], end[emitted], last)


def linked_counts(
    trees: Sequence[Quadtree],
    spans: Sequence[Spans],
    memories: Sequence[CosineCache],
    floors: torch.Tensor,
) -> torch.Tensor:
    """Return ``(R,)`` int64: cells that have a link to the frame before them, at every rank.

    Args:
        trees: the pyramids.
        spans: of each of them.
        memories: of each of them; they get to know all cosines that are needed.
        floors: ``(R,)`` float32, not ascending: the least cosine of a link at every rank.
    """
    last, first_cell = floors.shape[0] - 1, 0
    parts = [(floors.new_empty(0, dtype=torch.int64),) * 3]
    for tree, span, memory in zip(trees, spans, memories, strict=True):
        level_cells = torch.tensor([0, *(len(level) for level in span.start)]).cumsum(0).tolist()
        for pairs, cell, start, end in _pairs(tree, span, level_cells):
            cosine = memory.pair_cosines(tree, pairs)
            start = torch.maximum(start, torch.searchsorted(-floors, -cosine))
            alive = (start < end).nonzero().squeeze(1)
            parts.append((first_cell + cell[alive], start[alive], end[alive]))
        first_cell += level_cells[-1]
    cell, start, end = (torch.cat(kind) for kind in zip(*parts, strict=True))
    # One time line for every cell, one behind the other: what is covered before stays behind.
    start, end = start + cell * (last + 2), end + cell * (last + 2)
    start, order = start.sort()
    end = end[order]
    covered = torch.cat([end.new_zeros(1), end.cummax(0).values[:-1]]) if len(end) else end
    start = torch.maximum(start, covered)
    new = start < end
    return _alive(start[new] % (last + 2), end[new] % (last + 2), last)


def _pairs(
    tree: Quadtree, spans: Spans, level_cells: Sequence[int]
) -> Iterator[tuple[CellPairs, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield overlapping cells of neighbouring frames that are emitted at the same time.

    Yields:
        the pairs, the number of each one's later cell among all cells, and the ranks from which and
        before which both are emitted.
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


def _alive(start: torch.Tensor, end: torch.Tensor, last: int) -> torch.Tensor:
    """Return ``(last + 1,)`` int64: how many intervals hold each rank."""
    size = last + 2
    change = torch.bincount(start, minlength=size) - torch.bincount(end, minlength=size)
    return change.cumsum(0)[:-1]
