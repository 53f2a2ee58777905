"""The temporal step: which cells of neighbouring frames may merge, and how similar they are.

Cells come from one fixed pyramid, so two boxes that overlap contain one another, and the smaller
one's anchor lies in the larger. Reading every frame's cell map at the anchors of the next and of
the previous frame therefore finds every pair once, in O(THW).

Source: STTM, section 3.2.
"""

from dataclasses import dataclass

import torch

from sttm.ops.components import connected_components
from sttm.ops.quadtree import Cut, Quadtree, cell_rows
from sttm.ops.similarity import cosines, paired_products


@dataclass(frozen=True)
class Links:
    """Pairs of overlapping cells of neighbouring frames.

    Args:
        earlier: ``(E,)`` int64, the cell of frame t.
        later: ``(E,)`` int64, the cell of frame t + 1.
        cosine: ``(E,)`` float32, the similarity of their features.
    """

    earlier: torch.Tensor
    later: torch.Tensor
    cosine: torch.Tensor

    def __len__(self) -> int:
        """Pairs."""
        return self.cosine.shape[0]

    @classmethod
    def none(cls, device: torch.device) -> "Links":
        """Return no links."""
        index = torch.empty(0, dtype=torch.int64, device=device)
        return cls(index, index, torch.empty(0, device=device))

    def select(self, index: torch.Tensor) -> "Links":
        """Return the links at ``index``."""
        return Links(self.earlier[index], self.later[index], self.cosine[index])

    def at_least(self, threshold: float) -> "Links":
        """Return the links whose cosine reaches the threshold."""
        return self.select((self.cosine >= threshold).nonzero().squeeze(1))


@dataclass(frozen=True)
class CellPairs:
    """Overlapping cells as tokens and levels, the finer (or equal) cell first.

    Args:
        token: ``(E,)`` int64, the anchor of the finer cell.
        level: ``(E,)`` int64, its level.
        other_token: ``(E,)`` int64, the same patch one frame earlier or later.
        other_level: ``(E,)`` int64, the level of the cell there that contains it.
    """

    token: torch.Tensor
    level: torch.Tensor
    other_token: torch.Tensor
    other_level: torch.Tensor

    def select(self, index: torch.Tensor) -> "CellPairs":
        """Return the pairs at ``index``."""
        return CellPairs(
            self.token[index], self.level[index], self.other_token[index], self.other_level[index]
        )


def _contained(cut: Cut, offset: int, *, equal: bool) -> CellPairs:
    """Pair every cell with the cell ``offset`` tokens away that contains it, if there is one."""
    other = cut.anchor + offset
    inside = (other >= 0) & (other < cut.level.shape[0])
    token, other = cut.anchor[inside], other[inside]
    level, other_level = cut.level[token], cut.level[other]
    pairs = CellPairs(token, level, other, other_level)
    return pairs.select(other_level >= level if equal else other_level > level)


def find_links(tree: Quadtree, cut: Cut, memory: "CosineCache | None" = None) -> Links:
    """Find all pairs of overlapping cells of neighbouring frames, with their cosines.

    Args:
        tree: the pyramid with features.
        cut: the emitted cells.
        memory: cosines already known from other cuts of the same tree.

    Returns:
        every pair once.
    """
    in_previous = _contained(cut, -tree.patches_per_frame, equal=True)
    in_next = _contained(cut, tree.patches_per_frame, equal=False)
    cosine = pair_cosines if memory is None else memory.pair_cosines
    return Links(
        earlier=cut.cell[torch.cat([in_previous.other_token, in_next.token])],
        later=cut.cell[torch.cat([in_previous.token, in_next.other_token])],
        cosine=torch.cat([cosine(tree, in_previous), cosine(tree, in_next)]),
    )


