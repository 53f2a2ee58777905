"""Exact budgets: merge several videos, in a given order, to exactly so many tokens.

The budget is met from below: the first rank with few enough tokens is taken, and of its links only
the most similar are used. Token counts may rise from one rank to the next, since a merged cell may
lose more links than it saves cells; so they are counted at all ranks instead of searched.

Nothing here reads a number back from the device: ranks and counts stay tensors, and every tensor
has a size that only the shapes of the videos decide.

Source: STTM names exact budgets as future work; this is our own.
"""

from collections.abc import Sequence

import torch

from sttm.ops.links import Links, Parent, no_links, parent_links
from sttm.ops.merge import Merge, follow_parents
from sttm.ops.merge_order import MergeOrder
from sttm.ops.quadtree import Cut, Quadtree, emit_cells
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
    ranks = torch.arange(order.last + 1, device=cells.device)
    enough = tokens <= budget
    if start is not None:
        first = order.rank_of(start)
        first = torch.where(cells.take(first) < budget, 0, first)
        enough = enough & (ranks >= first)
    rank = torch.where(enough, ranks, order.last + 1).amin()
    reached = rank <= order.last
    rank = rank.clamp(max=order.last)
    opened = cells.take(rank) < budget
    rank = rank - opened.long()
    surplus = cells.take(rank) - budget
    cuts = cuts_at(trees, order, rank)
    between = [
        parent_links(own.at(rank).only(~opened), tree.num_tokens, parent) if own else no_links(cut)
        for own, cut, tree in zip(links, cuts, trees, strict=True)
    ]
    between = strongest(between, surplus)
    inside = links_inside(trees, order, cuts, rank, surplus, opened)
    spatial = _value_at(order.score, rank - 1)
    temporal = torch.cat([own.similarity for own in between])
    temporal = torch.where(temporal > -torch.inf, temporal, torch.inf).amin()
    return [
        Merge(cut, used, follow_parents(cut, used, tree.frames), spatial, temporal, reached)
        for tree, cut, used in zip(trees, cuts, map(_either, inside, between), strict=True)
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
    cells = cell_counts(emitted, order.last)
    if order.link_floor is None:
        return [None] * len(trees), cells, cells
    links = [spanned_links(tree, spans, order) for tree, spans in zip(trees, emitted, strict=True)]
    linked = linked_counts(links, [tree.num_tokens for tree in trees], order.last)
    return list(links), cells, cells - linked


def cuts_at(trees: Sequence[Quadtree], order: MergeOrder, rank: int | torch.Tensor) -> list[Cut]:
    """Return every video's cells with the first ``rank`` cells of the order merged."""
    return [emit_cells(tree, own < rank) for tree, own in zip(trees, order.cell_rank, strict=True)]


def strongest(links: Sequence[Links], count: torch.Tensor) -> list[Links]:
    """Return the ``count`` (a scalar) most similar links of all videos; equal ones in order."""
    similarity = torch.cat([some.similarity for some in links])
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
    count: torch.Tensor,
    wanted: torch.Tensor,
) -> list[Links]:
    """Return ``count`` links between parts of the cell that merges next.

    The parts that are most similar to the whole cell follow the first of them, so that fewer tokens
    go than the whole cell would cost.

    Args:
        trees: the pyramids of the videos.
        order: the order in which they merge.
        cuts: the cells at this rank, from `cuts_at`.
        rank: the rank, below the last one; a scalar.
        count: from 0 to the number of parts minus 1; a scalar.
        wanted: a bool scalar: whether there shall be any links.

    Returns:
        per video one entry per token.
    """
    return [
        _links_inside(tree, order, ranks, cut, rank, count, wanted)
        for tree, ranks, cut in zip(trees, order.cell_rank, cuts, strict=True)
    ]


def _links_inside(
    tree: Quadtree,
    order: MergeOrder,
    ranks: torch.Tensor,
    cut: Cut,
    rank: torch.Tensor,
    count: torch.Tensor,
    wanted: torch.Tensor,
) -> Links:
    links = no_links(cut)
    if ranks.numel() == 0:
        return links
    patches, cells = tree.patches_per_frame, ranks.shape[1]
    here = (ranks == rank).flatten()
    number = (here * torch.arange(here.shape[0], device=here.device)).sum()
    frame, place = number // cells, number % cells + patches
    level = tree.tables.level.take(place)
    inside = tree.tables.place.index_select(0, level[None])[0] == place
    token = torch.arange(patches, device=here.device) + frame * patches
    part = inside & cut.is_anchor[token] & here.any() & wanted
    row = tree.row_of(token, cut.level[token])
    whole = (tree.num_tokens + number).expand(patches)
    similarity = torch.where(part, order.similarity(tree, row, whole, part), -torch.inf)
    best = similarity.sort(descending=True, stable=True).indices
    together = torch.zeros_like(part)
    together[best] = torch.arange(patches, device=here.device) < count + 1
    together &= part
    first = torch.where(together, token, tree.num_tokens).amin()
    follows = together & (token != first)
    links.earlier[token] = torch.where(follows, first, links.earlier[token])
    links.similarity[token] = torch.where(follows, 1.0, -torch.inf)
    return links


def _either(one: Links, other: Links) -> Links:
    """Return the links of the first where they exist, else those of the second."""
    return Links(
        torch.where(one.exists, one.earlier, other.earlier),
        one.later,
        torch.maximum(one.similarity, other.similarity),
    )


def _value_at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the value at an index, a scalar; NaN where there is none."""
    padded = torch.cat([values.new_full((1,), torch.nan), values])
    return padded.take(index + 1)
