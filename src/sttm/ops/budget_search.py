"""Exact budgets: merge several videos, in a given order, to exactly so many tokens.

The budget is met from below: the first rank with few enough tokens is taken, and of its links only
the most similar are used. Token counts may rise from one rank to the next, since a merged cell may
lose more links than it saves cells; so they are counted at all ranks instead of searched.

Source: STTM names exact budgets as future work; this is our own.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from sttm.ops.links import CachedSimilarity, CellPairs, Links, Parent, find_links, parent_links
from sttm.ops.merge import Merge, follow_parents
from sttm.ops.merge_order import MergeOrder
from sttm.ops.quadtree import Cut, Quadtree, emit_cells
from sttm.ops.token_counts import token_counts


def cut_to(
    trees: Sequence[Quadtree],
    order: MergeOrder,
    budget: int,
    start: float | None = None,
    parent: Parent = "most_similar",
) -> list[Merge] | None:
    """Merge the videos to exactly ``budget`` tokens together.

    Where even the cells are fewer than the budget, the cell that merged last is opened again, and
    some of its parts stay together.

    Args:
        trees: the pyramids of the videos.
        order: the order in which they merge.
        budget: tokens of all videos together.
        start: cells of at least this score merge in any case, unless that alone leaves fewer cells
            than the budget. None: no cell has to.
        parent: which of its links a cell follows.

    Returns:
        one merge per video; None if no rank has so few tokens.
    """
    order = replace(order, similarity=CachedSimilarity(order.similarity))
    first = 0 if start is None else order.rank_of(start)
    if first and _num_cells(cuts_at(trees, order, first)) < budget:
        first = 0
    reached = (token_counts(trees, order)[first:] <= budget).nonzero()
    if len(reached) == 0:
        return None
    rank = first + int(reached[0])
    cuts = cuts_at(trees, order, rank)
    surplus = _num_cells(cuts) - budget
    if surplus >= 0:
        links = strongest(links_at(trees, order, cuts, rank, parent), surplus)
        temporal = min((float(s.similarity.min()) for s in links if len(s)), default=None)
    else:
        rank, temporal = rank - 1, None
        cuts = cuts_at(trees, order, rank)
        links = links_inside(trees, order, cuts, rank, _num_cells(cuts) - budget)
    spatial = float(order.score[rank - 1]) if rank else None
    return [
        Merge(cut, some, follow_parents(some, cut.num_cells, tree.frames), spatial, temporal)
        for tree, cut, some in zip(trees, cuts, links, strict=True)
    ]


def cuts_at(trees: Sequence[Quadtree], order: MergeOrder, rank: int) -> list[Cut]:
    """Return every video's cells with the first ``rank`` cells of the order merged."""
    return [
        emit_cells(tree, [own < rank for own in ranks])
        for tree, ranks in zip(trees, order.cell_rank, strict=True)
    ]


def links_at(
    trees: Sequence[Quadtree],
    order: MergeOrder,
    cuts: Sequence[Cut],
    rank: int,
    parent: Parent = "most_similar",
) -> list[Links]:
    """Return every video's links from cells to their parents that may be used at a rank.

    Args:
        trees: the pyramids of the videos.
        order: the order in which they merge.
        cuts: the cells at this rank, from `cuts_at`.
        rank: the rank.
        parent: which of its links a cell follows.
    """
    if order.link_floor is None:
        return [Links.none(cut.anchor.device) for cut in cuts]
    floor = float(order.link_floor[rank])
    usable = [
        find_links(tree, cut, order.similarity).at_least(floor)
        for tree, cut in zip(trees, cuts, strict=True)
    ]
    return [
        parent_links(links, cut.num_cells, parent) for links, cut in zip(usable, cuts, strict=True)
    ]


def strongest(links: Sequence[Links], count: int) -> list[Links]:
    """Return the ``count`` most similar links of all videos; equal ones in their order."""
    similarity = torch.cat([some.similarity for some in links])
    used = torch.zeros_like(similarity, dtype=torch.bool)
    used[similarity.sort(descending=True, stable=True).indices[:count]] = True
    parts = torch.split(used, [len(some) for some in links])
    return [some.select(kept.nonzero().squeeze(1)) for some, kept in zip(links, parts, strict=True)]


def links_inside(
    trees: Sequence[Quadtree], order: MergeOrder, cuts: Sequence[Cut], rank: int, count: int
) -> list[Links]:
    """Return ``count`` links between parts of the cell that merges next.

    The parts that are most similar to the whole cell follow the first of them, so that fewer tokens
    go than the whole cell would cost.

    Args:
        trees: the pyramids of the videos.
        order: the order in which they merge.
        cuts: the cells at this rank, from `cuts_at`.
        rank: the rank, below the last one.
        count: from 0 to the number of parts minus 1.
    """
    video, level, row = _cell_of_rank(order, rank)
    tree, cut = trees[video], cuts[video]
    height, width = tree.sizes[level]
    frame, place = divmod(row, height * width)
    inside = (tree.tables.cell[level] == place).nonzero().squeeze(1)
    part = torch.unique(cut.cell[inside + frame * tree.patches_per_frame])
    token = cut.anchor[part]
    whole = CellPairs(token, cut.level[token], token, torch.full_like(token, level))
    similarity = order.similarity(tree, whole)
    best = similarity.sort(descending=True, stable=True).indices[: count + 1]
    together = part[best].sort().values
    links = [Links.none(part.device) for _ in trees]
    links[video] = Links(together[:1].expand(count), together[1:], similarity.new_ones(count))
    return links


def _cell_of_rank(order: MergeOrder, rank: int) -> tuple[int, int, int]:
    """Return the video, the level and the row in that level of the cell of a rank."""
    for video, levels in enumerate(order.cell_rank):
        for level, ranks in enumerate(levels, start=1):
            found = (ranks.flatten() == rank).nonzero()
            if len(found):
                return video, level, int(found)
    raise AssertionError(f"no cell has rank {rank}")


def _num_cells(cuts: Sequence[Cut]) -> int:
    return sum(cut.num_cells for cut in cuts)