def pair_cosines(tree: Quadtree, pairs: CellPairs) -> torch.Tensor:
    """Return ``(E,)`` float32 cosines of the pairs' pooled features."""
    result = torch.empty(pairs.token.shape[0], device=pairs.token.device)
    for level in range(tree.num_levels):
        for other_level in range(level, tree.num_levels):
            chosen = (pairs.level == level) & (pairs.other_level == other_level)
            index = chosen.nonzero().squeeze(1)
            if index.shape[0] == 0:
                continue
            row = cell_rows(tree, pairs.token[index], level)
            other = cell_rows(tree, pairs.other_token[index], other_level)
            dot = paired_products(
                tree.levels[level], row, tree.levels[other_level], other, tree.heads
            )
            result[index] = cosines(dot, tree.squares[level][row], tree.squares[other_level][other])
    return result


class CosineCache:
    """Remembers cosines between cells of one tree, for cuts at many thresholds.

    Args:
        tree: the pyramid; the memory takes ``2 * levels**2`` numbers per token.
    """

    def __init__(self, tree: Quadtree) -> None:
        size = 2 * tree.num_levels**2 * tree.frames * tree.patches_per_frame
        self._known = torch.full((size,), torch.nan, device=tree.squares[0].device)

    def pair_cosines(self, tree: Quadtree, pairs: CellPairs) -> torch.Tensor:
        """Return what `pair_cosines` returns, computing only what is not known yet."""
        kind = (pairs.other_token > pairs.token) * tree.num_levels + pairs.level
        key = kind * tree.num_levels + pairs.other_level
        key = key * (tree.frames * tree.patches_per_frame) + pairs.token
        missing = self._known[key].isnan().nonzero().squeeze(1)
        if missing.shape[0] > 0:
            self._known[key[missing]] = pair_cosines(tree, pairs.select(missing))
        return self._known[key]


def parent_links(links: Links, num_cells: int, *, first: bool = False) -> Links:
    """Choose at most one earlier cell for every cell, its parent.

    Args:
        links: the links that may become merges.
        num_cells: cells of the cut.
        first: take the smallest index instead of the most similar one.

    Returns:
        the chosen links, in the order of their later cells. Equally similar parents: the smallest
        index.
    """
    device = links.cosine.device
    earlier, later = links.earlier, links.later
    if not first:
        best = torch.full((num_cells,), -2.0, device=device)
        best.scatter_reduce_(0, later, links.cosine, "amax")
        chosen = links.cosine == best[later]
        earlier, later = earlier[chosen], later[chosen]
    parent = torch.full((num_cells,), num_cells, device=device)
    parent.scatter_reduce_(0, later, earlier, "amin")
    kept = (links.earlier == parent[links.later]).nonzero().squeeze(1)
    return links.select(kept[links.later[kept].argsort()])


def spanning_forest(links: Links, num_cells: int) -> Links:
    """Choose the most similar links that connect what all links connect, without a cycle.

    Boruvka's algorithm: every tree takes its most similar link to another one, while there is one.

    Args:
        links: any links.
        num_cells: cells of the cut.

    Returns:
        the chosen links, in the order of their later, then earlier cells. Equally similar links:
        the first in this order.
    """
    order = (links.later * num_cells + links.earlier).argsort()
    links = links.select(order)
    size = len(links)
    order = links.cosine.sort(descending=True, stable=True).indices
    rank = torch.empty_like(order)
    rank[order] = torch.arange(size, device=order.device)
    label = torch.arange(num_cells, device=order.device)
    used = torch.zeros(size, dtype=torch.bool, device=order.device)
    while True:
        a, b = label[links.earlier], label[links.later]
        apart = (a != b).nonzero().squeeze(1)
        if apart.shape[0] == 0:
            return links.select(used.nonzero().squeeze(1))
        best = torch.full((num_cells,), size, device=order.device)
        for end in (a, b):
            best.scatter_reduce_(0, end[apart], rank[apart], "amin")
        used[order[best[best < size]]] = True
        label = connected_components(links.earlier[used], links.later[used], num_cells)
