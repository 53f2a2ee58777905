"""Exact budgets: merge several videos, in a given order, to exactly so many tokens.

The budget is met from below: the first rank with few enough tokens is taken, and of its links only
the most similar are used. Token counts may rise from one rank to the next, since a merged cell may
lose more links than it saves cells; so they are counted at all ranks instead of searched.

Nothing here reads a number back from the device: ranks and counts stay tensors, and every tensor
has a size that only the shapes of the videos decide.

Source: STTM names exact budgets as future work; this is our own.
"""

from collections.abc import Sequence
from functools import reduce

import torch

from sttm.ops.links import Links, Parent, no_links, parent_links
from sttm.ops.merge import Merge, follow_parents
from sttm.ops.merge_order import MergeOrder
from sttm.ops.quadtree import Cut, Quadtree, emit_cells
from sttm.ops.similarity import joined, wanted_index
from sttm.ops.token_counts import (
    SpannedLinks,
    cell_counts,
    emission_spans,
    linked_counts,
    spanned_links,
)


def cut_to(
    trees: Sequence[Quadtree],
    order: MergeOrder,
    budget: int,
    start: float | None = None,
    parent: Parent = "most_similar",
) -> list[Merge]:
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
        one merge per video; if no rank has so few tokens, its ``reached`` is False.
    """
    links, cells, tokens = counted(trees, order)
    enough = tokens <= budget
    if start is not None:
        first = order.rank_of(start)
        first = torch.where(cells.take(first) < budget, 0, first)
        enough = enough & (torch.arange(order.last + 1, device=cells.device) >= first)
    rank = enough.int().argmax()  # the first
    opened = cells.take(rank) < budget
    rank = rank - opened.long()
    surplus = cells.take(rank) - budget
    cuts = cuts_at(trees, order, rank)
    between = [
        parent_links(own.at(rank), tree.num_tokens, parent) if own else no_links(cut)
        for own, cut, tree in zip(links, cuts, trees, strict=True)
    ]
    inside = links_inside(trees, order, cuts, rank, opened)
    either = [_where(opened, *each) for each in zip(inside, between, strict=True)]
    used = strongest(either, surplus + opened)
    temporal = joined([own.similarity for own in used])
    temporal = torch.where((temporal > -torch.inf) & ~opened, temporal, torch.inf).amin()
    spatial = torch.cat([order.score.new_full((1,), torch.nan), order.score]).take(rank)
    used = [_where(opened, _to_first(own), own) for own in used]
    return [
        Merge(cut, own, follow_parents(cut, own, tree.frames), spatial, temporal, enough.any())
        for tree, cut, own in zip(trees, cuts, used, strict=True)
    ]


def counted(
    trees: Sequence[Quadtree], order: MergeOrder
) -> tuple[list[SpannedLinks | None], torch.Tensor, torch.Tensor]:
    """Find the usable links, and count cells and tokens, at every rank.

    Args:
        trees: the pyramids of the videos.
        order: the order in which they merge.

    Returns:
        the links of every video; ``(R + 1,)`` int64 cells and tokens of all videos together.
    """
    emitted = [
        emission_spans(tree, rank, order.last)
        for tree, rank in zip(trees, order.cell_rank, strict=True)
    ]
    cells = reduce(torch.add, [cell_counts(spans, order.last) for spans in emitted])
    if order.link_floor is None:
        return [None] * len(trees), cells, cells
    links = [spanned_links(tree, spans, order) for tree, spans in zip(trees, emitted, strict=True)]
    tokens = reduce(torch.sub, [linked_counts(own, order.last) for own in links], cells)
    return list(links), cells, tokens


def cuts_at(trees: Sequence[Quadtree], order: MergeOrder, rank: int | torch.Tensor) -> list[Cut]:
    """Return every video's cells with the first ``rank`` cells of the order merged."""
    return [emit_cells(tree, own < rank) for tree, own in zip(trees, order.cell_rank, strict=True)]


def strongest(links: Sequence[Links], count: torch.Tensor) -> list[Links]:
    """Return the ``count`` (a scalar) most similar links of all videos; equal ones in order."""
    similarity = joined([some.similarity for some in links])
    place = similarity.sort(descending=True, stable=True).indices
    used = torch.zeros_like(similarity, dtype=torch.bool)
    used[place] = torch.arange(similarity.shape[0], device=similarity.device) < count
    parts = torch.split(used, [some.similarity.shape[0] for some in links])
    return [some.only(kept) for some, kept in zip(links, parts, strict=True)]


def links_inside(
    trees: Sequence[Quadtree],
    order: MergeOrder,
    cuts: Sequence[Cut],
    rank: torch.Tensor,
    wanted: torch.Tensor,
) -> list[Links]:
    """Compare the parts of the cell that merges next with the whole of it.

    The parts that are most similar to the whole cell follow the first of them, so that fewer tokens
    go than the whole cell would cost.

    Args:
        trees: the pyramids of the videos.
        order: the order in which they merge.
        cuts: the cells at this rank, from `cuts_at`.
        rank: the rank, below the last one where links are wanted; a scalar.
        wanted: a bool scalar: whether there shall be any links.

    Returns:
        per video one entry per token, from it to itself.
    """
    links = []
    wholes = cuts_at(trees, order, rank + wanted)
    for tree, cut, whole in zip(trees, cuts, wholes, strict=True):
        part = cut.is_anchor & (cut.level != whole.level)
        index = wanted_index(part)
        none = no_links(cut)
        none.similarity[index] = order.similarity(
            tree, cut.row[index], whole.row[index], part[index]
        )
        links.append(none.only(part))
    return links


def _to_first(links: Links) -> Links:
    """Return links of all linked cells but the first to the first one."""
    first = torch.where(links.exists, links.later, links.later.shape[0]).amin()
    return Links(first.expand_as(links.later), links.later, links.similarity).only(
        links.later != first
    )


def _where(condition: torch.Tensor, one: Links, other: Links) -> Links:
    """Return the first links if a condition, a scalar, holds, else the others of the same cells."""
    return Links(
        torch.where(condition, one.earlier, other.earlier),
        one.later,
        torch.where(condition, one.similarity, other.similarity),
    )
