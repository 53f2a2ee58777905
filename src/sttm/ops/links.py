"""The temporal step: which cells of neighbouring frames may merge, and how similar they are.

All cells come from one pyramid. So of two overlapping boxes the larger contains the smaller and its
anchor. Every frame's cell map is read at the anchors of the next and of the previous frame: that
finds every pair once, in O(THW).

Source: STTM, section 3.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from sttm.ops.quadtree import Cut, Quadtree, cell_rows
from sttm.ops.similarity import cosines, paired_products

Parent = Literal["most_similar", "top_left"]


@dataclass(frozen=True)
class Links:
    """Pairs of overlapping cells of neighbouring frames.

    Args:
        earlier: ``(E,)`` int64, the cell of frame t.
        later: ``(E,)`` int64, the cell of frame t + 1.
        similarity: ``(E,)`` float32, the similarity of their features.
    """

    earlier: torch.Tensor
    later: torch.Tensor
    similarity: torch.Tensor

    def __len__(self) -> int:
        """Pairs."""
        return self.similarity.shape[0]

    @classmethod
    def none(cls, device: torch.device) -> "Links":
        """Return no links."""
        index = torch.empty(0, dtype=torch.int64, device=device)
        return cls(index, index, torch.empty(0, device=device))

    def select(self, index: torch.Tensor) -> "Links":
        """Return the links at ``index``."""
        return Links(self.earlier[index], self.later[index], self.similarity[index])

    def at_least(self, threshold: float) -> "Links":
        """Return the links whose similarity is at least ``threshold``."""
        return self.select((self.similarity >= threshold).nonzero().squeeze(1))


@dataclass(frozen=True)
class CellPairs:
    """Overlapping cells as tokens and levels, the finer (or equal) cell first.

    Args:
        token: ``(E,)`` int64, the anchor of the finer cell.
        level: ``(E,)`` int64, its level.
        other_token: ``(E,)`` int64, the same patch one frame earlier or later, or in this frame.
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


# Compares pairs of cells of a tree: ``(E,)`` float32; higher is more similar, on any scale.
Similarity = Callable[[Quadtree, CellPairs], torch.Tensor]


def _contained(cut: Cut, offset: int, *, equal: bool) -> CellPairs:
    """Pair every cell with the cell that contains it ``offset`` tokens away, where there is one."""
    other = cut.anchor + offset
    inside = (other >= 0) & (other < cut.level.shape[0])
    token, other = cut.anchor[inside], other[inside]
    level, other_level = cut.level[token], cut.level[other]
    pairs = CellPairs(token, level, other, other_level)
    return pairs.select(other_level >= level if equal else other_level > level)


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
                tree.levels[level], row, tree.levels[other_level], other, tree.pooling.heads
            )
            result[index] = cosines(dot, tree.squares[level][row], tree.squares[other_level][other])
    return result


class CachedSimilarity:
    """A similarity that computes the value of every pair once, for many cuts of the same trees.

    Takes ``3 * levels**2`` float32 numbers per token of every tree.

    Args:
        similarity: compares pairs of cells; its values are not NaN.
    """

    def __init__(self, similarity: Similarity) -> None:
        self._similarity = similarity
        self._known: dict[Quadtree, torch.Tensor] = {}

    def __call__(self, tree: Quadtree, pairs: CellPairs) -> torch.Tensor:
        """Return ``(E,)`` float32: what the similarity returns."""
        levels, tokens = tree.num_levels, tree.frames * tree.patches_per_frame
        if tree not in self._known:
            size = 3 * levels * levels * tokens
            self._known[tree] = torch.full((size,), torch.nan, device=tree.scores[0].device)
        known = self._known[tree]
        direction = (pairs.other_token - pairs.token).sign() + 1
        key = (direction * levels + pairs.level) * levels + pairs.other_level
        key = key * tokens + pairs.token
        missing = known[key].isnan().nonzero().squeeze(1)
        if missing.shape[0] > 0:
            known[key[missing]] = self._similarity(tree, pairs.select(missing))
        return known[key]


def find_links(tree: Quadtree, cut: Cut, similarity: Similarity = pair_cosines) -> Links:
    """Find all pairs of overlapping cells of neighbouring frames, and compare them.

    Args:
        tree: the pyramid with features.
        cut: the emitted cells.
        similarity: compares the pairs.

    Returns:
        every pair once.
    """
    in_previous = _contained(cut, -tree.patches_per_frame, equal=True)
    in_next = _contained(cut, tree.patches_per_frame, equal=False)
    return Links(
        earlier=cut.cell[torch.cat([in_previous.other_token, in_next.token])],
        later=cut.cell[torch.cat([in_previous.token, in_next.other_token])],
        similarity=torch.cat([similarity(tree, in_previous), similarity(tree, in_next)]),
    )


def parent_links(links: Links, num_cells: int, parent: Parent = "most_similar") -> Links:
    """Choose at most one earlier cell for every cell, its parent.

    Args:
        links: the links that may become merges.
        num_cells: cells of the cut.
        parent: the most similar earlier cell, the first of equal ones; or the first (top-left) one.

    Returns:
        the chosen links, in the order of their later cells.
    """
    device = links.similarity.device
    earlier, later = links.earlier, links.later
    if parent == "most_similar":
        best = torch.full((num_cells,), -torch.inf, device=device)
        best.scatter_reduce_(0, later, links.similarity, "amax")
        chosen = links.similarity == best[later]
        earlier, later = earlier[chosen], later[chosen]
    first = torch.full((num_cells,), num_cells, device=device)
    first.scatter_reduce_(0, later, earlier, "amin")
    kept = (links.earlier == first[links.later]).nonzero().squeeze(1)
    return links.select(kept[links.later[kept].argsort()])
